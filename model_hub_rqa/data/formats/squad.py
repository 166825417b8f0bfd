"""The row of a flat SQuAD record: id, title, context, question and answers with their offsets; and SQuAD as a format
of questions with one passage."""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.checks import filled_text, text_error, text_or_empty, true_or_false, wrong_type
from model_hub_rqa.data.formats.answers import (
    ANSWERS,
    SINGLE,
    TARGETS,
    mend,
    offset_error,
    unknown_answers,
    whole_number,
)
from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, plain_record
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.registry import FORMATS

Answers = tuple[list[str], list[int]]  # texts and where each begins in the context, in characters
NO_OFFSET = -1


@FORMATS.register("squad")
class SquadQuestions(QuestionFormat):
    """The context is the one passage, which is gold. QuAC and CoQA become flat records of this format."""

    passages = ("context",)
    nested = True

    def matches(self, record: Record) -> bool:
        return isinstance(record.get("context"), str)

    def read(self, record: Record) -> Row:
        if "context" not in record:
            return plain_record(record)
        passage = {"location": "", "names": {"text": "context", "gold": "gold"}, "title": record.get("title")}
        passage |= {"text": record["context"], "gold": True, "optional": True}
        return {**record, "passages": [passage]}


class SquadRows:
    """Turns flat records into rows, and counts what was mended.

    Args:
        require_answers: False for files to predict on, where answers may be missing.
        version_2_with_negative: whether questions without an answer are allowed, for messages.
        require_offsets: True for training alone: an answer_start must be right, or leave no doubt about what is.

    Attributes:
        n_mended: records of which an offset was mended; n_ignored: answers that were left out for an offset of -1.
    """

    def __init__(self, *, require_answers: bool, version_2_with_negative: bool, require_offsets: bool) -> None:
        self.n_mended = self.n_ignored = 0
        self._require_answers = require_answers
        self._version_2 = version_2_with_negative
        self._offsets = require_offsets

    def row(
        self, id_: str | None, record: Mapping[str, Any], errors: list[str], *, nested: bool
    ) -> tuple[dict[str, Any], bool]:
        """The row, and whether the question has no answer by right."""
        context = filled_text(record, "context", errors)
        title = text_or_empty(record, "title", errors)
        question = filled_text(record, "question", errors)
        answers = self._answers(record, context, errors)
        negative = answers is not None and self._is_negative(record, answers, errors, nested)
        texts, starts = answers or ([], [])
        row: dict[str, Any] = {"id": id_, "title": title, "context": context, "question": question}
        row["answers"] = {"text": texts, "answer_start": starts}
        return row, negative

    def _is_negative(self, record: Mapping[str, Any], answers: Answers, errors: list[str], nested: bool) -> bool:
        """Whether the question has no answer by right; where it lacks one wrongly, an error is added."""
        impossible = true_or_false(record, "is_impossible", errors)
        if answers[0]:
            if impossible:
                errors.append(
                    f"is_impossible is true, yet answers holds {len(answers[0])}, the first {short(answers[0][0])}"
                )
            return False
        if not self._require_answers or impossible:
            return True
        given = any(name in record for name in (*ANSWERS, *TARGETS))
        if impossible is False:
            errors.append("answers is empty, yet is_impossible is false")
        elif nested or not given:
            # A flat record marks a question as unanswerable with empty answers; without the key it is only incomplete.
            found = "is empty" if given else "is missing"
            unless = ", and is_impossible is not true" if self._version_2 else ""
            others = [] if given else unknown_answers(record)
            hints = "".join(f" ({name} looks like it: rename it to answers)" for name in others)
            errors.append(f"answers {found}{unless}{hints}")
        return True

    def _answers(self, record: Mapping[str, Any], context: str | None, errors: list[str]) -> Answers | None:
        """The answers of a record, empty where it has none; None where they are at error."""
        before = len(errors)
        texts, starts = _columns(record, errors)
        if record.get("is_impossible") is True:  # a blank answer says the same
            kept = [pair for pair in zip(texts, starts, strict=True) if pair[0] != "" and not str(pair[0]).isspace()]
            texts, starts = [text for text, _ in kept], [start for _, start in kept]
        if not self._offsets:
            for number, text in enumerate(texts, 1):
                if error := text_error(_numbered(number, len(texts), "answer text"), text):
                    errors.append(error)
            known = [start if type(start) is int and -1 <= start < 2**31 else NO_OFFSET for start in starts]
            return (texts, known) if len(errors) == before else None
        for text, start in zip(texts, starts, strict=True):
            right = type(text) is str and type(start) is int and start >= 0
            # The common case, in few conditions: files hold a hundred thousand answers.
            if not (right and context and context.startswith(text, start) and text and not text.isspace()):
                return self._mended(texts, starts, context, errors)
        return (texts, starts) if len(errors) == before else None

    def _mended(self, texts: list[Any], starts: list[Any], context: str | None, errors: list[str]) -> Answers | None:
        """The answers with right offsets, those of -1 left out beside others."""
        before, mended = len(errors), 0
        found: list[tuple[str, int]] = []
        left_out: list[str] = []
        known = any(start != NO_OFFSET for start in starts)
        for number, (text, start) in enumerate(zip(texts, starts, strict=True), 1):
            error = text_error("answer text", text)
            if not error and not whole_number(start):
                error = f"answer_start must be a whole number, got {short(start)}"
            if error:
                errors.append(_numbered(number, len(texts), error))
            elif context is None:
                continue
            elif start is not None and start >= 0 and context.startswith(text, start):
                found.append((text, start))
            elif start == NO_OFFSET and known:
                left_out.append(text)
            elif right := mend(text, start, context):
                found.append(right)
                mended += 1
            else:
                errors.append(_numbered(number, len(texts), offset_error(text, start, context)))
        if len(errors) > before:
            return None
        self.n_mended += mended > 0
        self.n_ignored += len(left_out)
        return [text for text, _ in found], [start for _, start in found]


def _numbered(number: int, total: int, error: str) -> str:
    return f"answer {number}: {error}" if total > 1 else error


def _columns(record: Mapping[str, Any], errors: list[str]) -> tuple[list[Any], list[Any]]:
    """Texts and starts: ``{"text": [...], "answer_start": [...]}``, a list of objects with either, or texts alone."""
    name, value = "answers", record.get("answers")
    if value is None:
        name = next((name for name in (*ANSWERS, *TARGETS) if record.get(name) is not None), "")
        if not name:
            return [], []
        value = record[name]
    if isinstance(value, Unreadable):
        errors.append(value)
        return [], []
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list):
            errors.append(wrong_type(f"{name}.text", list, texts) if "text" in value else f"{name} has no text")
            return [], []
        if starts is None:
            starts = [None] * len(texts)
        if not isinstance(starts, list):
            errors.append(wrong_type(f"{name}.answer_start", list, starts))
            return [], []
        if len(texts) != len(starts):
            errors.append(f"answers must have as many texts as starts, got {len(texts)} and {len(starts)}")
            return [], []
        return texts, starts
    if isinstance(value, str) and name in (*SINGLE, *TARGETS):
        return [value], [None]
    if not isinstance(value, list):
        errors.append(f"{name} must be an object or a list, got {short(value)}")
        return [], []
    wrong = [item for item in value if isinstance(item, dict) and "text" not in item]
    if wrong:
        errors.append(f"each of {name} must be a text, or an object with text and answer_start, got {short(wrong[0])}")
        return [], []
    texts = [item["text"] if isinstance(item, dict) else item for item in value]
    return texts, [item.get("answer_start") if isinstance(item, dict) else None for item in value]
