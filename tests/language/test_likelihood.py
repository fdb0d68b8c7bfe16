"""The mean log-probability of a text against a loop over its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.language.likelihood import mean_logprob
from mmrlhf_jax.modules import define
from tests.parameters import draw

CONFIG = DecoderConfig(vocab_size=9, width=8, layers=1, heads=2, kv_heads=1, mlp_width=8)
DEFINITION = define(lambda rngs: Decoder(CONFIG, rngs=rngs))
BEGIN, END = 1, 2
TEXTS = [[5, 6, 7, END], [8, END], [END]]


@pytest.fixture(scope="module")
def params():
    return draw(DEFINITION.abstract())


def padded(filling: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.full((len(TEXTS), 4), filling, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, text in enumerate(TEXTS):
        ids[row, : len(text)], mask[row, : len(text)] = text, True
    return ids, mask


@jax.jit
def likelihood(params, ids, mask):
    return mean_logprob(DEFINITION.bind(params), ids, mask, begin_id=BEGIN)


def test_by_a_loop(params):
    @jax.jit
    def scores_of(params, before):
        decoder = DEFINITION.bind(params)
        return decoder.logits(decoder(decoder.embed(before), np.ones(before.shape, bool)))

    wanted = []
    for text in TEXTS:
        scores_TxV = np.asarray(scores_of(params, np.array([[BEGIN, *text[:-1]]], np.int32))[0], np.float64)
        logprobs = [s[token] - np.log(np.exp(s).sum()) for s, token in zip(scores_TxV, text, strict=True)]
        wanted.append(np.mean(logprobs))
    answer = likelihood(params, *padded(0))
    assert answer.dtype == jnp.float32
    np.testing.assert_allclose(answer, wanted, rtol=1e-5)


def test_what_stands_under_the_mask_changes_nothing(params):
    np.testing.assert_array_equal(likelihood(params, *padded(0)), likelihood(params, *padded(7)))


def test_an_empty_text_is_finite(params):
    ids, mask = padded(0)
    mask[0] = False
    value, grads = jax.value_and_grad(lambda params: jnp.sum(likelihood(params, ids, mask)[:1]))(params)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
