"""examples/retriever_tuning: its files, made of the real data."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples/retriever_tuning/build_data.py"


def test_gold_paragraphs_are_found_by_their_questions(rqa_data: Path, tmp_path: Path) -> None:
    """Every question has one positive, which has its answer and is in the corpus; dev's gold paragraphs are new."""
    subprocess.run([sys.executable, str(SCRIPT), str(rqa_data), str(tmp_path)], check=True)
    lines = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("questions", "dev", "corpus_train", "corpus_dev")
    }
    assert {name: len(rows) for name, rows in lines.items()} == {
        "questions": 1808,
        "dev": 1000,
        "corpus_train": 11061,
        "corpus_dev": 6904,
    }
    gold = {}
    for questions, corpus in (("questions", "corpus_train"), ("dev", "corpus_dev")):
        texts = {row["text"] for row in lines[corpus]}
        assert len(texts) == len(lines[corpus])
        gold[questions] = {row["positive_ctxs"][0]["text"] for row in lines[questions]}
        assert gold[questions] <= texts
    found = [any(one in row["positive_ctxs"][0]["text"] for one in row["answers"]) for row in lines["dev"]]
    assert sum(found) / len(found) > 0.99
    assert not gold["questions"] & gold["dev"]
