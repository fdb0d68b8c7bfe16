"""The transformer block: activations, masks, and rows that do not meet."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import TransformerConfig
from mmrlhf_jax.modules import define
from mmrlhf_jax.transformer import Transformer, activate
from tests.parameters import draw

CONFIG = TransformerConfig(width=12, layers=2, heads=3, mlp_width=20)
DEFINITION = define(lambda rngs: Transformer(CONFIG, rngs=rngs))


@pytest.fixture(scope="module")
def params():
    return draw(DEFINITION.abstract())


@pytest.fixture(scope="module")
def x_BxTxD():
    return jax.random.normal(jax.random.key(1), (2, 5, CONFIG.width))


@jax.jit
def forward(params, x_BxTxD, mask_Bx1xTxT=None):
    return DEFINITION.bind(params)(x_BxTxD, mask_Bx1xTxT)


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def quick_gelu(x: float) -> float:
    return x / (1 + math.exp(-1.702 * x))


def relu(x: float) -> float:
    return max(x, 0.0)


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


@pytest.mark.parametrize("formula", [gelu, gelu_tanh, quick_gelu, relu, silu])
def test_activations(formula):
    points = np.linspace(-4, 4, 33, dtype=np.float32)
    wanted = [formula(float(x)) for x in points]
    np.testing.assert_allclose(activate(jnp.asarray(points), formula.__name__), wanted, rtol=1e-4, atol=1e-6)


def with_flags(*, scan=False, remat=False):
    config = dataclasses.replace(CONFIG, scan=scan, remat=remat)
    return define(lambda rngs: Transformer(config, rngs=rngs))


def stacked(params):
    blocks = [params["blocks"][i] for i in range(CONFIG.layers)]
    return {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


@pytest.mark.parametrize(("scan", "remat"), [(True, False), (False, True), (True, True)])
def test_scan_and_remat_change_no_number(params, x_BxTxD, scan, remat):
    mask = jnp.tril(jnp.ones((5, 5), bool))[None, None]

    def gradient(definition):
        loss = lambda params, x: jnp.sum(jnp.sin(definition.bind(params)(x, mask)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    value, (wanted, wanted_x) = gradient(DEFINITION)(params, x_BxTxD)
    definition = with_flags(scan=scan, remat=remat)
    ours = gradient(definition)(stacked(params) if scan else params, x_BxTxD)
    theirs = (value, (stacked(wanted) if scan else wanted, wanted_x))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_scan_starts_from_the_same_numbers():
    key = jax.random.key(3)
    apart, together = with_flags().init(key), with_flags(scan=True).init(key)
    jax.tree.map(np.testing.assert_array_equal, stacked(apart), together)


@pytest.mark.parametrize("scan", [False, True])
def test_the_first_layers_alone(params, x_BxTxD, scan):
    transformer = with_flags(scan=scan).bind(stacked(params) if scan else params)
    np.testing.assert_array_equal(transformer(x_BxTxD, layers=0), x_BxTxD)
    shorter = define(lambda rngs: Transformer(dataclasses.replace(CONFIG, layers=1), rngs=rngs))
    wanted = shorter.bind({"blocks": {0: params["blocks"][0]}})(x_BxTxD)
    np.testing.assert_allclose(transformer(x_BxTxD, layers=1), wanted, atol=1e-6)


def test_rows_of_a_batch_do_not_meet(params, x_BxTxD):
    grads = jax.grad(lambda x: jnp.sum(jnp.square(forward(params, x)[0])))(x_BxTxD)
    assert not np.any(grads[1]) and np.all(np.any(grads[0], axis=-1))


def test_no_mask_looks_everywhere(params, x_BxTxD):
    everywhere = forward(params, x_BxTxD, jnp.ones((2, 1, 5, 5), bool))
    np.testing.assert_allclose(forward(params, x_BxTxD), everywhere, atol=1e-6)


def test_tokens_have_no_order_of_their_own(params, x_BxTxD):
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(
        forward(params, x_BxTxD[:, order]), forward(params, x_BxTxD)[:, order], atol=1e-5
    )


def test_mask_is_row_by_column(params, x_BxTxD):
    """Token t sees token s where mask[b, 0, t, s], in each row of the batch by its own mask."""
    mask = np.ones((2, 1, 5, 5), bool)
    mask[0, 0, :, 4] = False  # nobody looks at token 4 of the first row ...
    mask[0, 0, 4, 4] = True  # ... but itself
    mask[1, 0, :, :] = np.eye(5, dtype=bool)
    jacobian = jax.jit(jax.jacrev(lambda x: jnp.sum(jnp.sin(forward(params, x, mask)), axis=-1)))(x_BxTxD)
    felt = np.any(jacobian, axis=-1)  # (B, T, B, T)
    wanted_first = np.ones((5, 5), bool)
    wanted_first[:4, 4] = False
    np.testing.assert_array_equal(felt[0, :, 0], wanted_first)
    np.testing.assert_array_equal(felt[1, :, 1], np.eye(5, dtype=bool))
