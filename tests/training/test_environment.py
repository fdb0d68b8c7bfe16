"""PPO and A2C in environments: what must hold exactly, and tasks whose answer is known."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.cartpole import CartPole
from mmrlhf_jax.envs.diagnostic import DIAGNOSTICS, Diagnostic
from mmrlhf_jax.envs.spaces import Box, Discrete
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.policy.actor_critic import define_actor_critic
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training.config.environment import ActorCriticTraining, a2c_training
from mmrlhf_jax.training.environment import (
    Hyper,
    Task,
    init_state,
    make_direction,
    objective,
    play,
    train,
    update_step,
)
from mmrlhf_jax.types import Lesson

pytestmark = pytest.mark.medium

SMALL = ActorCriticConfig(actor=(16,), critic=(16,))
GAMMA = 0.5  # so that a delay of one step can be told from none
TRAININGS = {
    "ppo": ActorCriticTraining(
        n_envs=16, n_steps=8, batch_size=64, n_epochs=4, learning_rate=1e-2, gamma=GAMMA
    ),
    "a2c": a2c_training(n_envs=16, n_steps=8, learning_rate=1e-2, gamma=GAMMA),
}
UPDATES = {"ppo": 60, "a2c": 240}


@functools.cache
def solved(algorithm: str):
    """Values (5, 2) and probabilities of action 1 (5, 2) for s = -1 and 1, of all tasks in one program."""
    task = Task.of(Diagnostic(), TRAININGS[algorithm], SMALL)
    worlds = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *DIAGNOSTICS.values())
    learn = jax.vmap(functools.partial(train, task, updates=UPDATES[algorithm]))
    keys = jax.random.split(jax.random.key(0), len(DIAGNOSTICS))
    hypers = Hyper.of(task)._replace(world=worlds)
    rates = jax.tree.map(lambda rate: np.broadcast_to(rate, len(DIAGNOSTICS)), hypers[:-1])
    states, _ = jax.jit(learn)(keys, Hyper(*rates, world=worlds))
    seen = jnp.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.5]])  # s, and the middle of the delayed episode

    def look(params):
        out = task.policy.bind(params)(seen)
        return out.values_B, jax.nn.softmax(out.distribution.logits_BxA)[:, 1]

    values, probabilities = jax.jit(jax.vmap(look))(states.learner.params)
    names = list(DIAGNOSTICS)
    return {name: (np.asarray(values[i]), np.asarray(probabilities[i])) for i, name in enumerate(names)}


@pytest.mark.parametrize("algorithm", TRAININGS)
def test_diagnostic_tasks_get_their_known_answers(algorithm: str):
    answers = solved(algorithm)
    near = functools.partial(np.testing.assert_allclose, atol=0.1)
    near(answers["constant"][0][:2], [1, 1], err_msg="a constant reward: the value must become it")
    near(answers["observation"][0][:2], [-1, 1], err_msg="the value must follow the observation")
    near(answers["delayed"][0], [GAMMA, GAMMA, 1], err_msg="a reward one step later is worth gamma")
    near(answers["action"][1][:2], [1, 1], err_msg="the action that pays must be taken")
    near(answers["action"][0][:2], [1, 1], atol=0.15)
    near(answers["both"][1][:2], [0, 1], err_msg="the action must follow the observation")
    near(answers["both"][0][:2], [1, 1], atol=0.15)


def test_first_minibatch_is_on_policy_and_a_step_is_a_function_of_key_and_step():
    training = ActorCriticTraining(n_envs=8, n_steps=16, batch_size=None, n_epochs=1, anneal=True)
    task = Task.of(CartPole(), training, SMALL)
    hyper, key = Hyper.of(task), jax.random.key(1)
    step = jax.jit(functools.partial(update_step, task))
    state = jax.jit(functools.partial(init_state, task))(jax.random.key(0), hyper.world)
    after, metrics = step(state, hyper, key)
    again, same = step(state, hyper, key)
    jax.tree.map(np.testing.assert_array_equal, (after.learner, metrics), (again.learner, same))
    numbers = finalize(metrics)
    assert numbers["train/ratio"] == pytest.approx(1.0, abs=1e-6)
    assert numbers["train/approx_kl"] == pytest.approx(0.0, abs=1e-6) and numbers["train/clip_fraction"] == 0
    assert numbers["train/entropy_loss"] == pytest.approx(-np.log(2), abs=1e-3)
    later, _ = step(state._replace(learner=state.learner._replace(step=jnp.array(1, jnp.int32))), hyper, key)
    assert not np.array_equal(later.observation, after.observation), "another step draws other actions"
    third, _ = step(after, hyper._replace(learning_rate=np.float32(0.0)), key)
    jax.tree.map(np.testing.assert_array_equal, third.learner.params, after.learner.params)
    assert step._cache_size() == 1, "states, rates and keys must not compile anew"
    assert int(third.learner.step) == 2


def lesson_of(count: int) -> Lesson:
    random = np.random.default_rng(0)
    numbers = random.normal(size=(4, count)).astype(np.float32)
    return Lesson(
        jnp.asarray(random.normal(size=(count, 3)), jnp.float32),
        jnp.asarray(random.integers(2, size=count), jnp.int32),
        jnp.asarray(-0.7 + 0.3 * numbers[0]),
        *(jnp.asarray(row) for row in numbers[1:]),
    )


def test_objective_against_numpy():
    policy = define_actor_critic(Box((3,)), Discrete(2), SMALL)
    training = ActorCriticTraining(clip_range_vf=0.3, ent_coef=0.01, vf_coef=0.7, clip_range=0.1)
    batch = lesson_of(12)
    params = jax.tree.map(lambda leaf: leaf * 3.0, policy.init(jax.random.key(0)))
    loss, metrics = jax.jit(functools.partial(objective, policy, training))(
        params, batch, Hyper.of_training(training)
    )
    out = policy.bind(params)(batch.observation)
    logits, values = np.asarray(out.distribution.logits_BxA, np.float64), np.asarray(out.values_B)
    logp_all = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    logp = logp_all[np.arange(12), batch.action]
    advantages = np.asarray(batch.advantages_N)
    advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    ratio = np.exp(logp - batch.logprobs_N)
    policy_loss = -np.minimum(advantages * ratio, advantages * np.clip(ratio, 0.9, 1.1)).mean()
    near = batch.values_N + np.clip(values - batch.values_N, -0.3, 0.3)
    value_loss = ((batch.returns_N - near) ** 2).mean()
    entropy = -(np.exp(logp_all) * logp_all).sum(axis=1).mean()
    wanted = {
        "train/policy_gradient_loss": policy_loss,
        "train/value_loss": value_loss,
        "train/entropy_loss": -entropy,
        "train/clip_fraction": (np.abs(ratio - 1) > 0.1).mean(),
        "train/approx_kl": ((ratio - 1) - np.log(ratio)).mean(),
        "train/loss": policy_loss + 0.7 * value_loss - 0.01 * entropy,
    }
    found = finalize(metrics)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    assert float(loss) == found["train/loss"]


def test_a2c_is_ppo_on_its_first_step():
    # Huang et al. 2022, arXiv:2205.09123: the ratio is 1, its gradient that of log p
    policy = define_actor_critic(Box((3,)), Discrete(2), SMALL)
    batch, params = lesson_of(12), policy.init(jax.random.key(0))
    fresh = policy.bind(params)(batch.observation).distribution.logprobs(batch.action)
    batch = batch._replace(logprobs_N=fresh)
    found = {}
    for training in (a2c_training(), dataclasses.replace(ActorCriticTraining(), normalize_advantage=False)):
        gradient = jax.jit(jax.grad(functools.partial(objective, policy, training), has_aux=True))
        found[training.algorithm], _ = gradient(params, batch, Hyper.of_training(training))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found["a2c"], found["ppo"]
    )


def test_directions_are_those_of_torch():
    gradients = [np.array([0.5, -2.0], np.float32), np.array([0.1, 1.0], np.float32)]
    square, mean, moment = np.zeros(2), np.zeros(2), np.zeros(2)
    optimizers = {name: make_direction(training) for name, training in TRAININGS.items()}
    states = {name: optimizer.init(jnp.zeros(2)) for name, optimizer in optimizers.items()}
    for t, gradient in enumerate(gradients, 1):
        square = 0.99 * square + 0.01 * gradient**2
        mean, moment = 0.9 * mean + 0.1 * gradient, 0.999 * moment + 0.001 * gradient**2
        wanted = {
            "a2c": gradient / (np.sqrt(square) + 1e-5),
            "ppo": mean / (1 - 0.9**t) / (np.sqrt(moment / (1 - 0.999**t)) + 1e-5),
        }
        for name, optimizer in optimizers.items():
            with jax.numpy_dtype_promotion("standard"):
                found, states[name] = optimizer.update(jnp.asarray(gradient), states[name])
            np.testing.assert_allclose(found, wanted[name], rtol=1e-4)
    assert isinstance(optimizers["ppo"], optax.GradientTransformation)


def test_played_episodes_are_whole():
    task = Task.of(Diagnostic(), TRAININGS["ppo"], SMALL)
    params = task.policy.init(jax.random.key(0))
    for name, steps in (("constant", 1), ("delayed", 2)):
        returns_E, lengths_E = play(task, params, jax.random.key(1), DIAGNOSTICS[name], episodes=5)
        assert returns_E.tolist() == [1.0] * 5 and lengths_E.tolist() == [steps] * 5


SEEDS = """
import functools, jax, numpy as np
from mmrlhf_jax.runtime.platform import prepare_jax
prepare_jax()
from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.cartpole import CartPole
from mmrlhf_jax.training.environment import Hyper, Task, train
from mmrlhf_jax.training.config.environment import ActorCriticTraining

training = ActorCriticTraining(n_envs=4, n_steps=16, batch_size=32, n_epochs=2, anneal=True)
task = Task.of(CartPole(), training, ActorCriticConfig(actor=(16,), critic=(16,)))
one = functools.partial(train, task, updates=4)
hyper = Hyper.of(task)
keys = jax.random.split(jax.random.key(0), 16)
single = jax.jit(one)
alone = [single(keys[k], hyper) for k in range(2)]
rates = alone[0][1]["train/learning_rate"][0]
np.testing.assert_allclose(rates, 3e-4 * np.array([1, 0.75, 0.5, 0.25]), rtol=1e-5)
for seeds in (2, 8, 16):
    together = jax.jit(jax.vmap(one, (0, None)))
    states, metrics = together(keys[:seeds], hyper)
    for k in range(2):
        close = lambda found, wanted: np.testing.assert_allclose(found[k], wanted, rtol=1e-3, atol=1e-5)
        jax.tree.map(close, states.learner.params, alone[k][0].learner.params)
    together(keys[-seeds:], hyper._replace(learning_rate=np.float32(1e-2)))
    assert together._cache_size() == 1
    print(seeds, "seeds")
"""


@pytest.mark.slow
def test_vmapped_seeds_finish_and_equal_single_runs(user_environment: dict[str, str]):
    done = subprocess.run(
        [sys.executable, "-c", SEEDS], env=user_environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:3] == ["2 seeds", "8 seeds", "16 seeds"]


def test_configs_say_what_is_wrong():
    for changes, message in (
        ({"batch_size": 60}, r"a divisor of n_steps x n_envs, 2048"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"algorithm": "dqn"}, "algorithm is 'dqn'"),
        ({"algorithm": "a2c"}, "a2c takes one step"),
        ({"clip_range_vf": 0.0}, "clip_range_vf is 0"),
    ):
        with pytest.raises(UserError, match=message):
            ActorCriticTraining(**changes)  # type: ignore[arg-type]
    fast, slow = (ActorCriticTraining(learning_rate=rate) for rate in (1e-2, 1e-4))
    assert fast.structure() == slow.structure() != ActorCriticTraining(n_steps=64).structure()
    assert (a2c_training(n_envs=16).rollout, ActorCriticTraining(n_envs=2).minibatches) == (80, 64)
