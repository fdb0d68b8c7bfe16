"""Best of n: the policy as it is writes n answers, and the reward picks one. What training has to beat."""

import math

import numpy as np


def best_of_n(scores_NxS: np.ndarray, values_NxS: np.ndarray, n: int) -> np.ndarray:
    """Expected value (N,) of the answer with the highest score among n of the S that are there.

    The mean over all subsets of n answers, without drawing any (Gao et al. 2022, arXiv:2210.10760):
    with answers sorted by rising score, the one at place i is the best of C(i, n - 1) of the C(S, n) subsets.

    Args:
      scores_NxS: what picks, S answers for each of N examples.
      values_NxS: what is measured.

    Raises:
      ValueError: n is not from 1 to S.
    """
    count = scores_NxS.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} among {count} answers: n must be from 1 to {count}")
    order_NxS = np.argsort(scores_NxS, axis=1, kind="stable")
    weight_S = np.array([math.comb(i, n - 1) for i in range(count)]) / math.comb(count, n)
    return np.take_along_axis(values_NxS, order_NxS, axis=1) @ weight_S


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n: KL in nats, at most, of the best of n to the policy (Stiennon et al. 2020)."""
    return math.log(n) - (n - 1) / n
