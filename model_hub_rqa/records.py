"""The plain records that travel between the parts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a corpus: ``id`` is unique within it, ``title`` may be empty."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a retriever returned, with its score: higher is better, the scale is the retriever's."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader says: ``text`` ("" for "no answer"), ``score`` (a probability where the reader gives one) and,
    for a reader that extracts, the characters ``start`` to ``end`` of the context (both -1 otherwise)."""

    text: str
    score: float
    start: int = -1
    end: int = -1
