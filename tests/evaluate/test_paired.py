"""Paired tests against enumeration, published critical values and numbers of scipy."""

import itertools

import numpy as np
import pytest

from mmrlhf_jax.evaluate.paired import holm, wilcoxon_signed_rank


def enumerated(difference_N):
    """The p-value by going through all signs of the ranks."""
    difference_N = difference_N[difference_N != 0]
    size_N = np.abs(difference_N)
    rank_N = np.array([(size_N < size).sum() + ((size_N == size).sum() + 1) / 2 for size in size_N])
    sums = [rank_N[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=len(rank_N))]
    observed = rank_N[difference_N > 0].sum()
    tails = np.mean(np.array(sums) <= observed), np.mean(np.array(sums) >= observed)
    return min(1.0, 2 * min(tails))


@pytest.mark.parametrize("seed", range(6))
def test_against_all_signs(seed):
    generator = np.random.default_rng(seed)
    difference_N = generator.normal(0.4, 1.0, 9)
    if seed % 2:
        difference_N = np.round(2 * difference_N)  # ties and zeros
    assert wilcoxon_signed_rank(difference_N) == pytest.approx(enumerated(difference_N), abs=1e-12)


def test_against_scipy():
    """scipy 1.17: wilcoxon(x, method="exact") of Darwin's heights of Zea mays, as in its documentation."""
    darwin = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], float)
    assert wilcoxon_signed_rank(darwin) == pytest.approx(0.041259765625, abs=1e-12)


def test_ten_seeds_of_ten():
    assert wilcoxon_signed_rank(np.arange(1.0, 11.0)) == pytest.approx(2 / 1024)
    assert wilcoxon_signed_rank(-np.arange(1.0, 11.0)) == pytest.approx(2 / 1024)
    assert wilcoxon_signed_rank(np.zeros(10)) == 1.0


def test_equal_counts_tie_in_spite_of_their_last_bits():
    assert wilcoxon_signed_rank(np.array([0.1 + 0.2, 0.3, -0.3])) == wilcoxon_signed_rank(
        np.array([3.0, 3.0, -3.0])
    )


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], np.ones(51)])
def test_differences_that_cannot_be_tested(bad):
    with pytest.raises(ValueError, match="paired difference"):
        wilcoxon_signed_rank(np.array(bad))


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.5: times 4, 3, 2, 1 and never falling
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
