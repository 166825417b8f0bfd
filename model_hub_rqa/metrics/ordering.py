"""How close a proposed order is to the true one."""

from collections.abc import Sequence

import numpy as np


def kendall_tau(ranks: Sequence[float] | np.ndarray, truth: Sequence[float] | np.ndarray) -> float:
    """Kendall's tau-a (Kendall 1938): pairs in the right order minus those in the wrong one, over all pairs.

    Args:
        ranks, truth: the place of each item, or anything that rises with it, [n]. A tied pair counts as neither.

    Returns:
        From -1 (reversed) to 1 (the same order); 1 for fewer than two items. 0 is what chance gives.

    >>> kendall_tau([0, 2, 1], [0, 1, 2])  # one pair of three is wrong
    0.3333333333333333
    """
    first, second = np.triu_indices(len(truth), 1)
    if not len(first):
        return 1.0
    one, other = np.asarray(ranks, np.float64), np.asarray(truth, np.float64)
    return float(np.mean(np.sign(one[first] - one[second]) * np.sign(other[first] - other[second])))
