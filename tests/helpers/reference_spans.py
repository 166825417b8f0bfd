"""The published n-best decoding in its plainest form: whole logits, one question, a loop over every pair.

Written from the description of the algorithm, with no code in common with the package; slow on purpose.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def reference_decode(
    context: str,
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    offsets: Sequence[np.ndarray],
    cls_index: Sequence[int],
    *,
    n_best_size: int,
    max_answer_length: int,
    version_2_with_negative: bool,
    null_score_diff_threshold: float,
) -> dict[str, Any]:
    """Decode one question from its features in order: prediction, n_best (dicts), score_diff (None in v1)."""
    found: list[dict[str, Any]] = []
    null: dict[str, Any] | None = None
    for start, end, where, cls in zip(start_logits, end_logits, offsets, cls_index, strict=True):
        score = start[cls] + end[cls]
        if null is None or score < null["score"]:
            null = {"chars": (0, 0), "score": score, "start_logit": start[cls], "end_logit": end[cls]}
        for i in top(start, n_best_size):
            for j in top(end, n_best_size):
                outside = where[i][0] < 0 or where[j][1] < 0
                if outside or j < i or j - i + 1 > max_answer_length:
                    continue
                chars = (int(where[i][0]), int(where[j][1]))
                found.append({"chars": chars, "score": start[i] + end[j], "start_logit": start[i], "end_logit": end[j]})
    assert null is not None
    if version_2_with_negative:
        found.append(null)
    kept = sorted(found, key=lambda entry: -entry["score"])[:n_best_size]
    if version_2_with_negative and (0, 0) not in [entry["chars"] for entry in kept]:
        kept.append(null)
    for entry in kept:
        entry["text"] = context[entry["chars"][0] : entry["chars"][1]]
    no_span = not any(entry["text"] for entry in kept)
    if not kept or [entry["text"] for entry in kept] == [""]:
        kept.insert(0, {"text": "empty", "score": 0.0, "start_logit": 0.0, "end_logit": 0.0})

    scores = np.array([entry["score"] for entry in kept])
    with np.errstate(invalid="ignore"):  # if all are -inf: NaN, as published
        weights = np.exp(scores - scores.max())
    n_best = [
        {
            "text": entry["text"],
            "probability": float(weight / weights.sum()),
            "start_logit": float(entry["start_logit"]),
            "end_logit": float(entry["end_logit"]),
        }
        for entry, weight in zip(kept, weights, strict=True)
    ]
    if not version_2_with_negative:
        return {"prediction": kept[0]["text"], "n_best": n_best, "score_diff": None}
    if no_span:  # the one deliberate difference: the published code says "empty" here, or fails
        return {"prediction": "", "n_best": n_best, "score_diff": float(null["score"])}
    best = next(entry for entry in kept if entry["text"])
    diff = null["score"] - best["start_logit"] - best["end_logit"]
    answer = "" if diff > null_score_diff_threshold else best["text"]
    return {"prediction": answer, "n_best": n_best, "score_diff": float(diff)}


def top(logits: np.ndarray, count: int) -> list[int]:
    """The indices of the largest logits, the largest first, of equal ones the later first.

    The published code leaves ties to numpy's default sort, which settles them differently from one processor, and one
    padded length, to the next; for short rows it is this order.
    """
    return np.argsort(logits, kind="stable")[-1 : -count - 1 : -1].tolist()
