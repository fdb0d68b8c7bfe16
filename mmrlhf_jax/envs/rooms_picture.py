"""The rooms as pictures: a tile of 6 x 6 pixels for each cell, drawn on the device."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.envs.rooms_language import COLOURS, KINDS, LOOKS

TILE = 6  # pixels of a cell's side: a frame for the agent around 4 x 4 for the thing

_FLOOR, _WALL, _AGENT = (30, 30, 36), (110, 110, 110), (255, 255, 255)
_RGB = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 250),
    "yellow": (230, 200, 30),
    "purple": (180, 60, 220),
    "cyan": (40, 210, 220),
}
_GLYPHS = {
    "key": (".##.", ".##.", ".#..", ".##."),
    "box": ("####", "#..#", "#..#", "####"),
    "ball": (".##.", "####", "####", ".##."),
    "cup": ("#..#", "#..#", "#..#", ".##."),
}


def _tiles() -> np.ndarray:
    """(L + 2, TILE, TILE, 3) uint8: every look, then the empty floor, then a wall."""
    tiles = np.full((LOOKS + 2, TILE, TILE, 3), _FLOOR, np.uint8)
    for look in range(LOOKS):
        kind, colour = divmod(look, len(COLOURS))
        lit = np.array([[pixel == "#" for pixel in row] for row in _GLYPHS[KINDS[kind]]])
        tiles[look, 1:-1, 1:-1][lit] = _RGB[COLOURS[colour]]
    tiles[LOOKS + 1] = _WALL
    return tiles


_TILES = _tiles()
_FLOOR_TILE, _WALL_TILE = LOOKS, LOOKS + 1
_FRAME = np.pad(np.zeros((TILE - 2, TILE - 2), bool), 1, constant_values=True)
_HANDS = np.array([*(_RGB[colour] for colour in COLOURS), _AGENT], np.uint8)  # colour of the frame


def draw(
    walls_C: jax.Array, agent: jax.Array, things_N: jax.Array, looks_N: jax.Array, held: jax.Array
) -> jax.Array:
    """The picture (S x TILE, S x TILE, 3) uint8 of a square room of C = S x S cells, row by row.

    The agent is a frame around its cell, white with empty hands, else in the colour of what it carries.

    Args:
      walls_C: True where a wall is.
      agent: the agent's cell.
      things_N: each thing's cell, -1 where it is not in the room.
      looks_N: each thing's look.
      held: the look of what the agent carries, -1 for nothing.
    """
    side = int(walls_C.shape[0] ** 0.5)
    cells_C = jnp.arange(side * side, dtype=jnp.int32)
    there_NxC = things_N[:, None] == cells_C[None]
    thing_C = jnp.max(jnp.where(there_NxC, looks_N[:, None], -1), axis=0)
    tile_C = jnp.where(walls_C, _WALL_TILE, jnp.where(thing_C < 0, _FLOOR_TILE, thing_C))
    picture_CxTxTx3 = jnp.asarray(_TILES)[tile_C]
    hand_3 = jnp.asarray(_HANDS)[jnp.where(held < 0, len(COLOURS), held % len(COLOURS))]
    framed_CxTxT = (cells_C == agent)[:, None, None] & jnp.asarray(_FRAME)[None]
    picture_CxTxTx3 = jnp.where(framed_CxTxT[..., None], hand_3[None, None, None], picture_CxTxTx3)
    grid = picture_CxTxTx3.reshape(side, side, TILE, TILE, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(side * TILE, side * TILE, 3)
