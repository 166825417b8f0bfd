"""Every error of a SQuAD-style file: its line names the file, the record and the reason."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from model_hub_rqa.data.file_loaders import read_squad
from model_hub_rqa.errors import DataError

GOOD: dict[str, Any] = {
    "id": "q1",
    "title": "t",
    "context": "the cat sat",
    "question": "who sat?",
    "answers": {"text": ["cat"], "answer_start": [4]},
}
MISSING = object()


def changed(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD, **fields}.items() if value is not MISSING}


def answers(text: Any, start: Any) -> dict[str, Any]:
    return changed(answers={"text": text, "answer_start": start})


def article(**fields: Any) -> dict[str, Any]:
    """A nested file of one question, of which some fields are changed."""
    question = {"id": "q1", "question": "who sat?", "answers": [{"text": "cat", "answer_start": 4}], **fields}
    question = {name: value for name, value in question.items() if value is not MISSING}
    return {"data": [{"title": "t", "paragraphs": [{"context": "the cat sat", "qas": [question]}]}]}


def errors(path: Path, *, version_2: bool = False) -> list[str]:
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: ") as raised:
        read_squad(path, version_2_with_negative=version_2)
    for error in raised.value.errors:
        assert error.startswith(f"{path}: ")
        assert "\n" not in error
    return [error.removeprefix(f"{path}: ") for error in raised.value.errors]


def said(error: str, *parts: str) -> bool:
    return all(part in error for part in parts)


AT = "record q1 (line 2): "
RECORDS = [
    (changed(id=MISSING), "line 2: id is missing"),
    (changed(id=None), "line 2: id must be text, got None"),
    (changed(id=1.5), "line 2: id must be text, got 1.5"),
    (changed(id=True), "line 2: id must be text, got True"),
    (changed(id=" "), "line 2: id must not be blank, got ' '"),
    (changed(question=None), AT + "question must be text, got None"),
    (changed(question=5), AT + "question must be text, got 5"),
    (changed(question=MISSING), AT + "question is missing"),
    (changed(question=""), AT + "question must not be blank, got ''"),
    (changed(question="a\ud800b"), AT + "question must be Unicode text, got a lone surrogate at character 1"),
    (changed(context=["the", "cat"]), AT + "context must be text, got ['the', 'cat']"),
    (changed(context="\n "), AT + r"context must not be blank, got '\n '"),
    (changed(context=MISSING), AT + "context is missing"),
    (changed(title=3), AT + "title must be text, got 3"),
    (changed(answers=MISSING), AT + "answers is missing"),
    (changed(answers="cat"), AT + "answers must be an object or a list, got 'cat'"),
    (changed(answers={"answer_start": [4]}), AT + "answers has no text"),
    (changed(answers={"text": "cat", "answer_start": 4}), AT + "answers.text must be a list, got 'cat'"),
    (changed(answers={"text": ["cat"], "answer_start": 4}), AT + "answers.answer_start must be a list, got 4"),
    (changed(answers=[{"start": 4}]), AT + "each of answers must be a text, or an object with text and answer_start"),
    (answers(["cat", "sat"], [4]), AT + "answers must have as many texts as starts, got 2 and 1"),
    (answers(["dog"], [-4]), AT + "answer_start is -4, the answer's text is 'dog', which the context does not have"),
    (answers(["dog"], [-1]), AT + "answer_start is -1, the answer's text is 'dog', which the context does not have"),
    (answers(["a"], [None]), AT + "answer_start is missing, the answer's text is 'a' (it stands at 5, 9): correct it"),
    (answers(["dog"], [11]), AT + "answer_start 11 is past the end of the context, which has 11 characters"),
    (answers(["cat"], ["4"]), AT + "answer_start must be a whole number, got '4'"),
    (answers(["cat"], [4.0]), AT + "answer_start must be a whole number, got 4.0"),
    (answers(["he"], [True]), AT + "answer_start must be a whole number, got True"),
    (answers([""], [4]), AT + "answer text must not be blank, got ''"),
    (answers([7], [4]), AT + "answer text must be text, got 7"),
    (
        answers(["dog"], [4]),
        AT
        + "the context has 'cat' at answer_start 4, the answer's text is 'dog': correct it, or leave out such records "
        "with on_bad_record: skip",
    ),
    (answers(["sat on"], [8]), AT + "the context has 'sat' at answer_start 8, the answer's text is 'sat on'"),
    (answers(["cat", "dog"], [4, 9]), AT + "answer 2: the context has 'at' at answer_start 9"),
    (changed(is_impossible=True), AT + "is_impossible is true, yet answers holds 1, the first 'cat'"),
    (changed(is_impossible="no"), AT + "is_impossible must be true or false, got 'no'"),
    ([1], "line 2: must be an object, got [1]"),
]


@pytest.mark.parametrize(("record", "line"), RECORDS, ids=[line for _, line in RECORDS])
def test_a_bad_record_is_named_with_its_reason(tmp_path: Path, record: Any, line: str) -> None:
    """The line holds the record's id and place, the rule and the value found."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(changed(id="good")) + "\n" + json.dumps(record))
    (found,) = errors(path)
    assert found.startswith(line)


IN_ARTICLE = "record q1 (article 1 paragraph 1 question 1): "
LIST = 'must be a list of records, or an object with such a list under "data", '
NESTED = [
    (article(answers=[]), False, IN_ARTICLE + "answers is empty"),
    (article(answers=MISSING), False, IN_ARTICLE + "answers is missing"),
    (article(answers=[]), True, IN_ARTICLE + "answers is empty, and is_impossible is not true"),
    (article(answers=[], is_impossible=False), True, IN_ARTICLE + "answers is empty, yet is_impossible is false"),
    (article(is_impossible=True), True, IN_ARTICLE + "is_impossible is true, yet answers holds 1"),
    (article(id=None), False, "article 1 paragraph 1 question 1: id must be text, got None"),
    (article(answers=[], is_impossible=True), False, "1 of 1 questions are unanswerable: set version_2_with_negative"),
    ({}, False, LIST + "got the keys []"),
    ({"version": "1.1", "articles": []}, False, LIST + "got the keys ['articles', 'version']"),
    ({"data": {}}, False, '"data" must be a list of records, got {}'),
    ({"data": []}, False, "holds no record"),
    ([changed(question=None)], False, "record q1 (record 1): question must be text, got None"),
    ("text", False, LIST + "got 'text'"),
    ({"data": [1]}, False, "record 1: must be an object, got 1"),
    ({"data": [{"title": "t"}]}, False, "article 1: no \"paragraphs\" key, got the keys ['title']"),
    ({"data": [{"title": 1, "paragraphs": []}]}, False, "article 1: title must be text, got 1"),
    ({"data": [{"paragraphs": None}]}, False, 'article 1: "paragraphs" must be a list, got None'),
    ({"data": [{"paragraphs": [7]}]}, False, "article 1 paragraph 1: must be an object, got 7"),
    ({"data": [{"paragraphs": [{"context": "c"}]}]}, False, 'article 1 paragraph 1: no "qas" key'),
    (
        {"data": [{"paragraphs": [{"context": " ", "qas": []}]}]},
        False,
        "article 1 paragraph 1: context must not be blank",
    ),
    ({"data": [{"paragraphs": [{"qas": []}]}]}, False, "article 1 paragraph 1: context is missing"),
    (
        {"data": [{"paragraphs": [{"context": "c", "qas": ["q"]}]}]},
        False,
        "article 1 paragraph 1 question 1: must be an",
    ),
    ({"data": [{**GOOD, "question": None}]}, False, "record q1 (record 1): question must be text, got None"),
]


@pytest.mark.parametrize(("root", "version_2", "line"), NESTED, ids=[line for _, _, line in NESTED])
def test_a_error_of_a_json_file_is_named_with_its_place(tmp_path: Path, root: Any, version_2: bool, line: str) -> None:
    """Structure, paragraphs and questions are named by article, paragraph and question."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(root))
    found, *more = errors(path, version_2=version_2)
    assert found.startswith(line)
    assert not more


FLAT_LINE = json.dumps(GOOD)
UTF8 = '{"data": "é"}'.encode()
FILES: list[tuple[str, bytes, str]] = [
    ("a.json", b"", "empty file"),
    ("a.jsonl", b"\n \n", "empty file"),
    ("a.csv", b"\xef\xbb\xbf", "empty file"),
    ("a.csv", b"id,question,context,answers\n", "holds no record"),
    ("a.parquet", b"", "empty file"),
    ("a.jsonl.gz", gzip.compress(b"", mtime=0), "empty file"),
    ("a.json", b'{"data": [{"id": "q1",', "not JSON at line 1 column 23: "),
    ("a.json", b'{"data":\n [}', "not JSON at line 2 column 3: "),
    ("a.json", f"{FLAT_LINE}\n{FLAT_LINE}".encode(), "record q1 (line 2): duplicate id, first at line 1"),
    ("a.json", b"[1]\n]", "not JSON at line 2 column 1: Extra data"),
    ("a.json", b'{"data": ["NaN",\n NaN]}', "not JSON at line 2 column 2: NaN is not allowed"),
    ("a.json", b'{"data": -Infinity}', "not JSON at line 1 column 10: -Infinity is not allowed"),
    ("a.json", b"[" * 200_000, "not JSON that can be read: nested too deeply"),
    ("a.jsonl", f'{FLAT_LINE}\n{{"id": "q2", "ques'.encode(), "line 2: not JSON at column 14: "),
    ("a.json", b'{"data": [{"id": "q1", "id": "q2"}]}', "an object has the key 'id' twice"),
    ("a.jsonl", b'{"id": Infinity}\n', "line 1: not JSON at column 8: Infinity is not allowed"),
    ("a.jsonl.gz", gzip.compress(FLAT_LINE.encode() * 9, mtime=0)[:-20], "the gzip file is cut short"),
    ("a.jsonl.gz", FLAT_LINE.encode(), "not a gzip file, or a damaged one"),
    ("a.csv.gz", gzip.compress(bytes(99), mtime=0)[:-8] + bytes(8), "not a gzip file, or a damaged one"),
    ("a.json", b'{"data": "\xe9t\xe9"}', "must be UTF-8, got byte 0xe9 at byte offset 10"),
    ("a.csv", b"\xef\xbb\xbfid,question\xff", "line 1: must be UTF-8, got byte 0xff at byte 12"),
    ("a.jsonl.gz", gzip.compress(b'{"id": "\xfc"}', mtime=0), "line 1: must be UTF-8, got byte 0xfc at byte 9"),
    ("a.json", UTF8.decode().encode("utf-16"), "must be UTF-8, got UTF-16 (byte order mark at byte offset 0)"),
    (
        "a.json",
        UTF8.decode().encode("utf-16-be"),
        "must be UTF-8, got UTF-16 or UTF-32 (a zero byte at byte offset 0)",
    ),
    ("a.json", UTF8.decode().encode("utf-32"), "must be UTF-8, got UTF-32 (byte order mark at byte offset 0)"),
    ("a.txt", b"x", "unknown file ending '.txt' (known: .json, .jsonl, .csv, .tsv, .parquet; or a folder"),
    ("a.parquet.gz", b"x", "unknown file ending '.gz' (known: "),
    ("a.parquet", b"PAR1 but not really", "cannot be read as Parquet: "),
]


@pytest.mark.parametrize(("name", "content", "line"), FILES, ids=[f"{name}: {line}" for name, _, line in FILES])
def test_a_error_of_the_whole_file_is_named(tmp_path: Path, name: str, content: bytes, line: str) -> None:
    """What cannot be read at all says why, and where."""
    (tmp_path / name).write_bytes(content)
    (found,) = errors(tmp_path / name)
    assert found.startswith(line)


HEADER = "id,question,context,answer_text,answer_start"
ROW = "q1,who?,the cat,cat,4"
CSV = [
    (
        "question,context,answers\n",
        "line 1: the header misses the column \"id\" (or _id, qid, question_id, query_id), got ['question',",
    ),
    (
        "id;question;context\n",
        'line 1: the header misses the column "id" (or _id, qid, question_id, query_id), got [\'id;',
    ),
    ("id,question,context\n", 'line 1: the header misses the column "answers" (or answer_text, answer, '),
    ("id,question,context,answer_start\n", 'line 1: the header misses the column "answers" (or answer_text, answer, '),
    (f"{HEADER},answers\n{ROW},[]\n", 'line 2: must have either "answers" or answer_text and answer_start, got both'),
    (HEADER + ",topic\n", "line 1: the header has columns that are not known: ['topic'] (known: id, "),
    (HEADER + ",id\n", "line 1: the header names columns twice: ['id']"),
    (f'{HEADER}\n"q\n2",who?,the cat,cat,4\n{ROW},more\n', "line 4: must have 5 fields as the header, got 6"),
    (f"{HEADER}\nq1,who?,the cat\n", "line 2: must have 5 fields as the header, got 3"),
    (f'{HEADER}\n{ROW}\nq2,"who?,the cat,cat,4\n\n', "line 3: not CSV: unexpected end of data"),
    (f"{HEADER}\nq1,who?,the cat,cat,4.0\n", "record q1 (line 2): answer_start must be a whole number, got '4.0'"),
    (f"{HEADER}\nq1,who?,the dog,cat,\n", "record q1 (line 2): answer_start is missing, the answer's text is 'cat'"),
    (f"{HEADER}\nq1,who?,the cat,,4\n", "record q1 (line 2): answer text must not be blank, got ''"),
    (f"{HEADER}\nq1,who?,the cat,,\n", "1 of 1 questions are unanswerable: set version_2_with_negative: true"),
    (f"{HEADER}\n{ROW}\n{ROW}\n", "record q1 (line 3): duplicate id, first at line 2"),
    (
        f"{HEADER[:20]}answers\nq1,who?,the cat,{{text: []}}\n",
        "record q1 (line 2): answers: not JSON at line 1 column 2",
    ),
]


@pytest.mark.parametrize(("text", "line"), CSV, ids=[line for _, line in CSV])
def test_a_error_of_a_csv_file_is_named_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    """The header, rows that do not fit it, and cells that hold something else."""
    (tmp_path / "a.csv").write_text(text)
    assert errors(tmp_path / "a.csv")[0].startswith(line)


def test_a_missing_file_and_a_folder_of_another_kind_are_named(tmp_path: Path) -> None:
    """A path that leads nowhere, a plain folder, and a folder of several splits."""
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list([GOOD])}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "plain").mkdir()
    assert errors(tmp_path / "none.json") == ["no such file"]
    assert said(errors(tmp_path / "plain")[0], "is a folder, and not one that Dataset.save_to_disk wrote")
    assert errors(tmp_path / "splits") == [
        f"holds several splits: name one of its folders, {tmp_path / 'splits/train'}"
    ]


def test_tables_that_miss_a_column_or_are_damaged_are_named(tmp_path: Path) -> None:
    """Parquet files and saved folders name missing columns once, not for each record."""
    from datasets import Dataset

    table = Dataset.from_list([{"id": "1", "context": "c"}] * 3)
    table.to_parquet(str(tmp_path / "a.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path / "a.parquet", tmp_path / "saved"):
        question, answers = errors(path)
        assert question == "misses the column \"question\", got ['id', 'context']"
        assert answers.startswith('misses the column "answers" (or answer_text, answer, ')
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    assert errors(tmp_path / "a.parquet")[0].startswith("cannot be read as Parquet: ")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"")
    assert errors(tmp_path / "saved")[0].startswith("cannot be read as a folder of Dataset.save_to_disk: ")


def test_null_cells_of_a_table_are_named_by_row(tmp_path: Path) -> None:
    """A null in Parquet is a wrong type, in whatever column it stands."""
    from datasets import Dataset

    rows = [GOOD, changed(id="q2", question=None), changed(id="q3", context=None)]
    Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    assert errors(tmp_path / "a.parquet") == [
        "record q2 (row 2): question must be text, got None",
        "record q3 (row 3): context must be text, got None",
    ]


def test_all_errors_of_a_file_are_raised_together(tmp_path: Path) -> None:
    """Broken lines, several errors of one record and a duplicate id arrive in one error; str() shows 20 and a count."""
    lines = [
        FLAT_LINE,
        "{",
        json.dumps(changed(id="q2", question=" ", answers={"text": ["dog"], "answer_start": [99]})),
        FLAT_LINE,
        *(json.dumps(changed(id=f"x{number}", context="")) for number in range(30)),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = errors(tmp_path / "a.jsonl")
    assert len(found) == 33
    assert found[0].startswith("line 2: not JSON at column 2")
    assert said(found[1], "record q2 (line 3): question must not be blank", "; answer_start 99 is past the end")
    assert found[2] == "record q1 (line 4): duplicate id, first at line 1"
    with pytest.raises(DataError, match=r"and 13 more$") as raised:
        read_squad(tmp_path / "a.jsonl", version_2_with_negative=False)
    assert str(raised.value).count("\n") == 20
    assert str(raised.value).endswith("... and 13 more")


def test_unanswerable_questions_of_a_flat_file_make_one_line(tmp_path: Path) -> None:
    """Half a file of v2.0 questions is one mistake, not a thousand."""
    rows = [
        changed(id=f"q{n}", answers={"text": [], "answer_start": []} if n else GOOD["answers"]) for n in range(1_200)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert errors(tmp_path / "a.jsonl") == [
        "1,199 of 1,200 questions are unanswerable: set version_2_with_negative: true (the first: record q1 (line 2))"
    ]
    records = read_squad(tmp_path / "a.jsonl", version_2_with_negative=True)
    assert (len(records.rows), records.n_unanswerable) == (1_200, 1_199)


def test_long_values_are_shortened_in_messages(tmp_path: Path) -> None:
    """A value of any length leaves its message readable."""
    (tmp_path / "a.jsonl").write_text(json.dumps(changed(id="i" * 999, question=["w" * 999] * 99)))
    (found,) = errors(tmp_path / "a.jsonl")
    assert len(found) < 600
