"""Reading SQuAD-style files: every form gives the same rows, and text stays what it is."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_hub_rqa.data.file_loaders import Records, read_squad
from model_hub_rqa.errors import ConfigError, DataError

CONTEXT = 'Zoë said "NA",\nthen null; nan 🙂 came later.'
V1 = [
    {
        "id": "q1",
        "title": 'A, "quoted" title',
        "context": CONTEXT,
        "question": "What did Zoë say?",
        "answers": {"text": ["NA"], "answer_start": [10]},
    },
    {
        "id": "null",
        "title": 'A, "quoted" title',
        "context": CONTEXT,
        "question": "null",
        "answers": {"text": ["🙂"], "answer_start": [30]},
    },
    {
        "id": "NA",
        "title": "nan",
        "context": "nan",
        "question": "NA",
        "answers": {"text": ["nan"], "answer_start": [0]},
    },
]
V2 = [V1[0], {**V1[1], "answers": {"text": [], "answer_start": []}}, V1[2]]


def nested(rows: list[dict[str, Any]], version_2: bool) -> dict[str, Any]:
    """The official form of rows that come ordered by title and context."""
    data: list[Any] = []
    for row in rows:
        if not data or data[-1]["title"] != row["title"]:
            data.append({"title": row["title"], "paragraphs": [{"context": row["context"], "qas": []}]})
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        question: dict[str, Any] = {"id": row["id"], "question": row["question"]}
        question["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
        if version_2:
            question["is_impossible"] = not question["answers"]
            question["plausible_answers"] = [{"text": "not one", "answer_start": 0}]
        data[-1]["paragraphs"][0]["qas"].append(question)
    return {"version": "v2.0" if version_2 else "1.1", "data": data}


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write(rows: list[dict[str, Any]], path: Path, form: str) -> None:
    """Writes rows in one of the forms that read_squad takes."""
    from datasets import Dataset

    version_2 = any(not row["answers"]["text"] for row in rows)
    if form == "nested":
        path.write_text(json.dumps(nested(rows, version_2)))
    elif form == "flat":
        path.write_text(json.dumps({"data": rows}, ensure_ascii=False), encoding="utf-8")
    elif form == "pairs":
        flat = [
            {**row, "answers": nested([row], False)["data"][0]["paragraphs"][0]["qas"][0]["answers"]} for row in rows
        ]
        path.write_text(json.dumps({"data": flat}))
    elif form == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif form == "csv":
        columns = ["title", "id", "context", "question", "answers"]
        write_csv(path, columns, [[*(row[c] for c in columns[:4]), json.dumps(row["answers"])] for row in rows])
    elif form == "csv pair":
        pairs = [[*row["answers"]["text"], "", ""][:1] + [*row["answers"]["answer_start"], ""][:1] for row in rows]
        cells = [[row[c] for c in ("id", "question", "context", "title")] for row in rows]
        header = ["id", "question", "context", "title", "answer_text", "answer_start"]
        write_csv(path, header, [[*left, *right] for left, right in zip(cells, pairs, strict=True)])
    elif form == "parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    elif form == "parquet pairs":
        flat = [
            {**row, "answers": nested([row], False)["data"][0]["paragraphs"][0]["qas"][0]["answers"]} for row in rows
        ]
        Dataset.from_list(flat).to_parquet(str(path))
    else:
        Dataset.from_list(rows).save_to_disk(str(path))


def read(path: Path, **options: Any) -> Records:
    return read_squad(path, **{"version_2_with_negative": False, **options})


FORMS = [
    ("nested", "a.json"),
    ("flat", "a.json"),
    ("pairs", "a.JSON"),
    ("jsonl", "a.jsonl"),
    ("csv", "a.csv"),
    ("csv pair", "a.csv"),
    ("parquet", "a.parquet"),
    ("parquet pairs", "a.parquet"),
    ("saved", "folder"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [V1, V2], ids=["v1.1", "v2.0"])
@pytest.mark.parametrize(("form", "name"), FORMS)
def test_all_forms_give_the_same_rows(
    tmp_path: Path, form: str, name: str, rows: list[dict[str, Any]], packed: bool
) -> None:
    """The same records come out of every form, packed or not."""
    path = tmp_path / name
    write(rows, path, form)
    if packed:
        if form == "saved" or form.startswith("parquet"):
            return  # these two are never packed
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    records = read(path, version_2_with_negative=rows is V2)
    assert records.rows == rows
    assert (records.skipped, records.n_skipped) == ((), 0)
    assert records.n_unanswerable == (rows is V2)


def test_saved_data_sets_with_an_order_of_their_own_are_read_in_that_order(tmp_path: Path) -> None:
    """A folder saved after select() or shuffle() gives the rows that the data set had."""
    from datasets import Dataset

    Dataset.from_list(V1).select([2, 0]).save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved").rows == [V1[2], V1[0]]


def test_a_byte_order_mark_of_utf8_is_passed_over(tmp_path: Path) -> None:
    """Files that begin with the mark, as spreadsheets write them, read as those without."""
    for form, name in FORMS[:6]:
        write(V1, tmp_path / name, form)
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
        assert read(tmp_path / name).rows == V1


def test_ids_that_are_whole_numbers_become_text_and_a_missing_title_is_empty(tmp_path: Path) -> None:
    """Exported tables often number their records."""
    row = {"id": 7, "context": "a b", "question": "?", "answers": {"text": ["b"], "answer_start": [2]}, "other": [1]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    expected = {"id": "7", "title": "", **{name: row[name] for name in ("context", "question", "answers")}}
    assert read(tmp_path / "a.jsonl").rows == [expected]


def test_a_context_of_a_megabyte_is_read_from_every_form(tmp_path: Path) -> None:
    """Long contexts meet no limit, not even that of the csv module."""
    context = "word é, \n" * 120_000 + "end"
    row = {**V1[0], "context": context, "answers": {"text": ["end"], "answer_start": [len(context) - 3]}}
    limit = csv.field_size_limit()
    for form, name in FORMS:
        write([row], tmp_path / name, form)
        assert read(tmp_path / name).rows == [row]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("version_2", [False, True])
def test_files_to_predict_on_need_no_answers(tmp_path: Path, version_2: bool) -> None:
    """Without require_answers a record without answers gets empty ones in every form."""
    options = {"version_2_with_negative": version_2, "require_answers": False}
    bare = {"id": "q", "context": "c", "question": "?"}
    expected = [{**bare, "title": "", "answers": {"text": [], "answer_start": []}}]
    (tmp_path / "a.jsonl").write_text(json.dumps(bare))
    write_csv(tmp_path / "a.csv", list(bare), [list(bare.values())])
    article = {"title": "", "paragraphs": [{"context": "c", "qas": [{"id": "q", "question": "?"}]}]}
    (tmp_path / "a.json").write_text(json.dumps({"data": [article]}))
    for name in ("a.jsonl", "a.csv", "a.json"):
        assert read(tmp_path / name, **options).rows == expected
        with pytest.raises(DataError, match="answers"):
            read(tmp_path / name, version_2_with_negative=version_2)


def test_skip_returns_the_good_records_and_the_errors_of_the_others(tmp_path: Path) -> None:
    """With on_bad_record "skip" a bad record is left out with its line."""
    rows = [V1[0], {**V1[1], "question": " "}, {**V1[2], "answers": {"text": [], "answer_start": []}}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    records = read(tmp_path / "a.jsonl", on_bad_record="skip")
    assert records.rows == V1[:1]
    assert records.n_skipped == len(records.skipped) == 2
    assert "record null (line 2): question must not be blank" in records.skipped[0]
    assert "record NA (line 3): unanswerable, needs version_2_with_negative: true" in records.skipped[1]


def test_skip_counts_all_questions_of_a_bad_paragraph(tmp_path: Path) -> None:
    """One line names the paragraph, and each of its questions counts as left out."""
    form = nested(V1, False)
    form["data"][0]["paragraphs"][0]["context"] = None
    (tmp_path / "a.json").write_text(json.dumps(form))
    records = read(tmp_path / "a.json", on_bad_record="skip")
    assert records.rows == [V1[2]]
    assert (len(records.skipped), records.n_skipped) == (1, 2)


def test_skip_still_raises_errors_of_the_whole_file(tmp_path: Path) -> None:
    """Broken JSON, a whole file of errors and undeclared v2.0 data are no errors of a record."""
    (tmp_path / "broken.json").write_text('{"data": [')
    (tmp_path / "nothing.jsonl").write_text(json.dumps({**V1[0], "context": ""}))
    (tmp_path / "v2.json").write_text(json.dumps(nested(V2, True)))
    for name, said in (
        ("broken.json", "not JSON at line 1"),
        ("nothing.jsonl", "no record remains, all 1 are bad"),
        ("v2.json", "1 of 3 questions are unanswerable: set version_2_with_negative: true"),
    ):
        with pytest.raises(DataError, match=said):
            read(tmp_path / name, on_bad_record="skip")


def test_on_bad_record_must_be_known(tmp_path: Path) -> None:
    """A misspelled choice is an error of the configuration."""
    with pytest.raises(ConfigError, match=r"on_bad_record.*got 'ignore'"):
        read(tmp_path / "a.json", on_bad_record="ignore")


def test_the_official_files_are_read_whole(rqa_data: Path) -> None:
    """The real files hold the numbers of questions that they are known for."""
    squad = rqa_data / "squad"
    assert len(read(squad / "train-v1.1.json").rows) == 78_795
    assert len(read(squad / "dev-v1.1.json").rows) == 10_570
    records = read(squad / "dev-v2.0.json", version_2_with_negative=True)
    assert (len(records.rows), records.n_unanswerable) == (11_873, 5_945)
    with pytest.raises(
        DataError, match="5,945 of 11,873 questions are unanswerable: set version_2_with_negative: true"
    ):
        read(squad / "dev-v2.0.json")


# Text that can be stored: all but lone surrogates; words that other readers take for null come up often.
TEXT = st.one_of(
    st.sampled_from(["NA", "null", "nan", "None", "", " ", '"', "a\r\nb", "\u2028", "1", "true", "x\x00y"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


@st.composite
def records(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for number in range(draw(st.integers(1, 4))):
        before, answer, after = draw(TEXT), draw(TEXT.filter(lambda text: text.strip())), draw(TEXT)
        question, title = draw(TEXT.filter(lambda text: text.strip())), draw(TEXT)
        answers = {"text": [answer], "answer_start": [len(before)]}
        row = {"id": f"{number}{draw(TEXT)}", "title": title, "context": before + answer + after}
        rows.append({**row, "question": question, "answers": answers})
    return rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=records())
@pytest.mark.parametrize(("form", "name"), [FORMS[3], FORMS[4], FORMS[5], FORMS[6]])
def test_arbitrary_text_survives(tmp_path: Path, form: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Line ends, quotes, control characters and words such as NA come back as they were written."""
    write(rows, tmp_path / name, form)
    assert read(tmp_path / name).rows == rows


@pytest.mark.parametrize("answers", [[""], {"text": [""], "answer_start": [-1]}, [{"text": " ", "answer_start": 0}]])
def test_blank_answers_of_an_unanswerable_question(answers: Any, tmp_path: Path) -> None:
    """They say what is_impossible says; beside false they stay an error."""
    record = {"id": "1", "question": "who?", "context": "the cat", "answers": answers, "is_impossible": True}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    (row,) = read_squad(tmp_path / "a.json", version_2_with_negative=True).rows
    assert row["answers"] == {"text": [], "answer_start": []}
    (tmp_path / "a.json").write_text(json.dumps([{**record, "is_impossible": False}]))
    with pytest.raises(DataError, match="answer text must not be blank"):
        read_squad(tmp_path / "a.json", version_2_with_negative=True)
