"""rqa score and a validation say which language's rules they took, and take the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from model_hub_rqa import train
from model_hub_rqa.cli import main
from model_hub_rqa.config import DatasetKwargs
from model_hub_rqa.errors import ConfigError


@pytest.mark.parametrize("setting", ["eng", "xx", "EN"])
def test_an_unknown_language_is_named(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the configuration, of one set too, and as an option."""
    with pytest.raises(ConfigError, match=f"language: must be auto, or a code of ISO 639-1 .*, got '{setting}'"):
        DatasetKwargs(train_file="t", validation_file="v", language=setting)
    (tmp_path / "p.json").write_text("{}")
    assert main(["score", str(tmp_path / "p.json"), "--data", "nowhere.json", "--language", setting]) == 2
    assert f"--language: must be auto, or a code of ISO 639-1 such as en, zh or es, got '{setting}'" in (
        capsys.readouterr().err
    )


CHINESE = [
    ("由红星公司修建\uff0c于2009年开放。", "红星公司"),
    ("桥长三百米\uff0c在城东。", "三百米"),
    ("于春天开放的桥", "春天"),
]


def chinese_file(path: Path) -> Path:
    """Three questions in SQuAD's form."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": f"q{i}",
                    "question": "谁\uff1f",
                    "answers": [{"text": answer, "answer_start": context.index(answer)}],
                }
            ],
        }
        for i, (context, answer) in enumerate(CHINESE)
    ]
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def test_score_says_which_rules_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its JSON and on stderr, for auto and for a language given; one that does not fit is warned of."""
    data, predictions = chinese_file(tmp_path / "zh.json"), tmp_path / "p.json"
    predictions.write_text(json.dumps({"q0": "由红星公司", "q1": "三百米。", "q2": "春天"}), encoding="utf-8")
    command = ["score", str(predictions), "--data", str(data)]
    assert main(command) == 0
    said = capsys.readouterr()
    rules = "MLQA (Unicode punctuation, no articles, mixed segmentation (characters))"
    assert json.loads(said.out) == {
        "exact_match": pytest.approx(200 / 3),
        "f1": pytest.approx(100 * (8 / 9 + 2) / 3),
        "language": "zh",
        "answer_rules": rules,
    }
    assert f"language of the answers: zh (auto: 3 of 3 references are in Han script); rules: {rules}" in said.err
    assert "warning" not in said.err
    assert main([*command, "--language", "en"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "exact_match": pytest.approx(100 / 3),
        "f1": pytest.approx(100 / 3),
        "language": "en",
        "answer_rules": "SQuAD",
    }
    assert "warning: language en is not written in Han letters, but 3 of 3 references are in Han script" in said.err


def test_score_of_generated_answers_of_several_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right answers score 100 by every measure, whatever the language of the others."""
    answers = ["한강", "مادرید", "東大寺", "красный мост", "लाल पुल"]
    lines = [{"id": str(i), "prediction": text, "references": [text]} for i, text in enumerate(answers)]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert main(["score", str(path)]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [found[name] for name in ("exact_match", "f1", "rougeL", "total")] == [100, 100, 100, 5]
    assert found["language"] == "en"
    assert "warning: the references are of mixed scripts" in said.err


@pytest.mark.parametrize("language", ["auto", "en"])
def test_a_validation_takes_the_same_rules(language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """data.language reaches QATrial: its scores are those of rqa score on what it wrote, and English ones differ."""
    config = tiny.experiment(tmp_path, max_steps=0, num_train_epochs=0)
    content: Any = json.loads(config.read_text(encoding="utf-8"))
    content["data"] |= {"validation_file": str(chinese_file(tmp_path / "zh.json")), "language": language}
    config.write_text(json.dumps(content), encoding="utf-8")
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    last = tiny.reports(tmp_path / "run", "validation")[-1]
    capsys.readouterr()
    command = ["score", str(tmp_path / "run/predictions.json"), "--data", str(tmp_path / "zh.json")]
    assert main([*command, "--language", language]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: last[name] for name in ("exact_match", "f1")} == {name: found[name] for name in ("exact_match", "f1")}
    assert (found["f1"] > 0) == (language == "auto")
