"""Writes the files of this example: questions of SQuAD with their gold paragraphs, and two corpora.

``python examples/retriever_tuning/build_data.py DATA OUTPUT``: DATA has squad/train-v1.1.json, squad/dev-v1.1.json and
fid/squad_fid_{train,dev}.jsonl.gz (questions with ten passages that BM25 found). The gold paragraph of a question is
the one of SQuAD with the same question; those that stand under several paragraphs are left out.
"""

import gzip
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Passage = tuple[str, str]  # title, text


def gold_paragraphs(squad: Path) -> tuple[dict[str, set[Passage]], set[Passage]]:
    """The paragraphs of SQuAD by question, and all of them."""
    by_question: dict[str, set[Passage]] = {}
    every: set[Passage] = set()
    for article in json.loads(squad.read_text(encoding="utf-8"))["data"]:
        title = article["title"].replace("_", " ")
        for paragraph in article["paragraphs"]:
            every.add((title, paragraph["context"]))
            for question in paragraph["qas"]:
                by_question.setdefault(question["question"].strip(), set()).add((title, paragraph["context"]))
    return by_question, every


def questions_of(fid: Path, gold: Mapping[str, set[Passage]]) -> tuple[list[dict[str, Any]], set[Passage]]:
    """Questions with their one gold paragraph as positive, and all passages that were found for them."""
    with gzip.open(fid, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    found = {(passage["title"].replace("_", " "), passage["text"]) for one in records for passage in one["ctxs"]}
    kept = []
    for one in records:
        paragraphs = gold.get(one["question"].strip(), set())
        if len(paragraphs) == 1:
            ((title, text),) = paragraphs
            answers = {name: one[name] for name in ("id", "question", "answers")}
            kept.append({**answers, "positive_ctxs": [{"title": title, "text": text}]})
    return kept, found


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def write_corpus(path: Path, passages: Iterable[Passage]) -> None:
    """Each text once, in the order of title and text."""
    texts = {text: title for title, text in sorted(passages, reverse=True)}
    rows = sorted((title, text) for text, title in texts.items())
    write_lines(path, ({"_id": str(row), "title": title, "text": text} for row, (title, text) in enumerate(rows)))


def main(data: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    gold_train, _ = gold_paragraphs(data / "squad/train-v1.1.json")
    gold_dev, every_dev = gold_paragraphs(data / "squad/dev-v1.1.json")
    train, found_train = questions_of(data / "fid/squad_fid_train.jsonl.gz", gold_train)
    dev, found_dev = questions_of(data / "fid/squad_fid_dev.jsonl.gz", gold_dev)
    write_lines(output / "questions.jsonl", train)
    write_lines(output / "dev.jsonl", dev)
    gold = {(one["title"], one["text"]) for line in train for one in line["positive_ctxs"]}
    write_corpus(output / "corpus_train.jsonl", found_train | gold)
    write_corpus(output / "corpus_dev.jsonl", found_dev | every_dev | gold)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
