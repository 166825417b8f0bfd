"""A retriever and a reader together: from a question to an answer."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.readers import Reader, answer_found
from model_hub_rqa.records import Answer, Hit, Question
from model_hub_rqa.retrieval.base import Retriever
from model_hub_rqa.retrieval.queries import QueryBuilder

DEFAULT_TOP_K = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to a question, and the hits that the retriever gave for it (none without a retriever)."""

    question: Question
    answer: Answer
    hits: tuple[Hit, ...] = ()


class RQAPipeline:
    """Retrieves passages for questions, and answers from them.

    Args:
        reader: answers; see `load_reader`.
        retriever: finds the passages; None to read those that the questions bring.
        top_k: passages retrieved for a question.
        queries: makes the retriever's queries of the questions; by default each is the question alone.

    Attributes:
        retrieval_seconds, reading_seconds: spent so far on all questions.
        n_questions: asked so far.

    Raises:
        ConfigError: top_k is below 1.
    """

    def __init__(
        self,
        reader: Reader,
        retriever: Retriever | None = None,
        *,
        top_k: int = DEFAULT_TOP_K,
        queries: QueryBuilder | None = None,
    ) -> None:
        if top_k < 1:
            raise ConfigError(f"top_k: must be at least 1, got {top_k}")
        self.reader = reader
        self.retriever = retriever
        self.top_k = top_k
        self.queries = queries or QueryBuilder()
        self.retrieval_seconds = self.reading_seconds = 0.0
        self.n_questions = 0

    def ask(self, questions: Sequence[Question | str], *, scores: bool = False) -> list[Prediction]:
        """Answers questions, all of them at once.

        Args:
            questions: texts, or records with the turns before and, without a retriever, the passages to read.
            scores: also say how confident each answer is and how much each passage counted.

        Returns:
            An answer a question. It is "" where the retriever finds nothing and the reader needs passages.

        Raises:
            DataError: without a retriever, a question brings no passage, and the reader needs one.
        """
        asked = [Question(question) if isinstance(question, str) else question for question in questions]
        begun = time.perf_counter()
        found: list[list[Hit]] = [[] for _ in asked]
        if self.retriever is not None:
            found = self.retriever.search(self.queries(asked), self.top_k)
            asked = [
                replace(question, passages=tuple(hit.passage for hit in hits))
                for question, hits in zip(asked, found, strict=True)
            ]
        retrieved = time.perf_counter()
        if self.retriever is None:
            answers = self.reader.answer_questions(asked, scores=scores)
        else:
            answers = answer_found(self.reader, asked, scores=scores)
        self.retrieval_seconds += retrieved - begun
        self.reading_seconds += time.perf_counter() - retrieved
        self.n_questions += len(asked)
        return [
            Prediction(question, answer, tuple(hits))
            for question, answer, hits in zip(asked, answers, found, strict=True)
        ]


def load_reader(
    path: str | Path,
    *,
    batch_size: int | None = None,
    tell: Callable[[str], None] = logger.info,
    **settings: Any,
) -> Reader:
    """The reader of a run's folder, a checkpoint, or a ``save_pretrained`` folder: `Reader.from_pretrained`."""
    return Reader.from_pretrained(path, batch_size=batch_size, tell=tell, **settings)
