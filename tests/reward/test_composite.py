"""The composite reward: terms in units of their spread, weighted, kept apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import (
    CLIPConfig,
    DecoderConfig,
    RewardConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.encoders.clip import CLIP, unit_length
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import define
from mmrlhf_jax.reward.composite import (
    TERMS,
    Judges,
    Normaliser,
    Views,
    compose,
    fit_normaliser,
    image_accuracy,
    raw_terms,
)
from mmrlhf_jax.reward.model import RewardModel
from mmrlhf_jax.types import Completions

RAW = {
    "fluency": jnp.array([-1.0, -3.0, -2.0]),
    "image_accuracy": jnp.array([0.5, 0.7, 0.9]),
    "preference": jnp.array([10.0, 0.0, -4.0]),
}
NORMALISER = Normaliser(
    {"fluency": jnp.asarray(-2.0), "image_accuracy": jnp.asarray(0.5), "preference": jnp.asarray(2.0)},
    {"fluency": jnp.asarray(0.5), "image_accuracy": jnp.asarray(0.1), "preference": jnp.asarray(4.0)},
)


def weights(fluency: float, image_accuracy: float, preference: float) -> dict[str, jax.Array]:
    values = (fluency, image_accuracy, preference)
    return {name: jnp.asarray(value) for name, value in zip(TERMS, values, strict=True)}


def test_terms_are_normalised_weighted_and_summed():
    ledger = compose(RAW, NORMALISER, weights(0.5, 0.25, 2.0))
    np.testing.assert_allclose(ledger.weighted["fluency"], [1.0, -1.0, 0.0])
    np.testing.assert_allclose(ledger.weighted["image_accuracy"], [0.0, 0.5, 1.0], atol=1e-6)
    np.testing.assert_allclose(ledger.weighted["preference"], [4.0, -1.0, -3.0])
    np.testing.assert_allclose(ledger.total_B, [5.0, -1.5, -2.0], atol=1e-6)
    assert list(ledger.raw) == list(TERMS)
    for name in TERMS:
        np.testing.assert_array_equal(ledger.raw[name], RAW[name])


def test_a_weight_of_zero_takes_a_term_out():
    ledger = compose(RAW, NORMALISER, weights(0.0, 0.0, 1.0))
    np.testing.assert_allclose(ledger.total_B, (np.array([10.0, 0.0, -4.0]) - 2.0) / 4.0)


def test_the_reference_policys_own_samples_have_mean_zero_and_spread_one():
    normaliser = fit_normaliser(RAW)
    ledger = compose(RAW, normaliser, weights(1.0, 1.0, 1.0))
    for name in TERMS:
        assert float(jnp.mean(ledger.weighted[name])) == pytest.approx(0.0, abs=1e-5)
        assert float(jnp.std(ledger.weighted[name])) == pytest.approx(1.0, rel=1e-4)


def test_a_term_that_never_varies_gives_finite_rewards():
    constant = {name: jnp.full(3, 1.5) for name in TERMS}
    ledger = compose(constant, fit_normaliser(constant), weights(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(ledger.total_B, np.zeros(3))


# The real judges, tiny.
TOWER = TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)
CLIP_CONFIG = CLIPConfig(VisionConfig(16, 8, TOWER), TextConfig(24, 6, TOWER), 12)
LANGUAGE = define(lambda rngs: Decoder(DecoderConfig(24, 16, 1, 2, 2, 16), rngs=rngs))
CLIP_ = define(lambda rngs: CLIP(CLIP_CONFIG, rngs=rngs))
REWARD = define(lambda rngs: RewardModel(RewardConfig(CLIP_CONFIG, "attention", 16), rngs=rngs))
IDS = jnp.array([[5, 6, 7, 2, 0, 0], [8, 2, 0, 0, 0, 0], [9, 10, 11, 12, 13, 14]])
MASK = jnp.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)


@pytest.fixture(scope="module")
def judged():
    """A function completions, row shift of the pictures → raw terms."""
    params = [network.init(jax.random.key(i)) for i, network in enumerate((LANGUAGE, CLIP_, REWARD))]
    pixels = jax.random.normal(jax.random.key(7), (3, 16, 16, 3))

    @jax.jit
    def judge(params, pixels, completions):
        networks = zip((LANGUAGE, CLIP_, REWARD), params, strict=True)
        judges = Judges(*(network.bind(p) for network, p in networks))
        views = Views(
            jnp.zeros((3, 4, 16)),
            judges.reward_model.encode(pixels),
            unit_length(judges.clip.encode_image(pixels)),
        )
        return raw_terms(judges, views, completions, begin_id=1)

    return lambda completions, shift=0: judge(params, jnp.roll(pixels, shift, axis=0), completions)


def test_every_term_gives_one_number_a_completion(judged):
    raw = judged(Completions(IDS, MASK))
    assert set(raw) == set(TERMS)
    for values in raw.values():
        assert values.shape == (3,) and values.dtype == jnp.float32
        assert float(jnp.std(values)) > 1e-6
    assert float(jnp.max(raw["fluency"])) < 0  # a mean log-probability
    assert 0 <= float(jnp.min(raw["image_accuracy"])) <= float(jnp.max(raw["image_accuracy"])) <= 2.5


def test_tokens_behind_the_end_change_no_term(judged):
    clean = judged(Completions(IDS, MASK))
    dirty = judged(Completions(jnp.where(MASK, IDS, 17), MASK))
    for name in TERMS:
        np.testing.assert_array_equal(clean[name], dirty[name])


def test_pictures_matter_to_all_but_fluency(judged):
    own, others = judged(Completions(IDS, MASK)), judged(Completions(IDS, MASK), shift=1)
    np.testing.assert_array_equal(own["fluency"], others["fluency"])
    assert float(jnp.max(jnp.abs(own["preference"] - others["preference"]))) > 1e-6


class _Direction:
    """Stands for CLIP: text i points to axis i."""

    def encode_text(self, ids_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        return 7.0 * jax.nn.one_hot(ids_BxT[:, 0], 3)


def test_clipscore_is_two_and_a_half_times_the_positive_cosine():
    picture = jnp.array([[0.6, 0.8, 0.0]] * 3)
    completions = Completions(jnp.array([[0], [1], [2]]), jnp.ones((3, 1), bool))
    got = image_accuracy(_Direction(), picture, completions)  # type: ignore[arg-type]
    np.testing.assert_allclose(got, [1.5, 2.0, 0.0], atol=1e-6)
    against = image_accuracy(_Direction(), -picture, completions)  # type: ignore[arg-type]
    np.testing.assert_array_equal(against, np.zeros(3))
