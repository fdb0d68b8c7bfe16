"""The composite reward: terms in units of their spread, weighted, kept apart."""

import dataclasses

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
from mmrlhf_jax.reward import composite
from mmrlhf_jax.reward.composite import (
    TERMS,
    Judges,
    Normaliser,
    Rules,
    Views,
    compose,
    fit_normaliser,
    raw_terms,
    repeated_ngrams,
)
from mmrlhf_jax.reward.model import RewardModel, Seen
from mmrlhf_jax.reward.text import TextTerm
from mmrlhf_jax.reward.wording import word_table
from mmrlhf_jax.training.config import RewardWeights
from mmrlhf_jax.types import Completions
from tests.parameters import draw

FIRST = ("fluency", "image_accuracy", "preference")
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
    return {name: jnp.asarray(value) for name, value in zip(FIRST, values, strict=True)}


def test_terms_are_normalised_weighted_and_summed():
    ledger = compose(RAW, NORMALISER, weights(0.5, 0.25, 2.0))
    np.testing.assert_allclose(ledger.weighted["fluency"], [1.0, -1.0, 0.0])
    np.testing.assert_allclose(ledger.weighted["image_accuracy"], [0.0, 0.5, 1.0], atol=1e-6)
    np.testing.assert_allclose(ledger.weighted["preference"], [4.0, -1.0, -3.0])
    np.testing.assert_allclose(ledger.total_B, [5.0, -1.5, -2.0], atol=1e-6)
    assert list(ledger.raw) == list(FIRST)
    np.testing.assert_allclose(ledger.normalised["fluency"], [2.0, -2.0, 0.0])
    for name in FIRST:
        np.testing.assert_array_equal(ledger.raw[name], RAW[name])


def test_a_weight_of_zero_takes_a_term_out():
    ledger = compose(RAW, NORMALISER, weights(0.0, 0.0, 1.0))
    np.testing.assert_allclose(ledger.total_B, (np.array([10.0, 0.0, -4.0]) - 2.0) / 4.0)


def test_the_reference_policys_own_samples_have_mean_zero_and_spread_one():
    normaliser = fit_normaliser(RAW)
    ledger = compose(RAW, normaliser, weights(1.0, 1.0, 1.0))
    for name in FIRST:
        assert float(jnp.mean(ledger.weighted[name])) == pytest.approx(0.0, abs=1e-5)
        assert float(jnp.std(ledger.weighted[name])) == pytest.approx(1.0, rel=1e-4)


def test_a_term_that_never_varies_gives_finite_rewards():
    constant = {name: jnp.full(3, 1.5) for name in FIRST}
    for whitened in (False, True):
        ledger = compose(constant, fit_normaliser(constant), weights(1.0, 1.0, 1.0), whitened=whitened)
        np.testing.assert_array_equal(ledger.total_B, np.zeros(3))


def all_terms(rows: int = 64) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(3.0, 2.0, rows), jnp.float32) for name in TERMS}


def in_order(raw: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The terms as they are summed; jit sorts the keys of what is passed in."""
    return {name: raw[name] for name in TERMS}


def default_weights() -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in dataclasses.asdict(RewardWeights()).items()}


def test_every_term_has_a_weight_and_only_the_text_is_a_term_of_the_users():
    assert set(default_weights()) == {*TERMS, "text"}


def as_users_compile(function):
    """Without the tests' quick compilation, which rounds products that are added up in another way."""
    preset = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_DEFAULT"} if jax.__version_info__ >= (0, 12) else {}
    return jax.jit(function, compiler_options=preset)


def test_the_terms_that_have_no_weight_by_default_leave_the_total_bit_for_bit():
    """Against the sum as it was written when there were three terms."""
    inputs = all_terms(), fit_normaliser(all_terms(8)), default_weights()
    assert all((weight > 0) == (name in FIRST) for name, weight in default_weights().items())

    def total(raw, normaliser, weights):
        return compose(in_order(raw), normaliser, weights).total_B

    def three(raw, normaliser, weights):
        terms = [weights[n] * (raw[n] - normaliser.mean[n]) / normaliser.std[n] for n in FIRST]
        return 0 + terms[0] + terms[1] + terms[2]

    for transform in (lambda f: f, as_users_compile):
        got, want = transform(total)(*inputs), transform(three)(*inputs)
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


@pytest.mark.parametrize("whitened", [False, True])
def test_the_total_is_the_logged_terms_summed_bit_for_bit(whitened):
    weights = {name: jnp.asarray(0.3 + i) for i, name in enumerate(TERMS)}

    def composed(raw, normaliser, weights, whitened):
        return compose(in_order(raw), normaliser, weights, whitened=whitened)

    for transform in (lambda f: f, jax.jit):
        ledger = transform(composed)(all_terms(), fit_normaliser(all_terms(8)), weights, whitened)
        total = np.zeros(64, np.float32)
        for name in TERMS:
            total = total + np.asarray(ledger.weighted[name])
        assert total.tobytes() == np.asarray(ledger.total_B).tobytes()


def test_whitened_terms_have_mean_zero_and_their_weight_as_spread_whatever_the_reference_did():
    ledger = compose(all_terms(), fit_normaliser(all_terms(4)), default_weights(), whitened=jnp.asarray(True))
    for name in TERMS:
        values = np.asarray(ledger.weighted[name], np.float64)
        assert values.mean() == pytest.approx(0.0, abs=1e-5)
        assert values.std() == pytest.approx(float(default_weights()[name]), abs=1e-4)
    by_hand = np.asarray(all_terms()["fluency"], np.float64)
    by_hand = 0.1 * (by_hand - by_hand.mean()) / by_hand.std()
    np.testing.assert_allclose(ledger.weighted["fluency"], by_hand, atol=1e-4)


def test_the_first_fault_ever_seen_costs_a_bounded_amount():
    """The reference policy never commits it, so that it has no spread of its own."""
    never = {name: jnp.zeros(50) for name in TERMS}
    normaliser = fit_normaliser(never)
    fault = {"considerate_wording": -1.0, "length": -1.0, "repetition": -0.1}
    raw = {name: jnp.full(1, fault.get(name, 0.0)) for name in TERMS}
    ledger = compose(raw, normaliser, {name: jnp.ones(()) for name in TERMS})
    assert [float(ledger.weighted[name][0]) for name in fault] == pytest.approx([-2.0, -1.0, -1.0])
    assert float(ledger.total_B[0]) == pytest.approx(-4.0)


# The real judges, tiny.
TOWER = TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)
CLIP_CONFIG = CLIPConfig(VisionConfig(16, 8, TOWER), TextConfig(24, 6, TOWER), 12)
LANGUAGE = define(lambda rngs: Decoder(DecoderConfig(24, 16, 1, 2, 2, 16), rngs=rngs))
CLIP_ = define(lambda rngs: CLIP(CLIP_CONFIG, rngs=rngs))
REWARD = define(lambda rngs: RewardModel(RewardConfig(CLIP_CONFIG, "attention", 16), rngs=rngs))
# Token 9 is the listed word "bad"; the second row repeats a pair.
RULES = Rules(
    word_table(["bad"], [b"", b"", b"", *[b" ok"] * 6, b" bad"], 24), jnp.asarray(3.0), jnp.asarray(5.0)
)
IDS = jnp.array([[5, 6, 7, 2, 0, 0], [8, 8, 8, 2, 0, 0], [9, 10, 11, 12, 13, 14]])
MASK = jnp.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)


@pytest.fixture(scope="module")
def judged():
    """A function completions, row shift of the pictures → raw terms."""
    params = [draw(network.abstract(), i) for i, network in enumerate((LANGUAGE, CLIP_, REWARD))]
    pixels = jax.random.normal(jax.random.key(7), (3, 16, 16, 3))

    @jax.jit
    def judge(params, pixels, completions):
        networks = zip((LANGUAGE, CLIP_, REWARD), params, strict=True)
        judges = Judges(*(network.bind(p) for network, p in networks), RULES)
        clip_NxD = unit_length(judges.clip.encode_image(pixels))
        views = Views(
            jnp.zeros((3, 4, 16)),
            judges.reward_model.encode(pixels),
            clip_NxD,
            references_NxRxD=unit_length(clip_NxD[:, None] + 0.2),
        )
        return raw_terms(judges, views, completions)

    return lambda completions, shift=0: judge(params, jnp.roll(pixels, shift, axis=0), completions)


def test_every_term_gives_one_number_a_completion(judged):
    raw = judged(Completions(IDS, MASK))
    assert set(raw) == set(TERMS)
    for values in raw.values():
        assert values.shape == (3,) and values.dtype == jnp.float32
        assert float(jnp.std(values)) > 1e-6
    assert all(float(jnp.max(raw[name])) <= 0 for name in ("considerate_wording", "length", "repetition"))
    assert float(jnp.max(raw["fluency"])) < 0  # a mean log-probability
    assert 0 <= float(jnp.min(raw["image_accuracy"])) <= float(jnp.max(raw["image_accuracy"])) <= 2.5


def test_tokens_behind_the_end_change_no_term(judged):
    clean = judged(Completions(IDS, MASK))
    dirty = judged(Completions(jnp.where(MASK, IDS, 17), MASK))
    for name in TERMS:
        np.testing.assert_array_equal(clean[name], dirty[name])


def test_pictures_matter_to_what_looks_at_them_and_to_nothing_else(judged):
    own, others = judged(Completions(IDS, MASK)), judged(Completions(IDS, MASK), shift=1)
    for name in ("fluency", "considerate_wording", "length", "repetition"):
        np.testing.assert_array_equal(own[name], others[name])
    assert float(jnp.max(jnp.abs(own["reference_accuracy"] - others["reference_accuracy"]))) > 1e-6
    assert float(jnp.max(jnp.abs(own["preference"] - others["preference"]))) > 1e-6


class _Direction:
    """Stands for CLIP: text i points to axis i."""

    def encode_text(self, ids_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        return 7.0 * jax.nn.one_hot(ids_BxT[:, 0], 3)


POINTING = Completions(jnp.array([[0], [1], [2]]), jnp.ones((3, 1), bool))


def pointing(picture_D: list[float], references_RxD: list[list[float]] | None = None) -> tuple[Judges, Views]:
    """Three texts that point to the axes, all of the same picture."""
    judges = Judges(None, _Direction(), None, None)  # type: ignore[arg-type]
    views = Views(jnp.zeros(0), Seen(jnp.zeros(0), jnp.zeros(0)), jnp.array([picture_D] * 3))
    if references_RxD is not None:
        views = views._replace(references_NxRxD=jnp.array([references_RxD] * 3))
    return judges, views


def test_clipscore_is_two_and_a_half_times_the_positive_cosine():
    judges, views = pointing([0.6, 0.8, 0.0])
    np.testing.assert_allclose(composite.image_accuracy(judges, views, POINTING), [1.5, 2.0, 0.0], atol=1e-6)
    against = composite.image_accuracy(judges, views._replace(clip_NxD=-views.clip_NxD), POINTING)
    np.testing.assert_array_equal(against, np.zeros(3))


def test_refclipscore_is_the_harmonic_mean_with_the_nearest_reference():
    # CLIPScores 1.5, 2, 0; cosines with the nearest reference 0.8, 0.6, 1; the third reference is padding.
    references = [[0.8, 0.6, 0.0], [0.0, -0.6, 0.8], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    got = composite.reference_accuracy(*pointing([0.6, 0.8, 0.0], references), POINTING)
    np.testing.assert_allclose(got, [2 * 1.5 * 0.8 / 2.3, 2 * 2.0 * 0.6 / 2.6, 0.0], atol=1e-6)
    opposed = composite.reference_accuracy(*pointing([0.6, 0.8, 0.0], [[-1.0, 0.0, 0.0]]), POINTING)
    np.testing.assert_array_equal(opposed, np.zeros(3))
    unknown = composite.reference_accuracy(*pointing([0.6, 0.8, 0.0]), POINTING)
    np.testing.assert_array_equal(unknown, np.zeros(3))


def test_lengths_cost_by_the_token_outside_of_the_range():
    mask = jnp.arange(8)[None] < jnp.array([1, 2, 3, 4, 5, 6, 8])[:, None]
    judges = Judges(None, None, None, RULES)  # type: ignore[arg-type]
    cost = composite.length(judges, None, Completions(mask.astype(jnp.int32), mask))  # type: ignore[arg-type]
    np.testing.assert_array_equal(cost, [-2, -1, 0, 0, 0, -1, -3])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_repeated_ngrams_are_counted_as_by_hand(n):
    rng = np.random.default_rng(0)
    lengths = np.array([0, 1, 2, 3, 5, 9, 9, 9, 9])
    ids = rng.integers(0, 3, (9, 9))
    ids[8] = np.arange(9)
    mask = np.arange(9)[None] < lengths[:, None]
    want = []
    for row, length in zip(ids, lengths, strict=True):
        grams = [tuple(row[i : i + n]) for i in range(length - n + 1)]
        want.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    got = repeated_ngrams(jnp.asarray(np.where(mask, ids, 7)), jnp.asarray(mask), n=n)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert want[8] == 0 < max(want)
    short = repeated_ngrams(jnp.zeros((2, n), jnp.int32), jnp.ones((2, n), bool), n=n)
    np.testing.assert_array_equal(short, np.zeros(2))  # a single n-gram has nothing to repeat


def test_a_users_function_of_texts_is_one_term_more(monkeypatch):
    monkeypatch.setattr(composite, "TERMS", {"length": composite.length})
    text = TextTerm(lambda texts: [float(len(t)) for t in texts], lambda ids: [str(row[0]) for row in ids])
    judges = Judges(None, None, None, RULES, text)  # type: ignore[arg-type]
    raw = raw_terms(judges, None, Completions(IDS + 5, MASK))  # type: ignore[arg-type]
    assert tuple(raw) == composite.term_names(text) == ("length", "text")
    np.testing.assert_array_equal(raw["text"], [2, 2, 2])
    assert composite.term_names(None) == ("length",)
