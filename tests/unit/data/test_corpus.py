"""Corpora, queries and judgements: every form gives the same records, and every error is named with its place."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from model_hub_rqa.data.corpus import CorpusReader, Query, read_qrels, read_queries
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Passage

DOCUMENTS = [
    Passage("1", 'Zoë said "NA",\nthen null.', 'A, "quoted" title'),
    Passage("NA", "nan", ""),
    Passage("a b", "x\u2028y 🙂\tz", "null"),
]
HEADER = ["title", "_id", "metadata", "text"]


def write_corpus(path: Path, form: str) -> Path:
    """DOCUMENTS in one of the forms that a corpus may have."""
    rows: list[Any] = [[d.title, d.id, "", d.text] for d in DOCUMENTS]
    if form == "beir":
        lines: list[dict[str, Any]] = [
            {"_id": d.id, "title": d.title, "text": d.text, "metadata": {}} for d in DOCUMENTS
        ]
        path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    elif form == "jsonl":
        lines = [{"id": int(d.id) if d.id.isdigit() else d.id, "text": d.text} for d in DOCUMENTS]
        titles = [{"title": d.title or None} for d in DOCUMENTS]
        both = [{**line, **title} for line, title in zip(lines, titles, strict=True)]
        path.write_text("\ufeff" + "".join(json.dumps(line) + "\r\n" for line in both), encoding="utf-8")
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pa.parquet.write_table(pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in rows]), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t" if form == "tsv" else ",").writerows([HEADER, *rows])
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("form", "name"), [("beir", "c.jsonl"), ("jsonl", "c.JSONL"), ("csv", "c.csv"), ("tsv", "c.tsv")]
)
def test_all_forms_give_the_same_corpus(tmp_path: Path, form: str, name: str, packed: bool) -> None:
    """The same documents and the same hash come out of every form, packed or not."""
    path = write_corpus(tmp_path / name, form)
    if packed:
        packed_path = tmp_path / f"{name}.gz"
        packed_path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path = packed_path
    check_same(path, tmp_path)


def test_parquet_gives_the_same_corpus(tmp_path: Path) -> None:
    """Parquet too."""
    check_same(write_corpus(tmp_path / "c.parquet", "parquet"), tmp_path)


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv"])
def test_documents_without_ids_are_numbered_alike(tmp_path: Path, name: str) -> None:
    """From 1, whether a header or a blank line stands before them or not."""
    lines = ["", '{"text": "x"}', "", '{"text": "y"}'] if name.endswith("jsonl") else ["text", "x", "", "y"]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [(document.id, document.text) for document in CorpusReader(tmp_path / name)] == [("1", "x"), ("2", "y")]


def check_same(path: Path, folder: Path) -> None:
    reader = CorpusReader(path)
    assert list(reader) == DOCUMENTS
    assert (reader.n_documents, reader.skipped) == (3, ())
    other = CorpusReader(write_corpus(folder / "other.jsonl", "beir"))
    list(other)
    assert reader.sha256 == other.sha256


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def errors(path: Path, step: Any = CorpusReader) -> list[str]:
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: ") as raised:
        list(step(path))
    for error in raised.value.errors:
        assert error.startswith(f"{path}: ")
        assert "\n" not in error
    return [error.removeprefix(f"{path}: ") for error in raised.value.errors]


def test_content_changes_the_hash(tmp_path: Path) -> None:
    """Id, title, text and order each count in the hash; other fields do not."""
    one, two = {"_id": "a", "title": "t", "text": "x"}, {"_id": "b", "title": "", "text": "y"}
    variants = [
        [one, two],
        [two, one],
        [{**one, "_id": "c"}, two],
        [{**one, "title": "u"}, two],
        [{**one, "text": "z"}, two],
        [{**one, "title": "tx", "text": "x"}, two],
    ]
    sums = []
    for records in variants:
        reader = CorpusReader(lines(tmp_path / "c.jsonl", *records))
        list(reader)
        sums.append(reader.sha256)
    assert len(set(sums)) == len(variants)
    reader = CorpusReader(lines(tmp_path / "c.jsonl", {**one, "metadata": {"url": "u"}}, {"_id": "b", "text": "y"}))
    list(reader)
    assert reader.sha256 == sums[0]


def test_documents_without_ids_are_numbered(tmp_path: Path) -> None:
    """Where the first document has no id, each has its number, those left out included."""
    path = lines(tmp_path / "c.jsonl", {"text": "x"}, "", {"text": " "}, {"text": "y", "id": None})
    assert [document.id for document in CorpusReader(path, on_bad_record="skip")] == ["1", "3"]


GOOD = {"_id": "g", "text": "good"}
RECORDS = [
    ({"_id": "b"}, "record b (line 2): text is missing"),
    ({"_id": "b", "text": None}, "record b (line 2): text must be text, got None"),
    ({"_id": "b", "text": "\n "}, r"record b (line 2): text must not be blank, got '\n '"),
    ({"_id": "b", "text": 5, "title": 6}, "record b (line 2): text must be text, got 5; title must be text, got 6"),
    (
        {"_id": "b", "text": "a\ud800"},
        "record b (line 2): text must be Unicode text, got a lone surrogate at character 1",
    ),
    ({"_id": "g", "text": "x"}, "record g (line 2): duplicate id, first at line 1"),
    ({"text": "x"}, "line 2: id is missing"),
    ({"_id": " ", "text": "x"}, "line 2: _id must not be blank, got ' '"),
    ({"_id": 1.5, "text": "x"}, "line 2: _id must be text, got 1.5"),
    ({"_id": True, "text": "x"}, "line 2: _id must be text, got True"),
    (["x"], "line 2: must be an object, got ['x']"),
    ('{"_id": "b", "text": NaN}', "line 2: not JSON at column 22: NaN is not allowed"),
    ('{"_id": "b", "te', "line 2: not JSON at column 14: Unterminated string starting at"),
]


@pytest.mark.parametrize(("record", "error"), RECORDS)
def test_errors_of_a_document(tmp_path: Path, record: Any, error: str) -> None:
    """A bad document is named with its place and the value found; it can be left out instead."""
    path = lines(tmp_path / "c.jsonl", GOOD, record, {"_id": "h", "text": "x"})
    assert errors(path) == [error]
    reader = CorpusReader(path, on_bad_record="skip")
    assert [document.id for document in reader] == ["g", "h"]
    assert reader.skipped == (f"{path}: {error}",)


def test_all_errors_are_raised_together(tmp_path: Path) -> None:
    """One reading shows every error, with a last line cut short among them."""
    path = tmp_path / "c.jsonl"
    content = b'{"id": "a", "text": ""}\n{"id": "a", "text": "\xff"}\n{"id": "c", "text": "x"}\n{"id": "d", "text": "y'
    path.write_bytes(content)
    assert errors(path) == [
        "record a (line 1): text must not be blank, got ''",
        "line 2: must be UTF-8, got byte 0xff at byte 22",
        "line 4: not JSON at column 21: Unterminated string starting at (the last line: the file may be cut short)",
    ]


def test_id_of_one_document_among_numbered_ones(tmp_path: Path) -> None:
    """Some documents with an id and some without are not guessed about."""
    path = lines(tmp_path / "c.jsonl", {"text": "x"}, {"text": "y", "id": "2"})
    assert errors(path) == ["line 2: id is given, while the first record has none, got '2'"]


FILES = [
    ("c.jsonl", b"", "empty file"),
    ("c.jsonl", b"\n \n", "empty file"),
    ("c.jsonl", '{"text": "x"}'.encode("utf-16"), "must be UTF-8, got UTF-16 or UTF-32"),
    ("c.jsonl", b'[\n{"text": "x"},\n{"text": "y"}\n]', "must have a record a line, got a list: name it .json"),
    ("c.jsonl", b'\n[{"text": "x"}, {"text": "y"}]', "must have a record a line, got a list: name it .json"),
    ("c.jsonl.gz", b"plain", "not a gzip file, or a damaged one (Not a gzipped file (b'pl'))"),
    ("c.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-9], "the gzip file is cut short"),
    ("c.csv", b"id,title\n1,x\n", "line 1: the header misses the column \"text\" (or contents), got ['id', 'title']"),
    ("c.csv", b"text,text\nx,y\n", "line 1: the header names columns twice: ['text'], got ['text', 'text']"),
    ("c.csv", b"id,text\n1,x\n2,y,z\n", "line 3: must have 2 fields as the header, got 3"),
    ("c.csv", b'id,text\n1,"x\n', "line 2: not CSV: unexpected end of data"),
    ("c.csv", b"id,text\n1,\xe9\n", "line 2: must be UTF-8, got byte 0xe9 at byte 3"),
    ("c.csv", b"id,text\n", "holds no record"),
    ("c.parquet", b"", "empty file"),
    ("c.parquet", b"PAR1", "cannot be read as Parquet: "),
    (
        "c.doc",
        b"x",
        "unknown file ending '.doc' (known: .json, .jsonl, .csv, .tsv, .parquet, .txt, .md, .rst, .html, "
        ".htm, .pdf; text files also with .gz)",
    ),
]


@pytest.mark.parametrize(("name", "content", "error"), FILES)
def test_errors_of_a_corpus_file(tmp_path: Path, name: str, content: bytes, error: str) -> None:
    """A file that cannot be read, or is of another structure, is refused with the reason."""
    (tmp_path / name).write_bytes(content)
    found = errors(tmp_path / name)
    assert len(found) == 1
    assert found[0].startswith(error)
    assert error.endswith(": ") or found[0] == error


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """What is not there, or is a folder, is said so."""
    assert errors(tmp_path / "none.jsonl") == ["no such file"]
    assert errors(tmp_path) == ["must hold documents (.txt, .md, .rst, .html, .htm, .pdf), got none"]
    assert errors(tmp_path / "none.json", read_queries) == ["no such file"]


def test_a_broken_line_of_a_table_can_be_left_out(tmp_path: Path) -> None:
    """Where it is known which line that is; a quote that is not closed stays an error of the file."""
    path, good = tmp_path / "c.tsv", 'id\ttext\n1\t"a\n""b"""\n'
    path.write_bytes(good.encode() + b'2\t"Al" sings\n3\tcaf\xe9\n4\t"caf\xe9"\n5\t"c"\n')
    reader = CorpusReader(path, on_bad_record="skip")
    assert list(reader) == [Passage("1", 'a\n"b"'), Passage("5", "c")]
    assert [line.removeprefix(f"{path}: ") for line in reader.skipped] == [
        "line 4: not CSV: '\t' expected after '\"'",
        "line 5: must be UTF-8, got byte 0xe9 at byte 6",
        "line 6: must be UTF-8, got byte 0xe9 at byte 7",
    ]
    for line in ('2\t"a\n3\tb\n', '2\t"caf\xe9\n3\tb"\n', '2\t"a" "b\n'):
        path.write_bytes(good.encode() + line.encode("latin-1"))
        with pytest.raises(DataError, match="line 4: "):
            list(CorpusReader(path, on_bad_record="skip"))


def test_a_first_record_without_the_ids_of_the_others(tmp_path: Path) -> None:
    """It would leave the others out: an error with "skip" as well."""
    records = [{"text": "who?"}, {"id": "a", "text": "x?"}, {"id": "b", "text": "y?"}]
    path = lines(tmp_path / "c.jsonl", *records)
    rule = r"c.jsonl: 2 of 3 records have an id, while the first has none: give it to each, or to none"
    for read in (CorpusReader, read_queries):
        with pytest.raises(DataError, match=rule):
            list(read(path, on_bad_record="skip"))
    assert len(read_queries(lines(path, *records[:2], {"text": "z?"}), on_bad_record="skip")) == 2


def test_long_texts_and_quoted_line_ends(tmp_path: Path) -> None:
    """CSV fields may be longer than Python's limit and hold line ends; the limit of the process stays what it was."""
    path = tmp_path / "c.csv"
    path.write_text('id,text\n1,"a\nb"\n2,' + "x" * 200_000 + '\n3,""\n')
    csv.field_size_limit(131_072)
    assert errors(path) == ["record 3 (line 5): text must not be blank, got ''"]
    assert csv.field_size_limit() == 131_072


def test_unknown_policy(tmp_path: Path) -> None:
    """A misspelt on_bad_record is refused."""
    for step in (CorpusReader, read_queries):
        with pytest.raises(ConfigError, match="on_bad_record"):
            step(tmp_path / "c.jsonl", on_bad_record="ignore")


CTXS = [{"id": "1", "title": "", "text": "x"}]


def flat(record: dict[str, Any]) -> list[Any]:
    """A question in SQuAD's form, with its context."""
    return [{"data": [{"id": "7", "question": "who?", "context": "a b a", **record}]}]


TWICE = {"answers": {"text": ["a", "a"], "answer_start": [0, 4]}}
QUESTION = {"id": "7", "question": "who?"}
NESTED = {"data": [{"paragraphs": [{"context": "a b", "qas": [{**QUESTION, "is_impossible": True}]}]}]}
QUERIES = [
    ("q.jsonl", [{"_id": "7", "text": "who?"}], Query("7", "who?")),
    ("q.jsonl", [{**QUESTION, "id": 7, "answers": ["a", "b", "a"], "ctxs": []}], Query("7", "who?", ("a", "b"))),
    ("q.jsonl", [{"question": "who?", "target": "a", "text": "x"}], Query("1", "who?", ("a",), "a")),
    ("q.jsonl", [{"question": "who?", "gold_answer": "a", "chat_history": []}], Query("1", "who?", ("a",), "a")),
    ("q.jsonl", [{**QUESTION, **TWICE}], Query("7", "who?", ("a",))),
    ("q.json", [[{**QUESTION, "answers": []}]], Query("7", "who?")),
    ("q.json", [{"data": [{**QUESTION, "target": "a"}]}], Query("7", "who?", ("a",), "a")),
    ("q.json", [NESTED], Query("7", "who?", ("",))),
    ("q.json", flat(TWICE), Query("7", "who?", ("a",))),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "records", "expected"), QUERIES)
def test_forms_of_queries(tmp_path: Path, name: str, records: list[Any], expected: Query, packed: bool) -> None:
    """Questions come out of BEIR's, FiD's, SQuAD's and dialogue files, with the answers that they give."""
    path = lines(tmp_path / name, *records)
    if packed:
        packed_path = tmp_path / f"{name}.gz"
        packed_path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path = packed_path
    assert read_queries(path) == [expected]


QUERY_FAULTS = [
    ({"id": "b", "question": ""}, "record b (line 2): question must not be blank, got ''"),
    ({"id": "b"}, "record b (line 2): question is missing"),
    ({"id": "b", "text": 5}, "record b (line 2): text must be text, got 5"),
    ({"id": "a", "question": "x"}, "record a (line 2): duplicate id, first at line 1"),
    (
        {"id": "b", "question": "x", "answers": "Paris"},
        "record b (line 2): answers must be a list, got 'Paris': write ['Paris']",
    ),
    (
        {"id": "b", "question": "x", "answers": ["Paris", None]},
        "record b (line 2): answer 2 must be text, got None",
    ),
    (
        {"id": "b", "question": "x", "answers": {"texts": []}},
        "record b (line 2): answers has no text",
    ),
    ({"id": "b", "question": "x", "target": 5}, "record b (line 2): target must be text, got 5"),
    ({"id": "b", "question": "x", "gold_answer": 5}, "record b (line 2): gold_answer must be text, got 5"),
    ("[1", "line 2: not JSON at column 3: Expecting ',' delimiter"),
]


@pytest.mark.parametrize(("record", "error"), QUERY_FAULTS)
def test_errors_of_a_query(tmp_path: Path, record: Any, error: str, caplog: pytest.LogCaptureFixture) -> None:
    """A bad question is named with its place and the value found; it can be left out instead, which is told."""
    path = lines(tmp_path / "q.jsonl", {"id": "a", "question": "who?"}, record)
    found = errors(path, read_queries)
    assert len(found) == 1
    assert found[0].startswith(error)
    assert read_queries(path, on_bad_record="skip") == [Query("a", "who?")]
    assert caplog.messages == [f"left out: {path}: {found[0]}"]


def test_query_files_of_another_structure(tmp_path: Path) -> None:
    """A .json file without questions, and an unknown ending, are refused."""
    assert errors(lines(tmp_path / "q.json", {"a": 1}), read_queries)[0].startswith("must be a list of records, or an")
    assert errors(lines(tmp_path / "q.json", []), read_queries) == ["holds no record"]
    assert errors(lines(tmp_path / "q.txt", "1\twho?"), read_queries)[0].startswith("unknown file ending '.txt'")


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq 1\td1\t1\nq2\td2\t0\n",
        "q 1\td1\t1\nq2\td2\t0",
        "q 1\t0\td1\t1\n\nq2\t0\td2\t0\r\n",
    ],
)
def test_forms_of_qrels(tmp_path: Path, content: str) -> None:
    """BEIR's form, with and without its header, and TREC's give the same judgements."""
    (tmp_path / "q.tsv").write_text(content)
    assert read_qrels(tmp_path / "q.tsv").judgements == {"q 1": {"d1": 1}, "q2": {"d2": 0}}


def test_trec_qrels_with_spaces(tmp_path: Path) -> None:
    """TREC's own files separate the fields by spaces."""
    (tmp_path / "q.txt").write_text("301 0 FBIS3-1 1\n301  0  FBIS3-2  -2\n")
    assert read_qrels(tmp_path / "q.txt").judgements == {"301": {"FBIS3-1": 1, "FBIS3-2": -2}}


def test_errors_of_qrels(tmp_path: Path) -> None:
    """Every bad line is named; the same judgement twice is none, another one is."""
    path = tmp_path / "q.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq\td\t1\nq\td\t1\nq\td\t2\nq\te\thigh\nq\te\nq\t\t1\nq\tf\t0.5\n")
    assert errors(path, read_qrels) == [
        "line 4: score 2 contradicts line 2, which has 1",
        "line 5: score must be a whole number, got 'high'",
        r"line 6: must have query, document and score, got 'q\te'",
        r"line 7: must have query, document and score, got 'q\t\t1'",
        "line 8: score must be a whole number, got '0.5'",
    ]
    for content in ('{"q": {"d": 1}}', '[\n{"q": "d"}]'):
        path.write_text(content)
        assert errors(path, read_qrels) == ["must have query, document and score in each line, got JSON"]
    path.write_text("query-id\tcorpus-id\tscore\n")
    assert errors(path, read_qrels) == ["holds no judgement"]


def test_real_files(rqa_data: Path) -> None:
    """The published files are read whole, with the errors that they really have."""
    reader = CorpusReader(rqa_data / "beir/scifact/corpus.jsonl")
    assert sum(1 for _ in reader) == 5183
    assert len(read_queries(rqa_data / "beir/scifact/queries.jsonl")) == 1109
    assert len(read_qrels(rqa_data / "beir/scifact/qrels/test.tsv").judgements) == 300
    faire = CorpusReader(rqa_data / "rqa/faire_docs.jsonl", on_bad_record="skip")
    assert [document.id for document in faire][-1] == "964"
    assert [line.split(": ", 1)[1] for line in faire.skipped] == [r"line 918: text must not be blank, got '\n'"]
    assert len(read_queries(rqa_data / "rqa/faire_test.jsonl")) == 75
    assert len(read_queries(rqa_data / "nq/nq-open-oracle.jsonl.gz")) == 2655
    squad_fid = read_queries(rqa_data / "fid/squad_fid_dev.jsonl.gz")
    assert squad_fid[0] == Query(
        "5711669550c2381900b54ae1", "What does isobaric mean?", ("constant pressure",), "constant pressure"
    )
