"""rqa predict --passage-scores: what each passage is worth to a reader, as labels for a retriever."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generation
import torch
from readers_for_tests import fusion_folder, write_lines
from transformers import AutoModelForCausalLM

from model_hub_rqa.cli import main
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.predictions import question_of
from model_hub_rqa.errors import DataError
from model_hub_rqa.readers import Reader
from model_hub_rqa.tasks.causal_lm.features import GenerationFeatureBuilder
from model_hub_rqa.tasks.retriever.task import RetrieverKwargs, RetrieverTask

PASSAGES = [
    {"id": "p0", "title": "Oil", "text": "the price of oil had risen"},
    {"id": "p1", "title": "River", "text": "the name of the river is Amazonas", "isgold": True},
    {"id": "p2", "title": "", "text": "members proclaimed an embargo"},
]
RECORDS = [
    {"id": "q0", "question": "Which river?", "answers": ["Amazonas", "the Amazonas"], "ctxs": PASSAGES},
    {"id": "q1", "question": "Who proclaimed?", "answers": ["members"], "ctxs": PASSAGES[:2]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores")
    fusion_folder(path / "fusion")
    tiny_generation.causal_folder(path / "causal")
    write_lines(path / "data.jsonl", RECORDS)
    return path


def scored(folder: Path, reader: str, output: Path, *words: str) -> list[dict[str, Any]]:
    named = ["--checkpoint", str(folder / reader), "--data", str(folder / "data.jsonl")]
    assert main(["predict", *named, "--passage-scores", str(output), *words]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_attention_of_a_fusion_reader(folder: Path, tmp_path: Path) -> None:
    """Their softmax are the shares that rqa ask shows; passages that are not read have no line."""
    lines = scored(folder, "fusion", tmp_path / "scores.jsonl")
    reader = Reader.from_pretrained(folder / "fusion")
    questions = [question_of(row) for row in read_fusion(folder / "data.jsonl").rows]
    for line, answer, record in zip(lines, reader.answer_questions(questions, scores=True), RECORDS, strict=True):
        assert {name: line[name] for name in ("id", "question", "answers")} == {
            name: record[name] for name in ("id", "question", "answers")
        }
        scores = torch.tensor([one["score"] for one in line["ctxs"]])
        assert scores.softmax(0).tolist() == pytest.approx(answer.passage_scores, abs=1e-5)
        assert len(set(scores.tolist())) == len(scores)
        assert [one["isgold"] for one in line["ctxs"]] == [False, True, False][: len(scores)]
    fewer = scored(folder, "fusion", tmp_path / "fewer.jsonl", "--n-context", "1")
    assert [[one["id"] for one in line["ctxs"]] for line in fewer] == [["p0"], ["p0"]]


def test_likelihood_of_a_causal_reader(folder: Path, tmp_path: Path) -> None:
    """The logarithm of the probability of the first gold answer and its end behind each passage alone, by hand."""
    lines = scored(folder, "causal", tmp_path / "scores.jsonl")
    reader = Reader.from_pretrained(folder / "causal")
    model = AutoModelForCausalLM.from_pretrained(folder / "causal").eval()
    builder = GenerationFeatureBuilder(reader.task.tokenizer, reader.task.settings)
    for line, row in zip(lines, read_fusion(folder / "data.jsonl").rows, strict=True):
        for one, passage in zip(line["ctxs"], row["passages"], strict=True):
            alone = {**row, "passages": [passage], "target": row["answers"][0]}
            made = builder({name: [value] for name, value in alone.items()}, [0])
            prompt, answer = made["input_ids"][0], made["answer_ids"][0]
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            expected = sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))
            assert one["score"] == pytest.approx(expected, abs=1e-4)
    assert lines[0]["ctxs"][0]["score"] != lines[0]["ctxs"][1]["score"]


def test_files_in_a_layout_of_their_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--fields and --format hold for the scores as for the answers; questions that are left out are named."""
    own = [{"key": one["id"], "ask": one["question"], "gold": one["answers"], "docs": one["ctxs"]} for one in RECORDS]
    write_lines(tmp_path / "own.jsonl", [*own, {"key": "q2", "ask": "", "gold": ["x"], "docs": []}])
    fields = ["question=ask", "answers=gold", "id=key", "passages=docs[*].text", "titles=docs[*].title"]
    words = ["--data", str(tmp_path / "own.jsonl"), "--on-bad-record", "skip", "--fields", *fields]
    found = scored(folder, "fusion", tmp_path / "own-scores.jsonl", *words)
    assert "left out: " in capsys.readouterr().err
    expected = scored(folder, "fusion", tmp_path / "scores.jsonl")
    assert [[one["score"] for one in line["ctxs"]] for line in found] == [
        [one["score"] for one in line["ctxs"]] for line in expected
    ]


def test_a_retriever_reads_them(folder: Path, tmp_path: Path) -> None:
    """The loss kl takes the first 1 + num_hard_negatives passages with their scores."""
    lines = scored(folder, "fusion", tmp_path / "scores.jsonl")
    task = RetrieverTask(RetrieverKwargs(loss="kl", num_hard_negatives=1))
    for row, line in zip(task.load(str(tmp_path / "scores.jsonl")), lines, strict=True):
        passages, n_positives = task.candidates(row)
        assert [(one["id"], one["score"]) for one in passages] == [
            (one["id"], one["score"]) for one in line["ctxs"][:2]
        ]
        assert n_positives == 0


def test_beside_predictions(folder: Path, tmp_path: Path) -> None:
    """Both files are written; the answers are those without scores."""
    lines = scored(folder, "causal", tmp_path / "scores.jsonl", "--output", str(tmp_path / "answers.json"))
    alone = ["--checkpoint", str(folder / "causal"), "--data", str(folder / "data.jsonl")]
    assert main(["predict", *alone, "--output", str(tmp_path / "alone.json")]) == 0
    assert (tmp_path / "answers.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert len(lines) == 2


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.model_folder(tmp_path / "extractive")
    named = ["predict", "--data", str(folder / "data.jsonl"), "--passage-scores", str(tmp_path / "scores.jsonl")]
    assert main([*named, "--checkpoint", str(tmp_path / "extractive")]) == 2
    assert "--passage-scores: " in (said := capsys.readouterr().err)
    assert "gives passages no scores" in said
    same = ["--output", str(tmp_path / "scores.jsonl"), "--batch-size", "0"]
    assert main([*named, "--checkpoint", str(folder / "fusion"), *same]) == 2
    said = capsys.readouterr().err
    assert f"--passage-scores: must be another file than --output, got {tmp_path}/scores.jsonl" in said
    assert "--batch-size: must be at least 1, got 0" in said
    words = ["--question", "q", "--context", "c", "--passage-scores", str(tmp_path / "scores.jsonl")]
    assert main(["predict", "--checkpoint", str(folder / "fusion"), *words]) == 2
    assert "--passage-scores: needs --data" in capsys.readouterr().err
    write_lines(tmp_path / "unanswered.jsonl", [{"id": "q0", "question": "Which?", "ctxs": PASSAGES}])
    named[2] = str(tmp_path / "unanswered.jsonl")
    assert main([*named, "--checkpoint", str(folder / "causal")]) == 2
    assert "record q0 (line 1): target or answers must be given" in capsys.readouterr().err
    assert main([*named, "--checkpoint", str(folder / "fusion")]) == 0
    reader = Reader.from_pretrained(folder / "causal")
    rows = read_fusion(tmp_path / "unanswered.jsonl", require_answers=False).rows
    with pytest.raises(DataError, match="record q0: must have an answer, whose likelihood is the score"):
        reader.score_passages(rows)
