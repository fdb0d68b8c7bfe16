"""Alarms on curves that are made by hand: each rings where it must, and noise alone rings none."""

import math

import numpy as np
import pytest

from mmrlhf_jax.evaluate.alarms import (
    ALARMS,
    Limits,
    Look,
    first_rung,
    paired_t,
    ringing,
    standardised_gain,
)

N = 100
PICTURE = np.random.default_rng(0).normal(size=N)  # what makes one picture easier than another


def looks(gold, proxy, *, noise=0.1, seed=1, **others) -> list[Look]:
    """One look for each number of `gold` and `proxy`: means, with noise for each picture of its own."""
    rng = np.random.default_rng(seed)

    def around(mean: float) -> np.ndarray:
        return mean + PICTURE + noise * rng.normal(size=N)

    rest = {"length": [6.0] * len(gold), "repetition": [0.1] * len(gold), "disagreement": None} | others
    made = []
    for i in range(len(gold)):
        numbers = [around(curve[i]) for curve in (gold, proxy)]
        length, repetition = (rest[name][i] + 0.01 * rng.normal(size=N) for name in ("length", "repetition"))
        disagreement = rest["disagreement"]
        if disagreement is not None:
            disagreement = disagreement[i] * (1 + 0.05 * rng.normal(size=N))
        made.append(Look(10 * i, *numbers, np.full(N, 0.1 * i), length, repetition, disagreement))
    return made


def test_the_t_statistic_is_that_of_students_sleep_data():
    """Student 1908, the additional hours of sleep of ten patients: t = 4.0621 with 9 degrees of freedom."""
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    other = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert paired_t(other, one) == pytest.approx(4.0621, abs=1e-4)
    assert paired_t(one, other) == pytest.approx(-4.0621, abs=1e-4)


def test_differences_without_spread():
    same = np.ones(4)
    assert paired_t(same, same) == 0.0
    assert paired_t(same, same - 1) == math.inf and paired_t(same - 1, same) == -math.inf
    with pytest.raises(ValueError, match="two"):
        paired_t([1.0], [2.0])


def test_overoptimisation_rings_where_the_gold_falls_and_the_proxy_climbs():
    turning = looks(gold=[0.0, 0.3, 0.5, 0.4, 0.3, 0.2], proxy=[0.0, 0.4, 0.8, 1.2, 1.6, 2.0])
    assert first_rung(turning, Limits()) == {"overoptimisation": 40}  # the second look after the peak
    assert first_rung(turning, Limits(patience=1)) == {"overoptimisation": 30}
    assert ringing(turning, Limits()) == ["overoptimisation"]
    assert ringing(turning[:4], Limits()) == []


@pytest.mark.parametrize(
    ("gold", "proxy"),
    [
        ([0.0, 0.2, 0.4, 0.6, 0.8], [0.0, 0.4, 0.8, 1.2, 1.6]),  # both climb
        ([0.0, 0.5, 0.5, 0.5, 0.5], [0.0, 0.4, 0.8, 1.2, 1.6]),  # the gold stays
        ([0.0, 0.5, 0.3, 0.2, 0.1], [0.0, 0.8, 0.6, 0.4, 0.2]),  # both fall: the policy broke
        ([0.0, 0.5, 0.3, 0.5, 0.3, 0.5], [0.0, 0.4, 0.8, 1.2, 1.6, 2.0]),  # single falls that recover
    ],
)
def test_overoptimisation_does_not_ring_elsewhere(gold, proxy):
    assert first_rung(looks(gold, proxy), Limits()) == {}


def test_noise_alone_rings_nothing():
    """A proxy that climbs over a gold measure that only varies by chance, in 300 runs of 20 looks."""
    rang = [
        first_rung(looks([0.0] * 20, np.linspace(0, 2, 20), noise=1.0, seed=seed), Limits())
        for seed in range(300)
    ]
    assert sum(map(bool, rang)) <= 6


def test_a_small_fall_is_found_among_many_pictures_and_not_in_a_few():
    fallen = looks([0.0, 0.5, 0.3, 0.3], [0.0, 0.4, 1.2, 1.6], noise=0.3)
    few = [Look(look.step, *(value[:4] for value in look[1:6])) for look in fallen]
    assert ringing(fallen, Limits()) == ["overoptimisation"] and ringing(few, Limits()) == []


def test_disagreement_rings_where_it_grows_by_half():
    flat = [0.0] * 4
    grown = looks(flat, flat, disagreement=[0.2, 0.25, 0.4, 0.4])
    assert first_rung(grown, Limits()) == {"disagreement": 30}
    assert first_rung(looks(flat, flat, disagreement=[0.2, 0.25, 0.25, 0.25]), Limits()) == {}
    assert first_rung(looks(flat, flat), Limits()) == {}


def test_repetition_rings_where_it_rises():
    flat = [0.0] * 4
    assert first_rung(looks(flat, flat, repetition=[0.1, 0.1, 0.2, 0.2]), Limits()) == {"repetition": 30}
    assert first_rung(looks(flat, flat, repetition=[0.1, 0.12, 0.12, 0.12]), Limits()) == {}
    assert first_rung(looks(flat, flat, repetition=[0.2, 0.1, 0.0, 0.0]), Limits()) == {}


@pytest.mark.parametrize(("last", "rings"), [(9.0, True), (4.0, True), (7.0, False), (5.0, False)])
def test_length_rings_where_it_drifts_either_way(last, rings):
    flat = [0.0] * 3
    found = first_rung(looks(flat, flat, length=[6.0, last, last]), Limits())
    assert found == ({"length": 20} if rings else {})


def test_a_single_look_rings_nothing():
    for patience in (1, 2):
        assert ringing(looks([0.0], [0.0]), Limits(patience=patience)) == []


def test_gains_are_in_standard_deviations_of_the_first_look():
    first = np.array([1.0, 3.0])
    assert standardised_gain(np.array([2.0, 5.0]), first) == pytest.approx(1.5)
    assert math.isnan(standardised_gain(first, np.ones(2)))


def test_every_alarm_has_a_test():
    assert set(ALARMS) == {"overoptimisation", "disagreement", "repetition", "length"}
