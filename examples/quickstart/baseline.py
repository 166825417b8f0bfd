"""What answering at random scores: a random span of one to three words, or none in as many cases as the file has none.

python baseline.py FILE
"""

import json
import random
import sys
from pathlib import Path

from model_hub_rqa.data.file_loaders import read_squad
from model_hub_rqa.metrics.squad import references_from_rows, squad_v2

DRAWS = 20  # predictions of the whole file, whose scores are averaged


def random_f1(path: Path) -> float:
    """F1 in percent of random answers to a SQuAD v2.0 file, as the official evaluator counts it."""
    rows = read_squad(path, version_2_with_negative=True).rows
    unanswerable = sum(not row["answers"]["text"] for row in rows) / len(rows)
    references = references_from_rows(rows)
    rng = random.Random(0)
    scores = []
    for _ in range(DRAWS):
        predictions = {}
        for row in rows:
            words = row["context"].split()
            length = rng.randint(1, 3)
            start = rng.randrange(max(1, len(words) - length + 1))
            answer = " ".join(words[start : start + length])
            predictions[row["id"]] = "" if rng.random() < unanswerable else answer
        scores.append(squad_v2(predictions, references)["f1"])
    return sum(scores) / len(scores)


if __name__ == "__main__":
    print(json.dumps({"random_f1": random_f1(Path(sys.argv[1]))}))
