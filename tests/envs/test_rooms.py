"""The rooms by hand: moves, choices, reward, limit; the oracle against a search that knows only the rules."""

import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.envs.rooms import PICK_UP, PUT_DOWN, Rooms, RoomsParams, RoomsState
from mmrlhf_jax.envs.rooms_language import COLOURS, Split, decode, held_out_looks, name_of
from mmrlhf_jax.envs.rooms_picture import tiles_of
from mmrlhf_jax.envs.vector import reset_all
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.assistant.episodes import Played, chance, follow, oracle, play

UP, DOWN, LEFT, RIGHT = range(4)
LEVELS = {1: Rooms(1, 4, sight=0), 2: Rooms(2, 5, divided=True), 3: Rooms(3, 4)}
LOOKS_3 = jnp.array([0, 8, 4], jnp.int32)  # a red key, a blue box, a purple key


@functools.cache
def starts(level: int, split: Split = "train") -> tuple[RoomsState, dict, Played]:
    """Rooms of a level with what they show, and what the oracle makes of them."""
    environment, world = LEVELS[level], LEVELS[level].params(split)
    return jax.device_get(_starts(environment, world, jax.random.key(level)))


@functools.partial(jax.jit, static_argnums=0)
def _starts(environment: Rooms, world: RoomsParams, key: jax.Array):
    start = reset_all(environment, key, world, 128)
    return *start, follow(environment, oracle(environment), world, start, key, steps=40).played


def room(environment: Rooms, agent: int, things: list[int], walls: tuple[int, ...] = ()) -> RoomsState:
    """A state with fields of distances by search, things in cells."""
    cells = environment.size**2
    walls_C = np.isin(np.arange(cells), walls)
    far_C = jnp.array([search(environment.level, environment.size, walls_C, a, things) for a in range(cells)])
    return RoomsState(
        jnp.asarray(walls_C),
        jnp.array(agent, jnp.int32),
        jnp.array(things, jnp.int32),
        LOOKS_3,
        tiles_of(LOOKS_3),
        far_C.astype(jnp.int32),
        far_C.astype(jnp.int32),
        jnp.array(-1, jnp.int32),
        jnp.zeros((), jnp.int32),
    )


def search(level: int, size: int, walls_C: np.ndarray, agent: int, things: list[int]) -> int:
    """The fewest actions that do as told, by breadth-first search over (agent, carrying); 99: none do."""

    def beside(a: int, b: int) -> bool:
        return abs(a // size - b // size) + abs(a % size - b % size) == 1

    first, *others = things
    seen, queue = {(agent, False)}, deque([((agent, False), 0)])
    while queue:
        (cell, held), steps = queue.popleft()
        if level == 1 and cell == first:
            return steps
        if level == 1 and cell in others:  # the wrong choice
            continue
        following = []
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            row, column = cell // size + down, cell % size + right
            if 0 <= row < size and 0 <= column < size and not walls_C[row * size + column]:
                following.append((row * size + column, held))
        if level >= 2 and cell == first and not held:
            if level == 2:
                return steps + 1
            following.append((cell, True))
        if held and cell not in others and beside(cell, others[0]):
            return steps + 1
        for state in following:
            if state not in seen:
                seen.add(state)
                queue.append((state, steps + 1))
    return 99


@pytest.mark.medium
@pytest.mark.parametrize("level", LEVELS)
def test_the_oracle_always_succeeds_in_the_fewest_steps(level: int):
    environment = LEVELS[level]
    state, _, played = starts(level)
    shortest = [
        search(level, environment.size, state.walls_C[n], int(state.agent[n]), state.things_N[n].tolist())
        for n in range(len(state.agent))
    ]
    np.testing.assert_array_equal(played.shortest_E, shortest)
    assert played.success_E.all()
    np.testing.assert_array_equal(played.steps_E, played.shortest_E)


@pytest.mark.medium
def test_rooms_are_as_promised():
    for level, environment in LEVELS.items():
        state, seen, _ = starts(level)
        things_BxN, held_L = state.things_N, held_out_looks()
        assert all(len({*row, agent}) == 4 for row, agent in zip(things_BxN, state.agent, strict=True))
        assert not np.take_along_axis(state.walls_C, things_BxN, axis=1).any()
        assert not held_L[state.looks_N].any()
        assert all(len(set(row)) == 3 for row in state.looks_N.tolist())
        assert len(np.unique(state.looks_N[:, 0])) >= 12, "all kinds of things are named"
        texts = [decode(ids_T) for ids_T in seen["text"]]
        assert all(name_of(looks[0]) in text for text, looks in zip(texts, state.looks_N, strict=True))
        side = 6 * (7 if environment.sight else environment.size)
        assert seen["image"].shape[1:] == (side, side, 3)
    state, seen, _ = starts(3)
    assert all(
        decode(t).endswith(name_of(looks[1])) for t, looks in zip(seen["text"], state.looks_N, strict=True)
    )
    walls = starts(2)[0].walls_C.reshape(-1, 5, 5)
    assert (walls.sum(axis=(1, 2)) == 4).all() and (walls.sum(axis=1).max(axis=1) == 4).all()
    # most rooms have something that shares colour or kind with what is named
    looks = starts(1)[0].looks_N
    alike = (looks[:, 1:] % len(COLOURS) == looks[:, :1] % len(COLOURS)) | (
        looks[:, 1:] // len(COLOURS) == looks[:, :1] // len(COLOURS)
    )
    assert alike.any(axis=1).mean() > 0.75


@pytest.mark.medium
def test_held_out_rooms_name_held_out_things():
    state, _, played = starts(1, "combinations")
    assert held_out_looks()[state.looks_N[:, 0]].all() and played.success_E.all()


def drive(environment: Rooms, state: RoomsState, actions: list[int], **changes):
    params = environment.default_params._replace(**changes)
    step = jax.jit(environment.step)
    steps = []
    for action in actions:
        steps.append(step(jax.random.key(0), state, jnp.array(action, jnp.int32), params))
        state = steps[-1].state
    return steps


def test_level_1_the_first_thing_stepped_on_is_the_choice():
    environment = Rooms(1, 3)
    start = room(environment, 4, [0, 2, 8])  # the agent in the middle, things in three corners
    wall, right = drive(environment, start, [UP, LEFT])
    assert [int(s.state.agent) for s in (wall, right)] == [1, 0]
    assert float(wall.reward) == pytest.approx(-0.01) and not bool(wall.terminated)
    assert bool(right.terminated) and bool(right.info["success"])
    assert float(right.reward) == pytest.approx(0.99)
    *_, wrong = drive(environment, start, [UP, RIGHT], wrong_cost=0.5)
    assert bool(wrong.terminated) and not bool(wrong.info["success"])
    assert float(wrong.reward) == pytest.approx(-0.51)
    border, inside = drive(environment, start._replace(agent=jnp.array(3, jnp.int32)), [LEFT, RIGHT])
    assert [int(s.state.agent) for s in (border, inside)] == [3, 4], "the border holds"


def test_level_2_walks_over_things_and_chooses_by_picking_up():
    environment = Rooms(2, 3)
    start = room(environment, 0, [2, 1, 8], walls=(4,))
    on_wrong, into_wall, on_right, done = drive(environment, start, [RIGHT, DOWN, RIGHT, PICK_UP])
    assert not bool(on_wrong.terminated) and int(into_wall.state.agent) == 1
    assert int(on_right.state.agent) == 2 and bool(done.info["success"])
    nothing, _, wrong = drive(environment, start, [PICK_UP, RIGHT, PICK_UP])
    assert not bool(nothing.terminated) and bool(wrong.terminated) and not bool(wrong.info["success"])


def test_level_3_carries_and_puts_down_for_good():
    environment = Rooms(3, 3)
    start = room(environment, 0, [0, 8, 2])
    steps = drive(environment, start, [PUT_DOWN, PICK_UP, RIGHT, RIGHT, PUT_DOWN, DOWN, PUT_DOWN])
    early, picked, _, over, refused, _, put = steps
    assert not bool(early.terminated), "nothing can be put down with empty hands"
    assert int(picked.state.things_N[0]) == -1 and not bool(picked.terminated)
    assert int(over.state.agent) == 2 and not bool(refused.terminated), "not where another thing lies"
    # beside the blue box in cell 8, in cell 5; what `bring_C` says decides, and there it must be 0
    start = start._replace(bring_C=jnp.array([3, 2, 1, 2, 1, 0, 1, 0, 1], jnp.int32))
    *_, put = drive(environment, start, [PICK_UP, RIGHT, RIGHT, DOWN, PUT_DOWN])
    assert bool(put.terminated) and bool(put.info["success"]) and int(put.state.things_N[0]) == 5
    *_, wrong = drive(environment, start, [PICK_UP, RIGHT, PUT_DOWN])
    assert bool(wrong.terminated) and not bool(wrong.info["success"])
    *_, other = drive(environment, start, [RIGHT, RIGHT, PICK_UP])
    assert bool(other.terminated) and float(other.reward) == pytest.approx(-0.01)


def test_the_limit_cuts_off_but_does_not_terminate():
    environment = Rooms(1, 3)
    start = room(environment, 4, [0, 2, 8])
    first, last = drive(environment, start, [DOWN, DOWN], max_steps=2)
    assert not bool(first.truncated) and bool(last.truncated) and not bool(last.terminated)
    *_, done = drive(environment, start, [UP, LEFT], max_steps=2)
    assert bool(done.terminated) and not bool(done.truncated), "an end on the last step is an end"


def test_shaping_pays_each_step_nearer_and_a_wrong_choice_nothing():
    environment = Rooms(1, 3)
    start = room(environment, 7, [0, 2, 8])  # three steps away
    free = {"step_cost": 0.0, "shaping": 0.5}
    rewards = [float(s.reward) for s in drive(environment, start, [LEFT, RIGHT, UP, DOWN], **free)]
    assert rewards == pytest.approx([0.5, -0.5, 0.5, -0.5])
    *way, done = drive(environment, start, [LEFT, UP, UP], **free)
    assert [float(s.reward) for s in way] == pytest.approx([0.5, 0.5]) and float(done.reward) == 1.5
    *_, wrong = drive(environment, start, [UP, UP, RIGHT], **free)
    assert bool(wrong.terminated) and float(wrong.reward) == 0.0


@pytest.mark.medium
@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("shaping", [0.3, 3.0])
def test_shaping_leaves_the_shortest_way_the_best(level: int, shaping: float):
    """The best discounted return from each start, by search over all actions, is the oracle's."""
    environment, gamma = LEVELS[level], 0.9
    state, _, played = starts(level)
    for number in range(3):
        start = jax.tree.map(lambda leaf, number=number: jnp.asarray(leaf[number]), state)
        steps = int(played.shortest_E[number])
        way = np.array([shaping - 0.01] * (steps - 1) + [1 + shaping - 0.01])
        oracle_return = float(way @ gamma ** np.arange(steps))
        assert best_return(environment, start, shaping, gamma) == pytest.approx(oracle_return, abs=1e-4)


def best_return(environment: Rooms, start: RoomsState, shaping: float, gamma: float) -> float:
    """By value iteration over the agent's cell and whether it carries, without a limit of steps."""
    cells, actions = environment.size**2, environment.action_space.n
    world = environment.default_params._replace(shaping=shaping, max_steps=1000)

    def try_all(held: jax.Array, cell: jax.Array, action: jax.Array):
        things_N = start.things_N.at[0].set(jnp.where(held, -1, start.things_N[0]))
        stepped = environment.step(
            jax.random.key(0), start._replace(agent=cell, things_N=things_N), action, world
        )
        after = (stepped.state.things_N[0] < 0).astype(jnp.int32), stepped.state.agent
        return stepped.reward, stepped.terminated, after

    over_actions = jax.vmap(try_all, in_axes=(None, None, 0))
    over_cells = jax.vmap(over_actions, in_axes=(None, 0, None))
    over_all = jax.jit(jax.vmap(over_cells, in_axes=(0, None, None)))
    tried = over_all(jnp.array([False, True]), jnp.arange(cells), jnp.arange(actions))
    reward_HxCxA, ended_HxCxA, after_HxCxA = jax.device_get(tried)
    value_HxC = np.zeros((2, cells))
    for _ in range(200):
        value_HxC = (reward_HxCxA + gamma * ~ended_HxCxA * value_HxC[after_HxCxA]).max(axis=-1)
    return float(value_HxC[0, int(start.agent)])


@pytest.mark.medium
def test_chance_seldom_succeeds_and_wrong_choices_are_frequent():
    environment = LEVELS[1]
    world = environment.default_params
    run = jax.jit(lambda key: play(environment, chance(environment), world, key, episodes=512, steps=16))
    played = run(jax.random.key(0))
    assert 0.1 < played.success_E.mean() < 0.4, "about one thing in three, and the time runs out"


def test_configs_are_checked():
    for wrong, message in (
        ({"level": 4}, "level is 4"),
        ({"size": 2}, "size is 2"),
        ({"things": 9}, "things is 9"),
        ({"size": 4, "divided": True}, "a divided room needs 5"),
    ):
        with pytest.raises(UserError, match=message):
            Rooms(**wrong)


@pytest.mark.parametrize(("level", "places"), [(1, {3, 4}), (3, {2, 3, 7, 8})])
def test_a_telling_word_is_left_out_of_a_share_of_the_instructions(level: int, places: set[int]):
    environment = Rooms(level)
    world = environment.params("train")._replace(word_dropout=0.25)
    state, observation = reset_all(environment, jax.random.key(0), world, 2000)
    whole = reset_all(environment, jax.random.key(0), environment.params("train"), 2000)[1]
    left_out = np.asarray(observation["text"] != whole["text"])
    assert left_out.sum(axis=1).max() == 1 and not np.asarray(observation["text"])[left_out].any()
    assert np.mean(left_out.any(axis=1)) == pytest.approx(0.25, abs=0.03)
    assert set(np.flatnonzero(left_out.any(axis=0)).tolist()) == places
    said_B = ~left_out.any(axis=1)
    np.testing.assert_array_equal(observation["image"][said_B], whole["image"][said_B])
    np.testing.assert_array_equal(np.asarray(state.unsaid) >= 0, ~said_B)


@pytest.mark.parametrize("level", [1, 3])
def test_what_is_still_said_fits_one_thing_alone(level: int):
    """Where a word is left out; where none is, colour or kind are often shared."""
    environment = Rooms(level)
    world = environment.params("train")._replace(word_dropout=0.5)
    state, _ = reset_all(environment, jax.random.key(0), world, 2000)
    unsaid_B, looks_BxN = np.asarray(state.unsaid), np.asarray(state.looks_N)
    kind_BxN, colour_BxN = np.divmod(looks_BxN, 6)
    others_N = np.arange(looks_BxN.shape[1]) >= (2 if level == 3 else 1)
    for place, named, still_said_BxN in (
        *(((3, 0, kind_BxN), (4, 0, colour_BxN)) if level == 1 else ()),
        *(((2, 0, kind_BxN), (3, 0, colour_BxN), (7, 1, kind_BxN), (8, 1, colour_BxN)) * (level == 3)),
    ):
        shared_BxN = still_said_BxN[:, others_N] == still_said_BxN[:, named, None]
        assert np.sum(unsaid_B == place) > 100 and not shared_BxN[unsaid_B == place].any()
        assert shared_BxN[unsaid_B == -1].any(axis=1).mean() > 0.1


@pytest.mark.parametrize("level", [1, 3])
def test_things_are_disguised_where_their_kind_or_colour_is_not_said(level: int):
    environment = Rooms(level)

    def starts(share: float):
        world = environment.params("train")._replace(word_dropout=0.6, disguise=share)
        return reset_all(environment, jax.random.key(0), world, 1000)[0]

    state, plain = starts(1.0), starts(0.0)
    unsaid_B = np.asarray(state.unsaid)
    np.testing.assert_array_equal(plain.tiles_NxTxTx3, tiles_of(plain.looks_N))
    floor = np.asarray(tiles_of(jnp.array([0])))[0, 0, 0]

    def changed(tiles: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        """Which things have another form, and which another colour where they have the same form."""
        other, own = np.asarray(tiles), np.asarray(plain.tiles_NxTxTx3)
        lit = [(each != floor).any(axis=-1) for each in (other, own)]
        form = (lit[0] != lit[1]).any(axis=(2, 3))
        return form, ~form & (other != own).any(axis=(2, 3, 4))

    form_BxN, colour_BxN = changed(state.tiles_NxTxTx3)
    assert not (form_BxN | colour_BxN)[unsaid_B == -1].any()
    places = {1: ((3, 4, 0),), 3: ((2, 3, 0), (7, 8, 1))}[level]
    for no_colour, no_kind, named in places:
        for place, hit_BxN, spared_BxN in (
            (no_colour, colour_BxN, form_BxN),
            (no_kind, form_BxN, colour_BxN),
        ):
            rows = unsaid_B == place
            assert rows.sum() > 50 and hit_BxN[rows, named].mean() > 0.95 and not spared_BxN[rows].any()
            if level == 3:  # of the other one that is named all is said
                assert not hit_BxN[rows, 1 - named].any()


@pytest.mark.medium
def test_a_share_of_the_episodes_begins_with_the_thing_in_hand():
    environment = LEVELS[3]
    world = environment.params("train")._replace(carrying=0.25)
    state, observation = reset_all(environment, jax.random.key(0), world, 2000)
    plain, plain_observation = reset_all(environment, jax.random.key(0), environment.params("train"), 2000)
    carries_B = np.asarray(state.things_N[:, 0] < 0)
    assert np.mean(carries_B) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(observation["image"][~carries_B], plain_observation["image"][~carries_B])
    assert (
        (observation["image"][carries_B] != plain_observation["image"][carries_B]).any(axis=(1, 2, 3)).all()
    )
    np.testing.assert_array_equal(state.things_N[:, 1:], plain.things_N[:, 1:])
    np.testing.assert_array_equal(observation["text"], plain_observation["text"])
    remaining_B = np.asarray(jax.vmap(environment.remaining)(state))
    carried_B = np.asarray(plain.bring_C)[np.arange(2000), plain.agent] + 1
    np.testing.assert_array_equal(remaining_B[carries_B], carried_B[carries_B])
    start = state, observation
    played = follow(environment, oracle(environment), world, start, jax.random.key(0), steps=40).played
    assert played.success_E.all()
    np.testing.assert_array_equal(played.steps_E, remaining_B)
