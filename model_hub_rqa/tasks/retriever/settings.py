"""The settings of a retriever's training: the loss, and what of a record it reads."""

from collections.abc import Iterator
from dataclasses import dataclass

from model_hub_rqa.config import option
from model_hub_rqa.config.fields import FieldError
from model_hub_rqa.tasks.retriever.relevance import RelevanceKwargs

IN_BATCH = ("multiple_negatives", "cached_multiple_negatives")
DISTILLED = ("margin_mse", "kl")


@dataclass(frozen=True, kw_only=True)
class RetrieverKwargs(RelevanceKwargs):
    """What a retriever learns from, and by which loss of sentence-transformers."""

    loss: str = option(
        IN_BATCH[0],
        choices=(*IN_BATCH, "triplet", *DISTILLED),
        help="multiple_negatives: the batch's other passages are negatives; margin_mse, kl: the records' scores",
    )
    num_hard_negatives: int = option(1, ge=0, help="of a question's negatives, so many are drawn in each epoch")
    mini_batch_size: int = option(32, ge=1, help="texts encoded at a time with cached_multiple_negatives")
    scale: float | None = option(None, gt=0, help="multiplies similarities; unset: 20 for the cosine, else 1")
    similarity: str | None = option(None, choices=("cosine", "dot"), help="unset: the model's own")
    triplet_margin: float = option(0.5, gt=0, help="similarity by which a positive is to be ahead of a negative")
    teacher_temperature: float = option(1.0, gt=0, help="what scores are divided by before kl's softmax")
    max_seq_length: int = option(256, ge=8, help="tokens of a question or a passage; the rest is cut")
    query_prompt: str | None = option(None, help="before each question; unset: the model's own")
    passage_prompt: str | None = option(None, help="before each passage; unset: the model's own")
    corpus_file: str | None = option(
        None, help="passages that a validation ranks as well, beside those of its questions"
    )

    def errors(self) -> Iterator[FieldError]:
        yield from super().errors()
        if self.loss not in IN_BATCH and self.num_hard_negatives == 0:
            yield FieldError(("num_hard_negatives", "loss"), f"must be at least 1 with loss {self.loss}, got 0")
