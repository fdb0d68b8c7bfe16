"""How far raters agree: with one another, with the noiseless rubric, and beyond chance."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mmrlhf_jax.feedback.raters import Judgement


def pairwise_agreement(judgements: Sequence[Judgement]) -> float:
    """How often two raters of the same pair chose the same out of a, b and tie.

    Each two judgements of a pair by different raters count once. NaN where no pair was seen by two raters.
    """
    by_pair: dict[int, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_pair[judgement.pair].append(judgement)
    same = [
        one.choice == other.choice
        for group in by_pair.values()
        for one, other in itertools.combinations(group, 2)
        if one.rater != other.rater
    ]
    return float(np.mean(same)) if same else float("nan")


def rater_accuracy(
    judgements: Sequence[Judgement],
    utilities_a: Sequence[float] | np.ndarray,
    utilities_b: Sequence[float] | np.ndarray,
    tie_margin: float = 0.0,
) -> float:
    """How often a decided judgement prefers the caption of greater utility.

    Left out are ties, and pairs whose utilities differ by no more than `tie_margin`. NaN where none is left.

    Args:
      judgements: `pair` indexes the utilities.
      utilities_a: noiseless rubric of the captions a, one for each pair.
      utilities_b: the same for the captions b.
      tie_margin: on the scale of the utilities.
    """
    margin_N = np.asarray(utilities_a, dtype=np.float64) - np.asarray(utilities_b, dtype=np.float64)
    right = [
        (judgement.choice == "a") == (margin_N[judgement.pair] > 0)
        for judgement in judgements
        if judgement.choice != "tie" and abs(margin_N[judgement.pair]) > tie_margin
    ]
    return float(np.mean(right)) if right else float("nan")


def choice_ratings(judgements: Sequence[Judgement]) -> np.ndarray:
    """The choices as a table for `krippendorff_alpha`, raters x pairs: 1 a, -1 b, 0 tie, NaN if missing."""
    rater_index = {name: i for i, name in enumerate(sorted({judgement.rater for judgement in judgements}))}
    pair_index = {pair: i for i, pair in enumerate(sorted({judgement.pair for judgement in judgements}))}
    ratings_RxN = np.full((len(rater_index), len(pair_index)), np.nan)
    codes = {"a": 1.0, "b": -1.0, "tie": 0.0}
    for judgement in judgements:
        ratings_RxN[rater_index[judgement.rater], pair_index[judgement.pair]] = codes[judgement.choice]
    return ratings_RxN


def krippendorff_alpha(
    ratings_RxN: np.ndarray, *, distance: Literal["nominal", "interval"] = "nominal"
) -> float:
    """Krippendorff's alpha: 1 perfect agreement, 0 chance, below 0 worse than chance.

    alpha = 1 - observed disagreement / disagreement expected by chance, from the matrix of coincidences.
    Units with fewer than two ratings are left out.

    Args:
      ratings_RxN: R raters, N units; any numbers, NaN where missing.
      distance: how far two ratings are apart: "nominal" 1 unless equal, as numbers are names of categories;
        "interval" the square of their difference.

    Returns:
      alpha; NaN where no unit has two ratings, or all ratings are the same (chance alone agrees then).

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), sections C and D.
    """
    ratings_RxN = np.asarray(ratings_RxN, dtype=np.float64)
    values = np.unique(ratings_RxN[~np.isnan(ratings_RxN)])
    apart_VxV = (values[:, None] - values[None, :]) ** 2
    if distance == "nominal":
        apart_VxV = (apart_VxV > 0).astype(np.float64)
    count_NxV = (ratings_RxN[:, :, None] == values).sum(axis=0)
    count_NxV = count_NxV[count_NxV.sum(axis=1) >= 2]
    total_N = count_NxV.sum(axis=1)
    total_V, total = count_NxV.sum(axis=0), count_NxV.sum()
    differing_N = ((count_NxV @ apart_VxV) * count_NxV).sum(axis=1)
    expected = total_V @ apart_VxV @ total_V
    if expected == 0:
        return float("nan")
    return float(1 - (total - 1) * (differing_N / (total_N - 1)).sum() / expected)
