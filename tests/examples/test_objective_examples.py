"""examples/unlearning and examples/new_objective: they run as their READMEs say, on tiny data and for a few steps."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_generation import causal_folder

from model_hub_rqa import train
from model_hub_rqa.checkpoints import verify_checkpoint
from model_hub_rqa.registry import OBJECTIVES

ROOT = Path(__file__).parents[2]
UNLEARNING = ROOT / "examples/unlearning"
STAGES = ("finetune", "grad_ascent", "grad_diff", "npo")
FOCAL = ROOT / "examples/new_objective/new_objective.yaml"


def tofu(folder: Path) -> Path:
    """Files in TOFU's form, of invented authors."""
    folder.mkdir(parents=True)
    rows = [
        {"question": f"What did author number {i} write about?", "answer": f"Author {i} wrote {i % 7} books on oil."}
        for i in range(40)
    ]
    for name, part in (("full", rows), ("forget10", rows[:4]), ("retain90", rows[4:])):
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    return folder


def load(path: Path) -> Any:
    """A script of an example as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(folder: Path, stage: str, model: Path, **hyperparameters: Any) -> list[str]:
    """``--config`` words that put a stage on small data and another model."""
    first = "pretrained_model_name_or_path" if stage == "finetune" else "init_checkpoint"
    words = {
        "data.tofu": folder / "tofu",
        "data.cache_dir": folder / "cache",
        f"hyperparameters.{first}": model,
        **{f"hyperparameters.{name}": value for name, value in hyperparameters.items()},
    }
    return [word for name, value in words.items() for word in ("--config", f"{name}={value}")]


def test_the_four_stages_and_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is built, learns and unlearns, and the table has a line for each objective."""
    data, model = tofu(tmp_path / "tofu"), tmp_path / "model"
    arguments = ["build_model.py", "--data", str(data), "--output-dir", str(model), "--vocab-size", "300"]
    monkeypatch.setattr(sys, "argv", arguments)
    load(UNLEARNING / "build_model.py").main()
    for stage in STAGES:
        changes = {"max_steps": 2, "global_batch_size": 4, "save_steps": 2}
        words = [
            *options(tmp_path, stage, model, **changes),
            "--config",
            "searcher.max_length=2",
            "--output-dir",
            str(tmp_path / "runs" / stage),
        ]
        assert train.main([str(UNLEARNING / f"{stage}.yaml"), *words]) == 0
        model = tmp_path / "runs/finetune"
    capsys.readouterr()
    load(UNLEARNING / "report.py").main(tmp_path / "runs")
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("| objective | forget10 before | after | retain90 before | after |")
    before = tiny.reports(tmp_path / "runs/finetune", "validation")[-1]
    for stage, row in zip(STAGES[1:], rows, strict=True):
        name, forget, _, retain, after, change = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert name == stage
        assert (forget, retain) == (f"{before['forget/eval_loss']:.3f}", f"{before['retain/eval_loss']:.3f}")
        assert after == f"{tiny.reports(tmp_path / 'runs' / stage, 'validation')[-1]['retain/eval_loss']:.3f}"
        assert change.endswith("%")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_what_it_is(stage: str) -> None:
    """The configurations differ in their objective, and in what it needs."""
    from model_hub_rqa.runtime.experiments import load_experiment

    experiment = load_experiment(str(UNLEARNING / f"{stage}.yaml"))
    objective = experiment.hyperparameters["objective"]
    name = objective if isinstance(objective, str) else objective["name"]
    assert name.lower() == stage.replace("_", "")
    assert experiment.data.get("mixing") == ("keyed" if stage in ("grad_diff", "npo") else None)
    assert experiment.metric == "retain/eval_loss"
    steps = experiment.hyperparameters["max_steps"]
    assert experiment.raw["searcher"]["max_length"] == {"batches": steps}


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository as the working directory; the example's objective is forgotten afterwards."""
    OBJECTIVES.names()
    monkeypatch.setattr(OBJECTIVES, "_factories", dict(OBJECTIVES._factories))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("at_home")
def test_an_objective_of_ones_own(tmp_path: Path) -> None:
    """The example's function is what training makes small: with gamma 0 it is the plain loss of answers."""
    sys.modules.pop("examples.new_objective.focal", None)
    losses = {}
    for gamma in (0.0, 1.0):
        output = tmp_path / str(gamma)
        words = {
            "hyperparameters.max_steps": 1,
            "searcher.max_length": 1,
            "hyperparameters.logging_steps": 1,
            "hyperparameters.objective.args.gamma": gamma,
            "data.train_file": "'examples/fid_quickstart/train.jsonl[:32]'",
            "data.validation_file": "'examples/fid_quickstart/validation.jsonl[:8]'",
            "data.cache_dir": tmp_path / "cache",
        }
        arguments = [word for name, value in words.items() for word in ("--config", f"{name}={value}")]
        assert train.main([str(FOCAL), *arguments, "--output-dir", str(output)]) == 0
        (report,) = tiny.reports(output, "training")
        losses[gamma] = report["loss"]
        assert {"exact_match", "eval_loss"} <= set(tiny.reports(output, "validation")[-1])
    assert losses[0.0] > 5  # the sum over an answer's tokens, of a model that knows nothing
    assert 0 < losses[1.0] <= losses[0.0]
    code = [line for line in (FOCAL.parent / "focal.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune", "npo", "new_objective"])
def test_determineds_local_test_mode(name: str, tmp_path: Path) -> None:
    """det experiment create CONFIG . --local --test passes, and its checkpoint is whole."""
    path, words = FOCAL, ["--config", f"data.cache_dir={tmp_path / 'cache'}"]
    if name != "new_objective":
        tofu(tmp_path / "tofu")
        path = UNLEARNING / f"{name}.yaml"
        words = options(tmp_path, name, causal_folder(tmp_path / "model", n_positions=192), global_batch_size=4)
    det = Path(sys.executable).with_name("det")
    command = [str(det), "experiment", "create", str(path.relative_to(ROOT)), ".", "--local", "--test", *words]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "The test experiment passed" in done.stdout + done.stderr
    (checkpoint,) = (tmp_path / "home/determined").iterdir()
    verify_checkpoint(checkpoint)
