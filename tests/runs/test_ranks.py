"""Several ranks on one machine: the same numbers as one rank, one voice, and preprocessing once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
import tiny_fusion
from torchrun import TORCHRUN, one_thread

from model_hub_rqa import train

KINDS = ("QATrial", "FiDTrial")


def experiment(kind: str, folder: Path, **settings: Any) -> Path:
    return (tiny if kind == "QATrial" else tiny_fusion).experiment(folder, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model folders of both trials, trained so far that some answers are right and some are wrong."""
    found = {}
    for kind, steps, rate in (("QATrial", 60, 1e-2), ("FiDTrial", 60, 1e-2)):
        folder = tmp_path_factory.mktemp(kind)
        config = experiment(kind, folder, train=40, validation=8, max_steps=steps, learning_rate=rate)
        assert train.main([str(config), "--output-dir", str(folder / "run")]) == 0
        found[kind] = str(folder / f"run/checkpoints/checkpoint-{steps}/pretrained")
    return found


def predictions(kind: str, run: Path) -> tuple[list[str], str]:
    """The ids of the predictions as written, and the whole file."""
    if kind == "QATrial":
        text = (run / "predictions.json").read_text(encoding="utf-8")
        pairs: list[Any] = json.loads(text, object_pairs_hook=list)
        return [key for key, _ in pairs], text
    text = (run / "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["id"] for line in text.splitlines()], text


def compare(kind: str, ranks: tuple[int, ...], examples: int, model: str | None, folder: Path) -> dict[str, Any]:
    """Validates on several numbers of ranks; returns the metrics, which are the same on all."""
    changes: dict[str, Any] = {"learning_rate": 1e-9, "max_steps": 1}
    if model is not None:
        changes |= {"pretrained_model_name_or_path": model}
    if model is not None and kind == "FiDTrial":
        changes |= {"tokenizer_name": model, "use_pretrained_weights": True, "config_overrides": None}
    config = experiment(kind, folder, train=8, validation=examples, per_device_eval_batch_size=8, **changes)
    found = []
    for count in ranks:
        run = folder / f"{count}-ranks"
        codes = forked.run_ranks(count, [str(config), "--output-dir", str(run)], folder / f"logs-{count}")
        assert codes == [0] * count, (folder / f"logs-{count}/0.log").read_text()
        (report,) = tiny.reports(run, "validation")
        loss = report.pop("loss", None)
        ids, text = predictions(kind, run)
        assert ids == [f"q{number}" for number in range(examples)]
        found.append((report, text))
        assert loss is None or loss == pytest.approx(found[0][0].setdefault("loss of one rank", loss), rel=1e-5)
    for report, text in found[1:]:
        assert report == {name: value for name, value in found[0][0].items() if name != "loss of one rank"}
        assert text == found[0][1]
    return found[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_without_an_example_of_its_own(kind: str, tmp_path: Path) -> None:
    """Determined fails where a rank has no validation batch; here one example is enough for two ranks."""
    compare(kind, (1, 2), 1, None, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_that_accumulate_train_as_one(kind: str, tmp_path: Path) -> None:
    """Two micro-batches of 2 on each of 2 ranks step as 8 examples at once do, to 1e-6; the ranks' shares differ."""
    for ranks, parts in ((1, 1), (2, 2)):
        settings = {"global_batch_size": 8 // parts, "gradient_accumulation_steps": parts, "bf16": False}
        settings |= {"max_steps": 3, "learning_rate": 1e-2, "adam_epsilon": 1e-6, "max_grad_norm": 0.1, "save_steps": 1}
        config = experiment(kind, tmp_path / str(ranks), train=24, validation=1, **settings)
        argv = [str(config), "--output-dir", str(tmp_path / f"run-{ranks}")]
        assert forked.run_ranks(ranks, argv, tmp_path / f"logs-{ranks}") == [0] * ranks
    for steps in (1, 3):
        one, two = (tiny.weights(tmp_path / f"run-{ranks}", steps) for ranks in (1, 2))
        assert tiny.equal(one, two, atol=1e-6), max(float((one[name] - two[name]).abs().max()) for name in one)
    assert not tiny.equal(one, tiny.weights(tmp_path / "run-1", 1), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("examples", [1, 7, 8, 101])
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_do_not_depend_on_the_number_of_ranks(
    kind: str, examples: int, trained: dict[str, str], tmp_path: Path
) -> None:
    """1, 2 and 4 ranks report the same to the last digit, and predict each id once, the same way."""
    metrics = compare(kind, (1, 2, 4), examples, trained[kind], tmp_path)
    if examples == 101:
        assert 0 < metrics["exact_match"] < 100


def count_work() -> None:
    """Notes each call that reads a data file or makes features in the file that the environment names."""
    from model_hub_rqa.data import arrow_cache
    from model_hub_rqa.tasks.extractive import features as extractive

    def noting(module: Any, name: str) -> None:
        plain = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            with open(os.environ["RQA_TEST_NOTES"], "a", encoding="utf-8") as file:
                file.write(f"{name} {os.environ['RANK']}\n")
            return plain(*args, **kwargs)

        setattr(module, name, noted)

    noting(arrow_cache, "_write_rows")
    noting(extractive.FeatureBuilder, "__call__")


def test_one_voice_and_preprocessing_once(tmp_path: Path) -> None:
    """Of two ranks the first reads the data, makes the features and speaks; the other takes them and is silent."""
    config = tiny.experiment(tmp_path, max_steps=2, unheard_of=1)
    argv, logs = [str(config), "--output-dir", str(tmp_path / "run")], tmp_path / "logs"
    notes = tmp_path / "notes"
    processes = forked.start_ranks(2, argv, logs, hook=count_work, RQA_TEST_NOTES=str(notes))
    assert [forked.finish(process) for process in processes] == [0, 0]
    assert sorted(set(notes.read_text().splitlines())) == ["__call__ 0", "_write_rows 0"]
    said = (logs / "0.log").read_text()
    assert "unheard_of" in said
    assert "step 2/2" in said
    assert (logs / "1.log").read_text() == ""


def test_a_error_is_told_once(tmp_path: Path) -> None:
    """Every rank ends with exit code 2, and the words come from the first of the host."""
    config = tiny.experiment(tmp_path, learning_rate=-1)
    assert forked.run_ranks(2, [str(config), "--output-dir", str(tmp_path / "run")], tmp_path / "logs") == [2, 2]
    assert "hyperparameters.learning_rate" in (tmp_path / "logs/0.log").read_text()
    assert (tmp_path / "logs/1.log").read_text() == ""
    config = tiny.experiment(tmp_path / "data")
    (tmp_path / "data/train.json").write_text("[]")
    assert forked.run_ranks(2, [str(config), "--output-dir", str(tmp_path / "run")], tmp_path / "more") == [2, 2]
    assert "train.json" in (tmp_path / "more/0.log").read_text()
    assert (tmp_path / "more/1.log").read_text() == ""


def fill_the_disk() -> None:
    """Makes the writing of the second checkpoint fail on the rank that writes it."""
    from model_hub_rqa.runtime import local_checkpoints

    plain = local_checkpoints._flush

    def flush(folder: Path) -> None:
        if "checkpoint-2" in folder.name:
            raise OSError(28, "No space left on device")
        plain(folder)

    local_checkpoints._flush = flush


def test_a_checkpoint_that_cannot_be_written_ends_every_rank(tmp_path: Path) -> None:
    """The ranks that wait for it are told, and need not be killed."""
    config = tiny.experiment(tmp_path, save_steps=1)
    argv = [str(config), "--output-dir", str(tmp_path / "run")]
    assert forked.run_ranks(2, argv, tmp_path / "logs", hook=fill_the_disk) == [2, 2]
    assert "checkpoint-2: could not be written" in (tmp_path / "logs/0.log").read_text()
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["checkpoint-1"]


@pytest.mark.slow
def test_two_jobs_on_a_host_do_not_meet(tmp_path: Path) -> None:
    """Determined's own ports are the same in every process; each job takes free ones."""
    config = tiny.experiment(tmp_path, max_steps=4)
    jobs = [
        forked.start_ranks(2, [str(config), "--output-dir", str(tmp_path / name)], tmp_path / f"logs-{name}")
        for name in ("one", "other")
    ]
    assert [forked.finish(process) for job in jobs for process in job] == [0, 0, 0, 0]
    assert tiny.same(tiny.weights(tmp_path / "one", 4), tiny.weights(tmp_path / "other", 4))


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """Two jobs of two ranks at once report what one process does; their weights are its to 1e-6."""
    config = tiny.experiment(tmp_path, validation=7, max_steps=5, adam_epsilon=1e-6)
    launchers = {"one": [sys.executable], "two": TORCHRUN, "again": TORCHRUN}
    processes = []
    for name, launcher in launchers.items():
        command = [*launcher, "-m", "model_hub_rqa.train", str(config), "--output-dir", str(tmp_path / name)]
        processes.append(subprocess.Popen(command, env=one_thread()))
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    assert tiny.equal(tiny.weights(tmp_path / "one", 5), tiny.weights(tmp_path / "two", 5), atol=1e-6)
    assert tiny.same(tiny.weights(tmp_path / "two", 5), tiny.weights(tmp_path / "again", 5))
    for name in ("two", "again"):
        assert tiny.reports(tmp_path / "one", "validation") == tiny.reports(tmp_path / name, "validation")
        assert predictions("QATrial", tmp_path / "one") == predictions("QATrial", tmp_path / name)
