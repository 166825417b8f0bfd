"""Retrieved passages against gold documents."""

import pytest

from model_hub_rqa.metrics.ranking import cover, document_metrics, same_document


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
def test_same_document(passage: str, gold: str, expected: bool) -> None:
    """Texts are the same document where one, normalised, holds the other."""
    assert same_document(passage, gold) is expected


def test_cover_counts_repeated_words() -> None:
    """A word that the gold document has twice is covered once by a passage that has it once."""
    assert cover("oil and water", "oil oil water") == pytest.approx(2 / 3)
    assert cover("oil", "") == 0.0


def test_document_metrics_by_hand() -> None:
    """Two questions: one gold document at rank 2 of 2; two gold documents of which one is found, at rank 1."""
    retrieved = [["river basin", "oil embargo"], ["price one", "price five", "barrel"]]
    gold = [["oil embargo"], ["price one", "a b c d e f g h price three"]]
    found = document_metrics(retrieved, gold)
    assert found["document_accuracy"] == pytest.approx(2 / 5)
    assert found["document_recall"] == pytest.approx(1 / 2)
    assert found["document_recall@1"] == 0.0
    # 1 / log2(3) of 1; 1 of 1 + 1 / log2(3)
    assert found["ndcg"] == pytest.approx((0.6309297535714575 + 1 / 1.6309297535714575) / 2)


def test_likely_documents_cover_most_words() -> None:
    """Three of four words are likely the same document; seven of ten are not."""
    gold = "one two three four five six seven eight nine ten"
    assert document_metrics([["two one three"]], [["one two three four"]])["likely_document_recall"] == 1.0
    assert document_metrics([["two one three four five six seven"]], [[gold]])["likely_document_accuracy"] == 0.0
    assert document_metrics([["two one three"]], [["one two three four"]])["document_recall"] == 0.0


def test_a_gold_document_counts_once() -> None:
    """Two passages cut from one gold document are both right, and yet gain no more than one of them."""
    found = document_metrics([["river", "oil embargo of 1973", "prices rose"]], [["oil embargo of 1973, prices rose"]])
    assert found["document_accuracy"] == pytest.approx(2 / 3)
    assert found["ndcg"] == pytest.approx(0.6309297535714575)


def test_questions_without_gold_documents_play_no_part() -> None:
    """Nothing is said of them, and nothing at all where there are only such."""
    assert document_metrics([["a b"], ["oil"]], [[], ["oil"]])["document_recall"] == 1.0
    assert document_metrics([["oil"]], [[]]) == {}
    nothing_found = document_metrics([[]], [["oil"]])
    assert nothing_found["document_recall"] == nothing_found["ndcg"] == 0.0
