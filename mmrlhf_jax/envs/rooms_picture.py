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
    "star": ("#..#", ".##.", ".##.", "#..#"),
    "flag": ("###.", "###.", "#...", "#..."),
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
_GROUND = _TILES[LOOKS:]  # floor, wall
_DARK = np.array(_FLOOR, np.uint8).reshape(1, 1, 1, 3)
_FRAME = np.pad(np.zeros((TILE - 2, TILE - 2), bool), 1, constant_values=True)
_HANDS = np.array([*(_RGB[colour] for colour in COLOURS), _AGENT], np.uint8)  # colour of the frame


def tiles_of(looks_N: jax.Array) -> jax.Array:
    """How things look: (N, TILE, TILE, 3) uint8."""
    return jnp.asarray(_TILES)[looks_N]


def disguised(looks_N: jax.Array, key: jax.Array, *, form_N: jax.Array, colour_N: jax.Array) -> jax.Array:
    """The same things with forms or colours that mean nothing, (N, TILE, TILE, 3) uint8.

    Args:
      form_N: bool, whether a thing gets a form of its own, each of its pixels lit by chance.
      colour_N: bool, whether it gets a bright colour by chance.
    """
    key_form, key_colour, key_bright = jax.random.split(key, 3)
    inner = TILE - 2
    lit_NxIxI = jnp.any(tiles_of(looks_N)[:, 1:-1, 1:-1] != jnp.asarray(_DARK), axis=-1)
    any_NxIxI = jax.random.bernoulli(key_form, shape=(looks_N.shape[0], inner, inner))
    lit_NxIxI = jnp.where(form_N[:, None, None], any_NxIxI, lit_NxIxI)
    chance_Nx3 = jax.random.uniform(key_colour, (looks_N.shape[0], 3))
    bright_Nx1 = jax.random.uniform(key_bright, (looks_N.shape[0], 1), minval=200.0, maxval=255.0)
    any_Nx3 = (chance_Nx3 / jnp.max(chance_Nx3, axis=1, keepdims=True) * bright_Nx1).astype(jnp.uint8)
    own_Nx3 = jnp.array([_RGB[name] for name in COLOURS], jnp.uint8)[looks_N % len(COLOURS)]
    rgb_Nx3 = jnp.where(colour_N[:, None], any_Nx3, own_Nx3)
    drawn = jnp.where(lit_NxIxI[..., None], rgb_Nx3[:, None, None], jnp.asarray(_DARK))
    return tiles_of(looks_N).at[:, 1:-1, 1:-1].set(drawn)


def draw(
    walls_C: jax.Array,
    agent: jax.Array,
    things_N: jax.Array,
    tiles_NxTxTx3: jax.Array,
    held: jax.Array,
    *,
    sight: int = 0,
) -> jax.Array:
    """The picture, uint8 (side x TILE, side x TILE, 3), of a square room of C = S x S cells, row by row.

    The agent is a frame around its cell, white with empty hands, else in the colour of what it carries.

    Args:
      walls_C: True where a wall is.
      agent: the agent's cell.
      things_N: each thing's cell, -1 where it is not in the room.
      tiles_NxTxTx3: how each thing looks, see `tiles_of`.
      held: the look of what the agent carries, -1 for nothing.
      sight: cells that are seen each way from the agent's, which is in the middle, so that a side has
        2 sight + 1; what lies beyond the room are walls. 0: the whole room.
    """
    side = int(walls_C.shape[0] ** 0.5)
    cells_C = jnp.arange(side * side, dtype=jnp.int32)
    numbers_N = jnp.arange(things_N.shape[0], dtype=jnp.int32)
    floor, wall = things_N.shape[0], things_N.shape[0] + 1
    there_NxC = things_N[:, None] == cells_C[None]
    thing_C = jnp.max(jnp.where(there_NxC, numbers_N[:, None], -1), axis=0)
    tile_C = jnp.where(walls_C, wall, jnp.where(thing_C < 0, floor, thing_C))
    tile_SxS, framed_SxS = tile_C.reshape(side, side), (cells_C == agent).reshape(side, side)
    if sight:
        wide = jnp.pad(tile_SxS, sight, constant_values=wall)
        tile_SxS = jax.lax.dynamic_slice(wide, (agent // side, agent % side), (2 * sight + 1,) * 2)
        framed_SxS = jnp.pad(jnp.ones((1, 1), bool), sight)
    picture_SxSxTxTx3 = jnp.concatenate([tiles_NxTxTx3, jnp.asarray(_GROUND)])[tile_SxS]
    hand_3 = jnp.asarray(_HANDS)[jnp.where(held < 0, len(COLOURS), held % len(COLOURS))]
    frame_SxSxTxT = framed_SxS[:, :, None, None] & jnp.asarray(_FRAME)[None, None]
    picture = jnp.where(frame_SxSxTxT[..., None], hand_3[None, None, None, None], picture_SxSxTxTx3)
    pixels = tile_SxS.shape[0] * TILE
    return picture.transpose(0, 2, 1, 3, 4).reshape(pixels, pixels, 3)
