"""Normalisation, exact match and F1 of one answer."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.text import (
    exact_match_score,
    f1_score,
    max_over_ground_truths,
    normalize_answer,
    token_f1,
)

vocabulary = st.sampled_from(["a", "the", "An", "river", "Seine,", "the-end", "new", "york"])
words = st.lists(vocabulary, max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("", ""),
        ("The Seine", "seine"),
        ("  a \t river\n in  Paris ", "river in paris"),
        ("an apple, the pear; A plum!", "apple pear plum"),
        ("the the", ""),
        ("...", ""),
        ("A.N. Other", "other"),  # the dots go first, and an article is left
        ("the-end", "theend"),  # so does the hyphen: no article is left
        ("banana theatre", "banana theatre"),
        ("U.S.A.", "usa"),
        ("31\u201324", "31\u201324"),  # an en dash is no ASCII punctuation
        ("\u201cthe\u201d end", "\u201c \u201d end"),  # nor are curly quotes, but the article between them goes
        ("\u00c9COLE\u00a0NORMALE", "\u00e9cole normale"),  # a no-break space is white space
        ("don't_stop", "dontstop"),
    ],
)
def test_normalize_answer(text: str, normalized: str) -> None:
    """Lowercase, then no ASCII punctuation, then no articles, then single spaces."""
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "truth", "exact", "f1_v1", "f1_v2"),
    [
        ("Seine", "the Seine.", 1, 1, 1),
        ("Seine", "Loire", 0, 0, 0),
        ("Santa Clara, California", "Santa Clara", 0, Fraction(4, 5), Fraction(4, 5)),  # 2/3 and 2/2
        ("new york new york", "new york", 0, Fraction(2, 3), Fraction(2, 3)),  # 2/4 and 2/2: counted as often as it is
        ("york new", "new york", 0, 1, 1),  # F1 has no order
        ("", "", 1, 0, 1),
        ("the", "", 1, 0, 1),
        ("the", "...", 1, 0, 1),
        ("", "Seine", 0, 0, 0),
        ("Seine", "a", 0, 0, 0),
    ],
)
def test_scores_of_one_pair(prediction: str, truth: str, exact: int, f1_v1: Fraction, f1_v2: Fraction) -> None:
    """Exact match and F1 are the hand-computed fractions, and v2 alone gives two empty answers a full F1."""
    assert exact_match_score(prediction, truth) == exact
    assert f1_score(prediction, truth) == pytest.approx(float(f1_v1), abs=1e-12)
    assert f1_score(prediction, truth, version_2=True) == pytest.approx(float(f1_v2), abs=1e-12)


def test_max_over_ground_truths() -> None:
    """The best of the gold answers counts."""
    truths = ["Loire", "the river Seine", "Paris"]
    assert max_over_ground_truths(f1_score, "Seine", truths) == pytest.approx(2 / 3)
    assert max_over_ground_truths(exact_match_score, "paris!", truths) == 1.0


def test_max_over_no_ground_truths() -> None:
    """No gold answers is an error that shows the prediction."""
    with pytest.raises(DataError, match="'Seine'"):
        max_over_ground_truths(f1_score, "Seine", [])


@given(words, words, st.booleans())
def test_f1_properties(left: str, right: str, version_2: bool) -> None:
    """F1 is a fraction, symmetric, of normalised tokens, and at least the exact match of answers that say something."""
    score = f1_score(left, right, version_2=version_2)
    assert 0.0 <= score <= 1.0
    assert score == pytest.approx(f1_score(right, left, version_2=version_2))
    tokens = normalize_answer(left).split(), normalize_answer(right).split()
    assert score == token_f1(*tokens, version_2=version_2)
    if version_2 or normalize_answer(left):
        assert score >= exact_match_score(left, right)


@given(st.text(max_size=30))
def test_normalize_answer_collapses_white_space(text: str) -> None:
    """Whatever the text, words are parted by single spaces and none is an article."""
    normalized = normalize_answer(text)
    assert normalized == " ".join(normalized.split())
    assert not {"a", "an", "the"} & set(normalized.split())


def test_text_imports_nothing_heavy() -> None:
    """Importing metrics.text brings in neither numpy nor anything heavier."""
    code = (
        "import sys, model_hub_rqa.metrics.text; print({'numpy', 'torch', 'evaluate', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
