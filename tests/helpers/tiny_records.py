"""Records of questions with passages, as the feature builders take them, and files of records."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TOFU = [{"question": f"What is author {i}?", "answer": f"A writer of {i} books."} for i in range(9)]
FILES = {"train_file": None, "validation_file": None}


def passage(text: str, title: str = "", *, gold: bool = False) -> dict[str, Any]:
    return {"id": "", "title": title, "text": text, "score": None, "gold": gold}


def row(question: str = "Who?", passages: tuple[str, ...] = ("one", "two"), **fields: Any) -> dict[str, Any]:
    plain = {
        "id": "1",
        "question": question,
        "chat_history": [],
        "target": "",
        "answers": ["oil"],
        "passages": [passage(text, "T") for text in passages],
        "negatives": [],
    }
    return plain | fields


def write_lines(path: Path, records: Iterable[Any]) -> str:
    """Writes JSON lines and returns the file's path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


WRONG = (None, 5, "x", "", [], {}, [5], [{}], {"title": 5}, {"text": 5})


def changed_everywhere(value: Any) -> Iterator[Any]:
    """A value with each of its parts, and of their parts, in turn replaced by what is of another type, or left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: wrong} for wrong in WRONG)
            yield from ({**value, key: changed} for changed in changed_everywhere(inner))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            for changed in (*WRONG, *changed_everywhere(inner)):
                yield [*value[:place], changed, *value[place + 1 :]]
