"""CartPole and Acrobot against Gymnasium's own numbers, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.envs.acrobot import Acrobot, AcrobotState
from mmrlhf_jax.envs.cartpole import CartPole, CartPoleParams, CartPoleState

# Observations after each action, computed with gymnasium 1.4 (CartPole-v1, Acrobot-v1) from START.
START = {"CartPole-v1": [0.01, -0.02, 0.03, 0.04], "Acrobot-v1": [0.5, -0.4, 1.5, -2.0]}
GOLDEN = {
    "CartPole-v1": [
        (1, [0.0096, 0.1746792, 0.0308, -0.2430687]),
        (1, [0.01309358, 0.369348, 0.02593863, -0.5258796]),
        (0, [0.02048054, 0.1738708, 0.01542103, -0.2251374]),
        (1, [0.02395796, 0.368769, 0.01091828, -0.5129163]),
        (0, [0.03133334, 0.173495, 0.0006599578, -0.2168129]),
        (0, [0.03480324, -0.02163639, -0.003676299, 0.07607816]),
        (1, [0.03437051, 0.1735381, -0.002154736, -0.2177624]),
        (1, [0.03784128, 0.3686908, -0.006509984, -0.5111242]),
    ],
    "Acrobot-v1": [
        (2, [0.7586071, 0.6515483, 0.7883954, -0.6151689, 0.5624782, -0.5908412]),
        (2, [0.7529272, 0.6581038, 0.8067104, -0.590947, -0.4769314, 0.8914567]),
        (0, [0.8527696, 0.5222874, 0.9292602, -0.3694259, -1.178686, 1.603249]),
        (1, [0.9680561, 0.2507337, 0.9999053, 0.01375841, -1.714181, 2.207104]),
        (0, [0.9960578, -0.08870676, 0.9163789, 0.4003121, -1.627018, 1.642548]),
        (2, [0.9238458, -0.3827649, 0.7691507, 0.6390675, -1.3479, 1.089837]),
        (2, [0.8216692, -0.5699648, 0.6777191, 0.7353209, -0.7508646, 0.2131967]),
        (0, [0.7905621, -0.6123819, 0.7560401, 0.6545253, 0.2362427, -1.332687]),
    ],
}
KINDS = {"CartPole-v1": (CartPole(), CartPoleState), "Acrobot-v1": (Acrobot(), AcrobotState)}


def drive(name: str, physics: list[float], actions: list[int], time: int = 0):
    """The outcome of each action, stacked, from a given state on."""
    environment, make = KINDS[name]
    params, key = environment.default_params, jax.random.key(0)

    @jax.jit
    def run(state, actions_T):
        def step(state, action):
            moved = environment.step(key, state, action, params)
            return moved.state, moved

        return jax.lax.scan(step, state, actions_T)[1]

    return run(make(jnp.array(physics), jnp.array(time, jnp.int32)), jnp.array(actions, jnp.int32))


@pytest.mark.parametrize("name", KINDS)
def test_dynamics_are_those_of_gymnasium(name: str):
    actions, wanted = zip(*GOLDEN[name], strict=True)
    moved = drive(name, START[name], list(actions))
    np.testing.assert_allclose(moved.observation, np.array(wanted), atol=2e-5)
    np.testing.assert_array_equal(moved.reward, 1.0 if name == "CartPole-v1" else -1.0)
    assert not np.any(moved.terminated) and not np.any(moved.truncated)


@pytest.mark.parametrize("name", KINDS)
def test_long_episodes_agree_with_gymnasium_where_it_is_installed(name: str):
    gymnasium = pytest.importorskip("gymnasium")
    theirs = gymnasium.make(name).unwrapped
    random = np.random.default_rng(0)
    for _ in range(3):
        theirs.reset(seed=int(random.integers(1000)))
        physics = np.asarray(theirs.state, np.float32).tolist()
        theirs.state = np.asarray(physics)
        actions = random.integers(2 if name == "CartPole-v1" else 3, size=40)
        outcomes = []
        for action in actions:
            observation, reward, terminated, *_ = theirs.step(action)
            outcomes.append((observation, reward, terminated))
            if terminated:
                break
        ours = drive(name, physics, actions.tolist())
        count = len(outcomes)
        wanted = np.stack([observation for observation, *_ in outcomes])
        np.testing.assert_allclose(ours.observation[:count], wanted, atol=2e-3)
        np.testing.assert_array_equal(ours.terminated[:count], [ended for *_, ended in outcomes])
        np.testing.assert_array_equal(ours.reward[:count], [reward for _, reward, _ in outcomes])


def test_cartpole_terminates_outside_its_limits():
    for physics, ends in (
        ([2.39, 1.0, 0.0, 0.0], True),  # 2.39 + 0.02 passes 2.4 m
        ([-2.39, -1.0, 0.0, 0.0], True),
        ([2.39, 0.0, 0.0, 0.0], False),
        ([0.0, 0.0, 0.209, 0.1], True),  # 12 degrees are 0.2094 rad
        ([0.0, 0.0, -0.209, -0.1], True),
        ([0.0, 0.0, 0.209, 0.0], False),
    ):
        moved = drive("CartPole-v1", physics, [0])
        assert bool(moved.terminated[0]) is ends, physics
        assert moved.reward[0] == 1.0 and not moved.truncated[0]


def test_acrobot_terminates_above_the_line_without_a_penalty():
    # both links nearly upright: -cos(3) - cos(3.1) = 1.99
    moved = drive("Acrobot-v1", [3.0, 0.1, 0.0, 0.0], [1])
    assert bool(moved.terminated[0]) and moved.reward[0] == 0.0


def test_acrobot_keeps_angles_and_velocities_in_bounds():
    moved = drive("Acrobot-v1", [3.1, 3.1, 12.5, 28.0], [2] * 4)
    angles_Tx2, velocities_Tx2 = moved.state.physics_4[:, :2], moved.state.physics_4[:, 2:]
    assert np.all(np.abs(angles_Tx2) <= np.pi + 1e-6)
    assert np.all(np.abs(velocities_Tx2) <= np.array([4 * np.pi, 9 * np.pi]) + 1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_episodes_are_cut_after_500_steps(name: str):
    moved = drive(name, [0.0] * 4, [0, 1], time=498)
    np.testing.assert_array_equal(moved.truncated, [False, True])


def test_starts_are_small_and_differ():
    for environment, width in ((CartPole(), 0.05), (Acrobot(), 0.1)):
        keys = jax.random.split(jax.random.key(0), 64)
        state, _ = jax.vmap(environment.reset, (0, None))(keys, environment.default_params)
        physics_Nx4 = np.asarray(state.physics_4)
        assert np.abs(physics_Nx4).max() <= width and np.abs(physics_Nx4).max() > 0.9 * width
        assert len(np.unique(physics_Nx4[:, 0])) == 64


def test_params_change_the_physics():
    state = CartPoleState(jnp.zeros(4), jnp.zeros((), jnp.int32))
    step = jax.jit(CartPole().step)
    key, push = jax.random.key(0), jnp.ones((), jnp.int32)
    weak, strong = (step(key, state, push, CartPoleParams(force=force)) for force in (10.0, 20.0))
    assert float(strong.observation[1]) == pytest.approx(2 * float(weak.observation[1]), rel=1e-5)
