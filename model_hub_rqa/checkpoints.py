"""Checkpoint folders on disk: what makes one whole, and how damage is noticed before anything of it is loaded.

A checkpoint holds what Determined writes (state_dict.pth, trial_state.pkl, load_data.json and, last, metadata.json),
a ``pretrained`` folder that transformers loads by itself, and ``manifest.json`` with the SHA-256 sum of every file.
"""

import hashlib
import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

from model_hub_rqa.errors import CheckpointError

MANIFEST = "manifest.json"
METADATA = "metadata.json"
PRETRAINED = "pretrained"
READER = "reader.json"  # inside PRETRAINED: the data settings that the model was trained with
STATE = "trial_state.pkl"
_NEEDED = ("state_dict.pth", STATE)
_PICKLES = (STATE, "workload_sequencer.pkl")  # what Determined opens with pickle itself; the second in older formats
_NAME = re.compile(r"checkpoint-(\d+)")

logger = logging.getLogger(__name__)


def file_sum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Writes the sums of every file below ``folder`` into its manifest.json."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    sums = {path.relative_to(folder).as_posix(): file_sum(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps({"sha256": sums}, indent=1), encoding="utf-8")


def checkpoint_problems(folder: Path) -> list[str]:
    """Why the checkpoint in ``folder`` must not be loaded: a line for each fault, none where it is whole."""
    if not folder.is_dir():
        return [f"{folder}: is not a checkpoint folder"]
    problems = []
    if not (folder / METADATA).is_file():
        problems.append(f"{folder}: incomplete, {METADATA} (written last) is missing")
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        items = sorted(sums.items())
    except FileNotFoundError:
        return [*problems, f"{folder}: {MANIFEST} is missing, so its files cannot be verified"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [*problems, f"{folder / MANIFEST}: is not a manifest (damaged?)"]
    for name, expected in items:
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: is missing")
        elif file_sum(path) != expected:
            problems.append(f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}")
    # A file that nobody vouches for could be taken for one of the checkpoint's (an older format's pickle, say).
    known = {*sums, MANIFEST, METADATA}
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    problems += [f"{folder / name}: is not listed in {MANIFEST}" for name in found if name not in known]
    return problems + _content_problems(folder)


def _content_problems(folder: Path) -> list[str]:
    """What a manifest cannot tell: files that were never written, and pickles that would run code.

    A manifest that fits shows that nothing was damaged, and not who wrote it. state_dict.pth is left to torch.load,
    which builds nothing but tensors and containers (weights_only).
    """
    problems = [f"{folder / name}: is missing" for name in _NEEDED if not (folder / name).is_file()]
    for path in (folder / name for name in _PICKLES):
        if path.is_file():
            try:
                with path.open("rb") as file:
                    state = _PlainUnpickler(file).load()
            except Exception as error:  # damaged pickles raise any kind
                problems.append(f"{path}: must be a pickle of plain values: {error}")
            else:
                if not isinstance(state, dict):
                    problems.append(f"{path}: must hold a dict, found {type(state).__name__}")
    return problems


class _PlainUnpickler(pickle.Unpickler):
    """Loads numbers, text and containers; without the names of classes and functions, no code can run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")


def verify_checkpoint(folder: Path, *, allow_unverified: bool = False) -> None:
    """Raises CheckpointError with every fault of the checkpoint.

    Args:
        folder: the checkpoint.
        allow_unverified: accept one that has no manifest (written by other code), for checkpoints whose maker you
            trust: nothing shows then whether its weights are damaged. Code in a pickle is refused all the same.
    """
    problems = checkpoint_problems(folder)
    if allow_unverified and not (folder / MANIFEST).exists():
        problems = [line for line in problems if MANIFEST not in line] + _content_problems(folder)
    if problems:
        raise CheckpointError(problems)


def read_metadata(folder: Path) -> dict[str, Any]:
    """What stands in a checkpoint's metadata.json; nothing where it cannot be read."""
    try:
        found = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def steps_completed(folder: Path) -> int:
    """Batches that had been trained when the checkpoint was written, as Determined counts: before accumulation."""
    try:
        return int(json.loads((folder / METADATA).read_text(encoding="utf-8"))["steps_completed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / METADATA}: does not hold steps_completed ({error})") from error


def steps_in_name(folder: Path) -> int:
    """The optimizer steps that the name of a checkpoint's folder tells; 0 for other names. It needs no file of it."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else 0


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoint folders of a run, the newest first."""
    found = (path for path in (run / "checkpoints").glob("*") if _NAME.fullmatch(path.name))
    return sorted(found, key=steps_in_name, reverse=True)


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and why each newer one was passed over."""
    passed_over: list[str] = []
    for path in checkpoints_of(run):
        problems = checkpoint_problems(path)
        if not problems:
            return path, passed_over
        passed_over += problems
    return None, passed_over


def pretrained_folder(path: Path) -> Path:
    """The ``save_pretrained`` folder that a user means by ``path``.

    Args:
        path: such a folder itself, a checkpoint, or a run's folder (its newest whole checkpoint, with a warning of
            each newer one). What lies in a checkpoint is verified first; elsewhere there is nothing to verify it by.

    Raises:
        CheckpointError: none of the three, or a damaged checkpoint.
    """
    parent = path.resolve().parent
    if path.resolve().name == PRETRAINED and any((parent / name).exists() for name in (MANIFEST, METADATA, STATE)):
        verify_checkpoint(parent)
        return path
    if (path / "config.json").is_file() or (path / "model.safetensors").is_file():  # the second: a model of one's own
        return path
    if (path / "checkpoints").is_dir():
        newest, passed_over = newest_checkpoint(path)
        if newest is None:
            raise CheckpointError([f"{path}: holds no whole checkpoint", *passed_over])
        for line in passed_over:
            logger.warning("passed over: %s", line)
        return newest / PRETRAINED
    if (path / PRETRAINED).is_dir():
        verify_checkpoint(path)
        return path / PRETRAINED
    raise CheckpointError(
        f"{path}: is neither a run's folder (checkpoints/), nor a checkpoint ({PRETRAINED}/), "
        "nor a folder that save_pretrained wrote (config.json)"
    )
