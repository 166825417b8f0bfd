"""What the questions score without reading them well: a person drawn from a passage that is drawn, or from all people.

python baseline.py FILE
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from world import PEOPLE

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """The records of a file that has one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def random_passage(records: list[Record]) -> float:
    """Exact match in percent, on average, of the person named by any one of the question's passages."""
    shares = [
        sum(record["answers"][0] in ctx["text"] for ctx in record["ctxs"]) / len(record["ctxs"]) for record in records
    ]
    return 100 * sum(shares) / len(shares)


def shuffled(records: list[Record], seed: int = 0) -> list[Record]:
    """The same questions, each with the passages of another."""
    order = random.Random(seed).sample(range(len(records)), len(records))
    passages = {one: records[other]["ctxs"] for one, other in zip(order, [*order[1:], order[0]], strict=True)}
    return [{**record, "ctxs": passages[number]} for number, record in enumerate(records)]


if __name__ == "__main__":
    found = random_passage(read(Path(sys.argv[1])))
    print(json.dumps({"random_passage": found, "random_person": 100 / len(PEOPLE)}))
