"""Learned positions of a grid of patches, read at another size."""

import jax
import jax.numpy as jnp
import numpy as np

_SHARPNESS = -0.75  # the cubic kernel's free parameter, as torch has it; jax.image.resize has -0.5


def interpolate_positions(
    positions_PxD: jax.Array, trained: tuple[int, int], wanted: tuple[int, int]
) -> jax.Array:
    """Row-major positions of a `trained` grid (rows, columns), stretched to a `wanted` grid.

    Bicubic as torch.nn.functional.interpolate(mode="bicubic", align_corners=False) does it, so as
    transformers' interpolate_pos_encoding: the corners of both grids lie on each other, points beyond the
    edge repeat the edge, and nothing is smoothed when the grid shrinks.
    """
    if trained == wanted:
        return positions_PxD
    grid_RxCxD = positions_PxD.reshape(*trained, -1)
    rows = jnp.asarray(_cubic(trained[0], wanted[0]), positions_PxD.dtype)
    columns = jnp.asarray(_cubic(trained[1], wanted[1]), positions_PxD.dtype)
    stretched_RxCxD = jnp.einsum("ir,jc,rcd->ijd", rows, columns, grid_RxCxD)
    return stretched_RxCxD.reshape(wanted[0] * wanted[1], -1)


def _cubic(old: int, new: int) -> np.ndarray:
    """The (new, old) matrix that resamples `old` points to `new` by cubic convolution (Keys 1981)."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        x = np.abs(centre - (first + tap))
        near = (_SHARPNESS + 2) * x**3 - (_SHARPNESS + 3) * x**2 + 1
        far = _SHARPNESS * (x**3 - 5 * x**2 + 8 * x - 4)
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), np.where(x <= 1, near, far))
    return matrix
