"""Retrieved passages against gold documents and answers."""

import gzip
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.metrics.documents import (
    answer_rank,
    contained,
    document_metrics,
    has_answer_metrics,
    word_recall,
)
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
    ("passage", "gold", "found", "contains"),
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
def test_a_fragment_of_the_gold_document_is_not_found(passage: str, gold: str, found: float, contains: float) -> None:
    """A passage is the gold document with more than 70 % of its words; other rules have names of their own."""
    scores = document_metrics(texts([passage]), texts([gold]))
    names = ("document_accuracy", "document_recall", "document_recall@1", "ndcg")
    assert {scores[name] for name in names} == {found}
    assert scores["contained_document_accuracy"] == scores["contained_document_recall"] == contains
    assert scores["same_document_accuracy"] == scores["same_document_recall"] == (passage == gold)
    assert scores["compared_by_id"] == 0


@pytest.mark.parametrize(
    ("passage", "gold", "found"),
    [
        (Passage("a", "", "Oil price"), Passage("a", "", "Oil  price"), 1),
        (Passage("a", "", "Oil price"), Passage("", "", "Oil price"), 1),
        (Passage("a#1", "It rose.", "Oil price"), Passage("a", "", "Oil price"), 1),  # a piece of a document with text
        (Passage("b", "the oil price rose", "1973"), Passage("a", "", "Oil price"), 0),
        (Passage("b", "", "River"), Passage("a", "", "Oil price"), 0),
        (Passage("b", "", "Oil price"), Passage("a", "the oil price rose", "Oil price"), 0),
    ],
)
def test_a_gold_document_of_a_title_alone(passage: Passage, gold: Passage, found: float) -> None:
    """It is a passage with that title: there are no words of a text to compare."""
    scores = document_metrics([[passage]], [[gold]])
    names = ("document_accuracy", "document_recall", "ndcg", "contained_document_recall")
    assert {scores[name] for name in names} == {found}


@pytest.mark.parametrize(
    ("passage", "gold", "recall"),
    [
        (Passage("river", "a river"), Passage("river", "a river"), 1),
        (Passage("river#2", "a river"), Passage("river", "a river"), 1),
        (Passage("river", "a river, long"), Passage("river", "a river"), 0),
        (Passage("river", "A river"), Passage("river", "a river"), 0),
        (Passage("basin", "a river"), Passage("river", "a river"), 0),  # from another source
        (Passage("basin", "a river"), Passage("", "a river"), 1),
        (Passage("river", "", "River"), Passage("river", "", "River"), 1),
    ],
)
def test_localrqas_strict_rule(passage: Passage, gold: Passage, recall: float) -> None:
    """The same source, by its id where ids are of one list, and the same text."""
    scores = document_metrics([FIRST[0], [passage, WATER]], [FIRST[1], [gold]])
    assert scores["same_document_recall"] == (1 + recall) / 2
    assert scores["same_document_accuracy"] == (1 + recall) / 3


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


# ---- answers ----


@pytest.mark.parametrize(
    ("passage", "answer", "expected"),
    [
        ("It rose in October, 1973.", "october 1973", 0),  # the comma is a word
        ("It rose in October, 1973.", "October, 1973", 1),
        ("It rose in October", "Octo", 0),
        ("It rose in October", "rose October", 0),
        ("It is 3.5 metres", "3.5", 1),
        ("It is 3 . 5 metres", "3.5", 1),
        ("It is 3-5 metres", "3.5", 0),
        ("It is 13.5 metres", "3.5", 0),
        ("the U.S. army", "U.S.", 1),
        ("the US army", "U.S.", 0),
        ("the mill", "a mill", 0),  # articles count
        ("Caf\u00e9 Flore", "cafe\u0301", 1),  # the same letter, composed and not
        ("Cafe Flore", "caf\u00e9", 0),
        ("file_name", "name", 1),  # an underscore is no letter
        ("soft\u00adhyphen", "soft hyphen", 1),  # what cannot be seen is left out, and ends a word
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e", "\u0939\u093f\u0928\u094d\u0926\u0940", 1),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f", 0),  # vowel signs belong to their word
        ("\u7ea2\u661f\u516c\u53f8\u5728\u5317\u4eac", "\u5317\u4eac", 1),  # Chinese: characters are words
        ("\u7ea2\u661f\u516c\u53f8\u5728\u5317\u4eac", "\u4eac\u5317", 0),
        ("\uc11c\uc6b8\uc740 \ud070 \ub3c4\uc2dc", "\uc11c\uc6b8", 1),  # Korean: particles follow
        ("", "x", 0),
        ("x", "x", 1),
    ],
)
def test_answers_in_passages(passage: str, answer: str, expected: int) -> None:
    """The answer's words stand in the passage, one after the other."""
    assert answer_rank([passage], [answer]) == expected


def test_answer_ranks() -> None:
    """The first passage with any of the answers counts; one without a word is no answer."""
    assert answer_rank(["a", "b", "c b"], ["z", "C", "b"]) == 2
    assert answer_rank(["a", "b", "c b"], ["c b", " "]) == 3
    assert answer_rank(["a"], ["z"]) == answer_rank([], ["z"]) == 0
    assert answer_rank(["a"], [""]) is answer_rank(["a"], []) is None


def test_has_answer_metrics() -> None:
    """Of four questions with answers; k is at most what was retrieved, and no k comes twice."""
    ranks = [1, 6, 0, 20, None]
    expected = {"has_answer@1": 1 / 4, "has_answer@5": 1 / 4, "has_answer@20": 3 / 4, "has_answer@100": 3 / 4}
    assert has_answer_metrics(ranks, 100) == expected | {"n_with_answers": 4}
    assert list(has_answer_metrics(ranks, 7)) == ["has_answer@1", "has_answer@5", "has_answer@7", "n_with_answers"]
    assert list(has_answer_metrics(ranks, 1)) == ["has_answer@1", "n_with_answers"]
    assert has_answer_metrics([None], 5) == has_answer_metrics([], 5) == {}


def reference_words(text: str) -> list[str]:
    """DPR's words, character by character."""
    words, inside = [], False
    for char in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(char)[0]
        if kind in "LNM" and inside:
            words[-1] += char
        elif kind not in "ZC":
            words.append(char)
        inside = kind in "LNM"
    return [word.lower() for word in words]


def reference_has_answer(passage: str, answer: str) -> bool:
    """DPR's definition written out."""
    text, wanted = reference_words(passage), reference_words(answer)
    return any(text[i : i + len(wanted)] == wanted for i in range(len(text) - len(wanted) + 1))


LETTERS = "aB\U00010a01\u00e9\u0130\u03a3\u0301\u093f\u0939 _.-\u00ad\u200b3\u00b2\t\u00a0"


@given(st.text(LETTERS, max_size=12), st.text(LETTERS, min_size=1, max_size=4))
def test_parity_with_dprs_definition(passage: str, answer: str) -> None:
    """The same for any texts in scripts with spaces."""
    rank = answer_rank([passage], [answer])
    if rank is not None:
        assert bool(rank) == reference_has_answer(passage, answer)


def test_parity_with_dprs_definition_on_real_questions(rqa_data: Path) -> None:
    """200 questions of SQuAD with ten passages each."""
    with gzip.open(rqa_data / "fid/squad_fid_dev.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line, _ in zip(file, range(200), strict=False)]
    ranks = []
    for record in records:
        passages = [ctx["text"] for ctx in record["ctxs"]]
        found = (any(reference_has_answer(text, answer) for answer in record["answers"]) for text in passages)
        ranks.append(answer_rank(passages, record["answers"]))
        assert ranks[-1] == next((rank for rank, has in enumerate(found, 1) if has), 0)
    assert 0.5 < has_answer_metrics(ranks, 10)["has_answer@1"] < 1
