"""The plain records that travel between the parts."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a corpus: ``id`` is unique within it, ``title`` may be empty.

    ``position`` is its place in an index, counted from 0; -1 outside of one.
    """

    id: str
    text: str
    title: str = ""
    position: int = field(default=-1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a retriever returned, with its score: higher is better, the scale is the retriever's."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said before a question; ``role`` is "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a reader is asked: the passages to answer from, the best first, and the turns before, the oldest first.

    ``id`` names the question in errors; "" for one without.
    """

    text: str
    passages: tuple[Passage, ...] = ()
    chat_history: tuple[Turn, ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader says.

    Attributes:
        text: the answer; "" for "no answer".
        score: the confidence, 0 to 1: a probability among the answers that it weighed (extractive), or the
            geometric mean of its tokens' probabilities (written); None where it was not asked for.
        passage: for a reader that extracts, which of the question's passages holds the answer; -1 for none.
        start, end: the characters of the answer in that passage, -1 without one.
        passage_scores: how much each passage counted, in their order: shares from 0 to 1 within one question.
    """

    text: str
    score: float | None = None
    passage: int = -1
    start: int = -1
    end: int = -1
    passage_scores: tuple[float, ...] | None = None
