"""QABeamSearchTrial: an extractive reader that predicts the end of an answer from its start."""

from typing import Any

import torch

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models import build
from model_hub_rqa.tasks.beam_search.collate import BeamSearchCollator
from model_hub_rqa.tasks.beam_search.decoding import beam_candidates, decode_beams
from model_hub_rqa.tasks.beam_search.model import (
    BeamSearchHead,
    beam_loss,
    check_head,
    prepare_head,
    search_beams,
)
from model_hub_rqa.tasks.beam_search.settings import BeamSearchKwargs
from model_hub_rqa.tasks.extractive.features import FeatureBuilder
from model_hub_rqa.tasks.extractive.model import freeze_unread, longest_window
from model_hub_rqa.tasks.extractive.spans import SpanCandidates
from model_hub_rqa.trials.qa import QATrial


class QABeamSearchTrial(QATrial):
    """QATrial for the beam-search heads of XLNet and XLM (Yang et al. 2019, arXiv:1906.08237).

    An end is predicted for each of the ``start_n_top`` best starts, and a classifier at the CLS token says whether
    there is an answer at all: its log-odds are v2.0's null score. The loss is the model's own. What a validation
    reports and writes is QATrial's; the logits of its n-best lists are log-probabilities.
    """

    task_kwargs = BeamSearchKwargs
    settings: BeamSearchKwargs
    wants_n_best = True
    decode = staticmethod(decode_beams)

    def build_config_and_tokenizer(self) -> tuple[Any, Any]:
        if self.components.model is not None:
            raise ConfigError("hyperparameters.model: plays no part here, the head of XLNet or XLM is always built")
        config, tokenizer = super().build_config_and_tokenizer()
        for name in ("start_n_top", "end_n_top"):
            if getattr(self.settings, name) is not None:
                setattr(config, name, getattr(self.settings, name))
        return config, tokenizer

    def check(self) -> None:
        faults = check_head(self.config, self.settings.max_seq_length)
        if self.trainer.model_mode not in (None, self.default_model_mode):
            mode = self.trainer.model_mode
            faults.append(f"hyperparameters.model_mode: must be {self.default_model_mode} or unset, got {mode}")
        try:
            super().check()
        except ConfigError as error:
            faults += error.problems
        if faults:
            raise ConfigError(faults)

    def feature_builder(self, *, labels: bool) -> FeatureBuilder:
        builder = super().feature_builder(labels=labels)
        builder.places = True
        return builder

    def build_model(self) -> torch.nn.Module:
        pretrained = self.trainer.use_pretrained_weights
        model = build.build_model(self.config, BeamSearchHead, self.model_kwargs, pretrained)
        prepare_head(model)
        freeze_unread(model)
        return model

    def build_collator(self) -> BeamSearchCollator:
        limit = longest_window(self.limits, self.tokenizer)
        return BeamSearchCollator(self.tokenizer, self.config, self.pad_to_multiple_of, max_length=limit)

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        return beam_loss(self.model, batch)

    def find_spans(self, batch: dict[str, Any]) -> list[SpanCandidates]:
        with self.autocast():
            beams = search_beams(self.model, batch)
        return beam_candidates(
            *beams,
            batch["offsets"].cpu().numpy(),
            n_best_size=self.settings.n_best_size,
            max_answer_length=self.settings.max_answer_length,
        )
