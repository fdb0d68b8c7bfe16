"""Rooms: a grid seen as a picture, an instruction in words, and an agent that is to follow it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.protocol import Step
from mmrlhf_jax.envs.rooms_language import (
    COLOURS,
    LOOKS,
    TEMPLATES,
    WORDS,
    Split,
    fits_unsaid,
    instruct,
    posed,
    telling_places,
)
from mmrlhf_jax.envs.rooms_picture import TILE, disguised, draw
from mmrlhf_jax.envs.rooms_plan import distances, neighbours, step_towards
from mmrlhf_jax.envs.spaces import Box, Dict, Discrete, Tokens
from mmrlhf_jax.errors import UserError

PICK_UP, PUT_DOWN = 4, 5  # after the four moves
_ALIKE = 1.5  # log-odds by which a thing that shares colour or kind with the one named is likelier


class RoomsState(NamedTuple):
    walls_C: jax.Array  # bool, by cell, row by row
    agent: jax.Array  # () int32, its cell
    things_N: jax.Array  # int32, each thing's cell, -1 in the agent's hands; first what the instruction names
    looks_N: jax.Array  # int32, kind x 6 + colour
    tiles_NxTxTx3: jax.Array  # uint8, what is seen of each thing
    fetch_C: jax.Array  # int32, moves from each cell to the first thing named
    bring_C: jax.Array  # int32, level 3: moves from each cell to the nearest one beside the second
    unsaid: jax.Array  # () int32, place of the word that the instruction leaves out; -1: none
    time: jax.Array  # () int32, steps taken


class RoomsParams(NamedTuple):
    """What is posed, and the reward: all traced."""

    named_LxL: Any  # bool, see `rooms_language.Posed`
    shown_L: Any  # bool
    max_steps: Any  # of an episode, which is then cut off
    step_cost: Any = 0.01
    wrong_cost: Any = 0.0  # of a wrong choice, which ends the episode in any case
    shaping: Any = 0.0  # reward of each step by which the oracle's way gets shorter
    word_dropout: Any = 0.0  # share of the episodes whose instruction leaves out a colour or a kind
    disguise: Any = 0.0  # share of those in which things have forms or colours by chance, where not said
    carrying: Any = 0.0  # level 3: share of the episodes that begin with the first thing in the agent's hands


class _Place(NamedTuple):
    """Where all is at the start."""

    walls_C: jax.Array
    agent: jax.Array
    things_N: jax.Array
    fetch_C: jax.Array
    bring_C: jax.Array
    solvable: jax.Array


@dataclasses.dataclass(frozen=True)
class Rooms:
    """Things of 6 kinds and 6 colours lie about; the instruction says what to do with one or two of them.

    Level 1, "go to the red key": the first thing that the agent steps on is its choice.
    Level 2, "pick up the red key": it walks over things, and what it picks up is its choice.
    Level 3, "put the red key next to the blue box": it picks up, carries, and puts down, for good, on a cell
    without a thing; next to means above, below, left or right. The two do not lie so from the start.

    Doing as told earns 1 and ends the episode, a wrong choice earns `-wrong_cost` and ends it too, every step
    costs `step_cost`. With `shaping` c each step also earns c x (steps by which it shortened the oracle's
    way), and a wrong choice nothing of that (a progress estimator, Mataric 1994): the way of the oracle stays
    the best. Every room can be solved. `info["success"]` is True in the step that does as told, and
    `info["remaining"]` the steps that the oracle would still need, 0 at an end.

    Attributes:
      level: 1, 2 or 3; with it come the actions (four moves, picking up, putting down) and the words.
      size: cells of a side.
      things: in a room, those that are named included; no two look the same.
      divided: a wall with one gap makes two rooms of it.
      sight: cells that the picture shows each way from the agent, which is in its middle; 0: the whole room.
    """

    level: int = 1
    size: int = 5
    things: int = 3
    divided: bool = False
    sight: int = 3

    def __post_init__(self) -> None:
        if self.level not in TEMPLATES:
            raise UserError(f"level is {self.level}: choose 1, 2 or 3")
        if not 3 <= self.size <= 16:
            raise UserError(f"size is {self.size}: give 3 to 16 cells")
        if self.divided and self.size < 5:
            raise UserError(f"size is {self.size}: a divided room needs 5 cells and more")
        if not 0 <= self.sight <= 16:
            raise UserError(f"sight is {self.sight}: give 1 to 16 cells, or 0 for the whole room")
        if not 2 <= self.things <= min(12, self.size):
            raise UserError(f"things is {self.things}: give 2 to {min(12, self.size)} in rooms of this size")

    @property
    def observation_space(self) -> Dict:
        side = TILE * (2 * self.sight + 1 if self.sight else self.size)
        return Dict.of(
            image=Box((side, side, 3), 0.0, 255.0, dtype="uint8"),
            text=Tokens(len(TEMPLATES[self.level]), len(WORDS)),
        )

    @property
    def action_space(self) -> Discrete:
        return Discrete(3 + self.level)

    @property
    def default_params(self) -> RoomsParams:
        """Those of training, without shaping."""
        return self.params("train")

    @property
    def max_steps(self) -> int:
        """Steps of an episode at most, by default."""
        return 4 * self.size * (2 if self.level == 3 else 1)

    def params(self, split: Split, *, shaping: float = 0.0) -> RoomsParams:
        """What `split` poses, with the default costs. Raises UserError for an unknown split."""
        return RoomsParams(*posed(split), self.max_steps, shaping=shaping)

    def reset(self, key: jax.Array, params: RoomsParams) -> tuple[RoomsState, dict[str, jax.Array]]:
        """A room that can be solved, and its instruction."""
        key_looks, key_place = jax.random.split(key)
        key_drop, key_word = jax.random.split(jax.random.fold_in(key, 1))
        places = jnp.asarray(telling_places(self.level), jnp.int32)
        dropped = jax.random.uniform(key_drop) < params.word_dropout
        unsaid = jnp.where(dropped, jax.random.choice(key_word, places), -1)
        looks_N = self._looks(key_looks, params, unsaid)

        def again(tried: tuple[jax.Array, _Place]) -> tuple[jax.Array, _Place]:
            return tried[0] + 1, self._place(jax.random.fold_in(key_place, tried[0]))

        nothing = jax.eval_shape(self._place, key_place)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing)  # not solvable
        _, place = jax.lax.while_loop(
            lambda tried: ~tried[1].solvable, again, (jnp.zeros((), jnp.int32), empty)
        )
        walls_C, agent, things_N, fetch_C, bring_C, _ = place
        tiles = self._tiles(jax.random.fold_in(key, 2), looks_N, unsaid, params.disguise)
        start = jnp.zeros((), jnp.int32)
        if self.level == 3:
            carries = jax.random.uniform(jax.random.fold_in(key, 3)) < params.carrying
            things_N = things_N.at[0].set(jnp.where(carries, -1, things_N[0]))
        state = RoomsState(walls_C, agent, things_N, looks_N, tiles, fetch_C, bring_C, unsaid, start)
        return state, self.observe(state)

    def step(self, key: jax.Array, state: RoomsState, action: jax.Array, params: RoomsParams) -> Step:
        """Terminated by the choice, truncated after `max_steps`; without chance, so the key is not read."""
        ahead = jnp.asarray(neighbours(self.size))[state.agent, jnp.minimum(action, 3)]
        agent = jnp.where((action < 4) & ~state.walls_C[ahead], ahead, state.agent)
        here_N = state.things_N == agent
        first = state.things_N[0]
        match self.level:
            case 1:
                chosen, right = jnp.any(here_N), here_N[0]
            case 2:
                chosen = (action == PICK_UP) & jnp.any(here_N)
                right = here_N[0]
            case _:
                held = first < 0
                picked = (action == PICK_UP) & ~held & jnp.any(here_N)
                put = (action == PUT_DOWN) & held & ~jnp.any(here_N)
                first = jnp.where(picked & here_N[0], -1, jnp.where(put, agent, first))
                chosen, right = (picked & ~here_N[0]) | put, put & (state.bring_C[agent] == 0)
        moved = state._replace(agent=agent, things_N=state.things_N.at[0].set(first), time=state.time + 1)
        success, wrong = chosen & right, chosen & ~right
        remaining = jnp.where(chosen, 0, self.remaining(moved))
        reward = success.astype(jnp.float32) - params.wrong_cost * wrong.astype(jnp.float32)
        progress = jnp.where(wrong, 0, self.remaining(state) - remaining).astype(jnp.float32)
        reward += params.shaping * progress - params.step_cost
        truncated = (moved.time >= params.max_steps) & ~chosen
        info = {"success": success, "remaining": remaining}
        return Step(moved, self.observe(moved), reward, chosen, truncated, info)

    def observe(self, state: RoomsState) -> dict[str, jax.Array]:
        """The picture and the words."""
        held = jnp.where(state.things_N[0] < 0, state.looks_N[0], -1)
        seen = state.walls_C, state.agent, state.things_N, state.tiles_NxTxTx3, held
        picture = draw(*seen, sight=self.sight)
        words_T = self._words(state)
        words_T = jnp.where(jnp.arange(words_T.shape[0]) == state.unsaid, 0, words_T)
        return {"image": picture, "text": words_T}

    def left_out(self, state: RoomsState) -> jax.Array:
        """The word that the instruction leaves out, () int32; of a whole instruction its last one."""
        return self._words(state)[state.unsaid]

    def remaining(self, state: RoomsState) -> jax.Array:
        """Steps that the oracle needs from here, () int32."""
        to_fetch = state.fetch_C[state.agent]
        if self.level == 1:
            return to_fetch
        if self.level == 2:
            return to_fetch + 1
        first = state.things_N[0]
        not_held = to_fetch + 1 + state.bring_C[jnp.maximum(first, 0)] + 1
        return jnp.where(first < 0, state.bring_C[state.agent] + 1, not_held)

    def oracle(self, state: RoomsState) -> jax.Array:
        """The action of one who knows where all is and takes a shortest way, () int32."""
        held = state.things_N[0] < 0
        way_C = jnp.where(held, state.bring_C, state.fetch_C)
        move = step_towards(way_C, state.walls_C, state.agent)
        there = way_C[state.agent] == 0
        return jnp.where(there, jnp.where(held, PUT_DOWN, PICK_UP), move).astype(jnp.int32)

    def _words(self, state: RoomsState) -> jax.Array:
        """The whole instruction, (T,) int32."""
        return instruct(self.level, state.looks_N[0], state.looks_N[1])

    def _looks(self, key: jax.Array, params: RoomsParams, unsaid: jax.Array) -> jax.Array:
        """What is named, then others, which often share its colour or kind: (N,) int32, all different.

        Where a word is left `unsaid`, none of the others fits what is still said of that thing.
        """
        chance_3xL = jax.random.gumbel(key, (3, LOOKS))
        named_LxL = jnp.asarray(params.named_LxL)
        first = jnp.argmax(jnp.where(jnp.any(named_LxL, axis=1), chance_3xL[0], -jnp.inf))
        second = jnp.argmax(jnp.where(named_LxL[first], chance_3xL[1], -jnp.inf))
        looks_L = jnp.arange(LOOKS)
        alike_L = (looks_L % len(COLOURS) == first % len(COLOURS)) | (
            looks_L // len(COLOURS) == first // len(COLOURS)
        )
        named = [first, second] if self.level == 3 else [first]
        others_L = jnp.asarray(params.shown_L)
        for look in named:
            others_L &= looks_L != look
        others_L &= ~fits_unsaid(self.level, unsaid, first, second)
        chance_L = jnp.where(others_L, chance_3xL[2] + _ALIKE * alike_L.astype(jnp.float32), -jnp.inf)
        _, others_N = jax.lax.top_k(chance_L, self.things - len(named))
        return jnp.concatenate([jnp.stack(named), others_N]).astype(jnp.int32)

    def _tiles(self, key: jax.Array, looks_N: jax.Array, unsaid: jax.Array, share: jax.Array) -> jax.Array:
        """What is seen of each thing: where no kind or no colour is said, forms or colours may mean nothing.

        So each word is learned by itself. Of two things that are named the other one keeps its looks.
        """
        key_share, key_looks = jax.random.split(key)
        colours, kinds = (jnp.asarray(telling_places(self.level)[i::2]) for i in range(2))
        any_N = jnp.broadcast_to(jax.random.uniform(key_share) < share, looks_N.shape)
        if self.level == 3:
            other = jnp.where((unsaid == colours[0]) | (unsaid == kinds[0]), 1, 0)
            any_N &= jnp.arange(looks_N.shape[0]) != other
        form_N, colour_N = (any_N & jnp.any(places == unsaid) for places in (kinds, colours))
        return disguised(looks_N, key_looks, form_N=form_N, colour_N=colour_N)

    def _place(self, key: jax.Array) -> _Place:
        """Walls, things and agent, and whether there is a way."""
        cells = self.size**2
        chance_3xC = jax.random.uniform(key, (3, cells))
        walls_C = jnp.zeros(cells, bool)
        if self.divided:
            row_C, column_C = jnp.divmod(jnp.arange(cells), self.size)
            wall = 1 + jnp.argmax(chance_3xC[2, : self.size - 2])
            gap = jnp.argmax(chance_3xC[2, self.size : 2 * self.size])
            walls_C = (column_C == wall) & (row_C != gap)
        _, things_N = jax.lax.top_k(jnp.where(walls_C, -1.0, chance_3xC[0]), self.things)
        here_NxC = things_N[:, None] == jnp.arange(cells)[None]
        taken_C = jnp.any(here_NxC, axis=0)
        others_C = jnp.any(here_NxC[1:], axis=0)
        free_C = ~walls_C & ~others_C if self.level == 1 else ~walls_C
        fetch_C = distances(here_NxC[0], free_C)
        bring_C = fetch_C
        may_start_C = ~taken_C & ~walls_C & (fetch_C < cells)
        if self.level == 3:
            beside_C = jnp.any(jnp.asarray(neighbours(self.size)) == things_N[1], axis=1)
            bring_C = distances(beside_C & ~others_C, ~walls_C)
            way = bring_C[things_N[0]]
            may_start_C &= (way > 0) & (way < cells)
        agent = jnp.argmax(jnp.where(may_start_C, chance_3xC[1], -1.0)).astype(jnp.int32)
        return _Place(walls_C, agent, things_N.astype(jnp.int32), fetch_C, bring_C, jnp.any(may_start_C))
