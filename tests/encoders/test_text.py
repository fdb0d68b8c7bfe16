"""The text tower: which token stands for a text, and what it looks at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import TextConfig, TransformerConfig
from mmrlhf_jax.encoders.text import TextTransformer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import define
from tests.parameters import draw

CONFIG = TextConfig(11, 6, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8))
PARAMS = draw(define(lambda rngs: TextTransformer(CONFIG, rngs=rngs)).abstract())
IDS = np.array([[1, 4, 9, 9, 2, 0], [1, 9, 3, 10, 0, 0], [1, 2, 3, 4, 5, 6]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


def tower(**changes) -> TextTransformer:
    config = dataclasses.replace(CONFIG, **changes)
    return define(lambda rngs: TextTransformer(config, rngs=rngs)).bind(PARAMS)


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"pooling": "last"}, [4, 3, 5]),
        ({"pooling": "highest_id"}, [2, 3, 5]),
        ({"pooling": "end_id", "end_id": 9}, [2, 1, 0]),  # without an end token the first, as transformers
        ({"pooling": "final", "causal": False}, [5, 5, 5]),
    ],
)
def test_the_token_that_stands_for_the_text(changes, places):
    encoded = tower(**changes)(IDS, MASK)
    wanted = np.asarray(encoded.tokens_BxTxD)[np.arange(3), places]
    np.testing.assert_array_equal(encoded.pooled_BxD, wanted)


def test_no_mask_means_that_all_tokens_are_real():
    text = tower()
    for ours, theirs in zip(text(IDS), text(IDS, np.ones_like(MASK)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_text_read_both_ways_sees_what_follows_but_no_padding():
    def summed(embedding):
        params = {**PARAMS, "embed": {"embedding": embedding}}
        config = dataclasses.replace(CONFIG, causal=False)
        text = define(lambda rngs: TextTransformer(config, rngs=rngs)).bind(params)
        return jnp.sum(jnp.sin(text(IDS[:1], MASK[:1]).tokens_BxTxD[0, 0]))

    felt_V = np.any(jax.jit(jax.grad(summed))(PARAMS["embed"]["embedding"]), axis=-1)
    assert felt_V.tolist() == [i in (1, 4, 9, 2) for i in range(11)], "id 0 is padding"


def test_a_text_that_is_too_long_is_told():
    with pytest.raises(UserError, match="texts of 7 tokens: the tower reads 6"):
        tower()(np.ones((1, 7), np.int32))
