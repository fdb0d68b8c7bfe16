"""Whether one method beats another on the same seeds, and how many such questions may be asked at once."""

from collections.abc import Sequence

import numpy as np

_EXACT_UP_TO = 50  # pairs; the exact distribution has pairs^2 / 2 values


def wilcoxon_signed_rank(difference_N: np.ndarray) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test that paired differences lie around 0.

    Differences of 0 are left out, equal ones share their ranks; the distribution is the exact one of these
    ranks under random signs, ties included. 1 where all differences are 0.

    Raises:
      ValueError: no differences, a value that is not finite, or more than 50 pairs.

    Source: Wilcoxon 1945, "Individual comparisons by ranking methods". Without ties it agrees with
    scipy.stats.wilcoxon(method="exact").
    """
    difference_N = np.asarray(difference_N, np.float64)
    if difference_N.ndim != 1 or not 0 < difference_N.size <= _EXACT_UP_TO:
        raise ValueError(f"give 1 to {_EXACT_UP_TO} paired differences, got shape {difference_N.shape}")
    if not np.isfinite(difference_N).all():
        raise ValueError("a paired difference is not finite")
    difference_N = difference_N[difference_N != 0]
    if not difference_N.size:
        return 1.0
    # Rounded, so that accuracies that differ by equal counts tie in spite of their last bits.
    _, inverse_N, count_C = np.unique(np.abs(difference_N).round(12), return_inverse=True, return_counts=True)
    twice_C = 2 * np.cumsum(count_C) - count_C + 1  # twice the mean rank: a whole number
    twice_N = twice_C[inverse_N]
    ways = np.zeros(twice_N.sum() + 1)
    ways[0] = 1
    for rank in twice_N:
        ways[rank:] += ways[:-rank].copy()
    observed = twice_N[difference_N > 0].sum()
    tail = min(ways[: observed + 1].sum(), ways[observed:].sum())
    return float(min(1.0, 2 * tail / ways.sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in the order given.

    p_(k) becomes max over j <= k of (n - j + 1) p_(j), at most 1, for the sorted p_(1) <= ... <= p_(n).

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    p_N = np.asarray(p_values, np.float64)
    order_N = np.argsort(p_N, kind="stable")
    stepped_N = np.maximum.accumulate(p_N[order_N] * np.arange(len(p_N), 0, -1))
    adjusted_N = np.empty_like(p_N)
    adjusted_N[order_N] = np.minimum(stepped_N, 1.0)
    return adjusted_N.tolist()
