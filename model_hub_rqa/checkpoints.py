"""Checkpoint folders on disk: what makes one whole, and how damage is noticed before anything of it is loaded.

A checkpoint holds what Determined writes (state_dict.pth, trial_state.pkl, load_data.json and, last, metadata.json),
a ``pretrained`` folder that transformers loads by itself, and ``manifest.json`` with the SHA-256 sum of every file.
"""

import hashlib
import json
import logging
import math
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from model_hub_rqa.errors import CheckpointError

MANIFEST = "manifest.json"
METADATA = "metadata.json"
PRETRAINED = "pretrained"
TOKENIZER = "tokenizer.json"
TOKENIZER_SUM, TASK = "tokenizer_sha256", "task"  # in reader.json
RECORD = "run"  # in a local checkpoint's metadata, what is known of the run; in it:
METRIC, SMALLER_IS_BETTER = "searcher.metric", "searcher.smaller_is_better"
READER = "reader.json"  # inside PRETRAINED: the data settings that the model was trained with
STATE = "trial_state.pkl"
_NEEDED = ("state_dict.pth", STATE)
_PICKLES = (STATE, "workload_sequencer.pkl")  # what Determined opens with pickle itself; the second in older formats
_NAME = re.compile(r"checkpoint-(\d+)")
_CHOICE = re.compile(r"(.+)@(last|best|\d+)")
_VOCABULARIES = (
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("source.spm", "target.spm", "spm.model", "bpe.codes", "prophetnet.tokenizer", "entity_vocab.json"),
)

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


def checkpoint_errors(folder: Path) -> list[str]:
    """Why the checkpoint in ``folder`` must not be loaded: a line for each error, none where it is whole."""
    if not folder.is_dir():
        return [f"{folder}: is not a checkpoint folder"]
    errors = []
    if not (folder / METADATA).is_file():
        errors.append(f"{folder}: incomplete, {METADATA} (written last) is missing")
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        items = sorted(sums.items())
    except FileNotFoundError:
        return [*errors, f"{folder}: {MANIFEST} is missing, so its files cannot be verified"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [*errors, f"{folder / MANIFEST}: is not a manifest (damaged?)"]
    for name, expected in items:
        path = folder / name
        if not path.is_file():
            errors.append(f"{path}: is missing")
        elif file_sum(path) != expected:
            errors.append(f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}")
    # A file that nobody vouches for could be taken for one of the checkpoint's (an older format's pickle, say).
    known = {*sums, MANIFEST, METADATA}
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    errors += [f"{folder / name}: is not listed in {MANIFEST}" for name in found if name not in known]
    return errors + _content_errors(folder)


def _content_errors(folder: Path) -> list[str]:
    """What a manifest cannot tell: files that were never written, and pickles that would run code.

    A manifest that fits shows that nothing was damaged, and not who wrote it. state_dict.pth is left to torch.load,
    which builds nothing but tensors and containers (weights_only).
    """
    errors = [f"{folder / name}: is missing" for name in _NEEDED if not (folder / name).is_file()]
    for path in (folder / name for name in _PICKLES):
        if path.is_file():
            try:
                with path.open("rb") as file:
                    state = _PlainUnpickler(file).load()
            except Exception as error:  # damaged pickles raise any kind
                errors.append(f"{path}: must be a pickle of plain values: {error}")
            else:
                if not isinstance(state, dict):
                    errors.append(f"{path}: must hold a dict, got {type(state).__name__}")
    return errors


class _PlainUnpickler(pickle.Unpickler):
    """Loads numbers, text and containers; without the names of classes and functions, no code can run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")


def verify_checkpoint(folder: Path, *, allow_unverified: bool = False) -> None:
    """Raises CheckpointError with every error of the checkpoint.

    Args:
        folder: the checkpoint.
        allow_unverified: accept one that has no manifest (written by other code), for checkpoints whose maker you
            trust: nothing shows then whether its weights are damaged. Code in a pickle is refused all the same.
    """
    errors = checkpoint_errors(folder)
    if allow_unverified and not (folder / MANIFEST).exists():
        errors = [line for line in errors if MANIFEST not in line] + _content_errors(folder)
    if errors:
        raise CheckpointError(errors)


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
        errors = checkpoint_errors(path)
        if not errors:
            return path, passed_over
        passed_over += errors
    return None, passed_over


def pretrained_folder(path: Path, tell: Callable[[str], None] = logger.info) -> Path:
    """The ``save_pretrained`` folder that a user means by ``path``.

    Args:
        path: such a folder itself, a checkpoint, or a run's folder: its best whole checkpoint by the searcher's metric,
            or the newest where no checkpoint was validated. ``RUN@best``, ``RUN@last`` and ``RUN@STEP`` choose. What
            lies in a checkpoint is verified first; elsewhere there is nothing to verify it by.
        tell: is told which checkpoint of a run was taken, and why.

    Raises:
        CheckpointError: none of the three, no such checkpoint, or a damaged one.
    """
    path, choice = _split_choice(path)
    parent = path.resolve().parent
    if choice is not None or (path / "checkpoints").is_dir():
        checkpoint, reason = choose_checkpoint(path, choice)
        tell(f"{path}: takes {checkpoint.name}, {reason}")
        return checkpoint / PRETRAINED
    if path.resolve().name == PRETRAINED and any((parent / name).exists() for name in (MANIFEST, METADATA, STATE)):
        verify_checkpoint(parent)
        return path
    if (path / "config.json").is_file() or (path / "model.safetensors").is_file():  # the second: a model of one's own
        return path
    if (path / PRETRAINED).is_dir():
        verify_checkpoint(path)
        return path / PRETRAINED
    raise CheckpointError(
        f"{path}: is neither a run's folder (checkpoints/), nor a checkpoint ({PRETRAINED}/), "
        "nor a folder that save_pretrained wrote (config.json)"
    )


def _split_choice(path: Path) -> tuple[Path, str | None]:
    match = _CHOICE.fullmatch(str(path))
    return (path, None) if match is None or path.exists() else (Path(match[1]), match[2])


def choose_checkpoint(run: Path, choice: str | None = None) -> tuple[Path, str]:
    """A whole checkpoint of a run, and in words why it is this one. Damaged ones are passed over, with a warning.

    Args:
        run: its folder.
        choice: "best" by the searcher's metric (of equal ones the first), "last" for the newest, a number of steps, or
            None for the best and, where no checkpoint was validated, the newest.

    Raises:
        CheckpointError: there is none, or the step asked for has none that is whole.
    """
    found = checkpoints_of(run)
    if not found:
        raise CheckpointError(f"{run}: holds no checkpoint")
    if choice is not None and choice.isdigit():
        named = [path for path in found if steps_in_name(path) == int(choice)]
        if not named:
            there = ", ".join(str(steps_in_name(path)) for path in reversed(found))
            raise CheckpointError(f"{run}@{choice}: holds no checkpoint of that step, only of {there}")
        verify_checkpoint(named[0])
        return named[0], "as asked"
    metric, smaller_is_better = _searcher_of(run, found)
    values = {} if choice == "last" else _validations(run, metric)
    measured = [path for path in found if steps_in_name(path) in values]
    if choice == "best" and not measured:
        raise CheckpointError(f"{run}@best: no checkpoint was validated by {metric or 'a metric that was recorded'}")
    sign = 1 if smaller_is_better else -1
    measured.sort(key=lambda path: (sign * values[steps_in_name(path)], steps_in_name(path)))
    passed_over: list[str] = []
    for path in measured if choice == "best" else [*measured, *(path for path in found if path not in measured)]:
        errors = checkpoint_errors(path)
        if errors:
            passed_over += errors
            continue
        for line in passed_over:
            logger.warning("passed over: %s", line)
        value = values.get(steps_in_name(path))
        return path, "the newest" if value is None else f"the best of {len(measured)} by {metric} ({value:.6g})"
    raise CheckpointError([f"{run}: holds no whole checkpoint", *passed_over])


def _searcher_of(run: Path, checkpoints: Iterable[Path]) -> tuple[str | None, bool]:
    """The searcher's metric and direction, as the newest checkpoint (in version 0.1 the run's summary) has them."""
    for path in checkpoints:
        record = read_metadata(path).get(RECORD)
        if isinstance(record, dict) and isinstance(record.get(METRIC), str):
            return record[METRIC], bool(record.get(SMALLER_IS_BETTER, True))
    try:
        found = json.loads((run / "summary.json").read_text(encoding="utf-8"))["metric"]
        return str(found["name"]), bool(found["smaller_is_better"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, True


def _validations(run: Path, metric: str | None) -> dict[int, float]:
    """By step the finite values of a metric in a run's metrics.jsonl."""
    values: dict[int, float] = {}
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return values
    for line in lines:
        try:
            report = json.loads(line)
        except ValueError:  # half a line, of a killed process
            break
        value = report.get(metric) if report["kind"] == "validation" else None
        if isinstance(value, int | float) and math.isfinite(value):
            values[report["steps"]] = value
    return values


# ---- the tokenizer beside the weights ----


def tokenizer_sum(folder: Path) -> str | None:
    """SHA-256, in hexadecimal, of the tokenizer in a ``save_pretrained`` folder; None where there is none.

    It is of tokenizer.json without the settings of the last call (truncation, padding), or else of the vocabulary's
    files.
    """
    content = _read_object(folder / TOKENIZER)
    if content is not None:
        kept = {name: value for name, value in content.items() if name not in ("truncation", "padding")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    files = sorted(path for path in folder.glob("*") if path.name in _VOCABULARIES)
    listed = [f"{path.name} {file_sum(path)}" for path in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest() if files else None


def check_tokenizer(folder: Path, *, needed: bool = True) -> None:
    """Holds the tokenizer in a ``save_pretrained`` folder to the model that it was trained with.

    Args:
        folder: reader.json in it has the sum of the tokenizer, unless version 0.1 or another tool wrote it: then only
            the sizes are compared.
        needed: a tokenizer has to be there even if none is on record.

    Raises:
        CheckpointError: it is missing, another one, or has more tokens than the model has embeddings.
    """
    found, settings = tokenizer_sum(folder), _read_object(folder / READER) or {}
    expected = settings.get(TOKENIZER_SUM)
    if found is None:
        if needed or expected is not None:
            raise CheckpointError(f"{folder}: its tokenizer is missing ({TOKENIZER})")
        return
    if expected is not None and found != expected:
        raise CheckpointError(
            f"{folder}: its tokenizer is not the one that the model was trained with (its SHA-256 is not {READER}'s)"
        )
    tokens, config = _count_tokens(folder), _read_object(folder / "config.json") or {}
    text = config.get("text_config")
    rows = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    if tokens is not None and isinstance(rows, int) and tokens > rows:
        raise CheckpointError(
            f"{folder}: its tokenizer does not fit the model: it has {tokens} tokens, the model embeddings for {rows}"
        )


def _count_tokens(folder: Path) -> int | None:
    """Tokens of a tokenizer.json, added ones included; None where it is not there, or of a form without a list."""
    content = _read_object(folder / TOKENIZER)
    try:
        vocabulary = (content or {})["model"]["vocab"]
        added = {token["content"] for token in (content or {}).get("added_tokens", ())}
        names = vocabulary if isinstance(vocabulary, dict) else [entry[0] for entry in vocabulary]
        return len(added.union(names))
    except (KeyError, TypeError, IndexError):
        return None


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return found if isinstance(found, dict) else None
