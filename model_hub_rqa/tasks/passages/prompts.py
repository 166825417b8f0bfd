"""One prompt for training and for asking: a question with its dialogue, and a passage, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from model_hub_rqa.tasks.fid.settings import FusionKwargs, Pieces, split_template

Turn = Mapping[str, str]  # {"role": "user" or "assistant", "text": what was said}


class Prompt:
    """The two halves of a prompt as texts, from the settings of the data section.

    The outer white space of questions, turns, titles and passages is left out.

    Args:
        settings: prompt_template, user_prefix and assistant_prefix are read.

    Attributes:
        question_first: whether the question's half stands before the passage's.
        shows_dialogue: whether the turns before the question are part of the prompt.
    """

    def __init__(self, settings: FusionKwargs) -> None:
        self._question, self._passage, self.question_first = split_template(settings.prompt_template)
        self._prefixes = {"user": settings.user_prefix, "assistant": settings.assistant_prefix}
        self.shows_dialogue = any(field == "dialogue" for _, field in self._question)

    def question_half(self, question: str, history: Sequence[Turn] = ()) -> str:
        """The question's half; ``history`` holds the turns before it, the oldest first."""
        turns = (*history, {"role": "user", "text": question})
        dialogue = " ".join(f"{self._prefixes[turn['role']]} {turn['text'].strip()}" for turn in turns)
        values = {"question": question.strip(), "dialogue": dialogue}
        return self._trim(_fill(self._question, values), self.question_first)

    def passage_half(self, title: str, text: str) -> str:
        """The passage's half."""
        values = {"title": title.strip(), "context": text.strip()}
        return self._trim(_fill(self._passage, values), not self.question_first)

    @staticmethod
    def _trim(text: str, first: bool) -> str:
        # The second half keeps the white space before it: byte-level tokenizers make it part of the next token.
        return text.strip() if first else text.rstrip()


def _fill(pieces: Pieces, values: Mapping[str, Any]) -> str:
    """Puts the values in place; braces within them stay what they are."""
    return "".join(literal + (values[field] if field else "") for literal, field in pieces)
