"""Make sentence ordering data of the paragraphs of a SQuAD file: folders of ``Dataset.save_to_disk``.

python build_data.py --data train-v1.1.json [--output-dir DIR] [--train N] [--validation N] [--sentences N] [--seed N]

A paragraph gives its first five sentences, shuffled; one with fewer, or with a very short one, is left out. The
validation paragraphs are of articles of their own, ten of each at most.
"""

import argparse
import json
import random
import re
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

HERE = Path(__file__).parent
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"“(]?[A-Z])")
FEWEST_WORDS = 4  # a shorter "sentence" ends at an abbreviation
MOST_OF_AN_ARTICLE = 10


def sentences_of(paragraph: str) -> list[str]:
    """The sentences of a paragraph; none at all where a cut is doubtful."""
    found = [sentence.strip() for sentence in SENTENCE_END.split(paragraph)]
    return found if all(len(sentence.split()) >= FEWEST_WORDS for sentence in found) else []


def shuffled(sentences: list[str], name: str, rng: random.Random) -> dict[str, Any]:
    """A row: the sentences in a drawn order, and the true position of each."""
    positions = list(range(len(sentences)))
    rng.shuffle(positions)
    return {"id": name, "sentences": [sentences[position] for position in positions], "positions": positions}


def build(path: Path, *, train: int, validation: int, sentences: int, seed: int) -> DatasetDict:
    """Draws the paragraphs of both sides.

    Raises:
        SystemExit: the file has fewer than are wanted.
    """
    rng = random.Random(seed)
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    rng.shuffle(articles)
    rows: dict[str, list[dict[str, Any]]] = {"validation": [], "train": []}
    for article in articles:
        side = "validation" if len(rows["validation"]) < validation else "train"
        cut = [sentences_of(paragraph["context"]) for paragraph in article["paragraphs"]]
        long_enough = [(number, found) for number, found in enumerate(cut) if len(found) >= sentences]
        rng.shuffle(long_enough)
        for number, found in long_enough[: MOST_OF_AN_ARTICLE if side == "validation" else None]:
            rows[side].append(shuffled(found[:sentences], f"{article['title']}-{number}", rng))
    rng.shuffle(rows["train"])
    for side, count in (("train", train), ("validation", validation)):
        if len(rows[side]) < count:
            raise SystemExit(f"{path}: has {len(rows[side])} paragraphs for {side}, {count} are wanted")
        rows[side] = rows[side][:count]
    return DatasetDict({side: Dataset.from_list(rows[side]) for side in ("train", "validation")})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a nested SQuAD file")
    parser.add_argument("--output-dir", type=Path, default=HERE / "data")
    parser.add_argument("--train", type=int, default=2000, help="paragraphs to train on")
    parser.add_argument("--validation", type=int, default=300, help="paragraphs to evaluate on")
    parser.add_argument("--sentences", type=int, default=5, help="of each paragraph")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    made = build(args.data, train=args.train, validation=args.validation, sentences=args.sentences, seed=args.seed)
    made.save_to_disk(args.output_dir)
    print({side: len(rows) for side, rows in made.items()}, "written to", args.output_dir)
