"""Confidence intervals by resampling."""

import dataclasses

import numpy as np

# Resampled indices drawn at once: bounds the memory at 32 MiB whatever the number of values.
_DRAWS_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; prints as "0.123 [0.100, 0.150]"."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(
    values: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    num_samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of a mean.

    For the gain of one policy over another pass the differences example by example: pairing makes the
    interval narrower.

    Args:
      values: [N]. A value that is not finite makes the interval NaN.
      clusters: [N] labels of any kind; values of one label are drawn together. Give the picture's index when
        the same picture comes several times (over seeds, over samples): such values are not independent.
      num_samples: how many times to resample.
      seed: the same seed gives the same interval.
      level: the interval holds this share of the resampled means.

    Returns:
      Interval: `mean` is that of the values themselves.

    Raises:
      ValueError: no values, clusters of another length, num_samples < 1, or a level outside (0, 1).

    Source: Efron and Tibshirani 1993, chapter 13; whole clusters as in Field and Welsh 2007.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values must be [N] with N >= 1, got shape {values.shape}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    sum_C, size_C = values, np.ones_like(values)
    if clusters is not None:
        clusters = np.asarray(clusters)
        if clusters.shape != values.shape:
            raise ValueError(f"clusters {clusters.shape} and values {values.shape} differ in shape")
        _, label_N = np.unique(clusters, return_inverse=True)
        sum_C, size_C = np.bincount(label_N, values), np.bincount(label_N).astype(np.float64)
    mean = float(values.mean())
    if not np.isfinite(values).all():
        return Interval(mean, float("nan"), float("nan"))

    generator = np.random.default_rng(seed)
    num_clusters = len(sum_C)
    rows = max(1, _DRAWS_AT_ONCE // num_clusters)
    means_S = np.empty(num_samples)
    for start in range(0, num_samples, rows):
        stop = min(start + rows, num_samples)
        draw_SxC = generator.integers(num_clusters, size=(stop - start, num_clusters))
        means_S[start:stop] = sum_C[draw_SxC].sum(axis=1) / size_C[draw_SxC].sum(axis=1)
    low, high = np.quantile(means_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))
