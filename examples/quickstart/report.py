"""Ends the quickstart: the trained reader's score beside that of random answers, and three questions put to it.

Usage: python examples/quickstart/report.py RUN
"""

import json
import random
import sys
from pathlib import Path

from baseline import random_f1

from model_hub_rqa import ExtractiveReader
from model_hub_rqa.train import quiet_libraries

VALIDATION = Path(__file__).parent / "validation.json"


def main(run: Path) -> None:
    predictions = json.loads((run / "predictions.json").read_text(encoding="utf-8"))
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    f1 = next(report["f1"] for report in reversed(reports) if report["kind"] == "validation")
    at_random = random_f1(VALIDATION)
    print(f"\nF1 on {len(predictions)} validation questions: {f1:.1f}   (answering at random: {at_random:.1f})")

    quiet_libraries()
    reader = ExtractiveReader.from_pretrained(run)
    paragraphs = [p for article in json.loads(VALIDATION.read_text("utf-8"))["data"] for p in article["paragraphs"]]
    for paragraph in random.Random(0).sample(paragraphs, 3):
        qa = random.Random(0).choice(paragraph["qas"])
        answer = reader.answer(qa["question"], paragraph["context"])
        gold = qa["answers"][0]["text"] if qa["answers"] else "(no answer)"
        print(f"\nPassage:  {paragraph['context']}\nQuestion: {qa['question']}")
        print(f"Answer:   {answer.text or '(no answer)'}   [score {answer.score:.2f}; gold answer: {gold}]")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
