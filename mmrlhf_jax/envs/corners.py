"""Corners: a picture, an instruction and a switch that only together say what to do."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.protocol import Step
from mmrlhf_jax.envs.spaces import Box, Dict, Discrete, Tokens

THERE, OPPOSITE, PLEASE = 1, 2, 3  # the words; 0 is padding


class CornersState(NamedTuple):
    target: jax.Array  # () int32, the corner that earns the reward
    time: jax.Array  # () int32, steps taken


class CornersParams(NamedTuple):
    max_steps: jax.Array | int = 8  # of an episode, each with a new picture and instruction


@dataclasses.dataclass(frozen=True)
class Corners:
    """One corner of the picture is lit; the right action names a corner and earns 1, any other 0.

    The instruction is "there" (the lit corner) or "opposite", with or without "please"; where the switch is
    -1, left and right change places. No modality alone says more than chance, a quarter. Corners are numbered
    row by row, so that the right one is lit XOR 3 (opposite) XOR 1 (switched).

    Attributes:
      size: pixels of the picture's side.
    """

    size: int = 36

    @property
    def observation_space(self) -> Dict:
        return Dict.of(
            image=Box((self.size, self.size, 3), 0.0, 255.0, dtype="uint8"),
            text=Tokens(2, 4),
            switch=Box((1,), -1.0, 1.0),
        )

    @property
    def action_space(self) -> Discrete:
        return Discrete(4)

    @property
    def default_params(self) -> CornersParams:
        return CornersParams()

    def reset(self, key: jax.Array, params: CornersParams) -> tuple[CornersState, dict[str, jax.Array]]:
        """The first picture and instruction."""
        target, observation = self._pose(key)
        return CornersState(target, jnp.zeros((), jnp.int32)), observation

    def step(self, key: jax.Array, state: CornersState, action: jax.Array, params: CornersParams) -> Step:
        """Terminated after `max_steps`."""
        reward = (action == state.target).astype(jnp.float32)
        target, observation = self._pose(key)
        time = state.time + 1
        over = time >= params.max_steps
        return Step(CornersState(target, time), observation, reward, over, jnp.zeros((), bool), {})

    def _pose(self, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """A new question: (right corner, observation)."""
        lit, colour, opposite, polite, switched = jax.random.randint(
            key, (5,), 0, jnp.array([4, 3, 2, 2, 2])
        ).astype(jnp.int32)
        half = jnp.arange(self.size) >= self.size // 2
        inside_HxW = (half[:, None] == (lit >= 2)) & (half[None] == (lit % 2 == 1))
        picture_HxWx3 = inside_HxW[..., None] & (jnp.arange(3) != colour)[None, None]
        word = jnp.where(opposite == 1, OPPOSITE, THERE)
        return lit ^ (3 * opposite) ^ switched, {
            "image": jnp.where(picture_HxWx3, 255, 0).astype(jnp.uint8),
            "text": jnp.stack([word, PLEASE * polite]).astype(jnp.int32),
            "switch": jnp.where(switched == 1, -1.0, 1.0)[None],
        }
