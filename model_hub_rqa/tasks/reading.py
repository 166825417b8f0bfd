"""What readers share: the protocol, and how a folder becomes one."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from model_hub_rqa.checkpoints import READER, check_tokenizer, pretrained_folder
from model_hub_rqa.config import Kwargs, parse_dict_to_dataclasses
from model_hub_rqa.errors import CheckpointError, ConfigError, RqaError, renamed
from model_hub_rqa.libraries import sentencepiece_hint
from model_hub_rqa.records import Answer, Question
from model_hub_rqa.tasks.passages.answer_text import AnswerDecoder, answer_sources

K = TypeVar("K", bound=Kwargs)


class Reader(Protocol):
    """Answers questions from passages.

    Attributes:
        n_context: how many of a question's passages are read, the first ones; None for all.
    """

    @property
    def n_context(self) -> int | None: ...

    def read_passages(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        """One answer a question, from its own passages.

        Args:
            questions: each with at least one passage.
            scores: also say how sure the answer is and how much each passage counts, where that takes extra work.

        Raises:
            DataError: a question has no passage, and this reader needs one.
        """
        ...


def question_columns(questions: Sequence[Question], n_context: int | None) -> dict[str, list[Any]]:
    """Questions as the columns that the feature builders of written answers take, but for the answers themselves.

    Args:
        questions: in order.
        n_context: how many of a question's passages are read, the first ones; None for all.
    """
    return {
        "question": [question.text for question in questions],
        "chat_history": [
            [{"role": turn.role, "text": turn.text} for turn in question.chat_history] for question in questions
        ],
        "passages": [
            [{"title": passage.title, "text": passage.text} for passage in question.passages[:n_context]]
            for question in questions
        ],
        "target": [""] * len(questions),
    }


def answer_texts(
    decoder: AnswerDecoder, tokens: Any, questions: Sequence[Question], n_context: int | None
) -> list[str]:
    """The texts of generated answers [B, T] to questions, as the passages that were read spell them."""
    columns = question_columns(questions, n_context)
    sources = map(answer_sources, columns["question"], columns["passages"])
    return [decoder(ids, texts) for ids, texts in zip(tokens.tolist(), sources, strict=True)]


def sampling_seed(questions: Sequence[Question]) -> tuple[int, ...]:
    """What the draws of ``do_sample`` depend on: the questions that are read together, so a reader repeats itself."""
    return tuple(zlib.crc32(question.text.encode()) for question in questions)


def load_pretrained(path: str | Path, auto_class: Any, what: str) -> tuple[Path, Any, Any]:
    """The model folder that is meant by ``path``, its model and its tokenizer, from this machine alone.

    Args:
        path: a run's folder, a checkpoint (verified against its manifest first), or a ``save_pretrained`` folder.
        auto_class: of transformers, loads the model.
        what: names the kind of reader in errors.

    Raises:
        CheckpointError: no such folder, a damaged one, or one without all weights of such a reader.
    """
    from transformers import AutoTokenizer

    folder = pretrained_folder(Path(path))
    check_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, loading = auto_class.from_pretrained(
            folder, dtype="auto", local_files_only=True, output_loading_info=True
        )
    except RqaError:
        raise
    except Exception as error:  # safetensors, json and transformers each raise their own kind on damage
        raise CheckpointError(f"{folder}: cannot be loaded as {what}: {error}{sentencepiece_hint(error)}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:5])
        raise CheckpointError(f"{folder}: holds no trained {what}: weights missing for {missing}")
    return folder, model, tokenizer


def check_lengths(given: Mapping[str, Any], limits: Mapping[str, int], folder: Path) -> None:
    """Holds lengths that were given for reading to what the model takes; those of training were held to it then.

    Raises:
        ConfigError: with every length beyond its limit.
    """
    faults = [
        f"{name}: must be at most {limit:,}, the longest that {folder} takes, got {given[name]:,}"
        for name, limit in limits.items()
        if (given.get(name) or 0) > limit
    ]
    if faults:
        raise ConfigError(faults)


def trained_settings(folder: Path, kind: type[K], overrides: Mapping[str, Any]) -> K:
    """The settings that training left beside the weights (the defaults where another tool wrote them), overridden.

    Raises:
        CheckpointError: the file of settings cannot be read.
        ConfigError: an override breaks a rule, or is no field of ``kind``.
    """
    known = {field.name for field in fields(kind)}
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ConfigError(f"{name}: is not a setting of the reader in {folder}" for name in unknown)
    kept, path = read_settings_file(folder), folder / READER
    settings = {name: kept[name] for name in known if name in kept}
    try:
        parsed: K = parse_dict_to_dataclasses((kind,), {**settings, **overrides}, section=str(path))[0]
    except ConfigError as error:
        raise renamed(error, {f"{path}.{name}": name for name in overrides}) from error
    return parsed


def read_settings_file(folder: Path) -> Mapping[str, Any]:
    """What training left in reader.json; nothing where another tool wrote the folder.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    path = folder / READER
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(kept, dict):
        raise CheckpointError(f"{path}: cannot be read: must be an object, got {type(kept).__name__}")
    return kept
