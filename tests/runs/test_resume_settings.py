"""What a resumed run must share with the run it goes on from, and what happens where it does not."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
import torch

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoints_of

CHANGED = "--allow-changed-run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and its run of 6 of 10 steps, which was stopped by its length."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny.experiment(folder, save_steps=2, learning_rate=1e-3, lr_scheduler_type="constant")
    assert train.main([str(config), "--output-dir", str(folder / "run"), *option("max_steps", 6)]) == 0
    return folder


def option(name: str, value: Any, section: str = "hyperparameters") -> list[str]:
    return ["--config", f"{section}.{name}={json.dumps(value)}"]


def resume(trained: Path, output: Path, *options: str, steps: int = 10) -> int:
    config, checkpoint = trained / "experiment.yaml", trained / "run/checkpoints/checkpoint-4"
    argv = [str(config), "--output-dir", str(output), "--resume", str(checkpoint), *option("max_steps", steps)]
    return train.main([*argv, *options])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("global_batch_size", 4, "hyperparameters.global_batch_size: must be 8, as in the run that is resumed, got 4"),
        ("seed", 7, "hyperparameters.seed: must be 42, as in the run that is resumed, got 7"),
        ("gradient_accumulation_steps", 2, "hyperparameters.gradient_accumulation_steps: must be 1, as in the run"),
        ("learning_rate", 1e-2, "learning_rate: must be 0.001, as in the run that is resumed, got 0.01"),
        ("weight_decay", 0.1, "hyperparameters.weight_decay: must be 0.0, as in the run that is resumed, got 0.1"),
        ("warmup_steps", 3, "hyperparameters.warmup_steps: must be 0, as in the run that is resumed, got 3"),
        ("max_grad_norm", 2.0, "hyperparameters.max_grad_norm: must be 1.0, as in the run that is resumed, got 2.0"),
        ("bf16", True, "hyperparameters.bf16: must be false, as in the run that is resumed, got true"),
        ("group_by_length", False, "hyperparameters.group_by_length: must be true, as in the run that is resumed"),
        ("optim", "adafactor", "optim: must be 'adamw_torch', as in the run that is resumed, got 'adafactor'"),
    ],
)
def test_a_changed_setting_is_refused(
    name: str, value: Any, words: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with the name, both values and the option that allows it; nothing is trained."""
    assert resume(trained, tmp_path / "run", *option(name, value)) == 2
    said = capsys.readouterr().err
    assert words in said
    assert (CHANGED in said) == (name != "optim")
    assert checkpoints_of(tmp_path / "run") == []


def test_other_data_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By what they hold and not by their name: one answer moved is enough, and a copy of the file is the same."""
    content = json.loads((trained / "train.json").read_text())
    copy, edited = tmp_path / "copy.json", tmp_path / "edited.json"
    copy.write_text(json.dumps(content, indent=1))
    assert resume(trained, tmp_path / "same", *option("train_file", str(copy), "data"), steps=5) == 0
    paragraph = content["data"][0]["paragraphs"][17]
    first, *_ = paragraph["context"].split()
    answer = {"text": first, "answer_start": 0}
    assert paragraph["qas"][0]["answers"] != [answer]
    paragraph["qas"][0]["answers"] = [answer]
    edited.write_text(json.dumps(content))
    assert resume(trained, tmp_path / "other", *option("train_file", str(edited), "data")) == 2
    assert "data: the training examples must be those of the run that is resumed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("dataloader_num_workers", 1), ("logging_steps", 3), ("save_total_limit", 2), ("eval_steps", 1)]
)
def test_what_trains_nothing_else_may_change(name: str, value: Any, trained: Path, tmp_path: Path) -> None:
    """Reports, checkpoints and worker processes leave the weights alone: the same bits come out."""
    assert resume(trained, tmp_path / "run", *option(name, value), steps=6) == 0
    assert tiny.same(tiny.weights(tmp_path / "run", 6), tiny.weights(trained / "run", 6))


def test_a_changed_learning_rate_takes_effect_where_it_is_allowed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the first batch on, in the optimizer and in the reports; weights and moments go on from the checkpoint."""
    assert resume(trained, tmp_path / "run", *option("learning_rate", 1e-2), CHANGED) == 0
    assert "learning_rate: was 0.001, is 0.01" in capsys.readouterr().err
    assert [report["learning_rate"] for report in tiny.reports(tmp_path / "run", "training")] == [1e-2] * 6
    state: Any = torch.load(tmp_path / "run/checkpoints/checkpoint-10/state_dict.pth", weights_only=True)
    assert {group["lr"] for group in state["optimizers_state_dict"][0]["param_groups"]} == {1e-2}
    moments = state["optimizers_state_dict"][0]["state"]
    assert {float(moment["step"]) for moment in moments.values()} == {10.0}
    assert resume(trained, tmp_path / "plain") == 0
    assert not tiny.equal(tiny.weights(tmp_path / "run", 10), tiny.weights(tmp_path / "plain", 10), atol=1e-4)


def test_a_changed_schedule_is_followed_from_the_step_reached(trained: Path, tmp_path: Path) -> None:
    """Linear decay over 10 steps, entered at step 4: 6/10 of the peak, and on to 1/10."""
    options = [*option("lr_scheduler_type", "linear"), *option("weight_decay", 0.25), CHANGED]
    assert resume(trained, tmp_path / "run", *options) == 0
    rates = [report["learning_rate"] for report in tiny.reports(tmp_path / "run", "training")]
    assert rates == pytest.approx([1e-3 * left / 10 for left in (6, 5, 4, 3, 2, 1)], rel=1e-9)
    state: Any = torch.load(tmp_path / "run/checkpoints/checkpoint-10/state_dict.pth", weights_only=True)
    groups = state["optimizers_state_dict"][0]["param_groups"]
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.25]


def test_a_changed_accumulation_keeps_the_optimizer_steps(trained: Path, tmp_path: Path) -> None:
    """4 steps are done; 6 more of two batches each follow, with the moments counting on."""
    options = [*option("gradient_accumulation_steps", 2), *option("global_batch_size", 4), CHANGED]
    assert resume(trained, tmp_path / "run", *options) == 0
    reports = tiny.reports(tmp_path / "run", "training")
    assert len(reports) == 6
    newest = checkpoints_of(tmp_path / "run")[0]
    state: Any = torch.load(newest / "state_dict.pth", weights_only=True)
    assert {float(moment["step"]) for moment in state["optimizers_state_dict"][0]["state"].values()} == {10.0}
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"


def test_the_option_needs_a_resume(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone it would do nothing, without a word."""
    argv = [str(trained / "experiment.yaml"), "--output-dir", str(tmp_path / "run"), CHANGED]
    assert train.main(argv) == 2
    assert f"{CHANGED}: needs --resume" in capsys.readouterr().err


def test_a_checkpoint_without_a_record_is_resumed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 0.1 wrote none, and neither does a cluster: there is nothing to compare, and the run says so."""
    checkpoint = tmp_path / "old"
    shutil.copytree(trained / "run/checkpoints/checkpoint-4", checkpoint)
    metadata = json.loads((checkpoint / "metadata.json").read_text())
    del metadata["run"]
    (checkpoint / "metadata.json").write_text(json.dumps(metadata))
    tiny.sign(checkpoint)
    config = trained / "experiment.yaml"
    argv = [str(config), "--output-dir", str(tmp_path / "run"), "--resume", str(checkpoint), *option("seed", 7)]
    assert train.main(argv) == 0
    assert "records no settings to compare with" in capsys.readouterr().err


def test_another_number_of_ranks_is_refused(trained: Path, tmp_path: Path) -> None:
    """On every rank, told once."""
    checkpoint = trained / "run/checkpoints/checkpoint-4"
    argv = [str(trained / "experiment.yaml"), "--output-dir", str(tmp_path / "run"), "--resume", str(checkpoint)]
    assert forked.run_ranks(2, argv, tmp_path / "logs") == [2, 2]
    assert "ranks: must be 1, as in the run that is resumed, got 2" in (tmp_path / "logs/0.log").read_text()
    assert (tmp_path / "logs/1.log").read_text() == ""


# ---- several machines ----


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rank on each of two machines that share its folder."""
    folder = tmp_path_factory.mktemp("two")
    config = tiny.experiment(folder, max_steps=4, save_steps=2, train=16, validation=3)
    argv = [str(config), "--output-dir", str(folder / "run")]
    assert forked.run_nodes([argv, argv], folder / "logs") == [0, 0], (folder / "logs/0.log").read_text()
    return folder


@pytest.mark.parametrize("resume_from", ["latest", "checkpoint"])
def test_machines_that_do_not_share_the_folder_are_told(resume_from: str, of_two: Path, tmp_path: Path) -> None:
    """Before training: the chief decides, and each machine looks whether it sees the same checkpoint."""
    config = of_two / "experiment.yaml"
    shutil.copytree(of_two / "run", tmp_path / "node-0/run")
    argvs = []
    for node in (0, 1):
        run = tmp_path / f"node-{node}/run"
        chosen = "latest" if resume_from == "latest" else str(run / "checkpoints/checkpoint-2")
        argvs.append([str(config), "--output-dir", str(run), "--resume", chosen])
    assert forked.run_nodes(argvs, tmp_path / "logs", seconds=60) == [2, 2]
    for node in (0, 1):
        said = (tmp_path / f"logs/{node}.log").read_text()
        assert "rank 1" in said
        assert "does not see" in said
        assert "that all machines share" in said


def test_machines_with_other_checkpoints_of_the_same_name_are_told(of_two: Path, tmp_path: Path) -> None:
    """A folder of another run on the second machine: the same steps, other weights."""
    shutil.copytree(of_two / "run", tmp_path / "node-0")
    shutil.copytree(of_two / "run", tmp_path / "node-1")
    metadata = tmp_path / "node-1/checkpoints/checkpoint-4/metadata.json"
    metadata.write_text(metadata.read_text() + "\n")
    tiny.sign(metadata.parent)
    argvs = [
        [str(of_two / "experiment.yaml"), "--output-dir", str(tmp_path / f"node-{node}"), "--resume", "latest"]
        for node in (0, 1)
    ]
    assert forked.run_nodes(argvs, tmp_path / "logs", seconds=60) == [2, 2]
    assert "rank 1" in (tmp_path / "logs/0.log").read_text()


def test_the_chief_decides_where_there_is_nothing_to_resume(of_two: Path, tmp_path: Path) -> None:
    """The second machine holds an old run, the first none: all begin anew; and the other way round all refuse."""
    config = str(of_two / "experiment.yaml")
    shutil.copytree(of_two / "run", tmp_path / "old")
    new, old = str(tmp_path / "new"), str(tmp_path / "old")
    argvs = [[config, "--output-dir", folder, "--resume", "latest"] for folder in (new, old)]
    assert forked.run_nodes(argvs, tmp_path / "logs", seconds=60) == [0, 0]
    assert "starts from the beginning" in (tmp_path / "logs/0.log").read_text()
    argvs = [[config, "--output-dir", folder] for folder in (old, str(tmp_path / "newer"))]
    assert forked.run_nodes(argvs, tmp_path / "more", seconds=60) == [2, 2]
    assert "already holds a run's checkpoints" in (tmp_path / "more/0.log").read_text()
    assert os.listdir(tmp_path / "old/checkpoints") != []
