"""The rooms' pictures: everything can be seen and told apart, and lies where it is."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.envs.rooms_language import COLOURS, LOOKS
from mmrlhf_jax.envs.rooms_picture import TILE, disguised, draw, tiles_of

SIDE = 3
NOTHING = jnp.zeros(SIDE * SIDE, bool)
_draw = jax.jit(draw)


def cell(picture: np.ndarray, number: int) -> np.ndarray:
    row, column = divmod(number, SIDE)
    return picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]


def picture_of(look: int, *, agent: int = 8, at: int = 5, held: int = -1, walls=NOTHING) -> np.ndarray:
    where = jnp.array(agent, jnp.int32), jnp.array([at], jnp.int32)
    return np.asarray(_draw(walls, *where, tiles_of(jnp.array([look])), jnp.array(held, jnp.int32)))


def test_every_look_is_seen_in_its_cell_and_looks_different():
    pictures = [picture_of(look) for look in range(LOOKS)]
    assert pictures[0].shape == (SIDE * TILE, SIDE * TILE, 3) and pictures[0].dtype == np.uint8
    floor = cell(pictures[0], 0)
    assert (floor == floor[0, 0]).all()
    tiles = {cell(picture, 5).tobytes() for picture in pictures}
    assert len(tiles) == LOOKS and floor.tobytes() not in tiles
    for picture in pictures:  # and nothing of it anywhere else
        assert all((cell(picture, number) == floor).all() for number in (0, 1, 2, 3, 4, 6, 7))


def test_things_of_one_kind_share_a_shape_and_of_one_colour_a_colour():
    red_key, green_key, red_box = (cell(picture_of(look), 5) for look in (0, 1, len(COLOURS)))
    floor = cell(picture_of(0), 0)
    lit = [(tile != floor).any(axis=-1) for tile in (red_key, green_key, red_box)]
    np.testing.assert_array_equal(lit[0], lit[1])
    assert (lit[0] != lit[2]).any()
    assert (
        set(map(tuple, red_key[lit[0]]))
        == set(map(tuple, red_box[lit[2]]))
        != set(map(tuple, green_key[lit[1]]))
    )


def test_the_agent_is_a_frame_in_the_colour_of_what_it_carries():
    empty, carrying = picture_of(0), picture_of(0, at=-1, held=2)
    assert (cell(empty, 8)[0] == 255).all() and (cell(empty, 8)[1:-1, 1:-1] == cell(empty, 0)[0, 0]).all()
    assert (cell(carrying, 5) == cell(carrying, 0)).all(), "what is carried lies nowhere"
    blue = cell(picture_of(2), 5)[1, 2]
    assert (cell(carrying, 8)[0] == blue).all()
    on_it = cell(picture_of(0, agent=5), 5)
    np.testing.assert_array_equal(on_it[1:-1, 1:-1], cell(empty, 5)[1:-1, 1:-1])
    assert (on_it[-1] == 255).all()


def test_walls_are_seen():
    walled = picture_of(0, walls=NOTHING.at[1].set(True))
    assert (cell(walled, 1) != cell(walled, 0)).all()


def test_with_sight_the_agent_is_in_the_middle_and_walls_are_beyond():
    tiles = tiles_of(jnp.array([0]))
    look = jax.jit(lambda agent: draw(NOTHING, agent, jnp.array([5]), tiles, jnp.array(-1), sight=1))
    whole = picture_of(0, agent=4)
    np.testing.assert_array_equal(look(jnp.array(4)), whole)
    corner = np.asarray(look(jnp.array(2)))  # the thing in cell 5 is below
    np.testing.assert_array_equal(cell(corner, 7), cell(whole, 5))
    assert (cell(corner, 4)[0] == 255).all()
    wall = cell(picture_of(0, walls=NOTHING.at[1].set(True)), 1)
    for number in (0, 1, 2, 5, 8):
        np.testing.assert_array_equal(cell(corner, number), wall)


def test_a_disguise_changes_forms_or_colours_and_nothing_else():
    looks_N = jnp.arange(LOOKS)
    own = np.asarray(tiles_of(looks_N))
    none_N = jnp.zeros(LOOKS, bool)

    def dressed(key: int, form: bool, colour: bool) -> np.ndarray:
        masks = {"form_N": none_N | form, "colour_N": none_N | colour}
        return np.asarray(disguised(looks_N, jax.random.key(key), **masks))

    np.testing.assert_array_equal(dressed(0, form=False, colour=False), own)
    floor = own[0, 0, 0]
    lit = (own != floor).any(axis=-1)
    forms = dressed(0, form=True, colour=False)
    lit_forms = (forms != floor).any(axis=-1)
    assert not lit_forms[:, 0].any() and not lit_forms[:, :, 0].any()  # the agent's frame has its place
    assert len({tile.tobytes() for tile in lit_forms}) > 0.9 * LOOKS and lit_forms.mean() < lit.size
    for tile, where, before, was in zip(forms, lit_forms, own, lit, strict=True):
        assert {*map(tuple, tile[where])} <= {*map(tuple, before[was])}
    colours = dressed(1, form=False, colour=True)
    np.testing.assert_array_equal((colours != floor).any(axis=-1), lit)
    each = [tuple(tile[where][0]) for tile, where in zip(colours, lit, strict=True)]
    assert len(set(each)) > 0.9 * LOOKS and min(map(max, each)) >= 199
    assert (dressed(2, form=True, colour=False) != forms).any()  # by chance
