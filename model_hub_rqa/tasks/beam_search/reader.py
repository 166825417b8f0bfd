"""The extractive reader with a beam-search head, which `QABeamSearchTrial` trains."""

from pathlib import Path
from typing import Any

import numpy as np

from model_hub_rqa.tasks.beam_search.decoding import beam_candidates, decode_beams
from model_hub_rqa.tasks.beam_search.settings import BeamSearchKwargs
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans
from model_hub_rqa.tasks.extractive.reader import ExtractiveReader
from model_hub_rqa.tasks.extractive.spans import SpanCandidates
from model_hub_rqa.tasks.reading import load_pretrained


class BeamSearchReader(ExtractiveReader):
    """Answers questions with a span of their context, the end of which was predicted from its start.

    Args:
        model: an XLNetForQuestionAnswering or XLMForQuestionAnswering of transformers.
        tokenizer: its fast tokenizer.
        settings: window, beam and decoding settings; by default those that the model was trained with.
        batch_size: windows read at a time.
    """

    settings_class = BeamSearchKwargs
    settings: BeamSearchKwargs
    decode = staticmethod(decode_beams)

    def __init__(self, model: Any, tokenizer: Any, settings: BeamSearchKwargs, *, batch_size: int = 32) -> None:
        from model_hub_rqa.tasks.beam_search.model import prepare_head, set_beam

        prepare_head(model)
        set_beam(model, settings.start_n_top, settings.end_n_top)
        super().__init__(model, tokenizer, settings, batch_size=batch_size)

    @staticmethod
    def load_model(path: str | Path) -> tuple[Path, Any, Any]:
        from model_hub_rqa.tasks.beam_search.model import BeamSearchHead

        return load_pretrained(path, BeamSearchHead, "an extractive reader with a beam-search head")

    @staticmethod
    def passage_rank(found: DecodedSpans) -> float:
        """The logarithm of P(span) (1 - P(no answer)): both are probabilities within one passage."""
        unanswered = 0.0 if found.score_diff is None else np.logaddexp(0.0, found.score_diff)
        return float(ExtractiveReader.passage_rank(found) - unanswered)

    def build_collator(self) -> Any:
        from model_hub_rqa.tasks.beam_search.collate import BeamSearchCollator

        return BeamSearchCollator(self.tokenizer, self.model.config)

    def find_spans(self, batch: dict[str, Any]) -> list[SpanCandidates]:
        from model_hub_rqa.tasks.beam_search.model import search_beams

        return beam_candidates(
            *search_beams(self.model, batch),
            batch["offsets"].cpu().numpy(),
            n_best_size=self.settings.n_best_size,
            max_answer_length=self.settings.max_answer_length,
        )
