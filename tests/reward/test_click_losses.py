"""Losses and position curves of click logs: formulas by hand, planted truths found again, bias shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.evaluate.ranking import spearman
from mmrlhf_jax.reward.clicks import click_weights, pairwise_click_loss, softmax_click_loss
from mmrlhf_jax.reward.examination import examination_of_random_order, fit_position_model
from tests.differences import gradient

EXAMINATION = np.array([1.0, 0.62, 0.4, 0.25, 0.16])  # planted
ITEMS, SHOWN = 40, 5


@pytest.fixture(scope="module")
def relevance() -> np.ndarray:
    """Planted chance (ITEMS,) of a click at the first position."""
    return np.random.default_rng(1).permutation(np.linspace(0.05, 0.8, ITEMS))


def shown_lists(relevance: np.ndarray, lists: int, *, order: str) -> tuple[np.ndarray, np.ndarray]:
    """Items (L, S) in their order on the screen and clicks (L, S).

    The order is "random", or a "ranker"'s, who half knows what is relevant. In the ranker's eyes some items
    of little relevance are good ones: they stand at the top and gather clicks there.
    """
    rng = np.random.default_rng(2)
    item_LxS = np.stack([rng.choice(ITEMS, SHOWN, replace=False) for _ in range(lists)])
    if order == "ranker":
        taste = 0.3 * relevance + np.random.default_rng(3).uniform(0, 0.5, ITEMS)
        seen_LxS = taste[item_LxS] + rng.normal(0, 0.12, item_LxS.shape)
        item_LxS = np.take_along_axis(item_LxS, np.argsort(-seen_LxS, axis=1), axis=1)
    return item_LxS, rng.random(item_LxS.shape) < EXAMINATION * relevance[item_LxS]


def showings(item_LxS: np.ndarray, clicked_LxS: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items, positions and clicks of single showings."""
    return item_LxS.ravel(), np.tile(np.arange(SHOWN), len(item_LxS)), clicked_LxS.ravel()


def test_expectation_maximisation_finds_the_planted_curve_and_the_planted_relevance(relevance):
    item_LxS, clicked_LxS = shown_lists(relevance, 20_000, order="ranker")
    item_I, position_I, clicked_I = showings(item_LxS, clicked_LxS)
    model = fit_position_model(item_I, position_I, clicked_I)
    np.testing.assert_allclose(model.examination_K, EXAMINATION, atol=0.04)
    assert np.abs(model.relevance_D - relevance).mean() < 0.03
    # Without the correction good answers at the top make the curve too steep, and the top makes answers good.
    clicks_by_position = clicked_LxS.mean(axis=0) / clicked_LxS[:, 0].mean()
    assert (np.abs(clicks_by_position - EXAMINATION)[1:] > 0.04).all()
    rate = np.bincount(item_I, clicked_I, ITEMS) / np.bincount(item_I, minlength=ITEMS)
    assert spearman(rate, relevance) < 0.9 < 0.98 < spearman(model.relevance_D, relevance)


def test_expectation_maximisation_climbs_to_the_top(relevance):
    """More steps never lower the likelihood, and the planted truth is no likelier than what was found."""
    item_I, position_I, clicked_I = showings(*shown_lists(relevance, 1500, order="ranker"))
    climbed = [
        fit_position_model(item_I, position_I, clicked_I, steps=steps).log_likelihood
        for steps in (1, 2, 5, 20, 2000)
    ]
    assert (np.diff(climbed) > 0).all()
    chance_I = EXAMINATION[position_I] * relevance[item_I]
    truth = np.mean(np.where(clicked_I, np.log(chance_I), np.log1p(-chance_I)))
    assert climbed[-1] > truth


def test_lists_in_random_order_show_the_curve_without_a_model(relevance):
    item_LxS, clicked_LxS = shown_lists(relevance, 20_000, order="random")
    _, position_I, clicked_I = showings(item_LxS, clicked_LxS)
    np.testing.assert_allclose(examination_of_random_order(position_I, clicked_I), EXAMINATION, atol=0.03)


def test_positions_that_share_no_answer_are_told():
    fixed = np.array([0, 1, 2, 0, 1, 2])
    with pytest.raises(ValueError, match="position 1 shares no answer"):
        fit_position_model(fixed, fixed, fixed == 0)
    # answers 0 and 1 link positions 0 and 1, answers 1 and 2 link 1 and 2: by way of 1, all are linked
    chain = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 2, 1])
    assert fit_position_model(*chain, np.array([1, 0, 1, 0, 1, 0]) > 0).examination_K.shape == (3,)
    with pytest.raises(ValueError, match="nothing was shown at position 1"):
        fit_position_model(np.zeros(2, int), np.array([0, 2]), np.zeros(2, bool))
    with pytest.raises(ValueError, match="empty"):
        fit_position_model(np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool))
    with pytest.raises(ValueError, match="no click at the first position"):
        examination_of_random_order(np.array([0, 1]), np.array([False, True]))


REWARD = np.array([[0.3, -1.0, 2.0, 0.5], [1.5, 0.2, 9.0, 9.0]])
CLICKED = np.array([[True, False, True, False], [False, True, False, False]])
LISTED = np.array([[True] * 4, [True, True, False, False]])
PROPENSITY = np.array([1.0, 0.5, 0.25, 0.1]) * np.ones((2, 1))
WEIGHT = np.array([[1.0, 0.0, 4.0, 0.0], [0.0, 2.0, 0.0, 0.0]])


def test_a_click_weighs_one_over_its_propensity():
    np.testing.assert_allclose(click_weights(jnp.asarray(CLICKED), jnp.asarray(PROPENSITY)), WEIGHT)
    clipped = click_weights(jnp.asarray(CLICKED), jnp.asarray(PROPENSITY), least=0.4)
    np.testing.assert_allclose(clipped, np.minimum(WEIGHT, 2.5))
    normalised = click_weights(jnp.asarray(CLICKED), jnp.asarray(PROPENSITY), self_normalise=True)
    np.testing.assert_allclose(normalised, WEIGHT / (7 / 3), rtol=1e-6)
    none = click_weights(jnp.zeros((2, 4), bool), jnp.asarray(PROPENSITY), self_normalise=True)
    np.testing.assert_array_equal(none, np.zeros((2, 4)))


def softmax_by_hand(reward):
    total = 0.0
    for i, length in enumerate((4, 2)):
        chance = np.exp(reward[i, :length]) / np.exp(reward[i, :length]).sum()
        total -= np.sum(WEIGHT[i, :length] * np.log(chance))
    return total


def pairwise_by_hand(reward):
    return sum(
        WEIGHT[i, k] * np.log1p(np.exp(reward[i, j] - reward[i, k]))
        for i, length in enumerate((4, 2))
        for k in range(length)
        for j in range(length)
        if j != k
    )


@pytest.mark.parametrize(
    ("ours", "by_hand"),
    [(softmax_click_loss, softmax_by_hand), (pairwise_click_loss, pairwise_by_hand)],
    ids=["softmax", "pairwise"],
)
def test_values_and_gradients_are_the_formulas(ours, by_hand):
    """What lies beyond the end of a list takes no part, were it NaN."""
    reward = jnp.asarray(np.where(LISTED, REWARD, np.nan), jnp.float32)

    def loss(reward):
        return jnp.sum(ours(reward, jnp.asarray(WEIGHT, jnp.float32), jnp.asarray(LISTED)))

    value, slope = jax.value_and_grad(loss)(reward)
    assert float(value) == pytest.approx(by_hand(REWARD), rel=1e-5)
    np.testing.assert_allclose(slope, gradient(by_hand, REWARD), atol=1e-4)


@pytest.mark.parametrize("loss", [softmax_click_loss, pairwise_click_loss])
def test_weights_undo_the_bias_of_positions(relevance, loss):
    """One reward for each item, learned from a biased log: in the right order only with the weights."""
    item_LxS, clicked_LxS = shown_lists(relevance, 8000, order="ranker")
    shown_LxS = jnp.ones(item_LxS.shape, bool)

    def learn(propensity_S):
        propensity_LxS = jnp.asarray(np.tile(propensity_S, (len(item_LxS), 1)), jnp.float32)
        weight_LxS = click_weights(jnp.asarray(clicked_LxS), propensity_LxS, self_normalise=True)

        @jax.jit
        def descend(reward_D):
            def mean_loss(reward_D):
                return jnp.mean(loss(reward_D[item_LxS], weight_LxS, shown_LxS))

            return jax.lax.fori_loop(0, 150, lambda _, r: r - 3.0 * jax.grad(mean_loss)(r), reward_D)

        return np.asarray(descend(jnp.zeros(ITEMS)))

    corrected, uncorrected = (spearman(learn(p), relevance) for p in (EXAMINATION, np.ones(SHOWN)))
    assert uncorrected < 0.9 < 0.96 < corrected
