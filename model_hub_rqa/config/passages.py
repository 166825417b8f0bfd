"""The settings of passages: which are read for a question, and how an answer is searched for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model_hub_rqa.config.fields import Problem, option, show
from model_hub_rqa.config.kwargs import Kwargs


@dataclass(frozen=True, kw_only=True)
class PassageKwargs(Kwargs):
    """What every reader that writes its answers has: passages of the records, or retrieved ones, and beams."""

    n_context: int | None = option(None, ge=1, help="passages read for a question; unset: all that a record has")
    num_hard_negatives: int = option(0, ge=0, help="passages of hard_neg_docs put among the gold ones in training")
    # Any, and a rule below, since a text field refuses "", which means "no retrieval" here.
    embedding_model: Any = option(  # noqa: RUF009 - a field like the others, but of any type
        "", help='the retriever\'s model; "": train on the passages of the records'
    )
    corpus_file: str | None = option(
        None, help="the corpus that embedding_model retrieves from; unset: the passages of all records"
    )
    index: str | None = option(
        None,
        help="a folder of `rqa index`: a validation reads what it finds, and so does training with embedding_model",
    )
    embedding_max_num_to_retrieve: int = option(3, ge=1, help="passages retrieved for a question, gold not counted")
    num_beams: int = option(1, ge=1, help="beams of the search for an answer")

    @property
    def retrieves(self) -> bool:
        """Whether a validation reads retrieved passages in place of the records' own."""
        return bool(self.embedding_model or self.index)

    def problems(self) -> Iterator[Problem]:
        if not isinstance(self.embedding_model, str):
            yield Problem(
                ("embedding_model",), f"must be text (a model's name, or empty), got {show(self.embedding_model)}"
            )
        elif self.corpus_file is not None and not self.embedding_model:
            yield Problem(("corpus_file", "embedding_model"), "needs embedding_model, got none")
        if self.corpus_file is not None and self.index is not None:
            yield Problem(("corpus_file", "index"), "plays no part beside index: give one of the two")
