"""Make multiple-choice data of a SQuAD file: JSON lines with a context, a question, four choices and the right one.

python build_data.py --data train-v1.1.json [--output-dir DIR] [--train N] [--validation N] [--seed N]

The wrong choices are answers to other questions about the same paragraph, filled up from its article. The validation
questions are about articles of their own.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHOICES = 4
MOST_OF_AN_ARTICLE = 40  # questions, so that no article is most of the validation


def answers_of(paragraph: dict[str, Any]) -> list[str]:
    """The first answer of each question that has one."""
    return [question["answers"][0]["text"] for question in paragraph["qas"] if question["answers"]]


def questions_of(article: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """The records of an article; questions without three other answers beside them are left out."""
    rows = []
    others = [text for paragraph in article["paragraphs"] for text in answers_of(paragraph)]
    rng.shuffle(others)
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            if not question["answers"]:
                continue
            right = question["answers"][0]["text"]
            texts = dict.fromkeys([*answers_of(paragraph), *others])
            wrong = [text for text in texts if text.casefold() != right.casefold()][: CHOICES - 1]
            if len(wrong) < CHOICES - 1:
                continue
            choices = [right, *wrong]
            rng.shuffle(choices)
            record = {"id": question["id"], "context": paragraph["context"], "question": question["question"]}
            rows.append({**record, "choices": choices, "label": choices.index(right)})
    rng.shuffle(rows)
    return rows


def build(path: Path, *, train: int, validation: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Draws the questions of both sides.

    Raises:
        SystemExit: the file has fewer than are wanted.
    """
    rng = random.Random(seed)
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    rng.shuffle(articles)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for article in articles:
        if len(rows["validation"]) < validation:
            rows["validation"] += questions_of(article, rng)[:MOST_OF_AN_ARTICLE]
        else:
            rows["train"] += questions_of(article, rng)
    rng.shuffle(rows["train"])
    for side, count in (("train", train), ("validation", validation)):
        if len(rows[side]) < count:
            raise SystemExit(f"{path}: has {len(rows[side])} questions for {side}, {count} are wanted")
        rows[side] = rows[side][:count]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a nested SQuAD file")
    parser.add_argument("--output-dir", type=Path, default=HERE / "data")
    parser.add_argument("--train", type=int, default=2000, help="questions to train on")
    parser.add_argument("--validation", type=int, default=400, help="questions to evaluate on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for side, rows in build(args.data, train=args.train, validation=args.validation, seed=args.seed).items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.output_dir / f"{side}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{len(rows)} questions written to {args.output_dir / side}.jsonl")
