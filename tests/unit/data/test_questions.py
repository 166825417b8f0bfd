"""Questions to evaluate on, in each of their forms."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from model_hub_rqa.data.predictions import is_squad_format, question_of, read_questions
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Passage, Question, Turn

FLAT = {
    "id": "q1",
    "title": "T",
    "context": "oil rose",
    "question": "What?",
    "answers": {"text": ["oil", "oil"], "answer_start": [0, 0]},
}
FID = {"id": "q1", "question": "What?", "answers": ["oil"], "ctxs": [{"id": "7", "title": "T", "text": "oil rose"}]}
DIALOGUE = {
    "question": "What?",
    "chat_history": ["Hi.", "Hello."],
    "gold_answer": "oil",
    "gold_docs": [{"page_content": "oil rose"}],
}


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_forms_are_told_apart(tmp_path: Path) -> None:
    """By the keys of the first record."""
    assert is_squad_format(write(tmp_path / "flat.jsonl", [FLAT]))
    assert is_squad_format(tiny.squad_file(tmp_path / "nested.json", 2))
    for ending, mark in (("csv", ","), ("tsv", "\t")):
        for name in ("answer", "context"):
            path = tmp_path / f"{name}.{ending}"
            path.write_text(f"id,question,{name}\n1,What?,oil\n".replace(",", mark))
            assert is_squad_format(path) == (name == "context")
    assert not is_squad_format(write(tmp_path / "fid.jsonl", [FID]))
    assert not is_squad_format(write(tmp_path / "dialogue.jsonl", [DIALOGUE]))
    assert not is_squad_format(write(tmp_path / "bare.jsonl", [{"question": "What?", "answers": ["oil"]}]))


def test_a_context_becomes_a_gold_passage(tmp_path: Path) -> None:
    """A SQuAD record is asked with its context as the one passage, and its answers without repetitions."""
    (row,) = read_questions(write(tmp_path / "flat.jsonl", [FLAT])).rows
    assert row["answers"] == ["oil"]
    assert [passage["gold"] for passage in row["passages"]] == [True]
    assert question_of(row) == Question("What?", (Passage("", "oil rose", "T"),), id=row["id"])


def test_a_dialogue_keeps_its_turns(tmp_path: Path) -> None:
    """The last turn before the question is the assistant's."""
    (row,) = read_questions(write(tmp_path / "dialogue.jsonl", [DIALOGUE])).rows
    assert question_of(row).chat_history == (Turn("user", "Hi."), Turn("assistant", "Hello."))


def test_questions_alone_where_passages_are_retrieved(tmp_path: Path) -> None:
    """Neither ctxs nor gold documents are needed then."""
    bare = write(tmp_path / "bare.jsonl", [{"question": "What?", "answers": ["oil"]}])
    assert read_questions(bare, require_passages=False).rows[0]["passages"] == []
    with pytest.raises(DataError, match="ctxs is missing"):
        read_questions(bare)


def test_errors_are_the_readers_own(tmp_path: Path) -> None:
    """Of each form; an unknown policy is refused. Of SQuAD v2.0, what is right may be to say nothing."""
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "none.jsonl")
    unanswerable = tiny.squad_file(tmp_path / "v2.json", 3, unanswerable=1)
    assert [row["answers"] == [""] for row in read_questions(unanswerable).rows].count(True) == 1
    with pytest.raises(ConfigError, match='on_bad_record: must be "error" or "skip"'):
        read_questions(unanswerable, on_bad_record="ignore")
