"""Ends the quickstart: the trained reader's scores beside those of chance, and of passages that belong elsewhere.

Usage: python examples/fid_quickstart/report.py RUN
"""

import json
import sys
from pathlib import Path

from baseline import Record, random_passage, read, shuffled

from model_hub_rqa import FusionReader
from model_hub_rqa.metrics.generation import generation_metrics
from model_hub_rqa.records import Passage, Question
from model_hub_rqa.train import quiet_libraries

VALIDATION = Path(__file__).parent / "validation.jsonl"
SHOWN = 2  # questions printed with their passages


def exact_match(reader: FusionReader, records: list[Record]) -> tuple[float, list[str]]:
    """Exact match in percent of what the reader writes from the records' passages, and the answers."""
    questions = [
        Question(record["question"], passages=tuple(Passage(c["id"], c["text"], c["title"]) for c in record["ctxs"]))
        for record in records
    ]
    answers = [answer.text for answer in reader.answer_questions(questions)]
    return generation_metrics(answers, [record["answers"] for record in records])["exact_match"], answers


def main(run: Path) -> None:
    reports = read(run / "metrics.jsonl")
    last = next(report for report in reversed(reports) if report["kind"] == "validation")
    records = read(VALIDATION)
    quiet_libraries()
    reader = FusionReader.from_pretrained(run, batch_size=64)
    _, answers = exact_match(reader, records)
    elsewhere, _ = exact_match(reader, shuffled(records))
    scores = {
        "exact_match": last["exact_match"],
        "f1": last["f1"],
        "random_passage": random_passage(records),
        "shuffled_passages": elsewhere,
    }
    for record, answer in list(zip(records, answers, strict=True))[:SHOWN]:
        print(f"\nQuestion: {record['question']}")
        for ctx in record["ctxs"]:
            print(f"  {'*' if ctx['id'] == record['gold_id'] else ' '} {ctx['title']}: {ctx['text']}")
        print(f"Answer:   {answer}   [gold answer: {record['answers'][0]}]")
    print(f"\nOn {len(records)} validation questions:")
    print(f"  exact match {scores['exact_match']:.1f}, F1 {scores['f1']:.1f}")
    print(f"  exact match of a passage picked at random: {scores['random_passage']:.1f}")
    print(f"  exact match with the passages of other questions: {scores['shuffled_passages']:.1f}")
    print(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
