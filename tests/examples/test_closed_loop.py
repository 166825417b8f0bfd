"""examples/closed_loop: reader, distillation, retrieval and reader again by one command, which goes on after a stop."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_retrieval
from readers_for_tests import fusion_folder

LOOP = Path(__file__).parents[2] / "examples/closed_loop/run.py"


def load_loop() -> Any:
    spec = importlib.util.spec_from_file_location("closed_loop", LOOP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(folder: Path, output: Path) -> list[str]:
    """A corpus of twenty passages, eight questions, and tiny models."""
    passages = [tiny_retrieval.passage(one, other)["text"] for one in WORDS for other in WORDS if one != other]
    corpus = [{"_id": f"p{number}", "text": text} for number, text in enumerate(passages)]
    questions = [
        {"id": f"q{row}", "question": f"{words[1]} of the {words[4]}?", "answers": [words[4]], "gold_id": f"p{row}"}
        | {"ctxs": [{"id": f"p{row}", "title": "", "text": text}]}
        for row, text in enumerate(passages[:8])
        if (words := text.split())
    ]
    files = {"corpus": corpus, "train": questions, "dev": questions}
    words = ["--output-dir", str(output), "--rounds", "1", "--top-k", "3"]
    for name, lines in files.items():
        words += [f"--{name}", tiny_retrieval.write_lines(folder / f"{name}.jsonl", lines)]
    if not (folder / "reader").exists():
        fusion_folder(folder / "reader")
        tiny_retrieval.encoder_folder(folder / "encoder")
    words += ["--reader-model", str(folder / "reader"), "--embedding-model", str(folder / "encoder")]
    for kind in ("reader", "retriever"):
        for word in ("global_batch_size=4", "num_train_epochs=3", "save_steps=2", "eval_steps=4"):
            words += [f"--{kind}-config", f"hyperparameters.{word}"]
    return words


WORDS = tiny_retrieval.WORDS[:5]


def test_the_loop_goes_on_after_a_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All steps run once; the same command again runs none; a loop that was cut in the middle ends in the same."""
    loop = load_loop()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    loop.main(arguments(tmp_path, whole))
    said = capsys.readouterr()
    rounds = [json.loads(line) for line in said.out.splitlines() if line.startswith('{"round"')]
    assert [one["round"] for one in rounds] == [0, 1]
    assert {"exact_match", "f1", "document_recall"} <= rounds[0].keys()
    kinds = [line.split()[2] for line in said.err.splitlines() if line.startswith("== rqa ")]
    first = ["index", "retrieve", "retrieve", "train", "evaluate"]
    assert kinds == [*first, "predict", "train", *first]
    scores = [json.loads(line) for line in (whole / "scores-1.jsonl").read_text().splitlines()]
    assert all(len(one["ctxs"]) == 3 for one in scores)

    reports = tiny.reports(whole / "retriever-1", "validation")
    assert len(reports) > 1
    assert all({"exact_match", "f1"} <= report.keys() for report in reports)

    loop.main(arguments(tmp_path, whole))
    assert "== rqa " not in capsys.readouterr().err
    for change, said in (
        (["--top-k", "2"], f"{whole}/train-0: was made with '3', got '2': remove it and what comes after it"),
        (["--reader-config", "data.language=de"], f"{whole}/reader-0: was made with None, got '--config': "),
    ):
        with pytest.raises(SystemExit, match="2"):
            loop.main([*arguments(tmp_path, whole), *change])
        assert said in capsys.readouterr().err

    shutil.copytree(whole, cut)
    for name in ("index-1", "train-1", "dev-1", "reader-1", "evaluation-1"):
        shutil.rmtree(cut / name)
    (cut / "retriever-1/summary.json").unlink()
    shutil.rmtree(cut / "retriever-1/checkpoints/checkpoint-6")
    loop.main(arguments(tmp_path, cut))
    kinds = [line.split()[2] for line in capsys.readouterr().err.splitlines() if line.startswith("== rqa ")]
    assert kinds == ["train", *first]
    assert json.loads((cut / "retriever-1/summary.json").read_text())["resumed_at"] == 4
    for kind in ("retriever-1", "reader-1"):
        assert tiny.equal(tiny.weights(whole / kind, 6), tiny.weights(cut / kind, 6))
    assert json.loads((cut / "evaluation-1/score.json").read_text())["f1"] == rounds[1]["f1"]

    loop.main([*arguments(tmp_path, cut), "--rounds", "2"])  # the second round starts from the first one's weights
    kinds = [line.split()[2] for line in capsys.readouterr().err.splitlines() if line.startswith("== rqa ")]
    assert kinds == ["predict", "train", *first]


def test_a_step_that_fails_ends_the_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*arguments(tmp_path, tmp_path / "out"), "--corpus", str(tmp_path / "none.jsonl")]
    with pytest.raises(SystemExit, match="2"):
        load_loop().main(words)
    assert "none.jsonl" in capsys.readouterr().err
