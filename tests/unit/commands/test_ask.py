"""rqa ask, and how it and rqa evaluate find passages: the index, top_k and the embedding model."""

import json
from pathlib import Path
from typing import Any

import pytest
from readers_for_tests import QUESTIONS, encode_letters, fusion_folder, world_folder, write_lines

from model_hub_rqa.cli import main
from model_hub_rqa.pipeline import RQAPipeline, load_reader
from model_hub_rqa.records import Question
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.index_folder import build_index, open_index


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world_folder(tmp_path_factory.mktemp("world"))


def ask_command(world: Path, reader: str = "fusion") -> list[str]:
    return ["ask", "--checkpoint", str(world / reader), "--index", str(world / "index")]


def test_ask(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer stands first, then a line a passage, the best first; --json gives the same as an object."""
    command = ["ask", "--checkpoint", str(world / "fusion"), "--index", str(world / "index"), "oil price?"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert text.startswith(found["answer"])
    assert text.index("[1]") < text.index("[2]")
    assert found["passages"][0]["id"] == "1"
    assert found["passages"][0]["text"] in text
    assert sum(passage["reader_score"] for passage in found["passages"]) == pytest.approx(1)
    assert 0 < found["score"] < 1


def test_ask_in_a_dialogue(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Turns before the question change what a reader with the chat prompt is asked."""
    reader = fusion_folder(tmp_path / "chat", prompt_template="chat", max_encoder_seq_length=64)
    command = ["ask", "--checkpoint", str(reader), "--index", str(world / "index"), "--json", "it?"]
    answers = []
    for turns in ([], ["--turn", "oil or river?", "--turn", "river"]):
        assert main([*command, *turns]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["score"] != answers[1]["score"]


@pytest.mark.parametrize(
    ("question", "options", "error"),
    [
        (" ", (), "QUESTION: must not be blank"),
        ("oil?", ("--turn", ""), "--turn: must not be blank"),
        ("oil?", ("--top-k", "0"), "--top-k: must be at least 1, got 0"),
    ],
)
def test_ask_refuses(
    question: str, options: tuple[str, ...], error: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be asked is named."""
    command = ["ask", "--checkpoint", str(world / "fusion"), "--index", str(world / "index"), question, *options]
    assert main(command) == 2
    assert error in capsys.readouterr().err


def test_a_question_that_nothing_is_found_for(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to read, and no answer; an evaluation goes on."""
    for reader in ("fusion", "extractive"):
        assert main([*ask_command(world, reader), "zzz", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["answer"], found["score"], found["passages"]) == ("", 0.0, [])
        assert main([*ask_command(world, reader), "zzz"]) == 0
        assert capsys.readouterr().out.startswith("(no answer)  (score 0.000)")
        asked = [QUESTIONS[0], {**QUESTIONS[1], "question": "zzz"}]
        data = ["--data", str(write_lines(tmp_path / "asked.jsonl", asked)), "--output-dir", str(tmp_path / reader)]
        assert main(["evaluate", *ask_command(world, reader)[1:], *data]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert (scores["n_questions"], scores["document_recall"]) == (2, 0.5)
        lines = (tmp_path / reader / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        silent = json.loads(lines[1])
        assert (silent["prediction"], silent["passages"], silent["f1"]) == ("", [], 0)


# ---- what is asked, found and shown ----


@pytest.mark.parametrize(
    ("turns", "roles"),
    [
        ([], []),
        (["Yes?"], ["assistant"]),
        (["oil or river?", "Which?"], ["user", "assistant"]),
        (["Hello.", "oil or river?", "Which?"], ["assistant", "user", "assistant"]),
    ],
)
def test_the_turn_before_the_question_is_the_assistants(
    turns: list[str], roles: list[str], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the roles alternate from there back to the first."""
    asked: list[Question] = []
    ask = RQAPipeline.ask

    def watched(self: RQAPipeline, questions: Any, **options: Any) -> Any:
        asked.extend(questions)
        return ask(self, questions, **options)

    monkeypatch.setattr(RQAPipeline, "ask", watched)
    options = [word for turn in turns for word in ("--turn", turn)]
    assert main([*ask_command(world, "extractive"), "it?", *options]) == 0
    assert [(turn.role, turn.text) for turn in asked[0].chat_history] == list(zip(roles, turns, strict=True))


def test_the_passage_of_an_extracted_answer_is_marked(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a "*" beside its rank, and its number under "passage"; scores are those of the index."""
    index, reader = open_index(world / "index"), load_reader(world / "extractive")
    command, places = ask_command(world, "extractive"), set()
    for question in ("oil price?", "river barrel?", "embargo?"):
        (answered,) = RQAPipeline(reader, index).ask([question], scores=True)
        assert main([*command, question, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        place = found["passage"]
        places.add(place)
        assert place == answered.answer.passage
        assert found["answer"] in found["passages"][place]["text"]
        shown = [(passage["id"], passage["retrieval_score"]) for passage in found["passages"]]
        assert shown == [(hit.passage.id, hit.score) for hit in index.search([question], 10)[0]]
        assert shown[0][1] > shown[1][1]
        assert main([*command, question]) == 0
        lines = capsys.readouterr().out.splitlines()[3::2]
        marks = ["*" if number == place else " " for number in range(3)]
        assert [line[:4] for line in lines] == [f"{rank:>3}{mark}" for rank, mark in enumerate(marks, 1)]
        assert [line.split()[-1] for line in lines] == [f"[{passage}]" for passage, _ in shown]
        assert [line[11:21].strip() for line in lines] == [f"{score:.3f}" for _, score in shown]
    assert len(places) > 1


def test_a_written_answer_is_from_no_single_passage(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """None is marked."""
    assert main([*ask_command(world), "oil?"]) == 0
    assert "*" not in capsys.readouterr().out
    assert main([*ask_command(world), "oil?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passage"] is None


# ---- top_k ----


@pytest.mark.parametrize(
    ("n_context", "options", "top_k"), [(2, [], 2), (None, [], 10), (2, ["--top-k", "1"], 1), (1, ["--top-k", "3"], 3)]
)
def test_as_many_passages_are_found_as_the_reader_was_trained_with(
    n_context: int | None, options: list[str], top_k: int, world: Path, tmp_path: Path, capsys: Any
) -> None:
    """By default; 10 where it reads all, and --top-k goes before."""
    reader = fusion_folder(tmp_path / "reader", n_context=n_context)
    found = ["--checkpoint", str(reader), "--index", str(world / "index"), *options]
    assert main(["ask", *found, "--json", "oil?"]) == 0
    assert len(json.loads(capsys.readouterr().out)["passages"]) == min(top_k, 3)
    data = ["--data", str(world / "questions.jsonl"), "--output-dir", str(tmp_path / "results")]
    assert main(["evaluate", *found, *data]) == 0
    assert json.loads(capsys.readouterr().out)["top_k"] == top_k
    lines = (tmp_path / "results/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [len(json.loads(line)["passages"]) for line in lines] == [min(top_k, 3)] * 3


# ---- questions without passages ----


def test_an_index_finds_passages_for_questions_without(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an index they are an error, which names the field, or are left out and counted."""
    bare = [{name: value for name, value in question.items() if name != "ctxs"} for question in QUESTIONS]
    command = ["evaluate", "--checkpoint", str(world / "fusion"), "--output-dir", str(tmp_path / "found")]
    data = ["--data", str(write_lines(tmp_path / "bare.jsonl", bare))]
    assert main([*command, *data, "--index", str(world / "index")]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["n_questions"], scores["n_skipped"], scores["n_judged"]) == (3, 0, 0)
    lines = (tmp_path / "found/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [sorted(passage["id"] for passage in json.loads(line)["passages"]) for line in lines] == [
        ["1", "2", "3"]
    ] * 3
    command[-1] = str(tmp_path / "none")
    assert main([*command, *data]) == 2
    assert "line 1" in capsys.readouterr().err
    data[-1] = str(write_lines(tmp_path / "mixed.jsonl", [*bare[:2], *QUESTIONS[2:]]))
    assert main([*command, *data, "--on-bad-record", "skip"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("left out: ") == 2
    scores = json.loads(captured.out)
    assert (scores["n_questions"], scores["n_skipped"]) == (1, 2)


# ---- the embedding model ----


@pytest.mark.parametrize("command", ["ask", "evaluate"])
def test_the_embedding_model_may_be_elsewhere(
    command: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--embedding-model names it, in place of the one in the index's manifest; another model is refused."""
    letters = encode_letters(monkeypatch)
    build_index(world / "corpus.jsonl", tmp_path / "index", DenseSettings("where-it-was"))
    data = ["--data", str(world / "questions.jsonl"), "--output-dir", str(tmp_path / "results")]
    more = ["oil?"] if command == "ask" else data
    words = [command, "--checkpoint", str(world / "extractive"), "--index", str(tmp_path / "index"), *more]
    letters.named.clear()
    assert main([*words, "--embedding-model", "where-it-is"]) == 0
    assert letters.named == ["where-it-is"]
    letters.weights = "others"
    words[-1] += "-2" if command == "evaluate" else ""
    assert main([*words, "--embedding-model", "where-it-is"]) == 2
    assert "/index: where-it-is: weights: must be SHA-256 weights of o as in the index, got" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ask", "evaluate"])
@pytest.mark.parametrize(
    ("reader", "options", "errors"),
    [
        ("extractive", [], ["/index: where-it-was: weights: must be SHA-256 weights of o as in the index, got"]),
        ("extractive", ["--rerank", "builtins:float"], ["/index: where-it-was: weights: must be SHA-256"]),
        (
            "extractive",
            ["--top-k", "4", "--rerank", "no/model", "--num-beams", "2", "--fusion", "rrf"],
            [
                "--num-beams: is not a setting of the reader in",
                "--top-k: must be at most the 3 passages of the index, got 4",
                "--rerank: 'no/model' is neither a folder nor",
                "--fusion: needs several indexes, got 1",
            ],
        ),
        ("fusion", ["--max-new-tokens", "0"], ["--max-new-tokens: must be >= 1, got 0"]),
    ],
    ids=["another model", "with a reranker", "options", "a value"],
)
def test_what_does_not_fit_is_told_before_the_reader_is_loaded(
    command: str,
    reader: str,
    options: list[str],
    errors: list[str],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The index's own model may be, as its weights are compared; nothing else is."""
    from model_hub_rqa import readers
    from model_hub_rqa.retrieval import rerank

    letters = encode_letters(monkeypatch)
    build_index(world / "corpus.jsonl", tmp_path / "index", DenseSettings("where-it-was"))
    letters.named.clear()
    monkeypatch.setattr(letters, "weights", "others")
    monkeypatch.setattr(readers, "load_pretrained", lambda *args: pytest.fail("loads the reader"))
    monkeypatch.setattr(rerank.RegisteredObject, "build", lambda *args: pytest.fail("loads the reranker"))
    more = ["oil?"]
    if command == "evaluate":
        more = ["--data", str(world / "questions.jsonl"), "--output-dir", str(tmp_path / "results")]
    words = [command, "--checkpoint", str(world / reader), "--index", str(tmp_path / "index"), *options, *more]
    assert main(words) == 2
    err = capsys.readouterr().err
    for error in errors:
        assert error in err
    assert letters.named == (["where-it-was"] if "weights" in errors[0] else [])
    assert not (tmp_path / "results").exists()
