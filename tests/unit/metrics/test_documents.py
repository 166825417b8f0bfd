"""Retrieved passages against gold documents."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.metrics.ranking import contained, document_metrics, word_recall
from model_hub_rqa.metrics.text import SQUAD_RULES
from model_hub_rqa.records import Passage


def texts(*lists: Sequence[str]) -> list[list[Passage]]:
    """Passages without ids."""
    return [[Passage("", text) for text in row] for row in lists]


@pytest.mark.parametrize(
    ("passage", "gold", "expected"),
    [
        ("the oil embargo", "The  Oil embargo.", True),
        ("In 1973 an oil embargo began", "oil embargo", True),  # the gold document within a longer passage
        ("oil embargo", "an oil embargo began", True),  # a passage cut from the gold document
        ("il embargo", "oil embargo", False),  # whole words only
        ("oil price", "price oil", False),
        ("", "oil", False),
        ("the", "an", False),  # nothing is left of either
    ],
)
def test_contained(passage: str, gold: str, expected: bool) -> None:
    """One text, normalised, contains the other."""
    assert contained(passage, gold) is expected


def test_word_recall_counts_repeated_words() -> None:
    """A word that the gold document has twice is recalled once by a passage that has it once."""
    assert word_recall("oil and water", "oil oil water") == pytest.approx(2 / 3)
    assert word_recall("oil", "") == 0.0


EMBARGO = "The oil embargo of 1973 began in October and ended in March 1974"


@pytest.mark.parametrize(
    ("passage", "gold", "found", "by_localrqa"),
    [
        ("oil embargo of 1973", EMBARGO, 0, 1),  # a fragment
        ("embargo", EMBARGO, 0, 1),
        (EMBARGO, EMBARGO, 1, 1),
        (f"Prices rose. {EMBARGO}; so it was.", EMBARGO, 1, 1),
        ("oil embargo of 1973 began in October, ended in March", EMBARGO, 1, 0),  # nine words of eleven
        ("two one three", "one two three four", 1, 0),
        ("two one three four five six seven", "one two three four five six seven eight nine ten", 0, 0),  # 70 %
        ("two one three four five six seven eight", "one two three four five six seven eight nine ten", 1, 0),
        ("", EMBARGO, 0, 0),
    ],
)
def test_a_fragment_of_the_gold_document_is_not_found(
    passage: str, gold: str, found: float, by_localrqa: float
) -> None:
    """A passage is the gold document with more than 70 % of its words; LocalRQA's rule has its own name."""
    scores = document_metrics(texts([passage]), texts([gold]))
    names = ("document_accuracy", "document_recall", "document_recall@1", "ndcg")
    assert {scores[name] for name in names} == {found}
    assert scores["contained_document_accuracy"] == scores["contained_document_recall"] == by_localrqa
    assert scores["compared_by_id"] == 0


def test_document_metrics_by_hand() -> None:
    """Two questions: one gold document at rank 2 of 2; two gold documents of which one is found, at rank 1."""
    retrieved = texts(["river basin", "oil embargo"], ["price one", "price five", "barrel"])
    gold = texts(["oil embargo"], ["price one", "a b c d e f g h price three"])
    found = document_metrics(retrieved, gold)
    assert found["document_accuracy"] == pytest.approx(2 / 5)
    assert found["document_recall"] == pytest.approx(1 / 2)
    assert found["document_recall@1"] == 0.0
    # 1 / log2(3) of 1; 1 of 1 + 1 / log2(3)
    assert found["ndcg"] == pytest.approx((0.6309297535714575 + 1 / 1.6309297535714575) / 2)


def test_a_gold_document_counts_once() -> None:
    """Two passages with a gold document are both right, and yet gain no more than one of them."""
    found = document_metrics(
        texts(["river", "oil embargo of 1973", "on the oil embargo of 1973"]), texts([EMBARGO[:23]])
    )
    assert found["document_accuracy"] == pytest.approx(2 / 3)
    assert found["ndcg"] == pytest.approx(0.6309297535714575)


def test_questions_without_gold_documents_are_ignored() -> None:
    """Nothing is said of them, and nothing at all where there are only such."""
    assert document_metrics(texts(["a b"], ["oil"]), texts([], ["oil"]))["document_recall"] == 1.0
    assert document_metrics(texts(["oil"]), texts([])) == {}
    nothing_found = document_metrics(texts([]), texts(["oil"]))
    assert nothing_found["document_recall"] == nothing_found["ndcg"] == 0.0


# ---- by id ----

OIL, RIVER, WATER = (
    Passage("oil", "oil rose in October"),
    Passage("river", "a river and its long basin"),
    Passage("w", "a water mill"),
)
FIRST = ([OIL], [OIL])  # a question whose passage has the id and the text of its gold document


@pytest.mark.parametrize(
    ("retrieved", "gold", "recall", "by_id"),
    [
        # The same id is the document, and another id is not, whatever the text.
        ([WATER, RIVER], [RIVER], 1, 1),
        ([Passage("copy", RIVER.text)], [RIVER], 0, 1),
        # Passages that a document was split into.
        ([Passage("river#3", "basin")], [RIVER], 1, 1),
        ([Passage("rivers#3", RIVER.text)], [RIVER], 0, 1),
        ([Passage("a#b#0", "x")], [Passage("a#b", "x y z w v")], 1, 1),
        ([Passage("a", "x")], [Passage("a#b", "x")], 0, 1),
        # A gold document without an id is compared by its text.
        ([RIVER], [Passage("", RIVER.text)], 1, 1 / 2),
        ([RIVER, WATER], [RIVER, Passage("", "nowhere")], 0, 2 / 3),
    ],
)
def test_gold_documents_are_compared_by_id(
    retrieved: list[Passage], gold: list[Passage], recall: float, by_id: float
) -> None:
    """Where another question shows that the ids are of one list."""
    scores = document_metrics([FIRST[0], retrieved], [FIRST[1], gold])
    assert scores["document_recall"] == (1 + recall) / 2
    assert scores["compared_by_id"] == pytest.approx(by_id)


def test_ids_of_another_list_are_ignored() -> None:
    """The file numbers its passages by itself, so that its ids are those of other passages in the index."""
    retrieved = [[Passage("1", "a river"), Passage("2", "oil rose in October")], [Passage("3", "the barrel")]]
    gold = [[Passage("1", "oil rose in October")], [Passage("3", "a mill")]]
    scores = document_metrics(retrieved, gold)
    assert (scores["document_recall"], scores["document_recall@1"], scores["compared_by_id"]) == (0.5, 0, 0)
    # Nor are they compared where no gold document was retrieved by its id.
    assert document_metrics(texts(["oil rose in October"]), [[Passage("7", "oil rose in October")]])["ndcg"] == 1


WORDS = st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join)
PASSAGES = st.lists(st.builds(Passage, st.sampled_from(["", "1", "2", "1#0"]), WORDS), max_size=4)


@given(st.lists(st.tuples(PASSAGES, PASSAGES), min_size=1, max_size=4))
def test_properties(questions: list[tuple[list[Passage], list[Passage]]]) -> None:
    """All are from 0 to 1; recall at 1 is no higher than recall; without ids, containing is having all the words."""
    retrieved, gold = zip(*questions, strict=True)
    scores = document_metrics(retrieved, gold)
    assert all(0 <= value <= 1 + 1e-12 for value in scores.values())
    assert not scores or scores["document_recall@1"] <= scores["document_recall"]
    for passages, documents in questions:
        for passage in passages:
            for document in documents:
                if f" {SQUAD_RULES.normalize(document.text)} " in f" {SQUAD_RULES.normalize(passage.text)} ":
                    assert word_recall(passage.text, document.text) in (0, 1)
