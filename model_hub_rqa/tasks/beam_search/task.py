"""The extractive task with a beam search: the end of an answer is predicted from its start."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.beam_search.collate import BeamSearchCollator
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
from model_hub_rqa.tasks.beam_search.settings import BeamSearchKwargs
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans
from model_hub_rqa.tasks.extractive.features import FeatureBuilder
from model_hub_rqa.tasks.extractive.model import freeze_unread
from model_hub_rqa.tasks.extractive.task import Extractive


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
        errors = check_head(self.config, self.settings.max_seq_length)
        try:
            super().check()
        except ConfigError as error:
            errors += error.problems
        if errors:
            raise ConfigError(errors)

    def feature_builder(self, *, labels: bool) -> FeatureBuilder:
        builder = super().feature_builder(labels=labels)
        builder.places = labels
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
        freeze_unread(model)

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
        return float(Extractive.passage_rank(found) - unanswered)
