"""The plain records that travel between the parts."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a corpus: ``id`` is unique within it, ``title`` may be empty.

    Attributes:
        position: its row in an index, counted from 0; -1 outside of one.
        document: of a document that was split, its id; "" for a whole one.
        start, end: the characters of the document's text that ``text`` is.
        heading: that of the section in which it begins, after those above it: "Install > Linux".
        sections: of a whole document, where each section begins, in characters, and its heading.
    """

    id: str
    text: str
    title: str = ""
    position: int = field(default=-1, compare=False, repr=False)
    document: str = field(default="", compare=False, repr=False)
    start: int = field(default=-1, compare=False, repr=False)
    end: int = field(default=-1, compare=False, repr=False)
    heading: str = field(default="", compare=False, repr=False)
    sections: tuple[tuple[int, str], ...] = field(default=(), compare=False, repr=False)

    def source(self) -> dict[str, Any]:
        """Where a piece of a document is from, by the names of the fields; empty for a whole document."""
        if not self.document:
            return {}
        return {"document": self.document, "start": self.start, "end": self.end, "heading": self.heading}


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
            geometric mean of its tokens' probabilities (generated); None where it was not asked for.
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
