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
from tests.parameters import draw

VOCAB, KNOWN, LENGTH, ROWS = 9, 7, 4, 4096
CONFIG = PolicyConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    decoder=DecoderConfig(vocab_size=VOCAB, width=16, layers=1, heads=2, kv_heads=1, mlp_width=16),
)
DEFINITION = define(lambda rngs: VisionLanguagePolicy(CONFIG, rngs=rngs))
ALLOWED = [2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def params():
    return draw(DEFINITION.abstract())


@pytest.fixture(scope="module")
def image():
    """Encoded pictures; the policy's own tower plays no part here."""
    return jax.random.normal(jax.random.key(1), (ROWS, 4, 16))


@pytest.fixture(scope="module")
def same(image):
    """One picture in all rows."""
    return jnp.broadcast_to(image[:1], image.shape)


def prompts_of(*prompts: list[int]) -> Prompts:
    """The given prompts in turn for all rows, padded on the left."""
    ids = np.zeros((ROWS, 3), np.int32)
    for row in range(ROWS):
        prompt = prompts[row % len(prompts)]
        ids[row, 3 - len(prompt) :] = prompt
    return Prompts(jnp.asarray(ids), jnp.asarray(ids > 0))


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


def test_pictures_and_special_tokens_are_forbidden():
    never = forbidden_tokens(VOCAB, KNOWN, special=(0, 3), image_token_id=5)
    assert np.flatnonzero(never).tolist() == [0, 3, 5, 7, 8]


def test_begin_prompts():
    prompts = begin_prompts(3)
    assert prompts.ids_BxL.tolist() == [[1]] * 3 and prompts.mask_BxL.tolist() == [[True]] * 3


def test_greedy_takes_the_likeliest_allowed_token(params, image):
    """By scoring the completion anew, with prompts of different lengths."""
    prompts = prompts_of([1], [1, 4], [1, 5, 6])
    done = sample(params, image, prompts, jax.random.key(2), 0.0)
    logits = np.asarray(score(params, image, *prompts, *done).logits_BxTxV)
    likeliest = np.array(ALLOWED)[logits[..., ALLOWED].argmax(axis=-1)]
    mask = np.asarray(done.mask_BxT)
    assert len(np.unique(likeliest[mask])) == len(ALLOWED)
    np.testing.assert_array_equal(np.asarray(done.ids_BxT)[mask], likeliest[mask])


def test_after_the_end_comes_padding(params, image):
    done = sample(params, image, prompts_of([1]), jax.random.key(3), 1.0)
    lengths = set()
    for ids in np.asarray(done.ids_BxT).tolist():
        end = ids.index(2) if 2 in ids else LENGTH - 1
        lengths.add(end)
        assert all(token in ALLOWED for token in ids[: end + 1]) and not any(ids[end + 1 :])
    assert len(lengths) == LENGTH, "rows of every length"
    np.testing.assert_array_equal(done.mask_BxT, np.asarray(done.ids_BxT) > 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_first_tokens_follow_the_policy(params, same, temperature):
    """4,096 samples of one picture: each frequency within five standard errors of its probability."""
    prompts = prompts_of([1])
    done = sample(params, same, prompts, jax.random.key(4), temperature)
    first = np.asarray(done.ids_BxT)[:, 0]
    logits = score(params, same, *prompts, *done).logits_BxTxV[0, 0]
    weights = np.exp(np.asarray(logits, np.float64)[ALLOWED] / temperature)
    wanted = weights / weights.sum()
    found = np.array([np.mean(first == token) for token in ALLOWED])
    assert found.sum() == pytest.approx(1)
    assert np.all(np.abs(found - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / ROWS))


def test_rows_and_keys_give_their_own_samples(params, same):
    prompts = prompts_of([1])
    one, again, other = (sample(params, same, prompts, jax.random.key(k), 1.0).ids_BxT for k in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)
    assert len({tuple(row) for row in np.asarray(one).tolist()}) > 20
