"""Queries of dialogues: templates and rewriters, by hand, in every command and in training."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readers_for_tests import fusion_folder, write_lines

from model_hub_rqa.cli import main
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Question, Turn
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.index_folder import build_index
from model_hub_rqa.retrieval.queries import QueryBuilder, build_queries
from model_hub_rqa.tasks.fid.settings import FusionKwargs

TURNS = (
    Turn("user", " Who made it?"),
    Turn("assistant", "Ada {did}."),
    Turn("user", "When?"),
    Turn("assistant", "1840 "),
)


@pytest.mark.parametrize(
    ("template", "turns", "query"),
    [
        ("{question}", TURNS, "Why? "),  # as it was given
        ("{history} {question}", TURNS, "Who made it? Ada {did}. When? 1840 Why?"),
        ("{history} {question}", (), "Why?"),
        ("{question} {history:1}", TURNS, "Why? 1840"),
        ("{question} {history:3}", TURNS, "Why? Ada {did}. When? 1840"),
        ("{question} {history:9}", TURNS, "Why? Who made it? Ada {did}. When? 1840"),
        ("{last_question} {last_answer} {question}", TURNS, "When? 1840 Why?"),
        ("{last_question} {last_answer} {question}", TURNS[:1], "Who made it?  Why?"),
        ("{{x}} q: {question}", (), "{x} q: Why?"),
    ],
)
def test_templates_by_hand(template: str, turns: tuple[Turn, ...], query: str) -> None:
    """Turns without their outer white space, the oldest first; braces in what was said stay what they are."""
    assert QueryBuilder(template)([Question("Why? ", chat_history=turns)]) == [query]


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{history}", "must be a text with {question} and no other fields than {question}, {history}, {last_question}"),
        ("{question} {answer}", "must be a text with {question} and no other"),
        ("{question} {}", "must be a text with {question} and no other"),
        ("{question!r}", "must be a text with {question} and no other"),
        ("{question:5}", "must be a text with {question} and no other"),
        ("{question} {history:0}", "must be a text with {question} and no other"),
        ("{question} {history:-1}", "must be a text with {question} and no other"),
        ("{question} {history:{n}}", "must be a text with {question} and no other"),
        ("{question} {history.text}", "must be a text with {question} and no other"),
        ("{question", "must have its braces in pairs ("),
    ],
)
def test_templates_that_are_none(template: str, error: str) -> None:
    """The rule and what was given, for commands and for training."""
    with pytest.raises(ConfigError, match=r"^query_template: ") as raised:
        build_queries(template, None)
    assert raised.value.errors[0].startswith(f"query_template: {error}")
    assert raised.value.errors[0].endswith(f"got {template!r}")
    with pytest.raises(ConfigError, match=r"^FusionKwargs\.query_template: ") as raised:
        FusionKwargs(index="i", query_template=template)
    assert raised.value.errors[0].startswith(f"FusionKwargs.query_template: {error}")


TEXT = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=8)


@given(st.lists(TEXT, max_size=4), TEXT, st.integers(1, 5))
def test_a_template_loses_no_turn(said: list[str], question: str, n: int) -> None:
    """Whatever was said, braces included: the last N turns and the question, and nothing else."""
    turns = tuple(Turn("user", text) for text in said)
    (query,) = QueryBuilder(f"{{history:{n}}}|{{question}}")([Question(question, chat_history=turns)])
    assert query == f"{' '.join(text.strip() for text in said[-n:])}|{question.strip()}".strip()


def test_a_rewriter_sees_a_batch_and_comes_before_the_template() -> None:
    """It gets the questions with their turns; what it gives is the template's question."""
    seen = []

    def rewrite(questions: list[Question]) -> list[str]:
        seen.append(questions)
        return [f"{question.text.lower()} ({len(question.chat_history)})" for question in questions]

    questions = [Question("Why?", chat_history=TURNS), Question("Who?")]
    assert QueryBuilder(rewrite=rewrite)(questions) == ["why? (4)", "who? (0)"]
    assert QueryBuilder("{question} {history:1}", rewrite)(questions) == ["why? (4) 1840", "who? (0)"]
    assert seen == [questions, questions]
    assert QueryBuilder(rewrite=rewrite)([]) == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["x"], r"query_rewriter: must give a list of 2 texts, got \['x'\]"),
        ("xy", "query_rewriter: must give a list of 2 texts, got 'xy'"),
        (["x", 5], r"query_rewriter: must give text that is not blank, got 5 for the question 'Who\?'"),
        ([" ", "x"], r"query_rewriter: must give text that is not blank, got ' ' for the question 'Why\?'"),
    ],
)
def test_what_a_rewriter_gives_is_checked(given: Any, error: str) -> None:
    """A text for each question."""
    with pytest.raises(DataError, match=f"^{error}$"):
        QueryBuilder(rewrite=lambda questions: given)([Question("Why?"), Question("Who?")])


OWN = """
from model_hub_rqa import REWRITERS

@REWRITERS.register("append")
def append(questions, word: str = "river"):
    return [f"{question.text} {word}" for question in questions]

class Counted:
    def __call__(self, questions):
        return [f"{question.text} {len(questions)}" for question in questions]
"""


def test_a_registered_rewriter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function or a class, by its name or its module, with arguments, which are checked; its source counts in what a
    cache is found by."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewriter.py").write_text(OWN)
    first = build_queries(None, "own_rewriter:append")
    assert first([Question("a")]) == ["a river"]
    other = build_queries("{question}!", {"name": "append", "args": {"word": "oil"}})
    assert other([Question("a")]) == ["a oil!"]
    assert build_queries(None, "own_rewriter:Counted")([Question("a"), Question("b")]) == ["a 2", "b 2"]
    prints = {first.fingerprint, other.fingerprint, build_queries("{question}!", "append").fingerprint}
    assert len(prints) == 3
    (tmp_path / "own_rewriter.py").write_text(OWN + "\n# changed\n")
    assert first.fingerprint not in prints
    with pytest.raises(ConfigError, match=r"^query_template: ") as raised:
        build_queries("{x}", {"name": "append", "args": {"words": 1}})
    assert raised.value.errors[1].startswith("query_rewriter.args.words: append has no such argument")
    with pytest.raises(ConfigError, match=r"^query_rewriter: must be a registered query rewriter \(.*\) or package"):
        build_queries(None, "none")


# ---- commands ----

CORPUS = [
    {"_id": "oil", "title": "", "text": "the oil price rose in October"},
    {"_id": "river", "title": "", "text": "a river of Brazil"},
    {"_id": "lake", "title": "", "text": "a lake of Canada"},
]
DIALOGUE = {
    "id": "q1",
    "question": "How long is it?",
    "chat_history": [{"role": "user", "text": "Name a river?"}, {"role": "assistant", "text": "The lake Huron."}],
    "answers": ["long"],
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of CORPUS, a reader and a dialogue."""
    build_index(write_lines(tmp_path / "corpus.jsonl", CORPUS), tmp_path / "index", BM25Settings())
    write_lines(tmp_path / "queries.jsonl", [DIALOGUE, {"id": "q2", "question": "oil price?", "answers": ["x"]}])
    fusion_folder(tmp_path / "reader")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewriter.py").write_text(OWN)
    return tmp_path


CASES: list[tuple[list[str], str, str]] = [
    (["--query-template", "{question} {last_question}"], "How long is it? Name a river?", "river"),
    (["--query-template", "{question} {last_answer}"], "How long is it? The lake Huron.", "lake"),
    (["--query-rewriter", "own_rewriter:append"], "How long is it? river", "river"),
]


@pytest.mark.parametrize(("options", "query", "best"), CASES)
def test_retrieve_ask_and_evaluate(
    options: list[str], query: str, best: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each asks the index for the query of the dialogue; ctxs.jsonl says where it is another text than the question."""
    words = ["--queries", "queries.jsonl", "--index", "index", "--top-k", "1"]
    assert main(["retrieve", *words, "--output", "plain"]) == 0
    assert main(["retrieve", *words, "--output", "out", *options]) == 0
    plain, changed = (
        [json.loads(line) for line in Path(name, "ctxs.jsonl").read_text().splitlines()] for name in ("plain", "out")
    )
    assert all("retrieval_query" not in record for record in plain)
    assert (changed[0]["question"], changed[0]["retrieval_query"]) == (DIALOGUE["question"], query)
    assert [ctx["id"] for ctx in changed[0]["ctxs"]] == [best]
    assert main(["retrieve", "--queries", "out/ctxs.jsonl", *words[2:], "--output", "again"]) == 0  # it can be read
    searched = ["--checkpoint", "reader", "--index", "index", "--top-k", "1", *options]
    assert main(["evaluate", *searched, "--data", "queries.jsonl", "--output-dir", "results"]) == 0
    lines = [json.loads(line) for line in Path("results/predictions.jsonl").read_text().splitlines()]
    assert [one["id"] for one in lines[0]["passages"]] == [best]
    assert lines[0]["question"] == DIALOGUE["question"]
    capsys.readouterr()
    turns = [word for turn in DIALOGUE["chat_history"] for word in ("--turn", turn["text"])]  # type: ignore[attr-defined]
    assert main(["ask", "How long is it?", *turns, *searched, "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert ([one["id"] for one in asked["passages"]], asked["question"]) == ([best], DIALOGUE["question"])


def test_errors_of_the_options(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With those of the index, before any work; without an index they are an error."""
    options = ["--query-template", "{text}", "--query-rewriter", "own_rewriter:none"]
    assert main(["ask", "x?", "--checkpoint", "reader", "--index", "none", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("--query-template: must be a text with {question} and no other fields than ")
    assert lines[1].startswith("--query-rewriter: own_rewriter has no none")
    assert lines[2] == "none: is not an index folder"
    command = ["evaluate", "--checkpoint", "reader", "--data", "queries.jsonl", "--output-dir", "results"]
    assert main([*command, "--query-template", "{question}"]) == 2
    assert "--query-template: needs --index" in capsys.readouterr().err


def test_settings_of_training_need_retrieval() -> None:
    """They belong to an index or an embedding model."""
    with pytest.raises(ConfigError, match=r"^FusionKwargs\.query_template: needs index or embedding_model") as raised:
        FusionKwargs(query_template="{question}", query_rewriter="x")
    assert len(raised.value.errors) == 2
