"""How likely each position of a shown list is to be examined, estimated from a log of clicks.

Position-based model: an answer is clicked when it is examined and attractive, and examination depends on the
position alone,

    P(click | answer d at position k) = examination_k x relevance_d

Only products are seen, so examination is given relative to the first position.
"""

from typing import NamedTuple

import numpy as np


class ClickModel(NamedTuple):
    """The position-based model of a log.

    Attributes:
      examination_K: of each position, that of the first one being 1.
      relevance_D: of each answer: the chance of a click at the first position.
      log_likelihood: of the log, in nats a shown answer.
    """

    examination_K: np.ndarray
    relevance_D: np.ndarray
    log_likelihood: float


def fit_position_model(
    item_I: np.ndarray,
    position_I: np.ndarray,
    clicked_I: np.ndarray,
    *,
    prior: float = 0.0,
    steps: int = 2000,
    tolerance: float = 1e-6,
) -> ClickModel:
    """The likeliest examination and relevance together, by expectation maximisation.

    E: P(examined | no click) = e (1 - r) / (1 - e r),  P(attractive | no click) = r (1 - e) / (1 - e r)
    M: e_k, r_d = the means of these, with 1 for a click, over a position's and an answer's showings

    The same answers must have been shown at several positions. Where each was shown a few times only, its own
    relevance can explain all of its clicks, and the curve comes out too flat: a `prior` prevents that.

    Args:
      item_I: int, the answer of each showing, from 0.
      position_I: int, from 0 at the top of the list.
      clicked_I: bool.
      prior: showings at the mean relevance that are added to each answer's own: a beta distribution, its mean
        estimated along.
      steps: at most so many iterations.
      tolerance: stops where no position's examination moves by more.

    Raises:
      ValueError: no showing; or positions that share no answer, even by way of others: how far a difference
        in clicks is the position's then cannot be told.

    Source: Wang et al. 2018, "Position Bias Estimation for Unbiased Learning to Rank in Personal Search",
      section 4.1, without the regression on features.
    """
    shape = (int(item_I.max(initial=-1)) + 1, int(position_I.max(initial=-1)) + 1)
    if not item_I.size:
        raise ValueError("the log of clicks is empty")
    cell_I = item_I * shape[1] + position_I
    shown_DxK = np.bincount(cell_I, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    click_DxK = np.bincount(cell_I, np.asarray(clicked_I, np.float64), shape[0] * shape[1]).reshape(shape)
    _check_linked(shown_DxK)
    missed_DxK = shown_DxK - click_DxK
    shown_K, shown_D = shown_DxK.sum(axis=0), np.maximum(shown_DxK.sum(axis=1), 1.0)
    examination_K = np.full(shape[1], 0.9)
    relevance_D = np.clip(click_DxK.sum(axis=1) / shown_D, 0.01, 0.99)
    for _ in range(steps):
        before_K = examination_K / examination_K[0]
        unclicked_DxK = missed_DxK / (1 - _click_rates(relevance_D, examination_K))
        examined_DxK = click_DxK + unclicked_DxK * examination_K * (1 - relevance_D[:, None])
        attractive_DxK = click_DxK + unclicked_DxK * relevance_D[:, None] * (1 - examination_K)
        attractive_D, mean = attractive_DxK.sum(axis=1), attractive_DxK.sum() / shown_K.sum()
        examination_K = examined_DxK.sum(axis=0) / shown_K
        relevance_D = (attractive_D + prior * mean) / (shown_D + prior)
        if np.abs(examination_K / examination_K[0] - before_K).max() < tolerance:
            break
    rate_DxK = _click_rates(relevance_D, examination_K)
    each_DxK = click_DxK * np.log(rate_DxK) + missed_DxK * np.log1p(-rate_DxK)
    top = examination_K[0]
    return ClickModel(examination_K / top, relevance_D * top, float(each_DxK.sum() / shown_K.sum()))


def examination_of_random_order(position_I: np.ndarray, clicked_I: np.ndarray) -> np.ndarray:
    """Examination of each position (K,) from lists that were shown in random order.

    Every position then holds equally good answers, and clicks fall off as examination does.

    Args:
      position_I: int, from 0, of each showing.
      clicked_I: bool.

    Raises:
      ValueError: no click at the first position, which the others are relative to.

    Source: Joachims, Swaminathan, Schnabel 2017, arXiv:1608.04468, section 5.3, with whole lists shuffled.
    """
    shown_K = np.bincount(position_I)
    rate_K = np.bincount(position_I, np.asarray(clicked_I, np.float64)) / np.maximum(shown_K, 1)
    if not rate_K.size or rate_K[0] == 0:
        raise ValueError("there is no click at the first position of lists in random order")
    return rate_K / rate_K[0]


def _click_rates(relevance_D: np.ndarray, examination_K: np.ndarray) -> np.ndarray:
    return np.clip(np.outer(relevance_D, examination_K), 1e-12, 1 - 1e-12)


def _check_linked(shown_DxK: np.ndarray) -> None:
    """Raises where a position shares no answer with the first one, not even by way of others."""
    if (shown_DxK.sum(axis=0) == 0).any():
        raise ValueError(f"nothing was shown at position {int(np.argmin(shown_DxK.sum(axis=0)))}")
    shared_KxK = (shown_DxK.T @ shown_DxK) > 0
    reached_K = np.zeros(len(shared_KxK), bool)
    reached_K[0] = True
    for _ in range(len(reached_K)):
        reached_K |= shared_KxK[reached_K].any(axis=0)
    if not reached_K.all():
        raise ValueError(
            f"position {int(np.argmin(reached_K))} shares no answer with the first one: its examination "
            "cannot be told from the relevance of what was shown there"
        )
