"""Simulated ratings, thumbs and clicks follow the rubric, and what was planted can be found again."""

import dataclasses

import numpy as np
import pytest

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.evaluate.ranking import roc_auc, spearman
from mmrlhf_jax.feedback.raters import simulated_panel
from mmrlhf_jax.feedback.rubric import Rubric, RubricWeights
from mmrlhf_jax.feedback.simulation import (
    BAR,
    click_lists,
    examination_curve,
    give_thumbs,
    rate_answers,
)

NAMES = ("red apple", "green apple", "hot dog", "french fries", "cat face", "dog face", "water pistol")
CAPTIONS = [Caption(name, (), "objects", "thing") for name in NAMES]
RUBRIC = Rubric.from_captions(CAPTIONS)
PANEL = simulated_panel(3)
EXACT = [dataclasses.replace(rater, noise_scale=0.0, weights=RubricWeights()) for rater in PANEL]
ANSWERS = [name if i % 3 else f"{name} {name}" for i, name in enumerate(NAMES * 200)]
ABOUT = [CAPTIONS[i % 5] for i in range(len(ANSWERS))]
UTILITY = RUBRIC.utilities(ANSWERS, ABOUT)


def test_ratings_without_noise_are_the_rubrics_aspects_on_five_levels():
    rated = rate_answers(RUBRIC, EXACT, ANSWERS, ABOUT, seed=0)
    np.testing.assert_array_equal(rated.rating_NxA, np.round(1 + 4 * RUBRIC.aspect_table(ANSWERS, ABOUT)))
    assert rated.rating_NxA[ANSWERS.index("green apple")].shape == (5,)
    own = rate_answers(RUBRIC, EXACT, NAMES, CAPTIONS, seed=0)
    assert (own.rating_NxA == 5).all()


def test_ratings_with_noise_stay_on_the_scale_and_follow_the_rubric():
    rated = rate_answers(RUBRIC, PANEL, ANSWERS, ABOUT, seed=0)
    assert set(np.unique(rated.rating_NxA)) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert set(rated.rater) == {"simulated-0", "simulated-1", "simulated-2"}
    exact = np.round(1 + 4 * RUBRIC.aspect_table(ANSWERS, ABOUT))
    assert 0.02 < np.mean(rated.rating_NxA != exact) < 0.5
    assert spearman(rated.rating_NxA[:, 0], exact[:, 0]) > 0.9


def test_thumbs_go_up_above_the_bar():
    exact = give_thumbs(RUBRIC, EXACT, ANSWERS, ABOUT, seed=0)
    np.testing.assert_array_equal(exact.up_N, UTILITY > BAR)
    noisy = give_thumbs(RUBRIC, PANEL, ANSWERS, ABOUT, seed=0)
    assert 0 < np.mean(noisy.up_N != exact.up_N) < 0.2
    assert roc_auc(UTILITY, noisy.up_N) > 0.9


def shown(random_order: float, seed: int = 0):
    answers = [list(NAMES[:6]), list(NAMES[1:4]), ["red apple"]]
    return click_lists(
        RUBRIC, answers, CAPTIONS[:3], lists=3000, length=4, random_order=random_order, seed=seed
    )


def test_lists_hold_distinct_answers_about_their_subject():
    lists = shown(0.5)
    assert set(lists.subject_L.tolist()) == {0, 1}  # one answer alone is no list
    assert lists.clicked_LxK.shape == (6000, 4) == (len(lists.answers), 4)
    for subject, answers in zip(lists.subject_L[::50], lists.answers[::50], strict=True):
        assert len(set(answers)) == len(answers) == (4 if subject == 0 else 3)
        assert set(answers) <= set(NAMES[:6] if subject == 0 else NAMES[1:4])
    short_L = np.array([len(answers) for answers in lists.answers]) == 3
    assert short_L.any() and not lists.clicked_LxK[short_L, 3].any()
    assert np.mean(lists.random_order) == pytest.approx(0.5, abs=0.03)


def test_clicks_fall_off_as_the_planted_curve_where_the_order_is_random():
    lists = shown(1.0)
    long_L = lists.subject_L == 0
    rate_K = lists.clicked_LxK[long_L].mean(axis=0)
    np.testing.assert_allclose(rate_K / rate_K[0], examination_curve(4), atol=0.1)
    np.testing.assert_allclose(examination_curve(4), [1, 1 / 2, 1 / 3, 1 / 4])


def test_the_ranker_puts_good_answers_first():
    lists = shown(0.0)
    top = [RUBRIC.utility(a[0], CAPTIONS[s]) for s, a in zip(lists.subject_L, lists.answers, strict=True)]
    last = [RUBRIC.utility(a[-1], CAPTIONS[s]) for s, a in zip(lists.subject_L, lists.answers, strict=True)]
    assert np.mean(top) > np.mean(last) + 0.1
    assert not any(lists.random_order)


def test_everything_follows_from_the_seed():
    for give in (rate_answers, give_thumbs):
        one, same, other = (give(RUBRIC, PANEL, ANSWERS, ABOUT, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one[1], same[1])
        assert one.rater == same.rater and (one[1] != other[1]).any()
    assert shown(0.5).answers == shown(0.5).answers != shown(0.5, seed=1).answers
