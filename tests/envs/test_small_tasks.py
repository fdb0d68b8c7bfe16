"""The diagnostic environments, Corners, the relabelled reward, and auto-reset."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.envs.corners import OPPOSITE, Corners, CornersParams
from mmrlhf_jax.envs.diagnostic import DIAGNOSTICS, Diagnostic, DiagnosticState
from mmrlhf_jax.envs.protocol import Step
from mmrlhf_jax.envs.relabelled import Relabelled, RelabelledParams
from mmrlhf_jax.envs.spaces import Box, Discrete
from mmrlhf_jax.envs.vector import reset_all, step_all


class CountState(NamedTuple):
    time: jax.Array
    episode: jax.Array  # a number that tells episodes apart


@dataclasses.dataclass(frozen=True)
class Count:
    """Shows how many steps an episode has run; terminated by action 1, cut off after 3 steps."""

    observation_space = Box((2,))
    action_space = Discrete(2)
    default_params = None

    def reset(self, key, params):
        state = CountState(jnp.zeros((), jnp.int32), jax.random.uniform(key))
        return state, self._observe(state)

    def step(self, key, state, action, params) -> Step:
        state = CountState(state.time + 1, state.episode)
        return Step(state, self._observe(state), jnp.ones(()), action == 1, state.time >= 3, {})

    def _observe(self, state):
        return jnp.stack([state.time.astype(jnp.float32), state.episode])


def test_a_new_episode_follows_and_the_last_observation_is_kept():
    environment = Count()
    state, observation = reset_all(environment, jax.random.key(0), None, 2)
    step = jax.jit(lambda key, state, action: step_all(environment, key, state, action, None))
    episodes = [np.asarray(observation[:, 1])]
    times, finals = [], []
    actions = [[0, 0], [0, 1], [0, 0], [0, 0]]  # the second copy ends at once, the first is cut off
    for number, action in enumerate(actions):
        moved = step(jax.random.key(number), state, jnp.array(action, jnp.int32))
        state, observation = moved.state, moved.observation
        times.append(np.asarray(observation[:, 0]).tolist())
        finals.append(np.asarray(moved.final_observation[:, 0]).tolist())
        episodes.append(np.asarray(observation[:, 1]))
        assert moved.terminated_B.tolist() == [False, action[1] == 1]
        assert moved.truncated_B.tolist() == [number == 2, False]
    assert times == [[1, 1], [2, 0], [0, 1], [1, 2]]  # what is shown next
    assert finals == [[1, 1], [2, 2], [3, 1], [1, 2]]  # what the step led to
    start, _, second, third, _ = episodes
    assert second[0] == start[0] and second[1] != start[1], "only the copy that ended starts anew"
    assert third[0] != start[0] and third[1] == second[1]
    assert start[0] != start[1]


@pytest.mark.parametrize(
    ("name", "rewards"),
    # of (signal, action): (-1, 0), (-1, 1), (1, 0), (1, 1)
    [
        ("constant", [1, 1, 1, 1]),
        ("observation", [-1, -1, 1, 1]),
        ("delayed", [0, 0, 0, 0]),
        ("action", [-1, 1, -1, 1]),
        ("both", [1, -1, -1, 1]),
    ],
)
def test_diagnostic_rewards(name: str, rewards: list[float]):
    params = DIAGNOSTICS[name]
    for (signal, action), wanted in zip([(-1, 0), (-1, 1), (1, 0), (1, 1)], rewards, strict=True):
        state = DiagnosticState(jnp.array(float(signal)), jnp.zeros((), jnp.int32))
        moved = Diagnostic().step(jax.random.key(0), state, jnp.array(action), params)
        assert float(moved.reward) == wanted
        assert bool(moved.terminated) is (name != "delayed") and not bool(moved.truncated)
    if name == "delayed":
        assert np.asarray(moved.observation).tolist() == [1.0, 0.5]
        last = Diagnostic().step(jax.random.key(0), moved.state, jnp.array(0), params)
        assert float(last.reward) == 1.0 and bool(last.terminated)


def test_corners_can_be_solved_from_all_three_modalities_together():
    environment = Corners(size=8)
    states, seen = reset_all(environment, jax.random.key(0), CornersParams(), 200)
    image_NxHxWxC, text_Nx2, switch_N = (np.asarray(seen[name]) for name in ("image", "text", "switch"))
    quadrants = [image_NxHxWxC[:, r : r + 4, c : c + 4].max(axis=(1, 2, 3)) for r in (0, 4) for c in (0, 4)]
    lit_N = np.stack(quadrants, axis=1)
    assert (np.sum(lit_N > 0, axis=1) == 1).all() and image_NxHxWxC.dtype == np.uint8
    answer_N = np.argmax(lit_N, axis=1)
    answer_N = answer_N ^ np.where(text_Nx2[:, 0] == OPPOSITE, 3, 0) ^ np.where(switch_N[:, 0] < 0, 1, 0)
    step = jax.vmap(environment.step, (0, 0, 0, None))
    keys = jax.random.split(jax.random.key(1), 200)
    right = step(keys, states, jnp.asarray(answer_N, jnp.int32), CornersParams())
    wrong = step(keys, states, jnp.asarray(answer_N ^ 2, jnp.int32), CornersParams())
    assert np.all(right.reward == 1.0) and np.all(wrong.reward == 0.0)
    assert set(np.unique(text_Nx2[:, 1])) == {0, 3}, "some instructions are padded"
    for known in (np.argmax(lit_N, axis=1), text_Nx2[:, 0], switch_N[:, 0]):  # one modality alone
        for value in np.unique(known):
            assert np.bincount(answer_N[known == value], minlength=4).max() / np.sum(known == value) < 0.5


def test_a_relabelled_reward_sees_what_the_agent_saw():
    environment = Relabelled(
        Diagnostic(), lambda weight, observation, action: weight * observation[0] + action.astype(jnp.float32)
    )
    params = RelabelledParams(DIAGNOSTICS["both"], jnp.array(10.0))
    state, observation = environment.reset(jax.random.key(0), params)
    moved = environment.step(jax.random.key(1), state, jnp.array(1), params)
    assert float(moved.reward) == 10 * float(observation[0]) + 1
    assert float(moved.info["true_reward"]) == float(observation[0])
