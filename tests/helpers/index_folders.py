"""A corpus of five passages, and what an index folder that was changed is refused for."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from model_hub_rqa.errors import CheckpointError
from model_hub_rqa.records import Hit, Passage

PASSAGES = [
    Passage("1", "a cat sat on the mat", "Cats"),
    Passage("2", "dogs chase cats", ""),
    Passage("3", "the mat is red", "Mats"),
    Passage("4", "a cat sat on the mat", "Cats"),
    Passage("5", "…", ""),
]


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.passage.id for hit in hits]


def corpus_file(folder: Path, passages: Iterable[Passage] = PASSAGES) -> Path:
    """The passages as a BEIR corpus."""
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages))
    return path


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refusals(step: Callable[[], Any]) -> list[str]:
    with pytest.raises(CheckpointError, match=r"^/.*: ") as raised:
        step()
    return list(raised.value.errors)
