"""Questions in the public's formats: a small file in each layout gives the rows that were written by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from question_files import (
    CASES,
    DPR,
    FLASHRAG,
    HOTPOT,
    KILT,
    MUSIQUE,
    NQ_OPEN,
    PUBMED,
    TRIVIA,
    TRIVIA_ANSWER,
    TRIVIA_HUB,
    TWO_WIKI,
    TWO_WIKI_HUB,
    plain,
    write,
)
from tiny_records import changed_everywhere

from model_hub_rqa.cli import main
from model_hub_rqa.data.corpus import Query, read_queries
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.formats.questions import all_formats, format_of
from model_hub_rqa.errors import DataError
from model_hub_rqa.registry import FORMATS


@pytest.mark.parametrize(
    ("name", "file", "content", "id_", "question", "answers", "passages", "negatives"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{number}" for number, case in enumerate(CASES)],
)
def test_a_format(
    name: str,
    file: str,
    content: Any,
    id_: str,
    question: str,
    answers: list[str],
    passages: list[Any],
    negatives: list[Any],
    tmp_path: Path,
) -> None:
    """The first question of a file in the published layout, recognised and named; the same to retrieve for."""
    path = write(tmp_path / file, content)
    for form in (None, FORMATS.find(name)()):
        row = read_fusion(path, require_passages=bool(passages), question_format=form).rows[0]
        assert (row["id"], row["question"], row["answers"]) == (id_, question, answers)
        assert plain(row["passages"]) == passages
        assert plain(row["negatives"]) == negatives
        assert read_queries(path, question_format=form)[0] == Query(id_, question, tuple(answers))


def test_every_format_has_a_case_and_fits_its_own_alone() -> None:
    """A record is in one format: none of the others takes it for its own."""
    objects = [(name, content[0]) for name, _, content, *_ in CASES if isinstance(content, list)]
    objects += [("triviaqa", TRIVIA), ("pubmedqa", {"id": "2", **PUBMED})]
    for name, record in objects:
        fits = [type(form) for form in all_formats() if form.matches(record)]
        if record is TWO_WIKI_HUB:  # its context is a text, as SQuAD's
            assert fits.pop() is FORMATS.find("squad")
        assert fits == ([] if name == "nq-open" else [FORMATS.find(name)])
    elsewhere = {
        "fid",
        "localrqa",
        "squad",
        "beir",
        "queries-tsv",
        "sentence-transformers",
    }  # tested beside their users
    assert {name for name, *_ in CASES} | elsewhere == set(FORMATS.names())


def test_a_table_of_queries(tmp_path: Path) -> None:
    """MS MARCO's: ids and texts, quotes included; with a header it is an ordinary table."""
    path = write(tmp_path / "queries.tsv", '1048585\t"what" is it\n2\twho?\n')
    expected = [Query("1048585", '"what" is it'), Query("2", "who?")]
    assert read_queries(path) == expected
    assert read_queries(write(tmp_path / "h.tsv", "id\tquestion\n2\twho?\n")) == expected[1:]
    for text in ("1\twho?\n2\twho?\tx\n", "1\twhat\rnow?\n2\tx\ty\n"):
        with pytest.raises(DataError, match=r"line 2: must have 2 fields \(id, question\), got 3"):
            read_queries(write(tmp_path / "q.tsv", text))
    with pytest.raises(DataError, match="answers must be given"):
        read_fusion(path, require_passages=False)


@pytest.mark.parametrize("id_", ["id", "_id", "qid", "query_id"])
@pytest.mark.parametrize("name", ["question", "query", "text"])
@pytest.mark.parametrize("file", ["q.tsv", "q.csv", "q.parquet", "q.jsonl"])
def test_queries_by_the_names_of_their_columns(file: str, name: str, id_: str, tmp_path: Path) -> None:
    """A header is no question, and a column is read under each of its usual names."""
    mark = "\t" if file.endswith("tsv") else ","
    table = f"{id_}{mark}{name}\r\n2{mark}who?\r\n"
    path = write(tmp_path / file, table if file[2:] in ("tsv", "csv") else [{id_: "2", name: "who?"}])
    assert read_queries(path) == [Query("2", "who?")]


def test_a_header_that_is_not_known_is_no_question(tmp_path: Path) -> None:
    """It would have been asked; ids that look like names are not taken for one."""
    with pytest.raises(DataError, match="the header misses the column"):
        read_queries(write(tmp_path / "q.tsv", "query-id\tquery text\n2\twho?\n"))
    assert [query.id for query in read_queries(write(tmp_path / "q.tsv", "id7\ttext\nqid8\twho?\n"))] == ["id7", "qid8"]


@pytest.mark.parametrize(
    "record", [KILT, FLASHRAG, MUSIQUE, DPR, TRIVIA_HUB, NQ_OPEN], ids=lambda record: list(record)[1]
)
def test_parquet_is_read_as_json_is(record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hub has its files in Parquet: recognised, named, and scored against."""
    paths = [write(tmp_path / f"a.{ending}", [record]) for ending in ("jsonl", "parquet")]
    predictions = write(tmp_path / "p.json", {read_queries(paths[0])[0].id: "A"})
    for form in (None, format_of(record)):
        first, second = (read_fusion(path, require_passages=False, question_format=form).rows for path in paths)
        assert first == second
        assert read_queries(paths[0], question_format=form) == read_queries(paths[1], question_format=form)
    scores = []
    for path in paths:
        assert main(["score", str(predictions), "--data", str(path)]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]


def test_quotes_of_dpr_tables(tmp_path: Path) -> None:
    """As csv writes what has quotes: DPR reads its tables with csv."""
    path = tmp_path / "trivia.qa.csv"
    rows = [["who?", str(["a"])], ['the "Bo" of it', str(['Bo "Bo" X', "it's"])]]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    first, second = read_queries(path)
    assert (first.answers, second.question, second.answers) == (("a",), 'the "Bo" of it', ('Bo "Bo" X', "it's"))
    with pytest.raises(DataError, match="line 2: answers must be a list of Python, got 'x'"):
        read_queries(write(tmp_path / "b.qa.csv", "who?\t['a']\nwho?\tx\n"))


NO_TRIVIA = {
    "aliases": [],
    "normalized_aliases": [],
    "normalized_value": "",
    "type": "",
    "value": "<unk>",
}  # its test set
WITH_ID = {"id": "1", "question": "who?"}


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        (
            {**TRIVIA, "Answer": {**TRIVIA_ANSWER, "Value": "A", "HumanAnswers": ["The A"]}},
            ["A", *TRIVIA_ANSWER["Aliases"], "The A"],
        ),
        ({**TRIVIA_HUB, "answer": NO_TRIVIA}, []),
        ({name: value for name, value in TRIVIA.items() if name != "Answer"}, []),
        ({**WITH_ID, "answer": ""}, []),
        ({**WITH_ID, "answer": "", "aliases": ["A"]}, ["A"]),
        ({**MUSIQUE, "answer": "", "answer_aliases": [""], "answerable": False}, [""]),
        ({**WITH_ID, "answers": ["", " "], "is_impossible": True}, [""]),
        ({**WITH_ID, "answers": {"text": [""], "answer_start": [-1]}, "is_impossible": True}, [""]),
    ],
)
def test_answers_that_are_none(record: dict[str, Any], answers: list[str], tmp_path: Path) -> None:
    """What stands for "not known" or "no answer" is no gold answer; people's own answers are."""
    path = write(tmp_path / "a.jsonl", [record])
    (query,) = read_queries(path)
    assert list(query.answers or ()) == answers
    if answers:
        assert read_fusion(path, require_passages=False).rows[0]["answers"] == answers
    else:
        with pytest.raises(DataError, match=r"line 1\): target or answers must be given"):
            read_fusion(path, require_passages=False)


@pytest.mark.parametrize("name", ["answers", "answer", "golden_answers"])
@pytest.mark.parametrize("cell", ['["Canada", "Bo\'s"]', "['Canada', \"Bo's\"]"])
def test_lists_in_cells_of_a_table(name: str, cell: str, tmp_path: Path) -> None:
    """As JSON, or as pandas writes them; what is no list of texts is one text."""
    with (tmp_path / "a.csv").open("w") as file:
        csv.writer(file).writerows([["question", name], ["where?", cell]])
    assert read_queries(tmp_path / "a.csv") == [Query("1", "where?", ("Canada", "Bo's"))]
    if name == "answer":
        write(tmp_path / "a.csv", "question,answer\nwhere?,[1]\nwho?,[x\n")
        assert [query.answers for query in read_queries(tmp_path / "a.csv")] == [("[1]",), ("[x",)]


BAD: list[tuple[Any, str]] = [
    ({**KILT, "output": "Anna"}, "output must be a list of objects with answer, got 'Anna'"),
    ({**KILT, "input": " "}, "input must not be blank, got ' '"),
    ({**FLASHRAG, "metadata": {"context": {"title": ["a"], "sentences": []}}}, "as many titles as sentences, got 1"),
    ({**HOTPOT, "context": [["Ed Wood"]]}, "context 1: must be a title and a list of sentences"),
    ({**TWO_WIKI, "context": "x"}, "context must be text, or titles with their sentences, got 'x'"),
    ({**MUSIQUE, "paragraphs": [{"idx": 1}]}, "paragraphs 1: paragraph_text is missing"),
    ({**TRIVIA_HUB, "answer": {"aliases": "x"}}, "aliases must be a list, got 'x'"),
    ({**TRIVIA_HUB, "entity_pages": {"title": [], "wiki_context": ["x"]}}, "entity_pages must have as many of title"),
    ({**PUBMED, "LABELS": ["x"]}, "contexts must be as many as labels, got 2 and 1"),
    ({**PUBMED, "CONTEXTS": ["x", 5]}, "contexts 2: text must be text, got 5"),
    ({**WITH_ID, "answer": True}, "answer must be text, or a list of texts, got True"),
    ({**WITH_ID, "answer": " ", "ctxs": []}, "target or answers must be given, got ' '; ctxs must hold at least one"),
    ({**WITH_ID, "answers": ["", "A"]}, "answer 1 must not be blank, got ''"),
    ({**WITH_ID, "answer": "A", "passages": ["x"]}, "passages 1: must be an object with title and text, got 'x'"),
    ({**WITH_ID, "answer": "A", "passages": {"passage_text": ["x"]}}, "passages must be a list, got {'passage_text'"),
    ({**DPR, "positive_ctxs": []}, r"positive_ctxs must hold at least one passage, got \[\]"),
    ({**DPR, "hard_negative_ctxs": [{"title": "x"}]}, "hard_negative_ctxs 1: text is missing"),
]


@pytest.mark.parametrize(("record", "error"), BAD, ids=[error for _, error in BAD])
def test_bad_records(record: dict[str, Any], error: str, tmp_path: Path) -> None:
    """The record, its field and what it holds."""
    with pytest.raises(DataError, match=f"line 1\\)?: .*{error}"):
        read_fusion(write(tmp_path / "a.jsonl", [record]))


RECORDS = [content[0] for _, _, content, *_ in CASES if isinstance(content, list)] + [TRIVIA, {"id": "1", **PUBMED}]
OWN_PASSAGES = {"text": "x", "names": {"text": "t"}, "location": "a", "optional": True}
RECORDS += [
    {**WITH_ID, "answer": "A", "passages": [OWN_PASSAGES], **more}
    for more in ({}, {"golden_answers": ["B"], "metadata": {}})
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: "-".join(list(record)[:3]))
def test_whatever_a_field_holds_is_read_or_refused(record: dict[str, Any], tmp_path: Path) -> None:
    """Any type in any place: rows, or errors with the file's name in each line; never another exception."""
    form, n_read = format_of(record), 0
    errors: list[str] = []
    for changed in changed_everywhere(record):
        path = write(tmp_path / "a.json", [changed])
        for read in (lambda path: read_fusion(path, question_format=form), read_queries):
            try:
                read(path)
                n_read += 1
            except DataError as error:
                errors += error.errors
    assert n_read > 0
    assert errors
    assert [line for line in errors if not line.startswith(f"{tmp_path}/a.json: ")] == []


def test_a_later_record_is_read_as_the_first(tmp_path: Path) -> None:
    """A record that misses the field of its format is an error of that format."""
    without = {name: value for name, value in DPR.items() if name != "positive_ctxs"}
    with pytest.raises(DataError, match="line 2: positive_ctxs is missing"):
        read_fusion(write(tmp_path / "a.jsonl", [DPR, without]))
