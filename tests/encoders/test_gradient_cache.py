"""Contrastive losses and gradients do not depend on chunks or on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmrlhf_jax.architecture import TextConfig, TransformerConfig
from mmrlhf_jax.encoders.clip import contrastive_loss, unit_length
from mmrlhf_jax.encoders.gradient_cache import cached_contrastive_gradients
from mmrlhf_jax.encoders.siglip import sigmoid_loss
from mmrlhf_jax.encoders.text import TextTransformer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import define
from tests.parameters import draw

pytestmark = pytest.mark.medium  # compiles for long

BATCH = 8
POSITIVES = jnp.eye(BATCH, dtype=bool)


def embed(params, batch):
    """Two towers of one layer each; a vector of its own for each row."""
    image, text = (jnp.tanh(batch[i] @ params[name]) for i, name in enumerate(("image", "text")))
    return unit_length(image), unit_length(text)


@pytest.fixture(scope="module")
def params():
    generator = np.random.default_rng(1)
    sizes = {"image": (12, 6), "text": (5, 6), "logit_scale": ()}
    return {name: jnp.asarray(generator.normal(size=size), jnp.float32) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(0)
    return tuple(generator.normal(size=(BATCH, width)).astype(np.float32) for width in (12, 5))


def loss_of(pairwise):
    def loss(params, embeddings):
        image, text = embeddings
        return pairwise(jnp.exp(params["logit_scale"]) * image @ text.T, POSITIVES)

    return loss


def whole(pairwise):
    loss = loss_of(pairwise)
    return jax.jit(jax.value_and_grad(lambda params, batch: loss(params, embed(params, batch))))


def assert_same(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


@pytest.fixture(scope="module")
def wanted(params, batch):
    value, gradients = whole(contrastive_loss)(params, batch)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) > 1e-4, "every parameter is moved"
    return value, gradients


@pytest.mark.parametrize("chunk", [*range(1, BATCH + 1), 100])
def test_chunks_give_the_gradient_of_the_whole(params, batch, wanted, chunk):
    cached = jax.jit(
        lambda params, batch: cached_contrastive_gradients(
            embed, loss_of(contrastive_loss), params, batch, chunk=chunk
        )
    )
    assert_same(cached(params, batch), wanted)


def test_the_gradient_of_a_tower():
    """Three rows at a time of eight, of a real text tower against given pictures."""
    tower = TransformerConfig(width=6, layers=1, heads=2, mlp_width=8)
    definition = define(lambda rngs: TextTransformer(TextConfig(11, 4, tower), rngs=rngs))
    params = {"text": draw(definition.abstract()), "logit_scale": jnp.asarray(1.0)}
    generator = np.random.default_rng(0)
    image = generator.normal(size=(BATCH, 6)).astype(np.float32)
    ids = generator.integers(1, 11, (BATCH, 4)).astype(np.int32)
    mask = np.arange(4)[None] < generator.integers(1, 5, BATCH)[:, None]

    def embed(params, batch):
        image, ids, mask = batch
        return unit_length(image), unit_length(definition.bind(params["text"])(ids, mask).pooled_BxD)

    @jax.jit
    def both(params, batch):
        loss = loss_of(contrastive_loss)
        whole = jax.value_and_grad(lambda params: loss(params, embed(params, batch)))(params)
        return cached_contrastive_gradients(embed, loss, params, batch, chunk=3), whole

    assert_same(*both(params, (image, ids, mask)))


def test_the_chunk_bounds_the_memory(params, batch):
    """What a program needs beside its arguments, where activations are wide and embeddings are not."""
    wide = {**params, "image": np.ones((12, 4096), np.float32)}
    many = jax.tree.map(lambda x: np.tile(x, (64, 1)), batch)

    def embed_wide(params, batch):
        return jnp.tanh(batch[0] @ params["image"])[:, :6], batch[1]

    def bytes_needed(chunk):
        def cached(params, batch):
            loss = lambda params, e: jnp.mean(e[0]) + jnp.mean(e[1])  # noqa: E731
            return cached_contrastive_gradients(embed_wide, loss, params, batch, chunk=chunk)

        compiled = jax.jit(cached).lower(wide, many).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_needed(8) < 0.5 * bytes_needed(512)


def test_a_chunk_of_nothing_is_refused(params, batch):
    with pytest.raises(UserError, match="chunk is 0"):
        cached_contrastive_gradients(embed, loss_of(contrastive_loss), params, batch, chunk=0)


@pytest.mark.parametrize("pairwise", [contrastive_loss, sigmoid_loss])
def test_a_sharded_batch_has_the_loss_of_the_whole(params, batch, pairwise):
    """Two rows on each of four devices, whose texts are all compared with all pictures."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    copied = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    value, gradients = whole(pairwise)(params, batch)
    assert_same(whole(pairwise)(copied, spread), (value, gradients))
    cached = jax.jit(
        lambda params, batch: cached_contrastive_gradients(embed, loss_of(pairwise), params, batch, chunk=4)
    )
    assert_same(cached(copied, spread), (value, gradients))


def test_each_device_by_itself_would_have_another_loss(params, batch):
    """Else the test above would not see a forgotten gathering."""
    image, text = embed(params, batch)
    alone = [
        contrastive_loss(
            jnp.exp(params["logit_scale"]) * image[i : i + 2] @ text[i : i + 2].T, jnp.eye(2, dtype=bool)
        )
        for i in range(0, BATCH, 2)
    ]
    together = loss_of(contrastive_loss)(params, (image, text))
    assert abs(np.mean(alone) - together) > 0.1
