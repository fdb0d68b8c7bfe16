"""How well scores agree with preferences, and how well probabilities are calibrated."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ReliabilityCurve:
    """The bins that hold anything, by rising probability.

    Attributes:
      predicted_K: mean predicted probability of a bin.
      observed_K: mean outcome of a bin.
      count_K: how many predictions lie in it, int.
    """

    predicted_K: np.ndarray
    observed_K: np.ndarray
    count_K: np.ndarray


def win_points(margins: np.ndarray, tie_margin: float = 0.0) -> np.ndarray:
    """1 where a margin is above `tie_margin`, 0 where it is below -`tie_margin`, 1/2 between; NaN gives 0.

    Bootstrap over these for the interval of a win rate or of an accuracy. float64, the shape of `margins`.
    """
    if not tie_margin >= 0:
        raise ValueError(f"tie_margin must be 0 or more, got {tie_margin}")
    margins = np.asarray(margins, dtype=np.float64)
    return np.where(margins > tie_margin, 1.0, np.where(np.abs(margins) <= tie_margin, 0.5, 0.0))


def pair_accuracy(margins: np.ndarray) -> float:
    """Share of pairs whose chosen side scores higher; a tie counts half, NaN as wrong.

    Args:
      margins: score(chosen) - score(rejected), any shape.

    Raises:
      ValueError: no pairs.
    """
    return float(np.mean(_not_empty("margins", win_points(margins))))


def win_rate(scores_a: np.ndarray, scores_b: np.ndarray, tie_margin: float = 0.0) -> float:
    """Share of examples on which a beats b by more than `tie_margin`; ties count half, NaN as lost.

    Raises:
      ValueError: no examples, shapes that differ, or a negative `tie_margin`.
    """
    scores_a, scores_b = np.asarray(scores_a, np.float64), np.asarray(scores_b, np.float64)
    if scores_a.shape != scores_b.shape:
        raise ValueError(f"scores_a {scores_a.shape} and scores_b {scores_b.shape} differ in shape")
    return float(np.mean(_not_empty("scores_a", win_points(scores_a - scores_b, tie_margin))))


def tie_calibrated_accuracy(margins: np.ndarray, ties: np.ndarray) -> tuple[float, float]:
    """Accuracy among first, second and tie, where margins within a threshold are read as ties.

    The threshold is the one that makes the accuracy greatest, so that scores on any scale can be compared.

    Args:
      margins: [N], score(chosen) - score(rejected); of a tie, of either order.
      ties: [N] bool.

    Returns:
      (accuracy, threshold).

    Raises:
      ValueError: no pairs, or shapes that differ.

    Source: Deutsch, Foster, Freitag 2023, "Ties Matter", arXiv:2305.14324, section 6.
    """
    margins, ties = np.asarray(margins, np.float64), np.asarray(ties, bool)
    if margins.ndim != 1 or margins.shape != ties.shape or not margins.size:
        raise ValueError(f"margins {margins.shape} and ties {ties.shape} must be one [N], N above 0")
    order = np.argsort(np.abs(margins), kind="stable")
    size_N, tie_N, right_N = np.abs(margins)[order], ties[order], (margins > 0)[order] & ~ties[order]
    # with the threshold at the i-th smallest size, the first i + 1 are read as ties
    correct_N = np.cumsum(tie_N) + right_N.sum() - np.cumsum(right_N)
    last_N = np.append(size_N[1:] != size_N[:-1], True)  # equal sizes are read alike
    correct_N = np.append(np.where(last_N, correct_N, -1), right_N.sum())  # or none is, with one below all
    best = int(np.argmax(correct_N))
    return float(correct_N[best] / len(margins)), float(np.append(size_N, 0.0)[best])


def reliability_curve(
    probabilities: np.ndarray, outcomes: np.ndarray, num_bins: int = 10
) -> ReliabilityCurve:
    """Predicted against observed frequency in `num_bins` bins of equal width.

    Bins are [0, 1/num_bins), ..., the last one closed at 1. If every pair is written with the chosen side
    first, all outcomes are 1 and the curve says nothing: give both orders, or a random one.

    Args:
      probabilities: [N], each from 0 to 1.
      outcomes: [N], each from 0 to 1: 1 it happened, 0 it did not, 1/2 a tie.
      num_bins: 1 or more.

    Raises:
      ValueError: no predictions, shapes that differ, values outside 0 to 1 (NaN too), or num_bins < 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    outcomes = np.asarray(outcomes, dtype=np.float64)
    _not_empty("probabilities", probabilities)
    if probabilities.ndim != 1 or probabilities.shape != outcomes.shape:
        raise ValueError(f"probabilities {probabilities.shape} and outcomes {outcomes.shape} must be one [N]")
    for name, values in (("probabilities", probabilities), ("outcomes", outcomes)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must lie from 0 to 1")
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    bin_N = np.minimum((probabilities * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(bin_N, minlength=num_bins)
    filled = count > 0
    return ReliabilityCurve(
        np.bincount(bin_N, probabilities, num_bins)[filled] / count[filled],
        np.bincount(bin_N, outcomes, num_bins)[filled] / count[filled],
        count[filled],
    )


def expected_calibration_error(probabilities: np.ndarray, outcomes: np.ndarray, num_bins: int = 10) -> float:
    """ECE = sum_bins (count / N) * |observed - predicted|, from 0 to 1.

    Arguments, bins and errors as in `reliability_curve`. Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599,
    equation 3.
    """
    curve = reliability_curve(probabilities, outcomes, num_bins)
    return float(np.average(np.abs(curve.observed_K - curve.predicted_K), weights=curve.count_K))


def _not_empty(name: str, values: np.ndarray) -> np.ndarray:
    if values.size == 0:
        raise ValueError(f"{name} is empty")
    return values
