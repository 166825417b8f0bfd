"""Formats that keep several questions under one text: SQuAD's, QuAC's and CoQA's become a flat record a question.

SQuAD: Rajpurkar et al. 2016 and 2018. QuAC: Choi et al. 2018, arXiv:1808.07036. CoQA: Reddy et al. 2019,
arXiv:1808.07042.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from model_hub_rqa.data.checks import filled_text, text_or_empty
from model_hub_rqa.data.text_files import Location, Unreadable, short

CANNOT_ANSWER = "CANNOTANSWER"
_QUAC_KEYS = ("followup", "yesno", "orig_answer")
_UNKNOWN = "unknown"
NO_ANSWER_WORDS = (CANNOT_ANSWER, _UNKNOWN)
"""QuAC's and CoQA's words for the answer to a question that cannot be answered."""


def is_article(record: Any) -> bool:
    """Whether a record has paragraphs with questions, as SQuAD's and QuAC's have."""
    return isinstance(record, dict) and "paragraphs" in record and "question" not in record


def is_story(record: Any) -> bool:
    """Whether a record is a conversation of CoQA."""
    return isinstance(record, dict) and "story" in record and "questions" in record


def is_conversation(record: Any) -> bool:
    """Whether a record holds turns in QuAC's or CoQA's format."""
    if is_story(record):
        return True
    paragraphs = record.get("paragraphs") if is_article(record) else None
    first = next((part for part in paragraphs or () if isinstance(part, dict) and part.get("qas")), None)
    questions = first["qas"] if first is not None else None
    return (
        isinstance(questions, list)
        and isinstance(questions[0], dict)
        and any(key in questions[0] for key in _QUAC_KEYS)
    )


def flatten(records: Iterable[tuple[Location, Any]]) -> Iterator[tuple[Location, Any]]:
    """Records of any format, those of the nested ones a question each; an `Unreadable` stands for what has an error.

    A flat record has question, context and answers as its file has them; the turns before a question of QuAC or CoQA
    are its chat_history, and one that cannot be answered has ``is_impossible``.
    """
    for location, record in records:
        if is_article(record) or (location[0] == "record" and not _is_flat(record)):
            yield from _article(("article", *location[1:]), record)
        elif is_story(record):
            yield from _story(location, record)
        else:
            yield location, record


def _is_flat(record: Any) -> bool:
    return not isinstance(record, dict) or is_story(record) or not set(record) <= {"title"}


def _article(location: Location, article: Mapping[str, Any]) -> Iterator[tuple[Location, Any]]:
    errors: list[str] = []
    title = text_or_empty(article, "title", errors)
    paragraphs = _list_under(article, "paragraphs", errors)
    if errors:
        yield location, _unreadable(errors, [question for one in paragraphs for question in _questions(one)])
        return
    for number, paragraph in enumerate(paragraphs, 1):
        yield from _paragraph((*location, "paragraph", number), paragraph, title)


def _paragraph(location: Location, paragraph: Any, title: str) -> Iterator[tuple[Location, Any]]:
    errors: list[str] = []
    if not isinstance(paragraph, dict):
        yield location, Unreadable(f"must be an object, got {short(paragraph)}")
        return
    questions = _list_under(paragraph, "qas", errors)
    context = filled_text(paragraph, "context", errors)
    if errors or context is None:
        yield location, _unreadable(errors, questions)
        return
    if is_conversation({"paragraphs": [paragraph]}):
        yield from _quac(location, questions, title, context)
        return
    for number, question in enumerate(questions, 1):
        if isinstance(question, dict):
            question["title"], question["context"] = title, context
        yield (*location, "question", number), question


def _questions(paragraph: Any) -> list[Any]:
    questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
    return questions if isinstance(questions, list) else []


def _unreadable(errors: list[str], questions: list[Any]) -> Unreadable:
    found = Unreadable("; ".join(errors))
    found.records = max(1, len(questions))
    return found


def _list_under(parent: Mapping[str, Any], key: str, errors: list[str]) -> list[Any]:
    if key not in parent:
        errors.append(f'no "{key}" key, got the keys {short(sorted(parent))}')
    elif not isinstance(parent[key], list):
        errors.append(f'"{key}" must be a list, got {short(parent[key])}')
    else:
        return list(parent[key])
    return []


# ---- conversations ----


def _turns(question: Any, said: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "text": question}, {"role": "assistant", "text": said}]


def _quac(location: Location, questions: list[Any], title: str, context: str) -> Iterator[tuple[Location, Any]]:
    context = context.rstrip().removesuffix(CANNOT_ANSWER).rstrip() or context
    history: list[dict[str, Any]] = []
    for number, question in enumerate(questions, 1):
        here = (*location, "question", number)
        if not isinstance(question, dict):
            yield here, question
            continue
        answers = question.get("answers")
        texts = [one.get("text") for one in answers if isinstance(one, dict)] if isinstance(answers, list) else []
        # QuAC's scorer: where as many say so as give a span, there is no answer; else those that say so do not count.
        n_cannot = texts.count(CANNOT_ANSWER)
        impossible = bool(n_cannot) and n_cannot * 2 >= len(texts)
        if isinstance(answers, list) and n_cannot:
            others = [one for one in answers if not (isinstance(one, dict) and one.get("text") == CANNOT_ANSWER)]
            answers = [] if impossible else others
        yield (
            here,
            {
                **question,
                "title": title,
                "context": context,
                "chat_history": list(history),
                "answers": answers,
                "is_impossible": impossible,
            },
        )
        original = question.get("orig_answer")
        said = original.get("text") if isinstance(original, dict) else next(iter(texts), None)
        if said is not None:
            history += _turns(question.get("question"), said)


def _story(location: Location, story: Mapping[str, Any]) -> Iterator[tuple[Location, Any]]:
    errors: list[str] = []
    questions = _list_under(story, "questions", errors)
    answers = _list_under(story, "answers", errors) if "answers" in story else []
    more = story.get("additional_answers") or {}
    others = list(more.values()) if isinstance(more, dict) else []
    context = filled_text(story, "story", errors)
    name = filled_text(story, "id", errors)
    if answers and len(answers) != len(questions):
        errors.append(f"must have as many answers as questions, got {len(answers)} and {len(questions)}")
    if errors:
        yield location, _unreadable(errors, questions)
        return
    history: list[dict[str, Any]] = []
    for number, question in enumerate(questions):
        asked = question.get("input_text") if isinstance(question, dict) else None
        turn = question.get("turn_id", number + 1) if isinstance(question, dict) else number + 1
        record: dict[str, Any] = {"id": f"{name}_{turn}", "question": asked, "context": context}
        record["chat_history"] = list(history)
        if answers:
            given = [one[number] for one in (answers, *others) if isinstance(one, list) and number < len(one)]
            record["is_impossible"] = _says_unknown(given[0])
            texts = [one.get("input_text") for one in given if isinstance(one, dict) and not _says_unknown(one)]
            record["answers"] = [] if record["is_impossible"] else texts
            said = given[0].get("input_text") if isinstance(given[0], dict) else None
            history += _turns(asked, said)
        yield (*location, "question", number + 1), record


def _says_unknown(answer: Any) -> bool:
    if not isinstance(answer, dict):
        return False
    return answer.get("span_start") == -1 and str(answer.get("input_text")).strip().lower() == _UNKNOWN
