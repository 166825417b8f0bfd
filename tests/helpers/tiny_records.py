"""Records of questions with passages, as the feature builders take them, and files of records."""

import json
from collections.abc import Iterable
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
