"""Random parameters for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.modules import Params


def draw(abstract: Params, seed: int = 0) -> Params:
    """Parameters of the shapes in `abstract`, at once: `Definition.init` takes seconds to compile.

    Biases and the scales of norms are random too. Fresh ones are 0 and 1, which hides mistakes.
    """
    generator = np.random.default_rng(seed)

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        noise = generator.normal(size=shape.shape)
        match path[-1].key:
            case "kernel":
                values = noise * shape.shape[0] ** -0.5
            case "scale":
                values = 1 + 0.2 * noise
            case _:
                values = 0.5 * noise
        return jnp.asarray(values, shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract)
