"""The decoder: causality, padding, rotary positions, grouped queries and the cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, RopeScaling
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.language.decoder import Decoder, positions_of
from mmrlhf_jax.modules import define
from tests.parameters import draw

CONFIG = DecoderConfig(vocab_size=13, width=16, layers=2, heads=4, kv_heads=2, mlp_width=24)
DEFINITION = define(lambda rngs: Decoder(CONFIG, rngs=rngs))
IDS = np.array([[3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 3, 5]], np.int32)
ALL = np.ones((2, 6), bool)


@pytest.fixture(scope="module")
def params():
    return draw(DEFINITION.abstract())


@jax.jit
def logits_of(params, ids_BxT, mask_BxT):
    decoder = DEFINITION.bind(params)
    return decoder.logits(decoder(decoder.embed(ids_BxT), mask_BxT))


def test_causality_by_gradient(params):
    """d output_t / d input_s = 0 for s > t and for other rows, and not 0 for s <= t."""
    x_BxTxD = jax.random.normal(jax.random.key(1), (2, 6, CONFIG.width))

    def summed(x_BxTxD):
        return jnp.sum(jnp.sin(DEFINITION.bind(params)(x_BxTxD, ALL)), axis=-1)

    felt = np.any(jax.jit(jax.jacrev(summed))(x_BxTxD), axis=-1)  # (B, T, B, T)
    for row in range(2):
        np.testing.assert_array_equal(felt[row, :, row], np.tril(np.ones((6, 6), bool)))
        assert not felt[row, :, 1 - row].any()


def test_padding_on_either_side_changes_nothing(params):
    wanted = logits_of(params, IDS, ALL)
    for filling in (0, 12):
        fill = np.full((2, 3), filling, np.int32)
        left = logits_of(params, np.concatenate([fill, IDS], axis=1), np.pad(ALL, ((0, 0), (3, 0))))
        right = logits_of(params, np.concatenate([IDS, fill], axis=1), np.pad(ALL, ((0, 0), (0, 3))))
        np.testing.assert_allclose(left[:, 3:], wanted, atol=1e-5)
        np.testing.assert_allclose(right[:, :6], wanted, atol=1e-5)


def test_holes_count_as_padding(params):
    """A masked token in the middle is passed over by attention and positions."""
    mask = ALL.copy()
    mask[:, 2] = False
    short = logits_of(params, np.delete(IDS, 2, axis=1), ALL[:, :5])
    np.testing.assert_allclose(np.delete(logits_of(params, IDS, mask), 2, axis=1), short, atol=1e-5)


def test_gradients_are_finite_where_rows_start_with_padding(params):
    mask = np.array([[False, False, False, True, True, True], [False] * 6])
    grads = jax.jit(jax.grad(lambda params: jnp.sum(jnp.square(logits_of(params, IDS, mask)))))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_positions_count_real_tokens():
    mask = jnp.asarray([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    wanted = [[0, 1, 2, 3], [0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    positions = positions_of(mask)
    assert positions.dtype == jnp.int32
    real = np.asarray(mask)
    np.testing.assert_array_equal(np.asarray(positions)[real], np.array(wanted)[real])


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_cached_decoding_is_the_full_forward(kv_heads):
    """Prompts of 4, 2 and 1 tokens, padded on the left; then four more tokens, one at a time."""
    config = dataclasses.replace(CONFIG, kv_heads=kv_heads)
    definition = define(lambda rngs: Decoder(config, rngs=rngs))
    params = draw(definition.abstract())
    ids = np.random.default_rng(0).integers(1, 13, (3, 8)).astype(np.int32)
    mask = np.arange(8) >= np.array([0, 2, 3])[:, None]

    @jax.jit
    def full(params):
        decoder = definition.bind(params)
        return decoder.logits(decoder(decoder.embed(ids), mask))

    @jax.jit
    def cached(params):
        decoder = definition.bind(params)
        hidden, cache = decoder.prefill(decoder.embed(ids[:, :4]), mask[:, :4], capacity=4)
        assert cache.layers[0].keys_BxKxSxE.shape == (3, kv_heads, 8, config.head_width)

        def step(cache, inputs):
            ids_B, slot = inputs
            hidden, cache = decoder.decode_step(decoder.embed(ids_B[:, None])[:, 0], cache, slot)
            return cache, decoder.logits(hidden)

        cache, logits_TxBxV = jax.lax.scan(step, cache, (ids[:, 4:].T, jnp.arange(4, 8)))
        return decoder.logits(hidden), logits_TxBxV.transpose(1, 0, 2), cache

    wanted = full(params)
    prompt, rest, cache = cached(params)
    np.testing.assert_allclose(prompt[mask[:, :4]], wanted[:, :4][mask[:, :4]], atol=1e-5)
    np.testing.assert_allclose(rest, wanted[:, 4:], atol=1e-5)
    np.testing.assert_array_equal(cache.valid_BxS, mask)
    assert cache.positions_B.tolist() == [8, 6, 5]


def test_grouped_queries_share_keys_and_values(params):
    """The same as a head of keys and values for each query head, copied within the group."""
    config = dataclasses.replace(CONFIG, kv_heads=CONFIG.heads)
    definition = define(lambda rngs: Decoder(config, rngs=rngs))

    def copied(kernel):
        heads = np.asarray(kernel).reshape(CONFIG.width, CONFIG.kv_heads, CONFIG.head_width)
        return np.repeat(heads, 2, axis=1).reshape(CONFIG.width, -1)

    blocks = {
        i: {**block, **{name: {"kernel": copied(block[name]["kernel"])} for name in ("key", "value")}}
        for i, block in params["blocks"].items()
    }

    @jax.jit
    def many_heads(params):
        decoder = definition.bind(params)
        return decoder.logits(decoder(decoder.embed(IDS), ALL))

    np.testing.assert_allclose(
        many_heads({**params, "blocks": blocks}), logits_of(params, IDS, ALL), atol=1e-5
    )


VARIANT = dataclasses.replace(
    CONFIG,
    head_dim=6,
    qkv_bias=True,
    tied=False,
    max_positions=8,
    rope_scaling=RopeScaling("llama3", 8.0, original_positions=16),
)


@jax.numpy_dtype_promotion("standard")  # jax.nn.dot_product_attention promotes bfloat16 itself
def test_cached_decoding_in_half_precision_and_other_forms():
    """All that a configuration can switch on, in bfloat16: types hold, the numbers are near float32's."""
    definition = define(lambda rngs: Decoder(VARIANT, rngs=rngs))
    params = draw(definition.abstract())
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    @jax.jit
    def full(params):
        decoder = definition.bind(params)
        return decoder.logits(decoder(decoder.embed(IDS), ALL))

    @jax.jit
    def cached(params):
        decoder = definition.bind(params)
        hidden, cache = decoder.prefill(decoder.embed(IDS[:, :5]), ALL[:, :5], capacity=1)
        assert hidden.dtype == cache.layers[0].keys_BxKxSxE.dtype == params["norm"]["scale"].dtype
        hidden, _ = decoder.decode_step(decoder.embed(IDS[:, 5:])[:, 0], cache, 5)
        return decoder.logits(hidden)

    np.testing.assert_allclose(cached(params), full(params)[:, 5], atol=1e-5)
    assert full(half).dtype == cached(half).dtype == jnp.float32
    scale = np.abs(full(params)).max()
    np.testing.assert_allclose(full(half), full(params), atol=0.05 * scale)
    np.testing.assert_allclose(cached(half), full(half)[:, 5], atol=0.02 * scale)


def test_longer_than_it_was_trained_for():
    definition = define(lambda rngs: Decoder(VARIANT, rngs=rngs))
    decoder = definition.bind(draw(definition.abstract()))
    x, mask = jnp.zeros((1, 6, CONFIG.width)), np.ones((1, 6), bool)
    decoder.prefill(x, mask, capacity=2)
    with pytest.raises(UserError, match=r"9 tokens.*reads 8"):
        decoder.prefill(x, mask, capacity=3)
    with pytest.raises(UserError, match="9 tokens"):
        decoder(jnp.zeros((1, 9, CONFIG.width)), np.ones((1, 9), bool))


def test_rematerialised_gradients_are_the_same(params):
    """And the blocks' insides are computed twice: the program counts more operations."""
    remat = define(lambda rngs: Decoder(dataclasses.replace(CONFIG, remat=True), rngs=rngs))

    def gradients(definition):
        def loss(params):
            decoder = definition.bind(params)
            return jnp.sum(jnp.sin(decoder.logits(decoder(decoder.embed(IDS), ALL))))

        lowered = jax.jit(jax.grad(loss)).lower(params)
        return lowered.compile()(params), lowered.cost_analysis()["flops"]

    (plain, operations), (again, more) = gradients(DEFINITION), gradients(remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, again)
    assert more > 1.1 * operations


def test_forms_have_the_parameters_that_they_need():
    """The defaults' names are those of older runs; nothing is there that is not used."""
    plain = set(parameter_names(DEFINITION.abstract()))
    variant = set(parameter_names(define(lambda rngs: Decoder(VARIANT, rngs=rngs)).abstract()))
    biases = {f"blocks.{i}.{name}.bias" for i in range(2) for name in ("query", "key", "value")}
    assert variant - plain == biases | {"head.kernel"} and not plain - variant
    block = ("down", "gate", "key", "out", "query", "up", "value")
    assert plain == {"embedding.embedding", "norm.scale"} | {
        f"blocks.{i}.{name}"
        for i in range(2)
        for name in (*(f"{layer}.kernel" for layer in block), "norm1.scale", "norm2.scale")
    }


def test_output_weights_are_the_embeddings(params):
    embedding = np.asarray(params["embedding"]["embedding"])
    hidden = np.random.default_rng(1).normal(size=(2, 3, CONFIG.width)).astype(np.float32)
    decoder = DEFINITION.bind(params)
    np.testing.assert_allclose(decoder.logits(hidden), hidden @ embedding.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(decoder.embed(IDS), embedding[IDS])
