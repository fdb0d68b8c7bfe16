"""Shortest ways on a grid: exact distances on the device, and the step that follows them."""

import jax
import jax.numpy as jnp
import numpy as np

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right: actions 0 to 3


def neighbours(side: int) -> np.ndarray:
    """(C, 4) int32: the cell that each move leads to in an empty grid; the cell itself at the border."""
    rows, columns = np.divmod(np.arange(side * side), side)
    cells = []
    for down, right in MOVES:
        row, column = rows + down, columns + right
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        cells.append(np.where(inside, row * side + column, rows * side + columns))
    return np.stack(cells, axis=1).astype(np.int32)


def distances(goal_C: jax.Array, free_C: jax.Array) -> jax.Array:
    """(C,) int32: moves from each cell to the nearest goal over free cells; C where there is no way.

    Breadth-first search, all cells at once: d = min(d, 1 + min of d over the neighbours) until nothing
    changes. A goal that is not free is none.
    """
    count = goal_C.shape[0]
    side = int(count**0.5)
    free_SxS = free_C.reshape(side, side)
    start_SxS = jnp.where(goal_C.reshape(side, side) & free_SxS, 0, count).astype(jnp.int32)

    def relax(d_SxS: jax.Array) -> jax.Array:
        wide = jnp.pad(d_SxS, 1, constant_values=count)
        near_SxS = jnp.minimum(
            jnp.minimum(wide[:-2, 1:-1], wide[2:, 1:-1]), jnp.minimum(wide[1:-1, :-2], wide[1:-1, 2:])
        )
        return jnp.where(free_SxS, jnp.minimum(d_SxS, near_SxS + 1), count)

    def spread(now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return now[1], relax(now[1])

    before_and_after = jax.lax.while_loop(
        lambda now: jnp.any(now[0] != now[1]), spread, (start_SxS, relax(start_SxS))
    )
    return before_and_after[1].reshape(count)


def step_towards(distance_C: jax.Array, walls_C: jax.Array, agent: jax.Array) -> jax.Array:
    """The move, 0 to 3, that leads from the agent's cell to the one nearest to the goal."""
    side = int(distance_C.shape[0] ** 0.5)
    next_4 = jnp.asarray(neighbours(side))[agent]
    far_4 = jnp.where(walls_C[next_4], distance_C.shape[0], distance_C[next_4])
    return jnp.argmin(far_4).astype(jnp.int32)
