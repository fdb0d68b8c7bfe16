"""When a policy's training goes wrong although its reward goes up: alarms over looks at held-out pictures.

Every look has a number for each picture, of captions for the same pictures each time, so that two looks are
compared picture by picture. With d = the differences over N pictures,

    t = mean(d) / (std(d) / sqrt(N))        (Student 1908; std with N - 1)

A change counts where |t| passes a limit, and an alarm rings where its condition holds in several looks in a
row: the peak that overoptimisation is measured from is the highest of many noisy means, which one look alone
would fall short of too often.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Look(NamedTuple):
    """What was found at one step, (N,) each.

    Attributes:
      gold_N: what the captions are worth by the measure that training does not see.
      proxy_N: by the reward that training optimises.
      kl_N: distance to the reference policy, in nats a caption.
      length_N: tokens.
      repetition_N: share of repeated pairs of tokens.
      disagreement_N: of the reward ensemble's members; None: there is one reward model.
    """

    step: int
    gold_N: np.ndarray
    proxy_N: np.ndarray
    kl_N: np.ndarray
    length_N: np.ndarray
    repetition_N: np.ndarray
    disagreement_N: np.ndarray | None = None


class Limits(NamedTuple):
    """When alarms ring; the fields of `training.config.WatchConfig` of the same names."""

    t: float = 3.0
    patience: int = 2
    disagreement: float = 1.5
    repetition: float = 0.05
    length: float = 0.25


def paired_t(after_N: np.ndarray, before_N: np.ndarray) -> float:
    """The t statistic of paired differences; infinite where all differ by the same, 0 where none differs.

    Raises:
      ValueError: fewer than two pairs.
    """
    difference_N = np.asarray(after_N, np.float64) - np.asarray(before_N, np.float64)
    if len(difference_N) < 2:
        raise ValueError(f"{len(difference_N)} pair(s): a t statistic needs two at least")
    mean, error = difference_N.mean(), difference_N.std(ddof=1) / math.sqrt(len(difference_N))
    if error == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return float(mean / error)


def overoptimised(looks: Sequence[Look], limits: Limits) -> bool:
    """The proxy is above what it was at the peak of the gold measure, which has fallen since.

    Gao et al. 2023, arXiv:2210.10760: beyond some distance from the reference policy the gold score falls
    while the proxy that is optimised still climbs.
    """
    *earlier, now = looks
    peak = max(earlier, key=lambda look: float(np.mean(look.gold_N)))
    falls = paired_t(now.gold_N, peak.gold_N) < -limits.t
    return falls and paired_t(now.proxy_N, peak.proxy_N) > limits.t


def disagreeing(looks: Sequence[Look], limits: Limits) -> bool:
    """The reward ensemble's members disagree more than over the first look's captions: it is being left."""
    first, now = looks[0].disagreement_N, looks[-1].disagreement_N
    if first is None or now is None:
        return False
    grown = float(np.mean(now)) >= limits.disagreement * float(np.mean(first))
    return grown and paired_t(now, first) > limits.t


def repeating(looks: Sequence[Look], limits: Limits) -> bool:
    """Captions repeat themselves more than the first look's did."""
    first, now = looks[0].repetition_N, looks[-1].repetition_N
    risen = float(np.mean(now)) - float(np.mean(first)) >= limits.repetition
    return risen and paired_t(now, first) > limits.t


def drifting(looks: Sequence[Look], limits: Limits) -> bool:
    """Captions are longer or shorter than the first look's."""
    first, now = looks[0].length_N, looks[-1].length_N
    change = float(np.mean(now)) / float(np.mean(first)) - 1.0
    return abs(change) >= limits.length and abs(paired_t(now, first)) > limits.t


ALARMS: dict[str, Callable[[Sequence[Look], Limits], bool]] = {
    "overoptimisation": overoptimised,
    "disagreement": disagreeing,
    "repetition": repeating,
    "length": drifting,
}


def ringing(looks: Sequence[Look], limits: Limits) -> list[str]:
    """The alarms that ring at the last of `looks`, the first of which is of the policy before training."""
    first = len(looks) - limits.patience + 1  # the shortest past whose last look must meet the condition
    if first < 2:
        return []
    pasts = [looks[:count] for count in range(first, len(looks) + 1)]
    return [name for name, holds in ALARMS.items() if all(holds(past, limits) for past in pasts)]


def first_rung(looks: Sequence[Look], limits: Limits) -> dict[str, int]:
    """The step at which each alarm rang for the first time, of those that did."""
    rung: dict[str, int] = {}
    for count in range(1, len(looks) + 1):
        for name in ringing(looks[:count], limits):
            rung.setdefault(name, looks[count - 1].step)
    return rung


def standardised_gain(now_N: np.ndarray, first_N: np.ndarray) -> float:
    """Mean gain over the first look, in standard deviations of its pictures; NaN where they are all alike."""
    spread = float(np.std(first_N))
    return float(np.mean(now_N) - np.mean(first_N)) / spread if spread > 0 else math.nan
