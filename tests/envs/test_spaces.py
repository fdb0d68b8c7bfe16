"""Spaces: plain forms, batches of observations, and those of Gymnasium and gymnax."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.envs.cartpole import CartPole
from mmrlhf_jax.envs.corners import Corners
from mmrlhf_jax.envs.gymnax import Gymnax, from_gymnax
from mmrlhf_jax.envs.host import HostVector, make_host_vector, space_from_gymnasium, wrap_host
from mmrlhf_jax.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Tokens, as_batch, from_plain, to_plain
from mmrlhf_jax.errors import UserError

SPACES = [
    CartPole().observation_space,
    Corners().observation_space,
    Discrete(3),
    MultiDiscrete((2, 5)),
    Box((), -1.0, math.inf),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_plain_form_is_json_and_leads_back(space):
    assert from_plain(json.loads(json.dumps(to_plain(space), allow_nan=False))) == space
    hash(space)


def test_bounds_have_the_shape():
    low, high = Box((2, 2), (0.0, 1.0, 2.0, 3.0), 9.0).bounds()
    assert low.tolist() == [[0, 1], [2, 3]] and high.tolist() == [[9, 9], [9, 9]]


def test_one_observation_or_many():
    space = Corners(8).observation_space
    one = {"image": np.zeros((8, 8, 3), np.uint8), "text": [1, 0], "switch": [1.0]}
    batch, single = as_batch(space, one)
    assert single and batch["text"].shape == (1, 2) and batch["switch"].dtype == np.float32
    same, single = as_batch(space, batch)
    assert not single and same["image"].shape == (1, 8, 8, 3)
    for wrong, message in (
        ({"image": one["image"]}, "give a dict with image, text, switch"),
        ([0.0], "give a dict"),
        ({**one, "text": [[[1, 0]]]}, r"shape \(1, 1, 2\)"),
        ({**one, "text": [[1, 0]]}, "give all alike"),
    ):
        with pytest.raises(UserError, match=message):
            as_batch(space, wrong)


def test_spaces_of_gymnasium():
    # stand-ins with the attributes that Gymnasium's spaces have
    def box(shape, low, high, dtype):
        return SimpleNamespace(
            shape=shape, low=np.full(shape, low), high=np.full(shape, high), dtype=np.dtype(dtype)
        )

    number = SimpleNamespace(n=np.int64(3), start=np.int64(0), shape=())
    several = SimpleNamespace(nvec=np.array([2, 3]), start=np.array([0, 0]), shape=(2,))
    both = SimpleNamespace(
        spaces={"image": box((4, 4, 3), 0, 255, "uint8"), "text": box((5,), 0, 9, "int64"), "n": number}
    )
    assert space_from_gymnasium(number) == Discrete(3)
    assert space_from_gymnasium(several) == MultiDiscrete((2, 3))
    assert space_from_gymnasium(box((2,), -1, 1, "float64")) == Box((2,), (-1.0, -1.0), (1.0, 1.0))
    assert space_from_gymnasium(both) == Dict.of(
        image=Box((4, 4, 3), 0.0, 255.0, "uint8"), text=Tokens(5, 10), n=Discrete(3)
    )
    for wrong in (SimpleNamespace(n=3, start=1, shape=()), SimpleNamespace()):
        with pytest.raises(UserError, match=r"supported|no space"):
            space_from_gymnasium(wrong)


def test_only_vectors_that_reset_in_the_same_step_are_taken():
    mode = SimpleNamespace(name="NEXT_STEP")
    with pytest.raises(UserError, match="SAME_STEP"):
        HostVector(SimpleNamespace(metadata={"autoreset_mode": mode}, num_envs=1))
    with pytest.raises(UserError, match="no environment"):
        wrap_host(object())


class Halves:
    """A gymnax 1.x environment: halves its number; ends below 0.1, cut off after 4 steps; auto-resets."""

    default_params = SimpleNamespace(max_steps_in_episode=4)

    def observation_space(self, params):
        return SimpleNamespace(shape=(1,), low=0.0, high=1.0, dtype=jnp.float32)

    def action_space(self, params):
        return SimpleNamespace(n=2, shape=(), dtype=jnp.int32)

    def reset_env(self, key, params):
        return jnp.ones(1), (jnp.ones(()), jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        value, time = state
        value = jnp.where(action == 1, value / 2, value)
        return value[None], (value, time + 1), jnp.array(1), value < 0.1, {"discount": value}

    def is_truncated(self, state, params):
        return state[1] >= params.max_steps_in_episode


def test_gymnax_environments_fit_through_the_adapter():
    environment = Gymnax.of(Halves(), Halves.default_params)
    assert environment.observation_space == Box(
        (1,), (0.0,), (1.0,)
    ) and environment.action_space == Discrete(2)
    params, key = environment.default_params, jax.random.key(0)
    state, observation = environment.reset(key, params)
    assert observation.tolist() == [1.0]
    for number in range(4):
        state, observation, reward, terminated, truncated, info = environment.step(
            key, state, jnp.array(1), params
        )
        assert reward.dtype == jnp.float32 and float(observation[0]) == 0.5 ** (number + 1)
        assert (bool(terminated), bool(truncated)) == (number == 3, number == 3)
    assert set(info) == {"discount"}
    with pytest.raises(UserError, match=r"older than 1\.0"):
        Gymnax.of(SimpleNamespace(), None)


def test_gymnax_where_it_is_installed():
    pytest.importorskip("gymnax")
    ours, theirs = CartPole(), from_gymnax("CartPole-v1")
    params = theirs.default_params
    state, observation = theirs.reset(jax.random.key(0), params)
    mine, _ = ours.reset(jax.random.key(0), ours.default_params)
    mine = mine._replace(physics_4=observation)
    for action in (1, 0, 1):
        moved = theirs.step(jax.random.key(1), state, jnp.array(action), params)
        expected = ours.step(jax.random.key(1), mine, jnp.array(action), ours.default_params)
        np.testing.assert_allclose(moved.observation, expected.observation, atol=1e-5)
        state, mine = moved.state, expected.state
    with pytest.raises(UserError, match="no environment 'Nothing'"):
        from_gymnax("Nothing")


def test_missing_extras_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gymnax", None)
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    for make in (from_gymnax, make_host_vector):
        with pytest.raises(UserError, match=r"mmrlhf-jax\[envs\]"):
            make("CartPole-v1")
