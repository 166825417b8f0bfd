"""Reader: a trained model of any task, to ask without Determined."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from model_hub_rqa.checkpoints import READER, TASK, pretrained_folder
from model_hub_rqa.errors import CheckpointError
from model_hub_rqa.records import Answer, Question
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.base import Task
from model_hub_rqa.tasks.reading import load_pretrained, read_settings_file, trained_settings

logger = logging.getLogger(__name__)


class Reader:
    """Reads examples with a trained model, in batches: the features, batches and predictions of its task.

    Args:
        task: with its settings, config and tokenizer (`Task.setup`).
        model: the trained model.
        batch_size: features read at a time; None for the task's default.
        bf16: whether to compute in bfloat16; None: where the machine has it and the task trains so.
    """

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
        """Those of training, with what was given in their place."""
        return self.task.settings

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
        kind = task_of(folder)
        task = kind(trained_settings(folder, kind.Settings, settings))
        folder, model, tokenizer = load_pretrained(folder, task.auto_class(), f"a reader of the task {kind.name}")
        task.setup(model.config, tokenizer, model_limits(model))
        task.prepare_model(model)
        return cls(task, model, batch_size=batch_size, bf16=bf16)

    def read(self, examples: Any, *, files: bool = False, scores: bool = False) -> list[Any]:
        """The results of `Task.decode` for a datasets.Dataset of examples, in their order.

        Args:
            examples: as `Task.load` gives them.
            files: also what `Task.files` shows.
            scores: also how confident each answer is and how much each passage counts, where that takes extra work.
        """
        import torch

        from model_hub_rqa.data.batching import EvalBatchSampler

        self.task.wants_files, self.task.wants_scores = files, scores
        features = self.task.features(examples, training=False)
        lengths = features["length"][:] if "length" in features.column_names else [1] * len(features)
        sampler = EvalBatchSampler(lengths, self.batch_size)
        predictions: dict[Any, Any] = {}
        for batch in torch.utils.data.DataLoader(features, batch_sampler=sampler, collate_fn=self.task.collate):
            on_device = {name: _to(value, self.device) for name, value in batch.items()}
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                predictions.update(self.task.predict(self.model, on_device))
        return self.task.decode({key: predictions[key] for key in sorted(predictions)}, examples)

    def answer(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        """One answer a question, from its own passages.

        Raises:
            DataError: a question has no passage, and this task needs one; or the task needs more than passages.
        """
        examples = self.task.examples_of(questions)
        return self.task.answers(self.read(examples, scores=scores), examples)


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
    tasks: list[Any] = [TASKS.find(name) for name in TASKS.names()]
    for task in tasks:
        if task.reads(config):
            return cast("type[Task]", task)
    names = ", ".join(getattr(config, "architectures", None) or ["a model without a name"])
    raise CheckpointError(f"{folder}: must be a model of one of the tasks {', '.join(TASKS.names())}, got {names}")


def named_task(folder: Path) -> type[Task] | None:
    """The task that reader.json names; None where there is no such file, or version 0.1 wrote it.

    Raises:
        CheckpointError: there is no task of that name.
    """
    kept: Mapping[str, Any] = read_settings_file(folder)
    if TASK not in kept:
        return None
    try:
        return cast("type[Task]", TASKS.find(kept[TASK]))
    except ValueError as error:
        raise CheckpointError(f"{folder / READER}: task: {error}") from error


def _to(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value
