"""data.language in the validation of each trial, on Chinese questions."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_fusion
import tiny_generation

from model_hub_rqa import train
from model_hub_rqa.cli import main
from model_hub_rqa.tasks.passages.task import PassageTask

CHINESE = {"q0": "红星公司", "q1": "三百米", "q2": "春天"}
WRITTEN = ["由红星公司", "三百米。", "秋天"]  # a character too many; a mark too many; one of two characters
CONTEXT = "由红星公司修建\uff0c桥长三百米\uff0c于春天开放。"


def validate(config: Path, data: Path, language: str, run: Path) -> dict[str, Any]:
    """The metrics of a run that only validates, on a file of its own and in a language."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content["data"] |= {"validation_file": str(data), "language": language}
    config.write_text(json.dumps(content), encoding="utf-8")
    assert train.main([str(config), "--output-dir", str(run)]) == 0
    return tiny.reports(run, "validation")[-1]


@pytest.mark.parametrize("kind", [tiny_fusion, tiny_generation])
@pytest.mark.parametrize(
    ("language", "scores"),
    [
        ("zh", {"exact_match": 100 / 3, "f1": 100 * (8 / 9 + 1 + 1 / 2) / 3, "rougeL": 100 * (8 / 9 + 1 + 1 / 2) / 3}),
        ("en", {"exact_match": 0, "f1": 0, "rougeL": 0}),
    ],
)
def test_generated_answers(
    kind: Any, language: str, scores: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FiDTrial and GenerationTrial: by characters, 4 of 5 and 4 right, then all, then 1 of 2; English sees no word."""

    def written(self: PassageTask, predictions: Any, examples: Any) -> list[Any]:
        return [predictions[row]._replace(answer=WRITTEN[row]) for row in range(len(examples))]

    monkeypatch.setattr(PassageTask, "decode", written)
    rows = [
        {"id": key, "question": "谁\uff1f", "answers": [answer], "ctxs": [{"title": "桥", "text": CONTEXT}]}
        for key, answer in CHINESE.items()
    ]
    data = tmp_path / "zh.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = kind.experiment(tmp_path, train=8, max_steps=0)
    found = validate(config, data, language, tmp_path / "run")
    assert {name: found[name] for name in scores} == pytest.approx(scores)


def test_spans_and_questions_without_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """QATrial of SQuAD v2.0: as rqa score has it in that language, and English sees no word."""
    paragraphs: list[Any] = [
        {
            "context": text,
            "qas": [{"id": text, "question": "谁\uff1f", "answers": [{"text": text[:-1], "answer_start": 0}]}],
        }
        for text in ("桥长三百米", "红星公司修建", "于春天开放")
    ]
    paragraphs[0]["qas"] += [{"id": "none", "question": "谁\uff1f", "answers": [], "is_impossible": True}]
    content = {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
    data = tmp_path / "zh.json"
    data.write_text(json.dumps(content), encoding="utf-8")
    config = tiny.experiment(tmp_path, train=12, unanswerable=1, max_steps=0, null_score_diff_threshold=1000.0)
    found = validate(config, data, "zh", tmp_path / "run")
    scores = {}
    for language in ("zh", "en"):
        capsys.readouterr()
        predictions = str(tmp_path / "run/predictions.json")
        assert main(["score", predictions, "--data", str(data), "--language", language, "--version-2"]) == 0
        scores[language] = json.loads(capsys.readouterr().out)
    names = ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_f1")
    assert {name: found[name] for name in names} == {name: scores["zh"][name] for name in names}
    assert scores["zh"]["HasAns_f1"] > scores["en"]["HasAns_f1"]
