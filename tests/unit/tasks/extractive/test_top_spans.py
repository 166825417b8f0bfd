"""The top answer alone is the first of the n-best list."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa import train
from model_hub_rqa.errors import DataError
from model_hub_rqa.tasks.extractive.decoding import decode_spans, decode_top
from model_hub_rqa.tasks.extractive.spans import TopSpan, span_candidates, top_spans
from model_hub_rqa.trials.qa import QATrial

CONTEXT = "abcdefghijkl"


@given(st.data())
def test_the_top_answer_is_the_n_best_lists_first(data: st.DataObject) -> None:
    """Whatever the windows, ties, masks and tokens of no width, for several questions in any order of features."""
    tokens, n_best, longest = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    owner = sorted([0, 1, 2, *data.draw(st.lists(st.integers(0, 2), max_size=4))])
    shape = (len(owner), tokens)
    values = st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.5])
    logits = np.array([data.draw(values) for _ in range(2 * len(owner) * tokens)], np.float32).reshape(2, *shape)
    begin = np.array([data.draw(st.integers(-1, 10)) for _ in range(len(owner) * tokens)]).reshape(shape)
    width = np.array([data.draw(st.integers(0, 2)) for _ in range(len(owner) * tokens)]).reshape(shape)
    offsets = np.stack([begin, np.where(begin < 0, -1, begin + width)], axis=-1)
    cls = np.zeros(len(owner), int)
    sizes = {"n_best_size": n_best, "max_answer_length": longest}
    found = span_candidates(*logits, offsets, cls, **sizes)
    expected = [
        decode_spans(CONTEXT, [one for one, i in zip(found, owner, strict=True) if i == number], n_best_size=n_best)
        for number in range(3)
    ]
    spans = top_spans(*logits, offsets, cls, **sizes)
    assert decode_top([CONTEXT] * 3, owner, spans, n_best_size=n_best) == [one.prediction for one in expected]


def test_features_may_come_in_any_order_of_questions() -> None:
    """As they do from an evaluation that is sorted by length."""
    spans = TopSpan(
        np.array([4, 0, 2]), np.array([5, 1, 3]), np.array([1.0, 2.0, 3.0], np.float32), np.array([2, 2, 2])
    )
    assert decode_top([CONTEXT, CONTEXT], [1, 0, 1], spans) == ["a", "c"]


def test_a_question_without_features_is_named() -> None:
    """Rather than answered with another one's span."""
    spans = TopSpan(np.array([0]), np.array([1]), np.array([1.0], np.float32), np.array([1]))
    with pytest.raises(DataError, match="question 1, got none"):
        decode_top([CONTEXT, CONTEXT], [0], spans)


def test_metrics_are_the_same_where_nobody_sees_n_best_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster, where a trial has no folder to write to and keeps the best spans alone."""
    path = tiny.experiment(tmp_path, train=8, validation=30, num_train_epochs=1)
    seen = []
    for silent in (False, True):
        if silent:
            monkeypatch.setattr(
                QATrial, "output_dir", property(lambda self: None, lambda self, value: None), raising=False
            )
        run = tmp_path / f"run-{silent}"
        assert train.main([str(path), "--output-dir", str(run)]) == 0
        assert (run / "nbest_predictions.json").exists() is not silent
        (report,) = tiny.reports(run, "validation")
        seen.append((report["exact_match"], report["f1"]))
    assert seen[0] == seen[1]
