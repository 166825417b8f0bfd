"""Fields: paths that say where the parts of a question stand in records of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from question_files import plain, write

from model_hub_rqa.cli import main
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.formats.fields import Fields
from model_hub_rqa.data.formats.questions import QuestionFormat
from model_hub_rqa.errors import ConfigError, DataError

OWN = {
    "qid": 7,
    "q": "Who?",
    "answer": {"value": "Ann", "aliases": ["Ann", "Anna"]},
    "paragraphs": [
        {"title": "A", "paragraph_text": "Ann did.", "sources": [{"id": "x", "good": True}]},
        {"title": "B", "paragraph_text": "No.", "sources": [{"id": "y", "good": False}]},
    ],
    "sections": [{"docs": [{"text": "one", "title": "T", "id": 1}]}, {"docs": [{"text": "two"}, {"text": "three"}]}],
}

FIELDS = {"question": "q", "answers": "answer.aliases", "passages": "paragraphs[*].paragraph_text", "id": "qid"}


def fields(**paths: str) -> QuestionFormat:

    return Fields(paths)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (FIELDS, [("", "Ann did.", "", None, False), ("", "No.", "", None, False)]),
        (
            FIELDS
            | {"titles": "paragraphs[*].title", "passage_ids": "paragraphs[*].sources[0].id"}
            | {"gold": "paragraphs[*].sources[*].good"},
            [("A", "Ann did.", "x", None, True), ("B", "No.", "y", None, False)],
        ),
        (FIELDS | {"passages": "paragraphs[1].paragraph_text"}, [("", "No.", "", None, False)]),
        (
            FIELDS | {"passages": "sections[*].docs[*]"},
            [("T", "one", "1", None, False), ("", "two", "", None, False), ("", "three", "", None, False)],
        ),
    ],
)
def test_fields(paths: dict[str, str], expected: list[Any], tmp_path: Path) -> None:
    """Names, items and all items of lists."""
    (row,) = read_fusion(write(tmp_path / "a.json", [OWN]), question_format=fields(**paths)).rows
    assert (row["id"], row["question"], row["answers"]) == ("7", "Who?", ["Ann", "Anna"])
    assert plain(row["passages"]) == expected


@pytest.mark.parametrize(
    ("paths", "error"),
    [
        ({"question": "query"}, "fields.question: query is not in the record: the record has no query, got qid, q, an"),
        ({"answers": "answer.alias"}, "fields.answers: answer.alias is not in .*: answer has no alias, got value, ali"),
        ({"answers": "q.text"}, "q must be an object, got 'Who"),
        ({"passages": "paragraphs[*].text"}, r"paragraphs\[0\] has no text, got title, paragraph_text, sources"),
        ({"passages": "paragraphs[2].title"}, r"paragraphs has no item 2, got 2 items"),
        ({"passages": "answer[*]"}, "answer must be a list, got "),
        ({"id": "answer.id"}, "fields.id: answer.id is not in the record"),
        ({"gold": "paragraphs[*].title"}, "passages 1: gold must be true or false, got 'A'"),
        ({"titles": "paragraphs[0].title"}, "fields.passages must have as many of each"),
    ],
)
def test_fields_that_do_not_occur(paths: dict[str, str], error: str, tmp_path: Path) -> None:
    """The record's location, and the names that are there."""
    path = write(tmp_path / "a.jsonl", [OWN])
    with pytest.raises(DataError, match=f"a.jsonl: (record 7 \\()?line 1\\)?: .*{error}"):
        read_fusion(path, question_format=fields(**(FIELDS | paths)))


@pytest.mark.parametrize(
    ("paths", "error"),
    [
        ({"answers": "a"}, "fields.question: is required"),
        ({"question": "q", "answer": "a"}, "fields.answer: is not a part of a question .*did you mean"),
        ({"question": "q[x]"}, r"fields.question: must be a path as in .*, got 'q\[x\]'"),
        ({"question": "q..a"}, "fields.question: must be a path as in"),
        ({"question": ""}, "fields.question: must be a path as in"),
        ({"question": "q", "gold": "g"}, "fields.gold: needs fields.passages"),
    ],
)
def test_wrong_fields(paths: dict[str, str], error: str) -> None:
    """A part that there is not, and what is no path."""
    with pytest.raises(ConfigError, match=error):
        fields(**paths)


def test_fields_of_a_table(tmp_path: Path) -> None:
    """Columns of CSV; one that is not there is an error of the header."""
    path = write(tmp_path / "a.csv", "key,query,gold\n1,who?,Ann\n")
    (row,) = read_fusion(
        path, require_passages=False, question_format=fields(question="query", answers="gold", id="key")
    ).rows
    assert (row["id"], row["question"], row["answers"]) == ("1", "who?", ["Ann"])
    with pytest.raises(DataError, match='the header misses the column "q"'):
        read_fusion(path, question_format=fields(question="q"))


@pytest.mark.parametrize("cell", ['["Ann", "Anna"]', "['Ann', 'Anna']"])
def test_fields_of_a_table_with_lists(cell: str, tmp_path: Path) -> None:
    """Cells that hold lists or objects, as JSON or as pandas writes them; a question in brackets is text."""
    path = tmp_path / "a.tsv"
    table = f"[who?]\t{cell}\t{{'docs': [{{'x': 'Ann did.'}}]}}\t[sic] no list"
    path.write_text(f"q\tanswer_text\tinfo\tp\n{table}\n")
    paths = {"question": "q", "answers": "answer_text"}
    (row,) = read_fusion(path, question_format=fields(**paths, passages="info.docs[*].x")).rows
    assert (row["question"], row["answers"], plain(row["passages"])[0][1]) == ("[who?]", ["Ann", "Anna"], "Ann did.")
    (row,) = read_fusion(path, question_format=fields(**paths, passages="p")).rows
    assert plain(row["passages"])[0][1] == "[sic] no list"


def test_commands_take_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their option, whose errors name it."""
    data = write(tmp_path / "a.jsonl", [OWN])
    predictions = write(tmp_path / "p.json", {"7": "anna"})
    command = ["score", str(predictions), "--data", str(data), "--fields"]
    assert main([*command, "question=q", "id=qid", "answers=answer.aliases"]) == 0
    assert json.loads(capsys.readouterr().out)["exact_match"] == 100
    for options, error in (
        (["q"], "--fields: must be PART=PATH, got 'q'"),
        (["answers=a"], "--fields.question: is required"),
        (["question=q", "--format", "kilt"], "--fields: is ignored beside format"),
    ):
        assert main([*command, *options]) == 2
        assert error in capsys.readouterr().err
