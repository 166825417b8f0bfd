"""Records of questions with passages, as the feature builders take them."""

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
