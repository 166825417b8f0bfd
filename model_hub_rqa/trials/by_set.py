"""What a trial knows of several named sets on one side, and a validation over them."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher

from model_hub_rqa.config import DatasetKwargs
from model_hub_rqa.config.datasets import NamedSetKwargs, parse_named_sets
from model_hub_rqa.config.fields import did_you_mean
from model_hub_rqa.data.arrow_cache import map_examples, module_file, source_digest
from model_hub_rqa.data.features import with_row_numbers
from model_hub_rqa.data.several import join_sets, set_numbers
from model_hub_rqa.data.shards import FileCounts, totals
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.objectives import anchor_of
from model_hub_rqa.trials.base import BaseTransformerTrial
from model_hub_rqa.trials.chosen import ChosenComponents
from model_hub_rqa.trials.reducers import Values

logger = logging.getLogger(__name__)


class SetsTrial(ChosenComponents, BaseTransformerTrial):
    """The part of `TaskTrial` that deals with named sets; its attributes are described there."""

    takes_keyed_batches = False
    validation_set = ""
    output_dir: Path | None
    examples: Mapping[str, Any]
    datasets: Mapping[str, Any]
    file_counts: Sequence[FileCounts] = ()
    sets: dict[str, dict[str, range]]
    data: DatasetKwargs
    named_sets: Mapping[str, tuple[NamedSetKwargs, ...]]

    def compute_metrics(self, values: Values) -> dict[str, float]:
        raise NotImplementedError

    def _parse_sets(self, data: DatasetKwargs) -> Mapping[str, tuple[NamedSetKwargs, ...]]:
        sets = parse_named_sets(data)
        names = [one.name for one in sets.get("train", ())]
        if data.anchor is not None and data.anchor not in names:
            raise ConfigError(
                f"data.anchor: must be a set of data.train ({', '.join(names)}), got {data.anchor!r}"
                f"{did_you_mean(data.anchor, names)}"
            )
        if data.mixing == "keyed" and not (self.takes_keyed_batches or self.objective_takes_sets()):
            raise ConfigError(
                f"data.mixing: keyed needs a trial whose compute_loss takes batches by name, {type(self).__name__} has "
                "none (takes_keyed_batches)"
            )
        return sets

    def set_numbers(self, split: str) -> np.ndarray:
        """The number, in the order of ``self.sets[split]``, of the set that each feature is of."""
        features = self.datasets[split]
        index = features["example_index"][:] if "example_index" in features.column_names else range(len(features))
        return set_numbers(self.sets[split], index)

    def anchor(self: Any) -> int | None:
        """The number of the set whose length is an epoch of keyed batches; None for the longest."""
        name = self.data.anchor or anchor_of(self.objective)
        return list(self.sets["train"]).index(name) if name in self.sets["train"] else None

    def map_examples(self, split: str, function: Callable[..., Any], **options: Any) -> Any:
        """What ``function`` makes of ``self.examples[split]``, cached until the data, the code or the settings change.

        Args:
            split: "train" or "validation".
            function: from a row (a dict) to the columns to add.
            options: of ``datasets.Dataset.map``, such as ``with_indices`` or ``batched``.

        Returns:
            The new columns, beside those of the examples that are not removed; ``example_index``, the row in
            ``self.examples[split]``, is added where the function maps row by row and does not give it.
        """
        made = map_examples(self.examples[split], function, overwrite_cache=self.data.overwrite_cache, **options)
        return made if options.get("batched") else with_row_numbers(made)

    def _join_sets(self, loaded: Mapping[str, Any]) -> Mapping[str, Any]:
        """Puts the named sets of a side one after another, and notes in ``self.sets`` where each is."""
        joined = dict(loaded)
        for side, parts in loaded.items():
            if isinstance(parts, Mapping):
                joined[side], bounds = join_sets(parts)
                self.sets[side] = {} if list(bounds) == [""] else bounds
            # so that a build_datasets of one's own that calls Dataset.map itself sees its own edits, too
            if isinstance(joined[side], Dataset):
                code = source_digest(module_file(type(self).__module__))
                joined[side]._fingerprint = Hasher.hash([joined[side]._fingerprint, code])
        return joined

    def evaluated(self, examples: Any, numbers: Sequence[Any]) -> Any:
        """Those of ``examples`` that a validation has evaluated, by their numbers; says in the log if some miss."""
        bounds = self.sets["validation"]
        wanted = len(bounds[self.validation_set]) if self.validation_set else len(examples)
        if len(numbers) < wanted:  # Determined's test mode evaluates one batch
            logger.info("metrics are of %d of %d validation examples", len(numbers), wanted)
        return examples if len(numbers) == len(examples) else examples.select(numbers)

    def prediction_path(self, name: str) -> Path | None:
        """Where a validation writes a file such as predictions.json; with several sets, predictions_NAME.json.

        None where no files are wanted.
        """
        if self.output_dir is None:
            return None
        path = self.output_dir / name
        return path.with_stem(f"{path.stem}_{self.validation_set}") if self.validation_set else path

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

        return metrics_by_set(values, self.sets["validation"], compute)


def metrics_by_set(
    values: Values, bounds: Mapping[str, range], compute: Callable[[str, Values], dict[str, float]]
) -> dict[str, float]:
    """Computes the metrics of each set as if it were alone.

    Args:
        values: of a validation, by the example's number, or by a tuple that begins with it; sorted. Numbers behind
            those of the sets belong to each of them.
        bounds: of each set, in their order, the numbers of its examples.
        compute: from a set's name and its values to metrics.

    Returns:
        ``name/metric`` for each set in its order; then, under the metric's plain name, the mean over the sets, where
        every set reports it. A set without values (Determined's test mode evaluates one batch) has NaN for the metrics
        of the others, and no part in the mean.
    """
    found: dict[str, dict[str, float]] = {}
    end = max((numbers.stop for numbers in bounds.values()), default=0)
    shared = {key: value for key, value in values.items() if example_number(key) >= end}
    for name, numbers in bounds.items():
        part = {key: value for key, value in values.items() if example_number(key) in numbers}
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


def example_number(key: Any) -> int:
    """The number of the example that a value of a validation is of."""
    return int(key[0] if isinstance(key, tuple) else key)
