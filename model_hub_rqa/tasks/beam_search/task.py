"""The extractive task with a beam search: the end of an answer is predicted from its start."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model_hub_rqa.config.fields import FieldError, option
from model_hub_rqa.errors import ConfigError, ErrorCollector
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.beam_search.decoding import beam_candidates, decode_beams
from model_hub_rqa.tasks.beam_search.model import (
    HEADS,
    BeamSearchHead,
    beam_loss,
    check_head,
    prepare_head,
    search_beams,
    set_beam,
)
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans, answer_logits
from model_hub_rqa.tasks.extractive.features import ExtractiveCollator, FeatureBuilder
from model_hub_rqa.tasks.extractive.model import freeze_unused_parameters
from model_hub_rqa.tasks.extractive.task import Extractive, ExtractiveKwargs


@dataclass(frozen=True, kw_only=True)
class BeamSearchKwargs(ExtractiveKwargs):
    """Windows over a context, and a beam search for the answers in them; training ignores both sizes."""

    start_n_top: int | None = option(None, ge=1, help="starts to go on from; unset: the model config's, mostly 5")
    end_n_top: int | None = option(None, ge=1, help="ends for each start; unset: the model config's, mostly 5")

    def errors(self) -> Iterator[FieldError]:
        yield from super().errors()
        for name in ("start_n_top", "end_n_top"):
            size = getattr(self, name)
            if size is not None and size > self.max_seq_length:
                text = f"must be <= max_seq_length ({self.max_seq_length}), got {size}"
                yield FieldError((name, "max_seq_length"), text)


class BeamSearchCollator(ExtractiveCollator):
    """Batches of `ExtractiveCollator` for a beam-search head; training features need ``return_offsets``.

    Adds ``p_mask`` float32 [B, T], 0 for what may be an answer (the context, and the CLS token for "no answer") and 1
    elsewhere, and in training ``is_impossible`` float32 [B], 1 for a window without the answer. A batch is at least as
    long as the beam is wide, since the head takes the best of all tokens.

    Whether there are token types is the model's to say, and not the tokenizer's: XLNet was pretrained with them, though
    its tokenizer does not offer them in transformers 5, and XLM would look them up among the words.
    """

    def __init__(self, tokenizer: Any, config: Any, pad_to_multiple_of: int = 1, max_length: int | None = None) -> None:
        super().__init__(tokenizer, pad_to_multiple_of, max(config.start_n_top, config.end_n_top), max_length)
        self.token_types = config.model_type == "xlnet"

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(features)
        width = batch["input_ids"].shape[1]
        first = _column(features, "context_position")
        if "context_length" in features[0]:
            length = _column(features, "context_length")
        else:
            length = np.array([len(feature["offset_starts"]) for feature in features])
        index = np.arange(width)
        context = (index >= first[:, None]) & (index < (first + length)[:, None])
        allowed = torch.from_numpy(context | (index == batch["cls_index"].numpy()[:, None]))
        batch["p_mask"] = (~allowed).float()  # the model multiplies by it
        if "start_positions" in batch:
            batch["is_impossible"] = (batch["start_positions"] == batch["cls_index"]).float()  # as its loss wants
        return batch


def _column(features: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([int(feature[name]) for feature in features])


@TASKS.register("beam-search")
class BeamSearch(Extractive):
    """Extractive for the beam-search heads of XLNet and XLM (Yang et al. 2019, arXiv:1906.08237).

    An end is predicted for each of the ``start_n_top`` best starts, and a classifier at the CLS token says whether
    there is an answer at all: its log-odds are v2.0's null score. The loss is the model's own. The logits of n-best
    lists are log-probabilities.
    """

    name, description = "beam-search", "an extractive reader with a beam-search head"
    Settings = BeamSearchKwargs
    fixed_model = True
    wants_n_best = True
    decode_spans = staticmethod(decode_beams)

    @classmethod
    def reads(cls, config: Any) -> bool:
        return any(name in HEADS.values() for name in getattr(config, "architectures", None) or ())

    def adapt_config(self, config: Any, tokenizer: Any) -> Any:
        for name in ("start_n_top", "end_n_top"):
            if getattr(self.settings, name) is not None:
                setattr(config, name, getattr(self.settings, name))
        return config

    def check(self) -> None:
        errors = ErrorCollector()
        if wrong := check_head(self.config, self.settings.max_seq_length):
            errors.add(ConfigError(wrong))
        errors.attempt(super().check)
        errors.raise_any()

    def feature_builder(self, *, labels: bool) -> FeatureBuilder:
        builder = super().feature_builder(labels=labels)
        builder.return_offsets = labels
        return builder

    @property
    def collator(self) -> BeamSearchCollator:
        limit = self.longest_window
        return BeamSearchCollator(self.tokenizer, self.config, self.padding_multiple, max_length=limit)

    def auto_class(self) -> Any:
        return BeamSearchHead

    def prepare_model(self, model: Any) -> None:
        prepare_head(model)
        set_beam(model, self.settings.start_n_top, self.settings.end_n_top)
        freeze_unused_parameters(model)

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        return beam_loss(model, dict(batch))

    def find_spans(self, model: Any, batch: Mapping[str, Any]) -> list[Any]:
        return beam_candidates(
            *search_beams(model, dict(batch)),
            batch["offsets"].cpu().numpy(),
            n_best_size=self.settings.n_best_size,
            max_answer_length=self.settings.max_answer_length,
        )

    @staticmethod
    def passage_rank(found: DecodedSpans) -> float:
        """The logarithm of P(span) (1 - P(no answer)): both are probabilities within one passage."""
        unanswered = 0.0 if found.score_diff is None else np.logaddexp(0.0, found.score_diff)
        return float(answer_logits(found) - unanswered)
