"""RelevanceTask: what retrievers and rerankers share, the records that they learn from and the passages of an epoch."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from model_hub_rqa.config import Kwargs, option
from model_hub_rqa.config.fields import FieldError
from model_hub_rqa.data.arrow_cache import FileLoader
from model_hub_rqa.data.formats.fields import format_errors, parse_format
from model_hub_rqa.errors import ConfigError, DataError, ErrorCollector
from model_hub_rqa.libraries import check_libraries
from model_hub_rqa.tasks.base import Task
from model_hub_rqa.tasks.retriever.records import Row, negatives_of, passage_key, positives_of, relevance_reader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RelevanceKwargs(Kwargs):
    """Where a record has its question and its passages."""

    format: str | None = option(
        None, help="the format of the files, as kilt or dpr, or package.module:Class; unset: by the first record"
    )
    fields: Mapping[str, Any] | None = option(
        None, help='where the parts of a record are, for other files: {question: q, passages: "docs[*].text"}'
    )
    reader: str | None = option(
        None, help="a run, checkpoint or folder of a reader, which answers from the passages that a validation ranks"
    )
    reader_top_k: int = option(5, ge=1, le=1000, help="with reader: the first passages of a ranking that it reads")

    def errors(self) -> Iterator[FieldError]:
        yield from format_errors(self.format, self.fields)
        if self.reader is None and self.reader_top_k != 5:
            yield FieldError(("reader_top_k", "reader"), "is ignored without reader")


class RelevanceTask(Task):
    """Learns from questions with positive and negative passages: the records of `read_relevance`.

    Attributes:
        passage_columns: those of a batch that have a row for each passage.
        scored: the losses that learn the passages' scores; with the last one, positives need not be marked.
        instead: what a model of it is for, since it answers no questions.
        measures: of a ranking; higher is better.
    """

    fixed_model, reads_hub = True, False
    passage_columns: ClassVar[tuple[str, ...]] = ()
    scored: ClassVar[tuple[str, ...]] = ()
    instead: ClassVar[str] = ""
    measures: ClassVar[tuple[str, ...]] = ()

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        read = () if self.settings.reader is None else ("exact_match", "f1")
        return dict.fromkeys((*self.measures, *read), True)

    @property
    def reader_folder(self) -> str | None:
        folder: str | None = self.settings.reader
        return folder

    @classmethod
    def adapt_hyperparameters(cls, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
        errors = []
        if hparams.get("max_tokens_per_batch") is not None:
            errors.append(
                "hyperparameters.max_tokens_per_batch: must be unset, since the loss needs batches of one size"
            )
        if data.get("metrics"):
            errors.append("data.metrics: must be unset, since passages are ranked and no answers given")
        if errors:
            raise ConfigError(errors)
        return hparams

    def file_loader(self, *, labelled: bool = True) -> FileLoader | None:
        check_libraries("sentence_transformers", "ir_measures")
        return relevance_reader(parse_format(self.settings.format, self.settings.fields))

    def load(self, path: str, *, labelled: bool = True, on_bad_record: str = "error") -> Any:
        if labelled:
            return super().load(path, labelled=labelled, on_bad_record=on_bad_record)
        raise DataError(f"{self.name}: answers no questions: {self.instead}")

    def auto_class(self) -> Any:
        raise ConfigError(f"{self.name}: answers no questions: {self.instead}")

    def relevance(self, record: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
        """Positives and negatives; for a loss that learns scores, those that have one."""
        positives, negatives = positives_of(record), negatives_of(record)
        if self.settings.loss in self.scored:
            positives, negatives = _with_scores(positives), _with_scores(negatives)
        return positives, negatives

    def unusable(self, record: Mapping[str, Any]) -> str | None:
        """Why a record cannot be learned from, or None."""
        (positives, negatives), settings = self.relevance(record), self.settings
        wanted, scored = settings.num_hard_negatives, settings.loss in self.scored
        if settings.loss == "kl":
            count, least = len(positives) + len(negatives), 1 + wanted
            return None if count >= least else f"must have at least {least} passages with scores, got {count}"
        if not positives:
            return f"must have a positive passage{' with a score' if scored else ''}, got none"
        if scored and len(negatives) < wanted:
            return f"must have at least {wanted} negatives with scores, got {len(negatives)}"
        if wanted and not negatives:
            return f"must have a negative passage (num_hard_negatives is {wanted}), got none"
        return None

    def check_judged(self, examples: Any) -> None:
        """Raises DataError with each validation record without a positive passage, or without an answer to score."""
        errors = []
        for record in examples:
            location = f"data: validation record {record['id']}"
            if not positives_of(record):
                errors.append(f"{location}: must have a positive passage, got none")
            if self.settings.reader is not None and not record["answers"]:
                errors.append(f"{location}: must have answers, since data.reader is to give them, got none")
        if errors:
            raise DataError(errors)

    def check_examples(self, examples: Mapping[str, Any]) -> None:
        errors = ErrorCollector()
        if not self.variants:  # data sets with settings of their own
            errors.attempt(self._unusable_rows, examples.get("train", ()))
        errors.attempt(self.check_judged, examples.get("validation", ()))
        errors.raise_any()

    def _unusable_rows(self, examples: Any) -> dict[int, str]:
        """What is wrong with training records, by row; DataError with all of it where they may not be left out."""
        why = {row: text for row, record in enumerate(examples) if (text := self.unusable(record))}
        named = {row: f"data: train record {examples[row]['id']}: {text}" for row, text in why.items()}
        if named and (self.on_bad_record != "skip" or len(named) == len(examples)):
            raise DataError(named.values())
        return named

    def features(self, examples: Any, *, training: bool) -> Any:
        """As `Task.features`; training records that cannot be learned from are an error, or have no feature."""
        bad = self._unusable_rows(examples) if training else {}
        features = super().features(examples, training=training)
        if not bad:
            return features
        logger.warning("%d training records left out, the first: %s", len(bad), next(iter(bad.values())))
        return features.select([row for row in range(len(examples)) if row not in bad])

    def candidates(self, record: Mapping[str, Any]) -> tuple[list[Row], int]:
        """The passages of a training record from which an epoch draws, and how many of them, the first, are positives.

        For the loss kl, which has no use for them, the first of the record that have scores, and 0.
        """
        positives, negatives = self.relevance(record)
        wanted = self.settings.num_hard_negatives
        if self.settings.loss == "kl":
            return _with_scores([*record["passages"], *record["negatives"]])[: 1 + wanted], 0
        return [*positives, *(negatives if wanted else ())], len(positives)

    def draw(self, epoch: int, index: int, n_positives: int, n_passages: int) -> list[int]:
        """Which candidates of a record are learned in an epoch: a positive, and num_hard_negatives of the others.

        Args:
            epoch: its number.
            index: the record's; the draw depends on both and on the seed alone.
            n_positives: the first so many candidates.
            n_passages: all candidates. Where there are too few negatives, some come again.
        """
        wanted, negatives = self.settings.num_hard_negatives, n_passages - n_positives
        if n_positives == 0:
            return list(range(1 + wanted))
        rng = np.random.default_rng([self.seed, epoch, index])
        positive = int(rng.integers(n_positives))
        enough = negatives >= wanted
        drawn = (
            rng.choice(negatives, wanted, replace=False) if enough else np.resize(rng.permutation(negatives), wanted)
        )
        return [positive, *(np.sort(drawn) + n_positives).tolist()]

    def training_batch(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """The passages that are learned in an epoch: of each question a positive and num_hard_negatives others [B, K];
        with fewer of those, some come again."""
        records = zip(*(batch[name].tolist() for name in ("example_index", "n_positives", "n_passages")), strict=True)
        drawn = torch.tensor([self.draw(epoch, *record) for record in records], device=batch["scores"].device)
        rows = torch.arange(len(drawn), device=drawn.device)[:, None]
        learned = {name: batch[name][rows, drawn] for name in self.passage_columns if name in batch}
        return {**batch, **learned, "n_passages": None}


def _with_scores(passages: list[Row]) -> list[Row]:
    return [one for one in passages if one["score"] is not None]


def keys_of(passages: list[Row]) -> list[int]:
    """`passage_key` of each."""
    return [passage_key(one) for one in passages]
