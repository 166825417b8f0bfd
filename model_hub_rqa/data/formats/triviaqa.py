"""TriviaQA's format (Joshi et al. 2017, arXiv:1705.03551), of its own files and of the hub's."""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.registry import FORMATS

_UNKNOWN = "<unk>"  # of the hub's test set
_PARTS = {"entity_pages": "wiki_context", "search_results": "search_context"}


@FORMATS.register("triviaqa")
class TriviaQA(QuestionFormat):
    """The value, its aliases and the annotators' own answers are gold answers. Pages are passages where their text is
    given, as on the hub; TriviaQA's own files keep it in files apart."""

    passages = tuple(_PARTS)

    def matches(self, record: Record) -> bool:
        answer = record.get("answer")
        hub = isinstance(answer, Mapping) and "aliases" in answer
        return ("Question" in record and "QuestionId" in record) or hub or (set(_PARTS) <= set(record))

    def read(self, record: Record) -> Row:
        by_name = {_snake(name): value for name, value in record.items()}
        common: Row = {name: by_name[name] for name in ("question", "question_id") if name in by_name}
        answer = by_name.get("answer")
        if isinstance(answer, Mapping):
            inner = {_snake(name): value for name, value in answer.items()}
            if inner.get("value") != _UNKNOWN:
                names = {"answer": "value", "aliases": "aliases", "answer_aliases": "human_answers"}
                common |= {name: inner.get(own) for name, own in names.items()}
        elif answer is not None:
            common["answers"] = Unreadable(f"answer must be an object with value and aliases, got {short(answer)}")
        return {**common, "passages": [one for name, text in _PARTS.items() for one in _pages(by_name, name, text)]}


def _snake(name: str) -> str:
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in name).removeprefix("_")


def _pages(record: Record, name: str, text: str) -> list[Any]:
    pages = record.get(name)
    if not isinstance(pages, Mapping) or text not in pages:  # lists of each, as the hub has them
        return []
    texts, titles = pages[text], pages.get("title")
    if not isinstance(texts, list) or not isinstance(titles, list) or len(texts) != len(titles):
        return [Unreadable(f"{name} must have as many of title as of {text}, got {short(titles)}, {short(texts)}")]
    pairs = [pair for pair in zip(titles, texts, strict=True) if pair[1] not in (None, "")]
    return [{"location": f"{name} {number}", "title": one, "text": own} for number, (one, own) in enumerate(pairs, 1)]
