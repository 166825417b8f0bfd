"""Generate the quickstart's questions: an invented world in the SQuAD v2.0 form, the same bytes for the same seed.

python generate.py [--seed N] [--output-dir DIR] [--train-passages N] [--validation-passages N]
"""

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import ASIDES, ENDINGS, KINDS, PRODUCTS, PROFESSIONS, RELATIONS, SYLLABLES

SEED = 0
TRAIN_PASSAGES = 3000
VALIDATION_PASSAGES = 200
PHRASINGS = 5  # of each relation, for questions and for sentences
HELD_OUT = (0,)  # question q and sentence s meet only in validation where (q + s) % 5 is one of these, else in train
FACTS = 3  # told in a passage
QUESTIONS = 3  # asked of it
ALIKE = 0.15  # share of passages that may tell two values of a kind, such as two years
UNANSWERABLE = 0.45  # share of passages with one question about what the passage does not tell
SECOND_ENTITY = 0.1  # share of passages that tell one of the facts of another entity as well
ASIDE = 0.5  # share of passages with a sentence that answers nothing


@dataclass(frozen=True)
class Fact:
    """That ``relation`` of ``entity`` is ``value``, told by the sentence of that number."""

    entity: str
    relation: str
    value: str
    sentence: int


class Names:
    """Draws names; each is new, so that no entity of one split is known from the other."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.used: set[str] = set()

    def word(self, ending: str) -> str:
        while True:
            word = (self.rng.choice(SYLLABLES) + self.rng.choice(SYLLABLES) + ending).capitalize()
            if word not in self.used:
                self.used.add(word)
                return word

    def entity(self, kind: str) -> str:
        return self.word(self.rng.choice(ENDINGS[kind]))

    def value(self, kind: str) -> str:
        """A value of a relation: a number, a word of the language, or a name that is new as well."""
        if kind == "year":
            return str(self.rng.randrange(1100, 1990))
        if kind == "number":
            return str(self.rng.randrange(2000, 9999))
        if kind in ("product", "profession"):
            return self.rng.choice(PRODUCTS if kind == "product" else PROFESSIONS)
        return self.entity(kind)


def allowed_questions(split: str, *sentences: int) -> list[int]:
    """The question phrasings that may meet all of these sentence phrasings in this split."""
    held_out = split == "validation"
    return [
        question
        for question in range(PHRASINGS)
        if all(((question + sentence) % PHRASINGS in HELD_OUT) == held_out for sentence in sentences)
    ]


def make_passage(names: Names, split: str, number: int) -> dict[str, Any]:
    """One article of the SQuAD form: a passage about one entity, and its questions."""
    rng = names.rng
    kind = rng.choice(tuple(KINDS))
    entity = names.entity(kind)
    told, untold = _choose(rng, KINDS[kind])
    facts = [_fact(names, entity, relation) for relation in told]
    others = []
    if rng.random() < SECOND_ENTITY:
        fact = rng.choice(facts)
        other = _fact(names, names.entity(kind), fact.relation)
        while other.value == fact.value or not allowed_questions(split, fact.sentence, other.sentence):
            other = _fact(names, other.entity, fact.relation)
        others.append(other)
    asides = [rng.choice(ASIDES)] if rng.random() < ASIDE else []
    context, starts = _write(rng, [*facts, *others], asides)

    unanswerable = rng.random() < UNANSWERABLE
    asked: list[Fact | str] = [*rng.sample(facts, QUESTIONS - unanswerable)]
    if unanswerable:
        asked.append(rng.choice(untold))
    rng.shuffle(asked)
    qas = []
    for index, fact in enumerate(asked):
        relation = fact if isinstance(fact, str) else fact.relation
        met = [each.sentence for each in (*facts, *others) if each.relation == relation]
        question = rng.choice(allowed_questions(split, *met))
        sentence = "none" if isinstance(fact, str) else f"s{fact.sentence}"
        qas.append(
            {
                "id": f"{split}-{number:04d}{index}-{relation}-q{question}-{sentence}",
                "question": RELATIONS[relation].questions[question].replace("{e}", entity),
                "answers": [] if isinstance(fact, str) else [{"text": fact.value, "answer_start": starts[fact]}],
                "is_impossible": isinstance(fact, str),
            }
        )
    return {"title": entity, "paragraphs": [{"context": context, "qas": qas}]}


def _choose(rng: random.Random, relations: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The relations that a passage tells, and those it does not."""
    told: list[str] = []
    alike = rng.random() < ALIKE
    for relation in rng.sample(relations, len(relations)):
        kinds = {RELATIONS[other].values for other in told}
        if len(told) < FACTS and (alike or RELATIONS[relation].values not in kinds):
            told.append(relation)
    return told, [relation for relation in relations if relation not in told]


def _fact(names: Names, entity: str, relation: str) -> Fact:
    value = names.value(RELATIONS[relation].values)
    return Fact(entity, relation, value, names.rng.randrange(PHRASINGS))


def _write(rng: random.Random, facts: list[Fact], asides: list[str]) -> tuple[str, dict[Fact, int]]:
    """The text, its sentences in a drawn order, and where each fact's value begins in it."""
    sentences: list[Fact | str] = [*facts, *asides]
    rng.shuffle(sentences)
    context, starts = "", {}
    for sentence in sentences:
        context += " " if context else ""
        if isinstance(sentence, str):
            context += sentence
            continue
        text = RELATIONS[sentence.relation].sentences[sentence.sentence].replace("{e}", sentence.entity)
        starts[sentence] = len(context) + text.index("{v}")
        context += text.replace("{v}", sentence.value)
    return context, starts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent)
    parser.add_argument("--train-passages", type=int, default=TRAIN_PASSAGES)
    parser.add_argument("--validation-passages", type=int, default=VALIDATION_PASSAGES)
    args = parser.parse_args()
    names = Names(random.Random(args.seed))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", args.train_passages), ("validation", args.validation_passages)):
        data = {"version": "v2.0", "data": [make_passage(names, split, number) for number in range(count)]}
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        (args.output_dir / f"{split}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
