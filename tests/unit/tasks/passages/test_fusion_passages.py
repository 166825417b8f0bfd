"""Which passages are read for a question: the record's own, or retrieved ones beside the gold one."""

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tiny_records import passage, row

from model_hub_rqa.errors import DataError
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.retrieval.queries import QueryBuilder
from model_hub_rqa.tasks.passages.choose import choose_passages, insert_gold, retrieve_passages


@pytest.mark.parametrize(
    ("ranked", "max_others", "expected"),
    [
        ("abcd", 3, "abc"),  # no gold in sight: it is put somewhere
        ("aGbcd", 3, "aGbc"),  # the gold stands where its rank puts it, and is not counted
        ("Gabc", 2, "Gab"),
        ("abG", 2, "ab"),  # ranked after the last: as if it were not retrieved
        ("aabb", 2, "ab"),  # the same text counts once
        ("", 2, ""),
    ],
)
def test_gold_stands_at_its_rank(ranked: str, max_others: int, expected: str) -> None:
    """Ranked passages keep their order; a gold one that is not among them is put at a random place."""
    rng = np.random.default_rng(0)
    merged = insert_gold([passage("G", gold=True)], [passage(text) for text in ranked], max_others, rng)
    texts = "".join(item["text"] for item in merged)
    assert texts.count("G") == 1
    assert [item["text"] for item in merged if item["gold"]] == ["G"]
    assert texts == expected if "G" in expected else texts.replace("G", "") == expected


def test_passages_of_a_title_alone_are_told_apart() -> None:
    """Without a text, the title says which passage it is, and which is gold."""
    ranked = [{**passage(""), "title": title} for title in ("Oil", "River", "River", "Price")]
    gold = [{**passage("", gold=True), "title": "River"}]
    merged = insert_gold(gold, ranked, 3, np.random.default_rng(0))
    assert [(item["title"], item["gold"]) for item in merged] == [("Oil", False), ("River", True), ("Price", False)]


def test_gold_is_put_anywhere() -> None:
    """A gold passage that was not retrieved is at no place much more often than at another."""
    places = []
    for seed in range(400):
        merged = insert_gold([passage("G")], [passage(t) for t in "abc"], 3, np.random.default_rng([seed, 5]))
        places.append([item["text"] for item in merged].index("G"))
    assert (np.bincount(places, minlength=4) > 70).all()


def test_passages_of_the_record() -> None:
    """The first n_context in their order; negatives, where asked for, at random places, and gold is kept."""
    record = row(passages=("a", "b", "c"), negatives=[passage("x"), passage("y"), passage(" a"), passage("z")])
    record["passages"][0]["gold"] = True
    examples = Dataset.from_list([record] * 40)

    def texts(**settings: Any) -> list[str]:
        found = choose_passages(examples, **settings)
        return ["".join(item["text"] for item in items) for items in found["passages"][:]]

    assert set(texts(n_context=None)) == {"abc"}
    assert set(texts(n_context=2)) == {"ab"}
    mixed = texts(n_context=None, num_hard_negatives=2)
    assert len(set(mixed)) > 5
    assert all(sorted(text) == sorted("abcxy") and text.replace("x", "").replace("y", "") == "abc" for text in mixed)
    assert all("a" in text and len(text) == 2 for text in texts(n_context=2, num_hard_negatives=9))
    assert mixed == texts(n_context=None, num_hard_negatives=2)
    record["passages"][0]["gold"], record["passages"][2]["gold"], record["negatives"] = False, True, []
    examples = Dataset.from_list([record])
    assert texts(n_context=2, num_hard_negatives=2) == ["ac"]  # negatives are asked for, though this record has none
    assert texts(n_context=2) == ["ab"]
    examples = Dataset.from_list([row(passages=("a", "b", "c"), negatives=[passage("x"), passage("y")])] * 40)
    assert mixed != texts(n_context=None, num_hard_negatives=2, seed=1)


def test_retrieved_passages() -> None:
    """For training gold passages are kept beside those retrieved, for evaluation retrieval stands alone."""
    examples = Dataset.from_list([row(question, passages=("G",)) for question in ("one", "two")])
    examples = examples.map(lambda item: {"passages": [{**p, "gold": True} for p in item["passages"]]})
    asked: list[list[str]] = []

    def retrieve(questions: list[str]) -> list[list[Hit]]:
        asked.append(questions)
        return [[Hit(Passage(str(i), f"{question}{i}", "title"), 9.0 - i) for i in range(5)] for question in questions]

    settings: dict[str, Any] = {"max_num_to_retrieve": 3, "n_context": None}
    training = retrieve_passages(examples, retrieve, keep_gold=True, **settings)["passages"][:]
    assert [sorted(item["text"] for item in items) for items in training] == [
        ["G", "one0", "one1", "one2"],
        ["G", "two0", "two1", "two2"],
    ]
    evaluation = retrieve_passages(examples, retrieve, keep_gold=False, **settings)["passages"][:]
    assert [(item["text"], item["score"]) for item in evaluation[1]] == [("two0", 9.0), ("two1", 8.0), ("two2", 7.0)]
    assert asked == [["one", "two"]] * 2
    cut = retrieve_passages(examples, retrieve, max_num_to_retrieve=3, n_context=2, keep_gold=True)["passages"][:]
    assert [sum(item["gold"] for item in items) for items in cut] == [1, 1]
    assert [len(items) for items in cut] == [2, 2]


def test_a_rewriter_knows_a_question_by_its_id() -> None:
    """In training as in rqa retrieve and rqa evaluate."""
    examples = Dataset.from_list([row("who?", id="q7"), row("when?", id="q8")])
    asked: list[str] = []

    def retrieve(questions: list[str]) -> list[list[Hit]]:
        asked.extend(questions)
        return [[Hit(Passage("0", "text"), 1.0)] for _ in questions]

    queries = QueryBuilder(rewrite=lambda questions: [f"{one.id} {one.text}" for one in questions])
    retrieve_passages(examples, retrieve, max_num_to_retrieve=1, n_context=None, keep_gold=False, queries=queries)
    assert asked == ["q7 who?", "q8 when?"]


@pytest.mark.parametrize(
    ("found", "error"),
    [([[]], "no passage was found for the question 'Who\\?'"), ([], "asked 1 questions, got 0 lists of passages")],
)
def test_retrieval_that_fails(found: list[list[Hit]], error: str) -> None:
    """A retriever that gives nothing, or a list too few, is named."""
    examples = Dataset.from_list([row()])
    with pytest.raises(DataError, match=error):
        retrieve_passages(examples, lambda _: found, max_num_to_retrieve=3, n_context=None, keep_gold=True)
