"""Damaged and malicious checkpoints: refused by name or passed over for an older one, and no code of theirs runs."""

import functools
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoint_errors, newest_checkpoint
from model_hub_rqa.cli import main

Capture = pytest.CaptureFixture[str]
QUESTION = ("--question", "What?", "--context", "The oil crisis.")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, ``run``, of a configuration beside it."""
    folder = tmp_path_factory.mktemp("done")
    assert train.main([str(tiny.experiment(folder)), "--output-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy of the run, to damage."""
    return Path(shutil.copytree(done / "run", tmp_path / "run"))


def resume(done: Path, run: Path, checkpoint: Path | str = "latest", *options: str) -> int:
    return train.main([str(done / "experiment.yaml"), "--output-dir", str(run), "--resume", str(checkpoint), *options])


def damages(size: int) -> dict[str, Callable[[Path], object]]:
    """Ways to damage a file: cut at several places, a bit flipped at several places, gone."""

    def cut(place: int) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(path.read_bytes()[:place])

    def flip(place: int) -> Callable[[Path], object]:
        def damage(path: Path) -> None:
            content = bytearray(path.read_bytes())
            content[place] ^= 1 << place % 8
            path.write_bytes(content)

        return damage

    places = sorted({0, 1, size // 3, size // 2, size - 1})
    return {
        "deleted": lambda path: path.unlink(),
        **{f"cut at {place}": cut(place) for place in places},
        **{f"bit {place % 8} of byte {place} flipped": flip(place) for place in places},
    }


def test_every_damage_of_every_file_is_noticed(done: Path, run: Path, capsys: Capture) -> None:
    """Resuming from it, answering with it and exporting it end with exit code 2 and the file's name."""
    whole = done / "run/checkpoints/checkpoint-10"
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert {"state_dict.pth", "trial_state.pkl", "load_data.json", "metadata.json", "manifest.json"} < set(
        map(str, files)
    )
    assert "pretrained/model.safetensors" in map(str, files)
    checkpoint, older = run / "checkpoints/checkpoint-10", run / "checkpoints/checkpoint-5"
    pretrained, exported = str(checkpoint / "pretrained"), str(run / "exported")
    commands = [
        lambda: resume(done, run, checkpoint),
        *(
            functools.partial(main, [command, "--checkpoint", path, *options])
            for path in (str(checkpoint), pretrained)
            for command, options in (("predict", QUESTION), ("export", ["--output", exported]))
        ),
    ]
    for file in files:
        size = (whole / file).stat().st_size
        for damage in damages(size).values():
            damage(checkpoint / file)
            assert checkpoint_errors(checkpoint)
            newest, passed_over = newest_checkpoint(run)
            assert newest == older
            assert any(str(file) in line for line in passed_over) or file.name == "manifest.json"
            (checkpoint / file).write_bytes((whole / file).read_bytes())
        damages(size)["deleted"](checkpoint / file)
        for command in commands:
            assert command() == 2
            said = capsys.readouterr().err
            assert str(file) in said
            assert "Traceback" not in said
        assert not Path(exported).exists()
        (checkpoint / file).write_bytes((whole / file).read_bytes())
    assert checkpoint_errors(checkpoint) == []


@pytest.mark.parametrize("file", ["state_dict.pth", "manifest.json", "pretrained/model.safetensors"])
def test_the_fall_back_is_told_and_exact(file: str, done: Path, run: Path, capsys: Capture) -> None:
    """The run goes on from the older checkpoint to the same weights; stderr and run.log tell what was passed over."""
    path = run / "checkpoints/checkpoint-10" / file
    damages(path.stat().st_size)["cut at 1"](path)
    assert resume(done, run) == 0
    for said in (capsys.readouterr().err, (run / "run.log").read_text()):
        assert re.search(f"passed over: .*checkpoint-10/{file}: ", said)
        assert re.search("resuming from .*checkpoint-5", said)
    assert tiny.same(tiny.weights(run, 10), tiny.weights(done / "run", 10))
    assert checkpoint_errors(run / "checkpoints/checkpoint-10") == []


def test_asking_falls_back_with_a_warning(run: Path, capsys: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """rqa predict on RUN@last takes the newest whole checkpoint and says that it is not the newest."""
    path = run / "checkpoints/checkpoint-10/pretrained/model.safetensors"
    damages(path.stat().st_size)["deleted"](path)
    assert main(["predict", "--checkpoint", f"{run}@last", *QUESTION]) == 0
    assert re.search("passed over: .*checkpoint-10/pretrained/model.safetensors: is missing", caplog.text)


def test_a_damaged_checkpoint_does_not_push_out_whole_ones(done: Path, run: Path) -> None:
    """save_total_limit counts the checkpoints of the run that goes on, and not a damaged later one."""
    (run / "checkpoints/checkpoint-10/state_dict.pth").unlink()
    changes = ("save_total_limit=1", "save_steps=1", "num_train_epochs=3", "eval_steps=1000")
    options = [word for change in changes for word in ("--config", f"hyperparameters.{change}")]
    assert resume(done, run, "latest", *options) == 0
    assert newest_checkpoint(run)[0] == run / "checkpoints/checkpoint-15"


def test_nothing_whole_is_no_reason_to_start_anew(done: Path, run: Path, capsys: Capture) -> None:
    """Where every checkpoint is damaged, a hand is needed; where there is none yet, the run starts."""
    for number in (5, 10):
        (run / f"checkpoints/checkpoint-{number}/metadata.json").unlink()
    assert resume(done, run) == 2
    said = capsys.readouterr().err
    assert "holds no whole checkpoint" in said
    assert all(f"checkpoint-{number}: incomplete" in said for number in (5, 10))
    assert resume(done, run.parent / "new") == 0
    assert "starts from the beginning" in capsys.readouterr().err


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


# whether the manifest fits, is left as it was, or is missing, and whether the maker is trusted
MANIFESTS = {"fits": (True, False), "stale": (False, False), "none": (None, False), "none, trusted": (None, True)}


@pytest.mark.parametrize("manifest", MANIFESTS)
@pytest.mark.parametrize("file", ["trial_state.pkl", "workload_sequencer.pkl", "state_dict.pth", "checkpoint.pt"])
def test_code_in_a_pickle_does_not_run(
    file: str, manifest: str, done: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Wherever Determined looks for one, whatever the manifest says, and even where the maker is trusted."""
    fits, trusted = MANIFESTS[manifest]
    checkpoint = run / "checkpoints/checkpoint-5"
    harm = {"batches_trained": Harm(tmp_path / "harmed")}
    if file in ("workload_sequencer.pkl", "checkpoint.pt"):  # older formats, looked for where today's is missing
        (checkpoint / {"workload_sequencer.pkl": "trial_state.pkl"}.get(file, "state_dict.pth")).unlink()
    if file.endswith(".pkl"):
        (checkpoint / file).write_bytes(pickle.dumps(harm))
    else:
        torch.save(harm, checkpoint / file)
    if fits:
        tiny.sign(checkpoint)
    elif fits is None:
        (checkpoint / "manifest.json").unlink()
    assert resume(done, tmp_path / "more", checkpoint, *(["--allow-unverified"] if trusted else [])) == 2
    assert not (tmp_path / "harmed").exists()
    said = capsys.readouterr().err
    assert str(checkpoint) in said
    assert "Traceback" not in said


@pytest.mark.parametrize("file", ["pytorch_model.bin", "training_args.bin"])
def test_code_in_a_model_folder_does_not_run(file: str, run: Path, tmp_path: Path, capsys: Capture) -> None:
    """Weights may be a pickle as well: answering with such a folder ends with exit code 2, or never opens it."""
    checkpoint = run / "checkpoints/checkpoint-10"
    if file == "pytorch_model.bin":
        (checkpoint / "pretrained/model.safetensors").unlink()
    torch.save({"weights": Harm(tmp_path / "harmed")}, checkpoint / "pretrained" / file)
    tiny.sign(checkpoint)
    code = main(["predict", "--checkpoint", str(checkpoint), *QUESTION])
    assert code == (2 if file == "pytorch_model.bin" else 0)
    assert not (tmp_path / "harmed").exists()
    assert main(["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "exported")]) == 0
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_without_a_manifest_needs_trust(done: Path, run: Path, tmp_path: Path, capsys: Capture) -> None:
    """--allow-unverified takes it, to the same end as with the manifest; it never excuses sums that do not fit."""
    checkpoint = run / "checkpoints/checkpoint-5"
    (checkpoint / "manifest.json").unlink()
    assert resume(done, tmp_path / "more", checkpoint) == 2
    assert "manifest.json is missing" in capsys.readouterr().err
    assert resume(done, tmp_path / "more", checkpoint, "--allow-unverified") == 0
    assert tiny.same(tiny.weights(tmp_path / "more", 10), tiny.weights(done / "run", 10))
    (checkpoint / "state_dict.pth").unlink()
    assert resume(done, tmp_path / "other", checkpoint, "--allow-unverified") == 2
    assert "state_dict.pth: is missing" in capsys.readouterr().err
    tiny.sign(checkpoint)
    (checkpoint / "load_data.json").write_text("{}")
    assert resume(done, tmp_path / "other", checkpoint, "--allow-unverified") == 2
    assert "load_data.json: damaged" in capsys.readouterr().err
    assert resume(done, run, "latest", "--allow-unverified") == 2
    assert "--allow-unverified: needs --resume DIR" in capsys.readouterr().err


def test_a_checkpoint_of_another_model_or_another_moment_is_refused(
    done: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Sums that fit do not make it fit: its shapes and its counters have to agree, too."""
    other = tiny.experiment(tmp_path / "other")
    tiny.model_folder(tmp_path / "other/model", hidden_size=32)
    checkpoint = run / "checkpoints/checkpoint-5"
    assert train.main([str(other), "--output-dir", str(tmp_path / "a"), "--resume", str(checkpoint)]) == 2
    assert re.search("cannot be loaded into this configuration: .*size mismatch", capsys.readouterr().err)
    (checkpoint / "trial_state.pkl").write_bytes((run / "checkpoints/checkpoint-10/trial_state.pkl").read_bytes())
    tiny.sign(checkpoint)
    assert resume(done, tmp_path / "b", checkpoint) == 2
    assert re.search("trial_state.pkl: must be of batch 5, as metadata.json is, got 10", capsys.readouterr().err)
