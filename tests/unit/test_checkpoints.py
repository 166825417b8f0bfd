"""Checkpoint folders: whole ones pass, and every kind of damage is named."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from model_hub_rqa.checkpoints import (
    checkpoint_errors,
    newest_checkpoint,
    pretrained_folder,
    steps_completed,
    verify_checkpoint,
    write_manifest,
)
from model_hub_rqa.errors import CheckpointError


def make(folder: Path, steps: int = 10) -> Path:
    (folder / "pretrained").mkdir(parents=True)
    (folder / "pretrained/config.json").write_text("{}")
    (folder / "state_dict.pth").write_bytes(bytes(range(200)))
    (folder / "trial_state.pkl").write_bytes(pickle.dumps({"batches_trained": steps}))
    (folder / "metadata.json").write_text(json.dumps({"steps_completed": steps}))
    write_manifest(folder)
    return folder


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda f: flip(f / "state_dict.pth", 100), "state_dict.pth: damaged"),
    "a truncated file": (lambda f: (f / "state_dict.pth").write_bytes(b"abc"), "state_dict.pth: damaged"),
    "a missing file": (lambda f: (f / "pretrained/config.json").unlink(), "pretrained/config.json: is missing"),
    "no metadata": (lambda f: (f / "metadata.json").unlink(), "incomplete, metadata.json"),
    "other metadata": (lambda f: (f / "metadata.json").write_text('{"steps_completed": 11}'), "metadata.json: damaged"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "half a manifest": (lambda f: (f / "manifest.json").write_text('{"sha'), "manifest.json: is not a manifest"),
    "a stranger's file": (lambda f: (f / "workload_sequencer.pkl").write_bytes(b"."), "is not listed in manifest.json"),
    "another manifest": (lambda f: (f / "manifest.json").write_text("[1]"), "manifest.json: is not a manifest"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    """Each error is told with its file, and verifying raises."""
    folder = make(tmp_path / "checkpoint-10")
    assert checkpoint_errors(folder) == []
    damage, words = DAMAGE[kind]
    damage(folder)
    assert any(words in line for line in checkpoint_errors(folder))
    with pytest.raises(CheckpointError, match=words.split(":")[0]):
        verify_checkpoint(folder)


def test_a_checkpoint_of_other_code_needs_an_explicit_flag(tmp_path: Path) -> None:
    """Without a manifest it is refused; the flag accepts it, but never one whose sums are wrong."""
    folder = make(tmp_path / "checkpoint-10")
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing, so its files cannot be verified"):
        verify_checkpoint(folder)
    verify_checkpoint(folder, allow_unverified=True)
    write_manifest(folder)
    flip(folder / "state_dict.pth", 0)
    with pytest.raises(CheckpointError, match="damaged"):
        verify_checkpoint(folder, allow_unverified=True)


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    """Newer by steps and not by name; damaged ones are passed over, with the reason."""
    for steps in (9, 10, 100):
        make(tmp_path / f"checkpoints/checkpoint-{steps}", steps)
    (tmp_path / "checkpoints/.checkpoint-200.partial").mkdir()
    flip(tmp_path / "checkpoints/checkpoint-100/state_dict.pth", 5)
    newest, passed_over = newest_checkpoint(tmp_path)
    assert newest == tmp_path / "checkpoints/checkpoint-10"
    assert len(passed_over) == 1
    assert "checkpoint-100" in passed_over[0]
    assert steps_completed(newest) == 10
    assert pretrained_folder(tmp_path) == newest / "pretrained"


def test_a_model_folder_is_found_in_every_form(tmp_path: Path) -> None:
    """A run, a checkpoint and a save_pretrained folder all lead to the weights; anything else is refused."""
    checkpoint = make(tmp_path / "checkpoints/checkpoint-10")
    wanted = checkpoint / "pretrained"
    assert [pretrained_folder(path) for path in (tmp_path, checkpoint, wanted)] == [wanted] * 3
    with pytest.raises(CheckpointError, match="neither a run's folder"):
        pretrained_folder(tmp_path / "nowhere")
    flip(checkpoint / "pretrained/config.json", 0)
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        pretrained_folder(checkpoint)
