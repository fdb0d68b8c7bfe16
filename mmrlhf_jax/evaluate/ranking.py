"""How well scores order what people graded: rank correlation, area under the curve, discounted gain."""

import numpy as np


def spearman(scores: np.ndarray, grades: np.ndarray) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank. -1 to 1.

    NaN where all scores or all grades are equal.

    Args:
      scores: [N].
      grades: [N].

    Raises:
      ValueError: nothing to order, shapes that differ, or a value that is not finite.
    """
    scores, grades = _vectors(scores, grades)
    rank_s, rank_g = _ranks(scores), _ranks(grades)
    rank_s, rank_g = rank_s - rank_s.mean(), rank_g - rank_g.mean()
    spread = np.sqrt(np.sum(rank_s**2) * np.sum(rank_g**2))
    return float(np.sum(rank_s * rank_g) / spread) if spread else float("nan")


def kendall_tau(scores: np.ndarray, grades: np.ndarray) -> float:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in scores x pairs untied in grades).

    NaN where all scores or all grades are equal. Arguments and errors as in `spearman`. Time grows with N^2.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    scores, grades = _vectors(scores, grades)
    agreement, untied_s, untied_g = 0, 0, 0
    for i in range(len(scores) - 1):
        sign_s, sign_g = np.sign(scores[i + 1 :] - scores[i]), np.sign(grades[i + 1 :] - grades[i])
        agreement += int(np.sum(sign_s * sign_g))
        untied_s += int(np.count_nonzero(sign_s))
        untied_g += int(np.count_nonzero(sign_g))
    spread = np.sqrt(float(untied_s) * float(untied_g))
    return float(agreement / spread) if spread else float("nan")


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative; equal ones count half.

    NaN where there are only positives or only negatives.

    Args:
      scores: [N].
      labels: [N] bool.

    Raises:
      ValueError: as in `spearman`.

    Source: Mann, Whitney 1947, by the sum of the positives' ranks.
    """
    scores, grades = _vectors(scores, labels)
    positive = grades > 0
    count = int(np.count_nonzero(positive))
    pairs = count * (len(scores) - count)
    if pairs == 0:
        return float("nan")
    return float((np.sum(_ranks(scores)[positive]) - count * (count + 1) / 2) / pairs)


def ndcg(scores: np.ndarray, gains: np.ndarray) -> float:
    """Normalised discounted cumulative gain of one list ordered by score, from 0 to 1.

    DCG = sum_i gain_i / log2(1 + rank_i), divided by that of the best order. Equal scores share the mean of
    their discounts. NaN where no gain is above 0.

    Args:
      scores: [S].
      gains: [S], 0 or above.

    Raises:
      ValueError: as in `spearman`, or a negative gain.

    Source: Jarvelin, Kekalainen 2002; ties as in McSherry, Najork 2008.
    """
    scores, gains = _vectors(scores, gains)
    if (gains < 0).any():
        raise ValueError("gains must be 0 or above")
    discount = 1 / np.log2(2 + np.arange(len(scores)))
    best = np.sum(np.sort(gains)[::-1] * discount)
    if best == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    _, group = np.unique(-scores[order], return_inverse=True)
    shared = np.bincount(group, discount) / np.bincount(group)
    return float(np.sum(gains[order] * shared[group]) / best)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean rank."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]


def _vectors(scores: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, grades = np.asarray(scores, np.float64), np.asarray(grades, np.float64)
    if scores.ndim != 1 or scores.shape != grades.shape or not scores.size:
        raise ValueError(f"scores {scores.shape} and grades {grades.shape} must be one [N], N above 0")
    if not (np.isfinite(scores).all() and np.isfinite(grades).all()):
        raise ValueError("scores and grades must be finite")
    return scores, grades
