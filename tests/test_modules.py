"""NNX modules as pure functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmrlhf_jax.hub.folder import parameter_names
from mmrlhf_jax.modules import count_params, define


class MLP(nnx.Module):
    def __init__(self, width: int, layers: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(layers)])
        self.scale = nnx.Param(jnp.asarray(2.0))

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.scale[...] * x


def small(rngs: nnx.Rngs) -> MLP:
    return MLP(3, 2, rngs=rngs)


def test_init_is_decided_by_the_key():
    definition = define(small)
    one, again, other = (parameter_names(definition.init(jax.random.key(seed))) for seed in (0, 0, 1))
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
    kernels = [name for name in one if name.endswith("kernel")]
    assert kernels == ["layers.0.kernel", "layers.1.kernel"]
    assert all(np.abs(one[name] - other[name]).max() > 0.1 for name in kernels)
    assert np.abs(one[kernels[0]] - one[kernels[1]]).max() > 0.1, "layers must not be copies of each other"


def test_parts_left_out_do_not_change_the_others():
    definition = define(small)
    whole, part = (definition.init(jax.random.key(0), without=names) for names in ((), ("scale",)))
    assert set(whole) == {"layers", "scale"} and set(part) == {"layers"}
    jax.tree.map(np.testing.assert_array_equal, part["layers"], whole["layers"])


def test_abstract_has_the_shapes_of_init():
    definition = define(small)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), definition.abstract())
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), definition.init(jax.random.key(0)))


def test_abstract_takes_no_memory():
    """Two petabytes of parameters."""
    definition = define(lambda rngs: MLP(2**24, 2, rngs=rngs))
    abstract = definition.abstract()
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))
    assert count_params(abstract) == 2 * (2**48 + 2**24) + 1


def test_count_params():
    assert count_params(define(small).init(jax.random.key(0))) == 2 * (3 * 3 + 3) + 1


def test_bind_inside_jit_by_hand():
    definition = define(small)
    params = definition.init(jax.random.key(0))
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    wanted = x
    for i in range(2):
        layer = jax.tree.map(np.asarray, params["layers"][i])
        wanted = np.tanh(wanted @ layer["kernel"] + layer["bias"])
    answer = jax.jit(lambda params, x: definition.bind(params)(x))(params, x)
    np.testing.assert_allclose(answer, 2 * wanted, rtol=1e-5)


def test_gradients_have_the_structure_of_the_parameters():
    definition = define(small)
    params = definition.init(jax.random.key(0))
    grads = jax.grad(lambda params: jnp.sum(definition.bind(params)(jnp.ones((1, 3)))))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    unchanged = definition.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, unchanged)


def test_bind_leaves_the_definition_alone():
    """Two sets of parameters in one program do not mix."""
    definition = define(small)
    one, other = definition.init(jax.random.key(0)), definition.init(jax.random.key(1))
    x = jnp.ones((1, 3))
    first, second = definition.bind(one), definition.bind(other)
    assert np.abs(first(x) - second(x)).max() > 1e-3
    np.testing.assert_array_equal(first(x), definition.bind(one)(x))


def test_definition_is_hashable_and_traced_once():
    traces = 0

    @functools.partial(jax.jit, static_argnums=0)
    def apply(definition, params, x):
        nonlocal traces
        traces += 1
        return definition.bind(params)(x)

    one, same, deeper = define(small), define(small), define(lambda rngs: MLP(3, 3, rngs=rngs))
    assert one == same and hash(one) == hash(same) and one != deeper
    params = one.init(jax.random.key(0))
    for definition in (one, one, same):
        apply(definition, params, jnp.ones((1, 3)))
    assert traces == 1


def test_a_missing_parameter_is_an_error():
    definition = define(small)
    params = definition.init(jax.random.key(0))
    del params["layers"][1]
    with pytest.raises((ValueError, KeyError, IndexError)):
        definition.bind(params)(jnp.ones((1, 3)))
