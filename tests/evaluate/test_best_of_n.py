"""The best of n against every subset, and against its known laws."""

import itertools

import numpy as np
import pytest

from mmrlhf_jax.evaluate.best_of_n import best_of_n, best_of_n_kl

RNG = np.random.default_rng(0)
SCORES, VALUES = RNG.normal(size=(2, 5, 6))


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_it_is_the_mean_over_all_subsets(n):
    for row, (scores, values) in enumerate(zip(SCORES, VALUES, strict=True)):
        picks = [
            values[max(subset, key=lambda i: scores[i])] for subset in itertools.combinations(range(6), n)
        ]
        assert best_of_n(SCORES, VALUES, n)[row] == pytest.approx(np.mean(picks))


def test_the_ends_are_the_mean_and_the_best():
    np.testing.assert_allclose(best_of_n(SCORES, VALUES, 1), VALUES.mean(axis=1))
    np.testing.assert_array_equal(best_of_n(SCORES, SCORES, 6), SCORES.max(axis=1))


def test_more_to_choose_from_is_never_worse_by_the_score_itself():
    means = [best_of_n(SCORES, SCORES, n).mean() for n in range(1, 7)]
    assert means == sorted(means)


@pytest.mark.parametrize("n", [0, 7])
def test_n_must_be_there(n):
    with pytest.raises(ValueError, match="from 1 to 6"):
        best_of_n(SCORES, VALUES, n)


def test_the_kl_is_that_of_a_choice_among_many_different_answers():
    """Exactly, for 1,000 equally likely answers: the best of n has chance (i^n - (i - 1)^n) / 1000^n."""
    for n in (1, 2, 4, 16):
        edges = (np.arange(1001) / 1000) ** n
        chance = np.diff(edges)
        exact = np.sum(chance * np.log(chance * 1000))
        assert best_of_n_kl(n) == pytest.approx(exact, abs=0.01 * n)
        assert exact <= best_of_n_kl(n) + 1e-9
