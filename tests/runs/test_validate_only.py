"""Runs that train nothing: one validation of the weights that they are given, here and on a cluster."""

import json
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
import tiny_fusion
from cluster_runs import Trial, run_here
from stand_in_master import StandInMaster

from model_hub_rqa import train
from model_hub_rqa.checkpoints import verify_checkpoint
from model_hub_rqa.config import TrainerKwargs
from model_hub_rqa.errors import ConfigError

NOTHING = ("num_train_epochs=0", "max_steps=0")


def run(config: Path, output: Path, *options: str) -> int:
    return train.main([str(config), "--output-dir", str(output), *options])


def overrides(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--config", f"hyperparameters.{change}")]


def predictions(folder: Path) -> Any:
    return json.loads((folder / "predictions.json").read_text())


def metrics(run: Path) -> dict[str, Any]:
    """The last validation's, without where it was made."""
    return {k: v for k, v in tiny.reports(run, "validation")[-1].items() if k not in ("steps", "batches", "epochs")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and the run of it: 2 epochs of 5 steps, whose predictions change between the two."""
    folder = tmp_path_factory.mktemp("trained")
    assert run(tiny.experiment(folder, validation=30, learning_rate=1e-2), folder / "run") == 0
    return folder


@pytest.mark.parametrize(
    ("settings", "nothing"),
    [
        ({}, False),
        ({"num_train_epochs": 0}, True),
        ({"num_train_epochs": 0, "max_steps": 3}, False),
        ({"max_steps": 0}, True),
        ({"num_train_epochs": 0.01}, False),
    ],
)
def test_max_steps_goes_before_the_epochs(settings: dict[str, Any], nothing: bool) -> None:
    """As transformers has it: epochs count only where max_steps is negative."""
    assert TrainerKwargs(global_batch_size=1, **settings).validates_only == nothing


@pytest.mark.parametrize("nothing", NOTHING)
def test_resume_validates_the_checkpoint(nothing: str, trained: Path, tmp_path: Path) -> None:
    """The metrics and predictions are those of the training run's own validation; nothing is trained or saved."""
    path = trained / "experiment.yaml"
    for steps in (10, 5):
        checkpoint = trained / f"run/checkpoints/checkpoint-{steps}"
        folder = tmp_path / str(steps)
        assert run(path, folder, "--resume", str(checkpoint), *overrides(nothing)) == 0
        (report,) = tiny.reports(folder, "validation")
        (told,) = [one for one in tiny.reports(trained / "run", "validation") if one["steps"] == steps]
        assert report == told
        assert not tiny.reports(folder, "training")
        assert not list(folder.glob("checkpoints/*"))
    assert predictions(tmp_path / "10") == predictions(trained / "run")
    assert predictions(tmp_path / "5") != predictions(trained / "run")


@pytest.mark.parametrize("nothing", NOTHING)
def test_init_checkpoint_is_validated(nothing: str, trained: Path, tmp_path: Path) -> None:
    """The same from weights alone, at 0 batches; the run's folder gives its newest checkpoint."""
    words = overrides(nothing, f"init_checkpoint={trained / 'run'}@last")
    assert run(trained / "experiment.yaml", tmp_path / "run", *words) == 0
    assert metrics(tmp_path / "run") == metrics(trained / "run")
    assert tiny.reports(tmp_path / "run", "validation")[0]["steps"] == 0
    assert predictions(tmp_path / "run") == predictions(trained / "run")


def test_without_a_checkpoint_the_pretrained_weights_are_validated(trained: Path, tmp_path: Path) -> None:
    """They are not those of the run, and neither are the predictions."""
    assert run(trained / "experiment.yaml", tmp_path / "run", *overrides("max_steps=0")) == 0
    assert predictions(tmp_path / "run") != predictions(trained / "run")


def test_every_schedule_stands_still(trained: Path, tmp_path: Path) -> None:
    """No schedule divides by the number of steps, which is none."""
    for kind in ("cosine", "polynomial", "inverse_sqrt", "cosine_with_restarts"):
        words = overrides("max_steps=0", f"lr_scheduler_type={kind}", "warmup_ratio=0.1")
        assert run(trained / "experiment.yaml", tmp_path / kind, *words) == 0


def test_two_ranks_validate_the_same(trained: Path, tmp_path: Path) -> None:
    """Each a part, and together the metrics and the predictions of one."""
    words = overrides("max_steps=0", f"init_checkpoint={trained / 'run'}@last")
    argv = [str(trained / "experiment.yaml"), "--output-dir", str(tmp_path / "run"), *words]
    assert forked.run_ranks(2, argv, tmp_path / "logs") == [0, 0], (tmp_path / "logs/0.log").read_text()
    assert metrics(tmp_path / "run") == metrics(trained / "run")
    assert predictions(tmp_path / "run") == predictions(trained / "run")


def test_a_fusion_reader_validates(tmp_path: Path) -> None:
    """It writes what it read and wrote."""
    config = tiny_fusion.experiment(tmp_path, train=8, validation=3, max_steps=2)
    assert run(config, tmp_path / "run") == 0
    words = overrides("max_steps=0", f"init_checkpoint={tmp_path / 'run'}@last")
    assert run(config, tmp_path / "again", *words) == 0
    files = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("run", "again")]
    assert files[0] == files[1]
    assert metrics(tmp_path / "again") == metrics(tmp_path / "run")


def test_a_cluster_validates_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    """A trial that goes on from a checkpoint, or starts from weights; the predictions come with a checkpoint."""
    config = json.loads((trained / "experiment.yaml").read_text())
    for changes in ({"max_steps": 0, "init_checkpoint": f"{trained / 'run'}@last"}, {"num_train_epochs": 0}):
        folder = tmp_path / str(len(changes))
        folder.mkdir()
        hparams = {**config["hyperparameters"], **changes}
        trial = Trial(folder, {**config, "hyperparameters": hparams})
        with StandInMaster() as master:
            if "init_checkpoint" not in changes:
                first = Trial(folder, config)
                run_here(first, master)
                assert len(master.of("validation")) == 2
            assert run_here(trial, master) == 0
            report = master.of("validation")[-1]
            assert report.metrics["f1"] == metrics(trained / "run")["f1"]
            assert report.steps == (0 if "init_checkpoint" in changes else 10)
            assert len(master.of("validation")) == (1 if "init_checkpoint" in changes else 3)
            saved = trial.storage / trial.latest(master)["uuid"]
            verify_checkpoint(saved)
            assert predictions(saved / "validation") == predictions(trained / "run")


def test_a_legacy_entrypoint_cannot_validate_only(trained: Path, tmp_path: Path) -> None:
    """Determined would train it for searcher.max_length; said before a model is built."""
    config = json.loads((trained / "experiment.yaml").read_text())
    config["hyperparameters"]["max_steps"] = 0
    with StandInMaster() as master:
        with pytest.raises(ConfigError, match="to validate only, needs the script as entrypoint"):
            run_here(Trial(tmp_path, config, legacy=True), master)
        assert not master.of("training")
