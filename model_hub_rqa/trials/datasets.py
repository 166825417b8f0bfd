"""The data of a `TaskTrial`: examples of files, then features, then batches."""

import contextlib
import copy
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher

from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.data.arrow_cache import FileLoader, map_examples, module_file, source_digest
from model_hub_rqa.data.features import INDEX, check_batch, complete_datasets, with_row_numbers, with_shifted_rows
from model_hub_rqa.data.several import dataset_ids, join_datasets
from model_hub_rqa.data.shards import FileCounts, counting
from model_hub_rqa.errors import ConfigError, DataError, ErrorCollector, RqaError
from model_hub_rqa.models import build
from model_hub_rqa.models.limits import Limits, read_limits
from model_hub_rqa.readers import check_reader
from model_hub_rqa.runtime import determined_fixes
from model_hub_rqa.tasks.base import Task, Variant
from model_hub_rqa.trials.settings import SettingsTrial


@contextlib.contextmanager
def named_reader() -> Iterator[None]:
    """Errors of a reader name the setting that it is from."""
    try:
        yield
    except RqaError as error:
        raise ConfigError(f"data.reader: {line}" for line in error.errors) from error


_LATER = ("context", "model", "optimizer", "lr_scheduler", "reference", "bf16", "scaler")
"""What a trial does not have until its model is built; ``rqa validate`` has no context either."""


logger = logging.getLogger(__name__)

T = TypeVar("T")


class DatasetsTrial(SettingsTrial):
    """The second step of a `TaskTrial`: `prepare` loads examples, config and tokenizer, and builds the features."""

    examples: Mapping[str, Any]
    datasets: Mapping[str, Any]
    sets: dict[str, dict[str, range]]
    file_counts: Sequence[FileCounts] = ()

    def prepare(self, experiment: Experiment) -> None:
        """Parses the settings, then loads examples, config and tokenizer and builds the features.

        Raises:
            ConfigError, DataError: with every error.
        """
        self.parse(experiment)
        self.examples: Mapping[str, Any] = {}
        self.datasets: Mapping[str, Any] = {}
        self.sets: dict[str, dict[str, range]] = {"train": {}, "validation": {}}
        context = getattr(self, "context", None)
        if context is not None and determined_fixes.is_loading_only(context):
            self._build_config_and_tokenizer()
            return
        with counting() as self.file_counts:
            loaded = self.take_settings(self._once_per_host(self._load_examples))
        self.examples = self._join_datasets(loaded)
        self._build_config_and_tokenizer()
        self.check()
        self.read = self.examples
        built = self._once_per_host(self._build_datasets)
        self.datasets = complete_datasets(built, self.examples, f"{type(self).__name__}.build_datasets")
        for name in ("train", "validation"):
            if not len(self.datasets[name]):
                raise DataError(f"data: the {name} split holds no example")
        self._warn_of_large_batch()
        self.batches_checked = self.check_batches()

    def _warn_of_large_batch(self) -> None:
        """Warns where an optimizer step takes more examples than there are: each counts several times in it."""
        trainer, examples = self.trainer, len(self.datasets["train"])
        step = trainer.global_batch_size * trainer.gradient_accumulation_steps
        if step <= examples or trainer.validates_only or trainer.max_tokens_per_batch is not None:
            return
        logger.warning(
            "hyperparameters.global_batch_size: an optimizer step takes %d examples%s, and there are %d to train on: "
            "they are repeated within the step",
            step,
            "" if trainer.gradient_accumulation_steps == 1 else f" ({trainer.global_batch_size} a batch)",
            examples,
        )

    def _load_examples(self) -> Mapping[str, Any]:
        """`load_examples`; an error comes with all others of the data."""
        errors = ErrorCollector()
        errors.attempt(self._check_reader)
        loaded: Any = errors.attempt(self.load_examples)
        if errors and self.task is not None and type(self.task).check_examples is not Task.check_examples:
            errors.attempt(self.task.check_examples, self._readable())
        errors.raise_any()
        return loaded  # type: ignore[no-any-return]

    def _build_datasets(self) -> Mapping[str, Any]:
        """`build_datasets`, likewise."""
        errors = ErrorCollector()
        built: Any = errors.attempt(self.build_datasets)
        if errors and self.task is not None:
            errors.attempt(self.task.check_examples, self.examples)
        errors.raise_any()
        return built  # type: ignore[no-any-return]

    def _readable(self) -> dict[str, list[Any]]:
        """By split, the records without errors of the files that can be read."""
        from model_hub_rqa.data.loading import load_split
        from model_hub_rqa.data.several import reader_of

        found: dict[str, list[Any]] = {"train": [], "validation": []}
        log = logging.getLogger("model_hub_rqa.data")
        level = log.level
        log.setLevel(logging.ERROR)  # what is left out here is in the error already
        try:
            for split, rows in found.items():
                for one in self.named_datasets.get(split, (self.data,)):
                    if getattr(one, "factory", None) is None:
                        with contextlib.suppress(RqaError):
                            lenient: Any = dataclasses.replace(cast("Any", one), on_bad_record="skip")
                            reader = self.build_reader()
                            if self.named_datasets:
                                reader = reader_of(lenient, reader, f"data.{split}")
                            rows += load_split(lenient, split, seed=self.seed, reader=reader)
        finally:
            log.setLevel(level)
        return found

    def _check_reader(self) -> None:
        folder = None if self.task is None else self.task.reader_folder
        if folder is not None:
            with named_reader():
                check_reader(folder)

    def load_examples(self) -> Mapping[str, Any]:
        """The raw "train" and "validation" examples; either may be a mapping of several sets by name."""
        from model_hub_rqa.data.loading import load_splits
        from model_hub_rqa.data.several import load_datasets

        if self.task is not None and not self.task.reads_hub:
            self._refuse_hub(type(self.task))
        reader = self.build_reader()
        if not self.named_datasets:
            result: Mapping[str, Any] = load_splits(self.data_settings, seed=self.seed, reader=reader)
            return result
        version_2 = bool(self.data_settings.get("version_2_with_negative"))
        return load_datasets(self.named_datasets, seed=self.seed, reader=reader, version_2_with_negative=version_2)

    def _refuse_hub(self, task: type[Task]) -> None:
        entries: dict[str, Any] = {
            f"data.{split}[{number}]": one
            for split, sets in self.named_datasets.items()
            for number, one in enumerate(sets)
        }
        named = {path: one.dataset_name for path, one in {**entries, "data": self.data}.items()}
        errors = [
            f"{path}.dataset_name: examples of the task {task.name} come from files (train_file, validation_file), "
            f"got {name!r}"
            for path, name in named.items()
            if name is not None
        ]
        if errors:
            raise ConfigError(errors)

    def build_reader(self) -> FileLoader | None:
        """What reads and validates a file of examples; None for SQuAD's format."""
        return None if self.task is None else self.task.file_loader()

    def take_settings(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """The examples that were loaded; what registered data sets bring along goes to ``self.dataset_settings``."""
        examples: dict[str, Any] = dict(loaded)
        for split, parts in loaded.items():
            if not isinstance(parts, Mapping):
                continue
            examples[split] = {name: getattr(part, "examples", part) for name, part in parts.items()}
            brought = {(split, name): getattr(part, "settings", {}) for name, part in parts.items()}
            self.dataset_settings |= {key: settings for key, settings in brought.items() if settings}
        return examples

    def _join_datasets(self, loaded: Mapping[str, Any]) -> Mapping[str, Any]:
        """Puts the named data sets of a split one after another, and notes in ``self.sets`` where each is."""
        joined = dict(loaded)
        for split, parts in loaded.items():
            if isinstance(parts, Mapping):
                joined[split], bounds = join_datasets(parts)
                self.sets[split] = {} if list(bounds) == [""] else bounds
            # so that a build_datasets of one's own that calls Dataset.map itself sees its own edits, too
            if isinstance(joined[split], Dataset):
                code = source_digest(module_file(type(self).__module__))
                joined[split]._fingerprint = Hasher.hash([joined[split]._fingerprint, code])
        return joined

    def build_config_and_tokenizer(self) -> tuple[Any, Any]:
        """The model's config and tokenizer; a subclass may look at ``self.examples``, say for num_labels."""
        parts = self.init_source.parts
        return build.build_config_and_tokenizer(
            self.config_kwargs if "config" in parts else None, self.tokenizer_kwargs if "tokenizer" in parts else None
        )

    def _build_config_and_tokenizer(self) -> None:
        self.config, self.tokenizer = self.build_config_and_tokenizer()
        if self.task is not None:
            self.config = self.task.adapt_config(self.config, self.tokenizer)
            self.task.setup(self.config, self.tokenizer, self.limits)
            self.settings, self.task.variants = self.task.settings, self._variants()

    @functools.cached_property
    def limits(self) -> Limits:
        """What the model takes, known before its weights are loaded."""
        mode = self.trainer.model_mode or self.default_model_mode
        trust = bool(getattr(self.model_kwargs, "trust_remote_code", False))
        return read_limits(self.config, mode, trust_remote_code=trust)

    def check(self) -> None:
        """Raises ConfigError for settings that do not fit the config or the tokenizer."""
        if self.task is None:
            return
        errors = ErrorCollector()
        if self.task.fixed_model and self.components.model is not None:
            built = f"a {type(self).__name__} always builds its own"
            errors.add(ConfigError(f"hyperparameters.model: must be unset, {built}"))
        if self.task.fixed_model and self.trainer.model_mode not in (None, self.task.model_mode):
            mode = self.trainer.model_mode
            errors.add(ConfigError(f"hyperparameters.model_mode: must be {self.task.model_mode} or unset, got {mode}"))
        errors.attempt(self.task.check)
        errors.raise_any()

    def build_datasets(self) -> Mapping[str, Any]:
        """Turns ``self.examples`` into "train" and "validation", each a datasets.Dataset of features.

        Use ``self.map_examples(split, function)``: its cache notices when you edit the function. Two columns are added
        where they are missing and can be known: ``length``, the tokens of a feature, counted from its lists, and
        ``example_index``, the row of ``self.examples[split]`` that it is made of, where it maps row by row.
        """
        if self.task is None:
            raise ConfigError(f"{type(self).__name__}.build_datasets: must be written, or a task be named (task)")
        self.read = self.task.prepare(self.examples)
        errors = ErrorCollector()
        features = {split: errors.attempt(self._features, self.task, split) for split in self.read}
        errors.raise_any()
        return features

    def _features(self, task: Task, split: str) -> Any:
        """The features of a split: of each data set by its own settings, where some bring their own along."""
        examples, training = self.read[split], split == "train"
        variants = [variant for variant in task.variants if variant.split == split]
        if not variants:
            return task.features(examples, training=training)
        from datasets import concatenate_datasets

        errors, parts = ErrorCollector(), list[Any]()
        for variant in variants:
            rows = self.sets[split].get(variant.dataset, range(len(examples)))
            own = copy.copy(task)
            own.settings, own.dataset = variant.settings, variant.dataset
            made = errors.attempt(own.features, examples.select(rows), training=training)
            if made is not None:
                parts.append(with_shifted_rows(made, rows.start))
        errors.raise_any()
        return concatenate_datasets(parts).with_format(**parts[0].format) if len(parts) > 1 else parts[0]

    def _variants(self) -> list[Variant]:
        """The task's settings as each data set has them; [] where none brings its own along."""
        if not self.dataset_settings:
            return []
        errors: dict[str, None] = {}
        found = []
        settings: Any = self.settings
        for split, sets in self.sets.items():
            for name in sets or [""]:
                own = self.dataset_settings.get((split, name), {})
                path = f"data.datasets.{name or getattr(self.data, split)}.args" if own else "data"
                try:
                    found.append(Variant(split, name, dataclasses.replace(settings, **own), path))
                except ConfigError as error:
                    errors |= {f"{path}.{line.partition('.')[2]}": None for line in error.errors}
        if errors:
            raise ConfigError(errors)
        return found

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

    def dataset_ids(self, split: str) -> np.ndarray:
        """The number, in the order of ``self.sets[split]``, of the set that each feature is of."""
        features = self.datasets[split]
        index = features["example_index"][:] if "example_index" in features.column_names else range(len(features))
        return dataset_ids(self.sets[split], index)

    def build_collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        """Makes a plain dict of tensors of a list of features; ``example_index`` among them, for a validation."""
        if self.task is None:
            raise ConfigError(f"{type(self).__name__}.build_collator: must be written, or a task be named (task)")
        return self.task.collate

    def build_registered_collator(self) -> Callable[[list[Any]], dict[str, Any]] | None:
        """The registered collator that the configuration names, or None."""
        component = self.components.collator
        if component is None:
            return None
        collator: Callable[[list[Any]], dict[str, Any]] = component.build(
            tokenizer=self.tokenizer, pad_to_multiple_of=self.pad_to_multiple_of
        )
        return collator

    def check_batches(self) -> bool:
        """Tries the collator on two features of each split.

        Returns:
            Whether it could be tried: not where it needs what the trial has only once its model is built.

        Raises:
            DataError, ConfigError: it fails, or its batches lack ``example_index``.
        """
        named, validates = self.components.collator, type(self).evaluate_batch
        source = f"{type(self).__name__}.build_collator" if named is None else f"{named.path}: {named.name}"
        indexed = not self._overrides("evaluate_batch") or INDEX in validates.__code__.co_consts
        try:
            collator = self.build_registered_collator() or self.build_collator()
            for split, features in self.datasets.items():
                check_batch(collator, features, split, indexed=indexed and split == "validation", source=source)
        except (AttributeError, DataError) as error:
            missing = error if isinstance(error, AttributeError) else error.__cause__
            if isinstance(missing, AttributeError) and missing.obj is self and missing.name in _LATER:
                return False
            raise
        return True

    def _once_per_host(self, step: Callable[[], T]) -> T:
        """Runs a step on each host's first rank, which fills the cache, and then on its others, which read it."""
        context = getattr(self, "context", None)
        if context is None or context.distributed.local_size == 1:
            return step()
        distributed = context.distributed
        result, failure = None, None
        if distributed.local_rank == 0:
            try:
                result = step()
            except Exception as error:  # whatever it is, the host's other ranks wait for an answer
                distributed.broadcast_local(error if isinstance(error, RqaError) else RuntimeError(str(error)))
                raise
        failure = distributed.broadcast_local(failure)
        if failure is not None:
            raise failure
        return step() if result is None else result
