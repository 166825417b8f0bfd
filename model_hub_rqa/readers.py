"""Reader: a trained model of any task, to ask without Determined."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from model_hub_rqa.checkpoints import READER, TASK, check_tokenizer, pretrained_folder
from model_hub_rqa.config import Kwargs, parse_dict_to_dataclasses
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError, RqaError, renamed
from model_hub_rqa.libraries import sentencepiece_hint
from model_hub_rqa.records import Answer, Passage, Question
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.base import Task

K = TypeVar("K", bound=Kwargs)

QUESTIONS_AT_A_TIME = 64  # of many questions

logger = logging.getLogger(__name__)


class Reader:
    """Reads examples with a trained model, in batches: the features, batches and predictions of its task.

    Args:
        task: with its settings, config and tokenizer (`Task.setup`).
        model: the trained model.
        batch_size: features read at a time; None for the task's default.
        bf16: whether to compute in bfloat16; None: where the machine has it and the task trains so.
    """

    task_name: str | None = None

    def __init__(self, task: Task, model: Any, *, batch_size: int | None = None, bf16: bool | None = None) -> None:
        import torch

        from model_hub_rqa.models.precision import computes_in_bf16, warn_of_slow_bf16

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task, self.model = task, model.to(self.device).eval()
        self.batch_size = task.batch_size if batch_size is None else batch_size
        if bf16:
            warn_of_slow_bf16(self.device.type, "bf16")
        self.bf16 = task.default_bf16 and computes_in_bf16(self.device.type) if bf16 is None else bf16

    @property
    def settings(self) -> Any:
        """Those of training, with what was given instead."""
        return self.task.settings

    @property
    def needs_passages(self) -> bool:
        """Whether a question without passages is an error."""
        return self.task.needs_passages

    @property
    def n_context(self) -> int | None:
        """How many of a question's passages are read, the first ones; None for all."""
        return getattr(self.settings, "n_context", None)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        batch_size: int | None = None,
        bf16: bool | None = None,
        tell: Callable[[str], None] = logger.info,
        **settings: Any,
    ) -> "Reader":
        """Loads a run's folder, a checkpoint, or a ``save_pretrained`` folder, of whichever task it is.

        Args:
            path: as `pretrained_folder` takes it: ``RUN@best``, ``RUN@last`` and ``RUN@STEP`` choose; a checkpoint is
                verified against its manifest first.
            tell: is told which checkpoint of a run was taken.
            settings: fields of the task's settings, in place of those of training.

        Raises:
            CheckpointError: no such folder, a damaged one, or one of another model.
            ConfigError: a setting breaks a rule, or is none of the task's.
        """
        from model_hub_rqa.models.limits import model_limits

        folder = pretrained_folder(Path(path), tell)
        kind: type[Task] = task_of(folder) if cls.task_name is None else TASKS.find(cls.task_name)
        task = kind(trained_settings(folder, kind.Settings, settings))
        _, model, tokenizer = load_pretrained(folder, task.auto_class(), kind.description)
        task.adapt_to_checkpoint(model.config, tokenizer, limits := model_limits(model), folder, settings)
        task.setup(model.config, tokenizer, limits)
        task.prepare_model(model)
        own = (reader for reader in _readers(cls) if reader.task_name == kind.name)
        reader = object.__new__(next(own, cls))
        Reader.__init__(reader, task, model, batch_size=batch_size, bf16=bf16)
        return reader

    def predict(self, examples: Any, *, scores: bool = False) -> list[Any]:
        """The results of `Task.decode` for a datasets.Dataset of examples, in their order.

        Args:
            examples: as `Task.load` gives them.
            scores: also how confident each answer is and how much each passage counts, where that takes extra work.
        """
        self.task.wants_files, self.task.wants_scores = True, scores
        predictions = self._run(self.task.features(examples, training=False), self.task.predict)
        return self.task.decode({key: predictions[key] for key in sorted(predictions)}, examples)

    def score_passages(self, rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
        """What each passage of a question is worth to the reader: labels to train a retriever on.

        Args:
            rows: of `read_fusion`: questions with passages and, for a causal language model, answers.

        Returns:
            For each question a score for each of the passages that were read, the first ones: to be compared within
            the question, as logarithms of shares are. See the ``score_passages`` of the reader's task.

        Raises:
            DataError: a question lacks a passage or an answer, or this kind of reader gives no scores.
        """
        task: Any = self.task
        if not hasattr(task, "scoring_examples"):
            raise DataError(f"{task.name}: gives passages no scores")
        examples, owners = task.scoring_examples(rows)
        before, task.wants_loss = task.wants_loss, task.scores_answers
        try:
            found = self._run(task.features(examples, training=False), task.score_passages)
        finally:
            task.wants_loss = before
        scores: list[list[float]] = [[] for _ in rows]
        for example, owner in enumerate(owners):
            scores[owner] += found[example]
        return scores

    def _run(self, features: Any, function: Callable[[Any, Any], Mapping[Any, Any]]) -> dict[Any, Any]:
        """What a function of model and batch gives for all features, by id."""
        import torch

        from model_hub_rqa.data.batching import EvalBatchSampler

        lengths = features["length"][:] if "length" in features.column_names else [1] * len(features)
        sampler = EvalBatchSampler(lengths, self.batch_size)
        predictions: dict[Any, Any] = {}
        for batch in torch.utils.data.DataLoader(features, batch_sampler=sampler, collate_fn=self.task.collate):
            on_device = {
                name: value.to(self.device) if hasattr(value, "to") else value for name, value in batch.items()
            }
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                predictions.update(function(self.model, on_device))
        return predictions

    def answer_questions(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        """One answer a question, from its own passages.

        Args:
            questions: with their passages, the best first.
            scores: also how confident each answer is and how much each passage counts, where that takes extra work.

        Raises:
            DataError: a question has no passage, and this task needs one; or the task needs more than passages.
        """
        if not questions:
            return []
        examples = self.task.examples_of(questions)
        return self.task.answers(self.predict(examples, scores=scores), examples, questions)

    def read_passages(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        """Version 0.1's name of `answer_questions`."""
        return self.answer_questions(questions, scores=scores)


class ExtractiveReader(Reader):
    """Finds answers as spans of their contexts: the reader of `Extractive`.

    Args:
        model: a question-answering model of transformers.
        tokenizer: its fast tokenizer.
        settings: window and decoding settings; by default those that the model was trained with.
        batch_size: windows read at a time.
    """

    task_name = "extractive"

    def __init__(self, model: Any, tokenizer: Any, settings: Any, *, batch_size: int | None = None) -> None:
        super().__init__(built_task(self.task_name, settings, model, tokenizer), model, batch_size=batch_size)

    def answer(self, question: str, context: str) -> Answer:
        """The answer to one question; its score is a probability among the n best, 0 to 1."""
        return self.answer_questions([Question(question, (Passage("0", context),))])[0]

    def read(self, examples: Any) -> dict[str, Any]:
        """The decoded spans of examples (a datasets.Dataset, or dicts of id, question and context), by id."""
        from datasets import Dataset

        rows = examples if isinstance(examples, Dataset) else Dataset.from_list([dict(row) for row in examples])
        return dict(zip(rows["id"][:], self.predict(rows), strict=True))


class GenerationReader(Reader):
    """Generates answers from passages, or without: the reader of `CausalLM`.

    Args:
        model: a causal language model of transformers.
        tokenizer: its fast tokenizer.
        settings: prompt, lengths and how answers are searched for; by default those that the model was trained with.
        batch_size: questions read at a time.
    """

    task_name = "causal-lm"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: Any,
        *,
        batch_size: int | None = None,
        bf16: bool | None = None,
    ) -> None:
        task = built_task(self.task_name, settings, model, tokenizer)
        super().__init__(task, model, batch_size=batch_size, bf16=bf16)


class FusionReader(GenerationReader):
    """Generates answers from passages that are fused in the decoder: the reader of `FusionInDecoder`."""

    task_name = "fid"


class BeamSearchReader(ExtractiveReader):
    """The reader of `BeamSearch`: an answer's end was predicted from its start."""

    task_name = "beam-search"


def built_task(name: str, settings: Any, model: Any, tokenizer: Any) -> Task:
    """The task of a model that is there already."""
    from model_hub_rqa.models.limits import model_limits

    task: Task = TASKS.find(name)(settings)
    task.setup(model.config, tokenizer, model_limits(model))
    task.prepare_model(model)
    return task


def check_reader(path: str | Path) -> None:
    """Looks at all of a reader but its weights: `Reader.from_pretrained` loads them.

    Raises:
        CheckpointError: no such folder, a damaged one, or one of a task that answers no questions from passages.
        ConfigError: its settings break a rule.
    """
    folder = pretrained_folder(Path(path))
    kind = task_of(folder)
    if not kind.takes_questions():
        raise CheckpointError(f"{folder}: must answer questions from passages, got {kind.description}")
    check_tokenizer(folder)
    trained_settings(folder, kind.Settings, {})


def answer_found(reader: Any, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
    """An answer for each question whose passages were searched for.

    It is "" where none was found and the reader needs some.
    """
    is_read = [bool(question.passages) or not reader.needs_passages for question in questions]
    readable = [question for question, one in zip(questions, is_read, strict=True) if one]
    read = iter(reader.answer_questions(readable, scores=scores))
    silent = Answer("", score=0.0, passage_scores=()) if scores else Answer("")
    return [next(read) if one else silent for one in is_read]


def _readers(kind: type[Reader]) -> list[type[Reader]]:
    return [kind, *(deeper for other in kind.__subclasses__() for deeper in _readers(other))]


def task_of(folder: Path) -> type[Task]:
    """The task of a model's folder: the one that its reader.json names, or the one that reads its architecture.

    Raises:
        CheckpointError: the folder has no config, or no task reads it.
    """
    from transformers import AutoConfig

    named = named_task(folder)
    if named is not None:
        return named
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # json and transformers raise several kinds
        raise CheckpointError(f"{folder}: has no config that can be read: {error}") from error
    tasks: list[type[Task]] = [TASKS.find(name) for name in TASKS.names()]
    try:
        for task in tasks:
            if task.reads(config):  # and so may one that derives from it, which is the special one
                special = [other for other in tasks if issubclass(other, task) and other.reads(config)]
                return max(special, key=lambda other: len(other.__mro__))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    kinds = ", ".join(task.description for task in tasks)
    names = ", ".join(getattr(config, "architectures", None) or ["a model without a name"])
    raise CheckpointError(f"{folder}: must be one of {kinds}, got {names}")


def named_task(folder: Path) -> type[Task] | None:
    """The task that reader.json names; None where there is no such file, or version 0.1 wrote it.

    Raises:
        CheckpointError: there is no task of that name.
    """
    kept: Mapping[str, Any] = read_settings_file(folder)
    if TASK not in kept:
        return None
    try:
        task: type[Task] = TASKS.find(kept[TASK])
        return task
    except ValueError as error:
        raise CheckpointError(f"{folder / READER}: task: {error}") from error


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
        raise CheckpointError(f"{folder}: holds no trained weights of {what}: weights missing for {missing}")
    return folder, model, tokenizer


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
