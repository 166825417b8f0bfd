"""Scores of written answers: hand-made cases, then rouge_score's own numbers, then real data."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu

from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.generation import (
    answer_metrics,
    bleu,
    generation_metrics,
    lcs_length,
    rouge_l,
    rouge_n,
    rouge_tokens,
    word_statistics,
)
from model_hub_rqa.metrics.text import precision_score

WORDS = st.lists(st.sampled_from("abcde"), max_size=12)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ("the cat sat", "the cat sat down on the mat", 2 * 3 / (3 + 7)),
        ("a b c d", "b d a c", 2 * 2 / 8),  # b d, b c or a c
        ("same words", "same words", 1.0),
        ("Same, WORDS!", "same words", 1.0),
        ("one", "two", 0.0),
        ("", "two", 0.0),
        ("...", "two", 0.0),
        ("", "", 0.0),
        ("12-inch", "12 inch", 1.0),
        ("Montréal", "montr al", 1.0),  # letters beyond ASCII are no tokens, as in rouge_score
    ],
)
def test_rouge_l_by_hand(prediction: str, truth: str, expected: float) -> None:
    """Twice the longest common subsequence, over the tokens of both."""
    assert rouge_l(prediction, truth) == pytest.approx(expected)


@given(WORDS, WORDS)
def test_lcs_length_is_the_tables(first: list[str], second: list[str]) -> None:
    """The bit-parallel length equals that of the usual table of prefixes."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    assert lcs_length(first, second) == table[-1][-1]


@given(st.text(max_size=60), st.text(max_size=60))
def test_rouge_l_is_rouge_scores(prediction: str, truth: str) -> None:
    """Any two texts get the number of Google's rouge_score."""
    expected = RougeScorer(["rougeL"]).score(truth, prediction)["rougeL"].fmeasure
    assert rouge_l(prediction, truth) == pytest.approx(expected)


def test_rouge_l_is_rouge_scores_on_real_answers(rqa_data: Path) -> None:
    """Long answers, against each other."""
    lines = (rqa_data / "rqa/faire_test.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["gold_answer"] for line in lines]
    scorer = RougeScorer(["rougeL"])
    for prediction, truth in zip(answers, [*answers[1:], answers[0]], strict=True):
        expected = scorer.score(truth, prediction)["rougeL"].fmeasure
        assert rouge_l(prediction, truth) == pytest.approx(expected)


def test_rouge_tokens() -> None:
    """Lower case, letters and digits of ASCII."""
    assert rouge_tokens("The U.S. paid $1,500.") == ["the", "u", "s", "paid", "1", "500"]


def test_the_best_true_answer_counts() -> None:
    """Each metric takes a question's best gold answer by itself, and the means are in percent."""
    found = generation_metrics(["The Cat", "a red dog"], [["feline", "cat"], ["dog", "a red dog barked"]])
    # the second: "red dog" against "dog", F1 2/3, and against "red dog barked", F1 4/5; ROUGE-L keeps articles, 6/7
    assert found == pytest.approx({"exact_match": 50, "f1": 100 * (1 + 4 / 5) / 2, "rougeL": 100 * (2 / 3 + 6 / 7) / 2})


def test_what_cannot_be_scored() -> None:
    """No question at all, lists that do not fit, and a question without a gold answer."""
    with pytest.raises(ValueError, match="at least one"):
        generation_metrics([], [])
    with pytest.raises(ValueError, match="shorter"):
        generation_metrics(["a", "b"], [["a"]])
    with pytest.raises(DataError, match="at least one gold answer"):
        generation_metrics(["a"], [[]])


def test_gold_answers_of_nq_score_100(rqa_data: Path) -> None:
    """Any of a real question's gold answers, given as prediction, is an exact match."""
    with gzip.open(rqa_data / "nq/nq-open-oracle.jsonl.gz", "rt", encoding="utf-8") as file:
        references = [json.loads(line)["answers"] for line in file]
    assert len(references) == 2655
    for choice in (0, -1):
        found = generation_metrics([answers[choice] for answers in references], references)
        assert found["exact_match"] == 100
        assert found["f1"] > 99.9  # an answer that normalises to nothing has no token to share


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from([1, 2, 3]))
def test_rouge_n_is_rouge_scores(prediction: str, truth: str, n: int) -> None:
    """Any two texts get the number of Google's rouge_score."""
    expected = RougeScorer([f"rouge{n}"]).score(truth, prediction)[f"rouge{n}"].fmeasure
    assert rouge_n(prediction, truth, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [("the cat sat", "a cat", 1 / 2), ("cat cat", "cat", 1 / 2), ("", "cat", 0.0), ("the", "cat", 0.0)],
)
def test_precision_by_hand(prediction: str, truth: str, expected: float) -> None:
    """The share of the normalised words of the prediction that the truth has, each as often."""
    assert precision_score(prediction, truth) == pytest.approx(expected)


def test_bleu_by_hand() -> None:
    """Precisions 4/4, 2/3, 1/2 and a smoothed 1/2, no brevity penalty; a second reference may complete them."""
    prediction, truth = "the cat sat down", "the cat sat here down"
    precisions = 1.0 * (2 / 3) * (1 / 2) * (1 / 2)
    assert bleu([prediction], [[truth]]) == pytest.approx(100 * precisions**0.25 * 2.718281828459045 ** (1 - 5 / 4))
    assert bleu([prediction, "one two three four"], [[truth, prediction], ["one two three four"]]) == pytest.approx(100)


def test_bleu_of_short_answers() -> None:
    """BLEU has order 4, as sacrebleu's defaults do, so that right answers of two words score 0; by the effective order
    they score 100, half of them right 50."""
    names, truths = ["jasper wolf", "ida lund"], [["jasper wolf"], ["ida lund"]]
    assert bleu(names, truths) == corpus_bleu(names, [["jasper wolf", "ida lund"]]).score == 0
    assert bleu(names, truths, effective_order=True) == pytest.approx(100)
    assert bleu(names, [["jasper wolf"], ["nina berg"]], effective_order=True) == pytest.approx(50)
    long, truth = ["one two three four five six"], [["one two three four five seven"]]
    assert bleu(long, truth) == pytest.approx(corpus_bleu(long, [[truth[0][0]]]).score)


def test_answer_metrics_take_the_best_reference_of_each_measure() -> None:
    """Each measure is the best over the gold answers; all are percentages."""
    found = answer_metrics(["the cat sat", "dog"], [["cat", "a cat sat down"], ["a puppy"]])
    assert list(found) == [
        *("exact_match", "f1", "precision", "rouge1", "rouge2", "rougeL", "bleu", "bleu_effective"),
    ]
    assert found["f1"] == pytest.approx(100 * (2 * 1.0 * (2 / 3) / (1 + 2 / 3)) / 2)
    assert found["precision"] == pytest.approx(50)
    assert found["rouge2"] == pytest.approx(100 * (2 * 1 / 5) / 2)


def test_word_statistics() -> None:
    """Lengths are counted in words; empty answers by their share."""
    assert word_statistics(["", "one two three", "one"]) == {
        "mean": pytest.approx(4 / 3),
        "median": 1.0,
        "min": 0.0,
        "max": 3.0,
        "empty": pytest.approx(1 / 3),
    }
