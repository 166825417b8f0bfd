"""What a retriever is asked for a question of a dialogue: a template of the question and its turns, or a rewriter."""

import pickle
import re
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from model_hub_rqa.data.arrow_cache import function_digest
from model_hub_rqa.errors import ConfigError, DataError, ErrorCollector
from model_hub_rqa.records import Question, Turn
from model_hub_rqa.registry import REWRITERS, RegisteredObject

QUERY_TEMPLATE = "{question}"
FIELDS = ("question", "history", "last_question", "last_answer")

Rewrite = Callable[[list[Question]], list[str]]


@dataclass(frozen=True)
class QueryBuilder:
    """Makes queries of questions, one batch at a time.

    Attributes:
        template: a text with the fields ``{question}``, ``{history}`` (what was said before, the oldest turn first,
            joined by blanks), ``{history:N}`` (the last N turns of it), ``{last_question}`` and ``{last_answer}`` (what
            the user and the assistant said last before the question, "" for nothing). Outer white space is left out.
        rewrite: called with the questions of a batch before the template is filled in; returns a text for each, which
            is its ``{question}`` then. None to take the question as it is.
    """

    template: str = QUERY_TEMPLATE
    rewrite: Rewrite | None = None

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """The query for each question.

        Raises:
            DataError: the rewriter gave something else than a text that is not blank for each question.
        """
        asked = list(questions)
        texts = [question.text for question in asked]
        if self.rewrite is not None and asked:
            texts = self.rewrite(asked)
            if not isinstance(texts, list | tuple) or len(texts) != len(asked):
                raise DataError(f"query_rewriter: must give a list of {len(asked)} texts, got {texts!r}")
            lines = [
                f"query_rewriter: must give text that is not blank, got {text!r} for the question {question.text!r}"
                for text, question in zip(texts, asked, strict=True)
                if not isinstance(text, str) or not text.strip()
            ]
            if lines:
                raise DataError(lines)
        if self.template == QUERY_TEMPLATE:
            return list(texts)
        return [self._filled(replace(question, text=text)) for question, text in zip(asked, texts, strict=True)]

    def _filled(self, question: Question) -> str:
        fields = string.Formatter().parse(self.template)
        parts = (f"{before}{_value(field, spec, question)}" for before, field, spec, _ in fields)
        return "".join(parts).strip()

    @property
    def fingerprint(self) -> str:
        """Says all that the queries depend on beside the questions, the rewriter's source included."""
        if self.rewrite is None:
            return self.template
        try:
            return repr((self.template, function_digest(self.rewrite)))
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError):  # it cannot be hashed
            return uuid.uuid4().hex


def template_error(template: str) -> str | None:
    """Why a text is no template of a query; None if it is one."""
    rule = f"must be a text with {{question}} and no other fields than {', '.join(f'{{{name}}}' for name in FIELDS)}"
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"must have its braces in pairs ({error}), got {template!r}"
    names = [name for _, name, _, _ in parsed if name is not None]
    wrong = [
        name
        for _, name, spec, conversion in parsed
        if name is not None
        and (
            name not in FIELDS or conversion or (spec and (name != "history" or not re.fullmatch("[1-9][0-9]*", spec)))
        )
    ]
    return f"{rule}, got {template!r}" if wrong or "question" not in names else None


def parse_queries(template: str | None, rewriter: Any) -> tuple[str, RegisteredObject | None]:
    """What a configuration chose, checked; nothing is built.

    Args:
        template: of a :class:`QueryBuilder`; None for the question alone.
        rewriter: a registered name or ``package.module:function``, or a mapping with arguments; None for none.

    Raises:
        ConfigError: every error.
    """
    errors = ErrorCollector()
    if template is not None and (error := template_error(template)):
        errors.add(ConfigError(f"query_template: {error}"))
    resolved = None if rewriter is None else errors.attempt(REWRITERS.from_config, rewriter, "query_rewriter")
    errors.raise_any()
    return template or QUERY_TEMPLATE, resolved


def build_queries(template: str | None, rewriter: Any) -> QueryBuilder:
    """Makes what :func:`parse_queries` checks.

    Raises:
        ConfigError: as there, or the rewriter cannot be made.
    """
    template, resolved = parse_queries(template, rewriter)
    rewrite: Rewrite | None = None if resolved is None else resolved.build()
    if rewrite is not None and not callable(rewrite):
        raise ConfigError(f"query_rewriter: must make a function of a list of questions, got {rewrite!r}")
    return QueryBuilder(template, rewrite)


def turns_of(history: Sequence[Mapping[str, str]]) -> tuple[Turn, ...]:
    """The turns of a row of a dataset."""
    return tuple(Turn(turn["role"], turn["text"]) for turn in history)


@lru_cache
def _value(field: str | None, spec: str | None, question: Question) -> str:
    turns = question.chat_history
    if field == "question":
        return question.text.strip()
    if field == "history":
        return " ".join(turn.text.strip() for turn in turns[-int(spec) if spec else 0 :])
    role = {"last_question": "user", "last_answer": "assistant"}.get(field or "")
    return next((turn.text.strip() for turn in reversed(turns) if turn.role == role), "")
