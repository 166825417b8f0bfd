"""The extractive reader: an answer is a span of a context, or of one of several passages."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.checkpoints import READER, pretrained_folder
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Answer, Question
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans, decode_many
from model_hub_rqa.tasks.extractive.settings import ExtractiveKwargs
from model_hub_rqa.tasks.extractive.spans import SpanCandidates, span_candidates
from model_hub_rqa.tasks.reading import load_pretrained, trained_settings

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class ExtractiveReader:
    """Answers questions with a span of their context.

    A reader with another head overrides `load_model`, `build_collator`, `find_spans`, `decode` and `passage_rank`.

    Args:
        model: a question-answering model of transformers.
        tokenizer: its fast tokenizer.
        settings: window and decoding settings; by default those that the model was trained with.
        batch_size: windows read at a time.
    """

    settings_class: type[ExtractiveKwargs] = ExtractiveKwargs
    n_context = None  # every passage is read
    decode = staticmethod(decode_many)

    def __init__(self, model: Any, tokenizer: Any, settings: ExtractiveKwargs, *, batch_size: int = 32) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.settings = settings
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(cls, path: str | Path, *, batch_size: int = 32, **settings: Any) -> "ExtractiveReader":
        """Loads a run's folder, a checkpoint, or a ``save_pretrained`` folder.

        Args:
            path: the folder; a checkpoint is verified against its manifest first.
            settings: fields of ``settings_class`` to use instead of those the model was trained with.

        Raises:
            CheckpointError: no such folder, a damaged one, or not an extractive reader's.
            ConfigError: a setting breaks a rule, or a window is longer than the model's longest input.
        """
        from model_hub_rqa.models.limits import model_limits
        from model_hub_rqa.tasks.extractive.model import is_causal, longest_window

        folder = pretrained_folder(Path(path))
        known = trained_settings(folder, cls.settings_class, settings)
        folder, model, tokenizer = cls.load_model(folder)
        if known.question_first is None and (folder / READER).is_file():
            # Version 0.1 went by the padding side, and kept no word of it. A checkpoint is read as it was trained.
            known = replace(known, question_first=tokenizer.padding_side == "right")
            if not known.question_first and is_causal(model.config):
                logger.warning(
                    "%s: was trained by version 0.1 with the context before the question, which this %s never sees "
                    "there: train it again",
                    folder,
                    model.config.model_type,
                )
        limit = longest_window(model_limits(model), tokenizer)
        if known.max_seq_length > limit and "max_seq_length" not in settings and not (folder / READER).is_file():
            known = replace(known, max_seq_length=limit, doc_stride=min(known.doc_stride, limit // 3))
        if known.max_seq_length > limit:
            raise ConfigError(
                f"max_seq_length: must be at most {limit}, the longest input of {folder}, got {known.max_seq_length}"
            )
        return cls(model, tokenizer, known, batch_size=batch_size)

    @staticmethod
    def load_model(path: str | Path) -> tuple[Path, Any, Any]:
        """The folder that is meant by ``path``, its model and its tokenizer."""
        from transformers import AutoModelForQuestionAnswering

        return load_pretrained(path, AutoModelForQuestionAnswering, "an extractive reader")

    def answer(self, question: str, context: str) -> Answer:
        """The answer to one question; its score is a probability among the n best, 0 to 1."""
        decoded = self.read([{"id": "0", "question": question, "context": context}])["0"]
        start, end = decoded.spans[decoded.best] if decoded.prediction else (-1, -1)
        probability = decoded.n_best[decoded.best]["probability"]
        return Answer(decoded.prediction, probability, -1 if start < 0 else 0, start, end)

    def read_passages(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        """As :class:`~model_hub_rqa.tasks.reading.Reader` says; see :func:`choose_passage` for the choice.

        A dialogue's history plays no part. Scores cost nothing here and are always given.
        """
        missing = [question.text for question in questions if not question.passages]
        if missing:
            raise DataError(f"passages: needs at least one to answer {text!r}" for text in missing)
        decoded = self.read(
            [
                {"id": f"{number} {place}", "question": question.text, "context": passage.text}
                for number, question in enumerate(questions)
                for place, passage in enumerate(question.passages)
            ]
        )
        return [
            choose_passage([decoded[f"{number} {place}"] for place in range(len(question.passages))], self.passage_rank)
            for number, question in enumerate(questions)
        ]

    @staticmethod
    def passage_rank(found: DecodedSpans) -> float:
        """What passages that answer are compared by: the sum of the start and the end logit of their answer."""
        entry = found.n_best[found.best]
        total: float = entry["start_logit"] + entry["end_logit"]
        return total

    def read(self, examples: "Sequence[Mapping[str, str]] | Dataset") -> dict[str, DecodedSpans]:
        """Reads examples with id, question and context; returns what is decoded, by id, in their order."""
        from datasets import Dataset

        if not isinstance(examples, Dataset):
            examples = Dataset.from_list([dict(example) for example in examples])
        candidates: dict[int, dict[int, SpanCandidates]] = {}
        for batch in self._batches(examples):
            for example, feature, found in batch:
                candidates.setdefault(example, {})[feature] = found
        decoded = self.decode(
            examples["context"][:],
            [[candidates[i][number] for number in sorted(candidates[i])] for i in range(len(examples))],
            n_best_size=self.settings.n_best_size,
            version_2_with_negative=self.settings.version_2_with_negative,
            null_score_diff_threshold=self.settings.null_score_diff_threshold,
        )
        return dict(zip(examples["id"][:], decoded, strict=True))

    def _batches(self, examples: "Dataset") -> Iterator[list[tuple[int, int, SpanCandidates]]]:
        import torch

        from model_hub_rqa.data.batching import EvalBatchSampler
        from model_hub_rqa.tasks.extractive.features import FeatureBuilder, build_features
        from model_hub_rqa.tasks.extractive.model import reads_question_first

        first = self.settings.question_first
        builder = FeatureBuilder(
            self.tokenizer,
            max_seq_length=self.settings.max_seq_length,
            doc_stride=self.settings.doc_stride,
            labels=False,
            question_first=reads_question_first(self.model.config) if first is None else first,
        )
        features = build_features(examples, builder)
        loader = torch.utils.data.DataLoader(
            features,
            batch_sampler=EvalBatchSampler(features["length"][:], self.batch_size),
            collate_fn=self.build_collator(),
        )
        for batch in loader:
            batch = {name: values.to(self.device) for name, values in batch.items()}
            with torch.inference_mode():
                found = self.find_spans(batch)
            yield list(zip(batch["example_index"].tolist(), batch["feature_index"].tolist(), found, strict=True))

    def build_collator(self) -> Any:
        """Makes tensors of a list of features."""
        from model_hub_rqa.tasks.extractive.features import ExtractiveCollator

        return ExtractiveCollator(self.tokenizer)

    def find_spans(self, batch: dict[str, Any]) -> list[SpanCandidates]:
        """The best spans of each feature of a batch."""
        from model_hub_rqa.tasks.extractive.model import span_logits

        start_logits, end_logits = span_logits(self.model, batch)
        return span_candidates(
            start_logits.cpu().numpy(),
            end_logits.cpu().numpy(),
            batch["offsets"].cpu().numpy(),
            batch["cls_index"].cpu().numpy(),
            n_best_size=self.settings.n_best_size,
            max_answer_length=self.settings.max_answer_length,
        )


def choose_passage(
    decoded: Sequence[DecodedSpans], rank: Callable[[DecodedSpans], float] = ExtractiveReader.passage_rank
) -> Answer:
    """The answer of a question that was read in several passages.

    Each passage answers or not by itself, as a context does: in v2.0 by the lowest null score of its windows, the score
    of its best span and the threshold (Devlin et al. 2018, arXiv:1810.04805, section 4.3; `decode_spans`). The answer
    is "" where no passage answers. Of the passages that do, the highest-ranking span wins, and the better ranked
    passage of equals: logits are compared across passages as they are, as those of a question's windows (and as in
    Wang et al. 2019, arXiv:1908.08167, section 2). Null scores of different passages are not compared: a passage far
    from the question may have low logits of both kinds. Probabilities are over the n best of all passages together,
    and the score of a passage is what its own sum up to.

    Args:
        decoded: what was decoded of each passage, the best ranked first.
        rank: the number by which passages that answer are compared.
    """
    entries = [
        (place, number, entry["start_logit"] + entry["end_logit"])
        for place, found in enumerate(decoded)
        for number, entry in enumerate(found.n_best)
        if found.spans[number] != (-1, -1) or not entry["text"]  # "empty" stands for nothing that was found
    ]
    highest = max((total for *_, total in entries), default=0.0)
    weights = {(place, number): math.exp(total - highest) for place, number, total in entries}
    mass = math.fsum(weights.values()) or 1.0
    scores = [0.0] * len(decoded)
    for (place, number), weight in weights.items():
        scores[place] += weight / mass if decoded[place].n_best[number]["text"] else 0.0
    answering = [place for place, found in enumerate(decoded) if found.prediction and found.spans[found.best][0] >= 0]
    if not answering:
        nothing = math.fsum(weight for (place, number), weight in weights.items() if not _text(decoded, place, number))
        return Answer("", nothing / mass, passage_scores=tuple(scores))
    best = max(answering, key=lambda place: rank(decoded[place]))
    found = decoded[best]
    start, end = found.spans[found.best]
    return Answer(found.prediction, weights[best, found.best] / mass, best, start, end, tuple(scores))


def _text(decoded: Sequence[DecodedSpans], place: int, number: int) -> str:
    text: str = decoded[place].n_best[number]["text"]
    return text
