"""The settings of a Fusion-in-Decoder reader: what it reads, in which words, and how it generates answers."""

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from model_hub_rqa.config.fields import FieldError, option, show
from model_hub_rqa.tasks.passages.settings import PassageKwargs

TEMPLATES = {
    "fid": "question: {question} title: {title} context: {context}",
    "chat": "{dialogue} title: {title} context: {context}",
}
"""Prompts by name: that of Izacard and Grave 2020 (arXiv:2007.01282), and one that shows the turns before the
question."""

_QUESTION_FIELDS = ("question", "dialogue")
_PASSAGE_FIELDS = ("title", "context")

Pieces = tuple[tuple[str, str], ...]  # a literal text and the field after it, "" for none
TurnFields = Mapping[str, str]  # {"role": "user" or "assistant", "text": what was said}


class TemplateParts(NamedTuple):
    """A prompt's two halves: what comes from the question, and what comes from the passage.

    Each is tokenised by itself, so that a long question or passage is cut without touching the other half.
    """

    question: Pieces
    passage: Pieces
    question_first: bool


def split_template(template: str) -> TemplateParts:
    """Takes a prompt (a name of TEMPLATES, or a text of one's own) apart.

    The text between the halves is cut at its first white space: a label such as "title:" stays with what it labels.

    Raises:
        ValueError: the rule that the template breaks, without a field's name.
    """
    try:
        parsed = list(string.Formatter().parse(TEMPLATES.get(template, template)))
    except ValueError as error:
        raise ValueError(f"must have its braces in pairs ({error}), got {show(template)}") from error
    known = (*_QUESTION_FIELDS, *_PASSAGE_FIELDS)
    names = [name for _, name, _, _ in parsed if name is not None]
    strange = [name for name in names if name not in known]
    if strange or any(spec or conversion for _, _, spec, conversion in parsed):
        allowed = ", ".join(f"{{{name}}}" for name in known)
        raise ValueError(f"must be {' or '.join(TEMPLATES)}, or a text with {allowed} only, got {show(template)}")
    if "context" not in names or not set(names) & set(_QUESTION_FIELDS):
        raise ValueError(f"must have {{context}}, and {{question}} or {{dialogue}}, got {show(template)}")
    sides = [name in _QUESTION_FIELDS for name in names]
    cut = sides.index(not sides[0])  # both sides occur
    if sides != [sides[0]] * cut + [not sides[0]] * (len(sides) - cut):
        raise ValueError(f"must not mix the question's fields with the passage's, got {show(template)}")
    pieces = [(literal, name or "") for literal, name, _, _ in parsed]
    first, second = pieces[:cut], pieces[cut:]
    between = second[0][0]
    space = next((i for i, character in enumerate(between) if character.isspace()), 0)
    first, second = [*first, (between[:space], "")], [(between[space:], second[0][1]), *second[1:]]
    halves = (tuple(first), tuple(second)) if sides[0] else (tuple(second), tuple(first))
    return TemplateParts(*halves, question_first=sides[0])


@dataclass(frozen=True, kw_only=True)
class FusionKwargs(PassageKwargs):
    """Passages that are read together, and the answer that is generated from them."""

    max_encoder_seq_length: int = option(512, ge=8, help="tokens of a passage with the question before it")
    max_decoder_seq_length: int = option(256, ge=4, help="tokens of an answer to learn from, its end included")
    prompt_template: str = option(
        "fid", help="fid, chat, or a text with {question} or {dialogue}, {title} and {context}"
    )
    user_prefix: str = option("USER:", help="before what the user says, in {dialogue}")
    assistant_prefix: str = option("ASSISTANT:", help="before what the assistant says, in {dialogue}")
    encoder_chunk_size: int = option(32, ge=1, help="passages encoded at a time: fewer need less memory")
    max_new_tokens: int | None = option(None, ge=1, help="the longest answer in tokens; unset: max_decoder_seq_length")
    encoder_decoder_from: str | None = option(
        None, help="make an EncoderDecoderModel whose encoder and decoder start from this encoder's weights"
    )

    @property
    def generation_length(self) -> int:
        """Tokens of the longest answer that is generated."""
        return self.max_new_tokens or self.max_decoder_seq_length

    def errors(self) -> Iterator[FieldError]:
        yield from super().errors()
        try:
            split_template(self.prompt_template)
        except ValueError as error:
            yield FieldError(("prompt_template",), str(error))


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

    def question_half(self, question: str, history: Sequence[TurnFields] = ()) -> str:
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
