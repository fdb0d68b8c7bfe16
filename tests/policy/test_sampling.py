"""Completions of a policy against its own scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.modules import define
from mmrlhf_jax.policy.sampling import begin_prompts, forbidden_tokens, sample_completions
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.types import Prompts

VOCAB, KNOWN, LENGTH = 9, 7, 4
CONFIG = PolicyConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    decoder=DecoderConfig(vocab_size=VOCAB, width=16, layers=1, heads=2, kv_heads=1, mlp_width=16),
)
DEFINITION = define(lambda rngs: VisionLanguagePolicy(CONFIG, rngs=rngs))
ALLOWED = [2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def params():
    return DEFINITION.init(jax.random.key(0))


def image_of(rows: int) -> jax.Array:
    """Encoded pictures; the policy's own tower plays no part here."""
    return jax.random.normal(jax.random.key(1), (rows, 4, 16))


@jax.jit
def sample(params, image_BxPxD, prompts, key, temperature):
    return sample_completions(
        DEFINITION.bind(params),
        image_BxPxD,
        prompts,
        key,
        length=LENGTH,
        forbidden_V=forbidden_tokens(VOCAB, KNOWN),
        temperature=temperature,
    )


@jax.jit
def score(params, *inputs):
    return DEFINITION.bind(params).score(*inputs)


def test_forbidden_tokens():
    assert forbidden_tokens(VOCAB, KNOWN).tolist() == [i not in ALLOWED for i in range(VOCAB)]


def test_begin_prompts():
    prompts = begin_prompts(3)
    assert prompts.ids_BxL.tolist() == [[1]] * 3 and prompts.mask_BxL.tolist() == [[True]] * 3


def test_greedy_takes_the_likeliest_allowed_token(params):
    """By scoring the completion anew, with prompts of different lengths."""
    image = image_of(5)
    ids = np.array([[0, 0, 1], [0, 1, 4], [1, 5, 6], [0, 1, 3], [0, 0, 1]], np.int32)
    prompts = Prompts(jnp.asarray(ids), jnp.asarray(ids > 0))
    done = sample(params, image, prompts, jax.random.key(2), 0.0)
    logits = np.asarray(score(params, image, *prompts, *done).logits_BxTxV)
    likeliest = np.array(ALLOWED)[logits[..., ALLOWED].argmax(axis=-1)]
    mask = np.asarray(done.mask_BxT)
    np.testing.assert_array_equal(np.asarray(done.ids_BxT)[mask], likeliest[mask])


def test_after_the_end_comes_padding(params):
    done = sample(params, image_of(64), begin_prompts(64), jax.random.key(3), 1.0)
    lengths = set()
    for ids in np.asarray(done.ids_BxT).tolist():
        end = ids.index(2) if 2 in ids else LENGTH - 1
        lengths.add(end)
        assert all(token in ALLOWED for token in ids[: end + 1]) and not any(ids[end + 1 :])
    assert len(lengths) == LENGTH, "rows of every length"
    mask = np.asarray(done.mask_BxT)
    np.testing.assert_array_equal(mask, np.asarray(done.ids_BxT) > 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_first_tokens_follow_the_policy(params, temperature):
    """8,192 samples of one picture: each frequency within five standard errors of its probability."""
    rows = 8192
    image = jnp.broadcast_to(image_of(1), (rows, 4, 16))
    done = sample(params, image, begin_prompts(rows), jax.random.key(4), temperature)
    first = np.asarray(done.ids_BxT)[:, 0]
    one = jnp.zeros((1, 1), jnp.int32)
    logits = score(params, image[:1], *begin_prompts(1), one, one == 0).logits_BxTxV[0, 0]
    weights = np.exp(np.asarray(logits, np.float64)[ALLOWED] / temperature)
    wanted = weights / weights.sum()
    found = np.array([np.mean(first == token) for token in ALLOWED])
    assert found.sum() == pytest.approx(1)
    assert np.all(np.abs(found - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / rows))


def test_rows_and_keys_give_their_own_samples(params):
    image = jnp.broadcast_to(image_of(1), (16, 4, 16))
    one, same, other = (sample(params, image, begin_prompts(16), jax.random.key(k), 1.0) for k in (5, 5, 6))
    np.testing.assert_array_equal(one.ids_BxT, same.ids_BxT)
    assert np.any(one.ids_BxT != other.ids_BxT)
    assert len({tuple(row) for row in np.asarray(one.ids_BxT).tolist()}) > 4
