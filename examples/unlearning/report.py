"""The table of the unlearning example: each stage's losses on what is to be forgotten and on what is to be kept.

python report.py RUNS, where RUNS holds the folders finetune, grad_ascent, grad_diff and npo.
"""

import json
import sys
from pathlib import Path

STAGES = ("grad_ascent", "grad_diff", "npo")


def losses(run: Path) -> tuple[float, float]:
    """eval_loss of a run's last validation on the sets forget and retain."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = [report for report in map(json.loads, lines) if report["kind"] == "validation"][-1]
    return last["forget/eval_loss"], last["retain/eval_loss"]


def main(runs: Path) -> None:
    before = losses(runs / "finetune")
    print("| objective | forget10 before | after | retain90 before | after | change |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for stage in STAGES:
        after = losses(runs / stage)
        pairs = [f"{one:.3f} | {other:.3f}" for one, other in zip(before, after, strict=True)]
        print(f"| {stage} | {' | '.join(pairs)} | {after[1] / before[1] - 1:+.1%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
