"""The validation of a `TaskTrial`: predictions by id, and their metrics, of one data set or of several."""

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from determined import pytorch

from model_hub_rqa.data.predictions import question_of
from model_hub_rqa.data.shards import totals
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.metrics.generation import generation_metrics
from model_hub_rqa.models.signature import unwrapped
from model_hub_rqa.readers import QUESTIONS_AT_A_TIME, Reader, answer_found
from model_hub_rqa.records import Answer
from model_hub_rqa.runtime import metric_names
from model_hub_rqa.tasks.base import Task, write_file
from model_hub_rqa.trials.datasets import named_reader
from model_hub_rqa.trials.loaders import LoadersTrial
from model_hub_rqa.trials.reducers import ByIdReducer, Values

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ValidationTrial(LoadersTrial):
    """What a `TaskTrial` does in a validation: `evaluate_batch` for each batch, `compute_metrics` at its end."""

    label_names: tuple[str, ...] = ("labels",)
    include_inputs: tuple[str, ...] = ()
    validation_set = ""
    output_dir: Path | None
    metric_error: Exception | None = None
    passage_reader: Reader | None = None
    reducer: Any
    compute_loss: Callable[..., torch.Tensor]
    model_inputs: Callable[..., dict[str, Any]]
    autocast: Callable[[], contextlib.AbstractContextManager[Any]]

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        """Of each metric; a class may set a plain dict instead."""
        if self.task is None:
            return {"eval_loss": False, "loss": False}
        added = {name: getattr(one.factory, "higher_is_better", None) for name, one in self.metrics.items()}
        return {**self.task.higher_is_better, **added}

    def build_reducer(self) -> pytorch.MetricReducer:
        """What gathers a validation over ranks: ``self.reducer``, which `evaluate_batch` updates."""
        return ByIdReducer(self._metrics_or_error, is_chief=self.context.distributed.rank == 0)

    def predict(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What a validation keeps of the model's outputs: tensors by name, each with a row an example.

        The model does not see the labels; an override may show them to it.
        """
        model = unwrapped(self.model)  # ranks may have different numbers of batches
        inputs = {name: column for name, column in batch.items() if name not in self.label_names}
        return {"logits": model(**self.model_inputs(inputs)).logits}

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Hands on, by ``example_index``, what `predict` gives, the labels and the columns of ``include_inputs``.

        Of a task, it hands on what `Task.predict` gives. For a trial without metrics of its own it hands on the loss of
        the batch, from `compute_loss`.
        """
        if self.task is not None:
            self.task.wants_files = self.output_dir is not None
            with self.autocast():
                self.reducer.update(self.task.predict(unwrapped(self.model), batch))
            return {}
        if not self._overrides("compute_metrics"):
            loss = self._validation_loss(batch)
            self.reducer.update(dict.fromkeys(batch["example_index"].tolist(), loss))
            return {}
        with self.autocast():
            predicted = self.predict({**batch})
        names = [name for name in (*self.label_names, *self.include_inputs) if name in batch]
        columns = {**predicted, **{name: batch[name] for name in names}}
        plain = {name: _to_numpy(column) for name, column in columns.items()}
        indices = batch["example_index"].tolist()
        rows = ({name: column[row] for name, column in plain.items()} for row in range(len(indices)))
        self.reducer.update(dict(zip(indices, rows, strict=True)))
        return {}

    def compute_metrics(self, values: Values) -> dict[str, float]:
        """Metrics of a validation from the values that `evaluate_batch` gave the reducer, sorted by id.

        Where ``data.validation`` lists several sets, it is called for each with that set's values alone.
        For an override a value is {name: array}: an example's rows of what `predict` gave and of the columns handed
        on. By default it is eval_loss (and loss, another name of it): the mean over the examples of their batch's loss.
        Of a task, the values are its predictions: they are decoded, written where ``output_dir`` is set, and scored.
        """
        if self.task is not None:
            return self._task_metrics(self.task, values)
        loss = sum(values.values()) / len(values)
        return {"eval_loss": loss, "loss": loss}

    def _task_metrics(self, task: Task, values: Values) -> dict[str, float]:
        keys: Any = list(values)
        indices = sorted({example_index_of(key) for key in keys})
        rows: dict[Any, int] = {index: row for row, index in enumerate(indices)}
        examples = self.evaluated(self.read["validation"], indices)
        predictions = {
            (rows[key[0]], *key[1:]) if isinstance(key, tuple) else rows[key]: value for key, value in values.items()
        }
        languages = {one.name: one.language for one in self.named_datasets.get("validation", ())}
        task.dataset, task.language = self.validation_set, languages.get(self.validation_set) or self.data.language
        results = task.decode(predictions, examples)
        if self.output_dir is not None:
            for name, content in task.files(results, examples).items():
                write_file(self.prediction_path(name), content)
        metrics = task.metrics(results, examples)
        if self.passage_reader is not None:
            metrics |= self._reading_metrics(self.passage_reader, task, task.to_read(results, examples))
        if self.metrics:
            texts = [answer.text for answer in task.answers(results, examples)]
            metrics |= metric_names.added_metrics(self.metrics, texts, task.references(examples))
        return metrics

    def _reading_metrics(self, reader: Reader, task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Exact match and F1 of the answers from the passages that were ranked, as ``rqa evaluate`` has them."""
        answers = list[Answer]()
        with self._kept_random_state():
            for begin in range(0, len(rows), QUESTIONS_AT_A_TIME):
                answers += answer_found(reader, [question_of(row) for row in rows[begin : begin + QUESTIONS_AT_A_TIME]])
        texts, references = [answer.text for answer in answers], [row["answers"] for row in rows]
        lines = [
            {
                **{name: row[name] for name in ("id", "question")},
                "prediction": text,
                "references": row["answers"],
                "passages": row["passages"],
            }
            for row, text in zip(rows, texts, strict=True)
        ]
        write_file(self.prediction_path("answers.jsonl"), lines)
        names = ("exact_match", "f1")
        if not rows:  # Determined's test mode evaluates one batch
            return dict.fromkeys(names, 0.0)
        scores = generation_metrics(texts, references, rules=task.answer_rules(references))
        return {name: scores[name] for name in names}

    def load_reader(self) -> Reader | None:
        """The reader that each validation asks (`Task.reader_folder`), on the first rank; elsewhere None.

        Raises:
            ConfigError: on every rank: it cannot be loaded, or refuses a question.
        """
        task, distributed = self.task, self.context.distributed
        if task is None or task.reader_folder is None:
            return None
        reader, error = None, None
        if distributed.rank == 0:
            try:
                with named_reader(), self._kept_random_state():
                    reader = Reader.from_pretrained(task.reader_folder)
                    examples = self.read["validation"]
                    rows = task.to_read([[]] * len(examples), examples)
                    if refused := reader.task.question_errors([question_of(row) for row in rows]):
                        raise DataError(refused.values())
            except ConfigError as failure:
                error = failure
        if distributed.size > 1:
            error = distributed.broadcast(error)
        if error is not None:
            raise error
        return reader

    @contextlib.contextmanager
    def _kept_random_state(self) -> Iterator[None]:
        """Leaves every generator as it was: training goes on as without a reader."""
        states = random.getstate(), np.random.get_state()
        device = self.context.device
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])

    def validation_metrics(self, values: Values) -> dict[str, float]:
        """The metrics of a validation; where questions of its files were left out, ``n_skipped`` says how many."""
        metrics = self._metrics_by_set(values)
        counts = totals(self.file_counts).get("validation", {})
        if not counts.get("skipped"):
            return metrics
        read, whole = counts["read"], counts["read"] + counts["skipped"]
        logger.warning("this validation is over %d questions of %d: %d were left out", read, whole, counts["skipped"])
        return {**metrics, "n_skipped": counts["skipped"]}

    def _metrics_by_set(self, values: Values) -> dict[str, float]:
        if not self.sets["validation"]:
            return self.compute_metrics(values)

        def compute(name: str, part: Values) -> dict[str, float]:
            self.validation_set = name
            try:
                return self.compute_metrics(part)
            finally:
                self.validation_set = ""

        return metrics_by_dataset(values, self.sets["validation"], compute)

    def _metrics_or_error(self, values: Values) -> dict[str, float]:
        if not values:  # `evaluate_batch` has returned metrics itself
            return {}
        try:
            return self.validation_metrics(values)
        except Exception as error:  # of the user's code, say; `MetricError` raises it on every rank
            self.metric_error = error
            return {}

    def _validation_loss(self, batch: Mapping[str, Any]) -> float:
        wrapped, self.model = self.model, unwrapped(self.model)  # ranks may have different numbers of batches
        try:
            with self.autocast():
                return self.compute_loss({**batch}).item()
        finally:
            self.model = wrapped

    def evaluated(self, examples: Any, indices: Sequence[Any]) -> Any:
        """Those of ``examples`` that a validation has evaluated, by their indices; logs it if some miss."""
        bounds = self.sets["validation"]
        wanted = len(bounds[self.validation_set]) if self.validation_set else len(examples)
        if len(indices) < wanted:  # Determined's test mode evaluates one batch
            logger.info("metrics are of %d of %d validation examples", len(indices), wanted)
        return examples if len(indices) == len(examples) else examples.select(indices)

    def prediction_path(self, name: str) -> Path | None:
        """Where a validation writes a file such as predictions.json; with several sets, predictions_NAME.json.

        None where no files are wanted.
        """
        if self.output_dir is None:
            return None
        path = self.output_dir / name
        return path.with_stem(f"{path.stem}_{self.validation_set}") if self.validation_set else path


def metrics_by_dataset(
    values: Values, bounds: Mapping[str, range], compute: Callable[[str, Values], dict[str, float]]
) -> dict[str, float]:
    """Computes the metrics of each set as if it were alone.

    Args:
        values: of a validation, by the example's number, or by a tuple that begins with it; sorted. Numbers behind
            those of the sets belong to each of them.
        bounds: of each set, in their order, the indices of its examples.
        compute: from a set's name and its values to metrics.

    Returns:
        ``name/metric`` for each set in its order; then, under the metric's plain name, the mean over the sets, where
        every set reports it. A set without values (Determined's test mode evaluates one batch) has NaN for the metrics
        of the others, and no part in the mean.
    """
    found: dict[str, dict[str, float]] = {}
    end = max((indices.stop for indices in bounds.values()), default=0)
    shared = {key: value for key, value in values.items() if example_index_of(key) >= end}
    for name, indices in bounds.items():
        part = {key: value for key, value in values.items() if example_index_of(key) in indices}
        if part:
            part |= shared
            found[name] = compute(name, part)
        else:
            logger.info("no example of %s was evaluated", name)
    if not found:
        return {}
    names = dict.fromkeys(metric for metrics in found.values() for metric in metrics)
    result: dict[str, float] = {}
    for name in bounds:
        metrics = found.get(name, dict.fromkeys(names, math.nan))
        result |= {f"{name}/{metric}": value for metric, value in metrics.items()}
    for metric in names:
        if all(metric in metrics for metrics in found.values()):
            result[metric] = sum(metrics[metric] for metrics in found.values()) / len(found)
    return result


def example_index_of(key: Any) -> int:
    """The number of the example that a value of a validation is of."""
    return int(key[0] if isinstance(key, tuple) else key)


def _to_numpy(column: Any) -> Any:
    """A column on the CPU; bfloat16, which numpy lacks, as float32."""
    if not isinstance(column, torch.Tensor):
        return column
    column = column.detach().cpu()
    return (column.float() if column.is_floating_point() else column).numpy()
