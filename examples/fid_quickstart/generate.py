"""Generate the world's corpus and its questions, the same bytes for the same seed.

python generate.py [--seed N] [--output-dir DIR]

It needs the extra [retrieval]: the passages of a question are those that BM25 finds in the corpus.
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import COLOURS, PEOPLE, PLACES, RELATIONS, THINGS

from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.bm25 import BM25Retriever, BM25Settings

SEED = 0
SETTINGS = BM25Settings(stopwords="english")  # the sentences are made for it: see world.RELATIONS
VALIDATION_THINGS = 150  # of 1440: no passage about them is read in training
N_CONTEXT = 4  # passages of a question
ALONE = 800  # training questions with their gold passage alone, from which copying is learned
EASY = 1600  # training questions with passages drawn at random beside the gold one, from which comparing is learned


@dataclass(frozen=True)
class Fact:
    """What a passage tells, and what is asked about it."""

    thing: tuple[str, str, str]  # colour, thing, place
    question: str
    answer: str
    passage: Passage


def make_world(rng: random.Random) -> list[Fact]:
    """Every relation of every thing, told once, by passages in a drawn order."""
    kinds = list(itertools.product(itertools.product(COLOURS, THINGS, PLACES), RELATIONS))
    rng.shuffle(kinds)
    people = list(itertools.islice(itertools.cycle(PEOPLE), len(kinds)))  # each as often as any other
    rng.shuffle(people)
    facts = []
    for number, ((thing, relation), person) in enumerate(zip(kinds, people, strict=True)):
        colour, noun, place = thing
        words = {"e": f"{colour} {noun}", "p": place, "v": person}
        text = rng.choice(RELATIONS[relation].sentences).format(**words)
        question = rng.choice(RELATIONS[relation].questions).format(**words)
        facts.append(Fact(thing, question, person, Passage(f"p{number:04d}", text, f"The {place}")))
    return facts


def make_records(facts: list[Fact], split: str, found: Iterable[list[Passage]], rng: random.Random) -> list[Any]:
    """The questions of a split with their passages, which stand in a drawn order."""
    records = []
    for number, (fact, passages) in enumerate(zip(facts, found, strict=True)):
        ctxs = [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in passages]
        rng.shuffle(ctxs)
        records.append(
            {
                "id": f"{split}-{number:04d}",
                "question": fact.question,
                "answers": [fact.answer],
                "gold_id": fact.passage.id,
                "ctxs": ctxs,
            }
        )
    return records


def search(facts: list[Fact], corpus: list[Passage], n: int) -> list[list[Passage]]:
    """The passages of a corpus that BM25 finds for each question, n of them."""
    retriever = BM25Retriever.build(corpus, SETTINGS)
    found = retriever.search([fact.question for fact in facts], n)
    return [[hit.passage for hit in hits] for hits in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    world = make_world(rng)
    held_out = set(rng.sample(sorted({fact.thing for fact in world}), VALIDATION_THINGS))
    train = [fact for fact in world if fact.thing not in held_out]
    validation = [fact for fact in world if fact.thing in held_out]
    corpus = [fact.passage for fact in world]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write(args.output_dir / "corpus.jsonl", [{"_id": p.id, "title": p.title, "text": p.text} for p in corpus])
    # training reads no passage about a thing of validation; validation reads whatever is found
    found = search(train, [fact.passage for fact in train], N_CONTEXT)
    alone, easy = rng.sample(train, ALONE), rng.sample(train, EASY)
    found += [[fact.passage] for fact in alone]
    for fact in easy:
        others = [other.passage for other in rng.sample(train, N_CONTEXT) if other is not fact]
        found.append([fact.passage, *others[: N_CONTEXT - 1]])
    train += [*alone, *easy]
    write(args.output_dir / "train.jsonl", make_records(train, "train", found, rng))
    found = search(validation, corpus, N_CONTEXT)
    write(args.output_dir / "validation.jsonl", make_records(validation, "validation", found, rng))
    judged = [f"validation-{number:04d}\t{fact.passage.id}\t1" for number, fact in enumerate(validation)]
    lines = "\n".join(["query-id\tcorpus-id\tscore", *judged])
    (args.output_dir / "qrels.tsv").write_text(lines + "\n", encoding="utf-8")


def write(path: Path, records: list[Any]) -> None:
    """One JSON object a line."""
    lines = (json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
