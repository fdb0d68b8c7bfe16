"""Several seeds learn an environment on the device, as one compiled program."""

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.envs.acrobot import Acrobot
from mmrlhf_jax.envs.cartpole import CartPole
from mmrlhf_jax.envs.corners import Corners
from mmrlhf_jax.envs.protocol import Environment
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.metrics import MetricsWriter
from mmrlhf_jax.training.config.control import ControlConfig, EnvironmentName
from mmrlhf_jax.training.environment import (
    EnvironmentState,
    Hyper,
    Task,
    init_state,
    play,
    train,
    update_step,
)
from mmrlhf_jax.training.loop import describe
from mmrlhf_jax.training.saved_agent import SavedAgent, save_agent
from mmrlhf_jax.types import Metrics

ENVIRONMENTS: dict[EnvironmentName, Environment] = {
    "CartPole-v1": CartPole(),
    "Acrobot-v1": Acrobot(),
    "Corners": Corners(size=12),
}


class Outcome(NamedTuple):
    """What K members learned; every leaf has a leading axis of K."""

    states: EnvironmentState
    metrics: Metrics  # (K, updates) sums and weights
    returns_KxE: np.ndarray  # of greedy episodes after the training
    seconds: float  # of the training, without compilation


def make_task(config: ControlConfig) -> Task:
    """The environment, the policy and the training that `config` names."""
    return Task.of(ENVIRONMENTS[config.environment], config.training, config.policy)


def learn_seeds(config: ControlConfig, seeds: Sequence[int]) -> Outcome:
    """Trains one member for each seed, all of them in one vmapped program, and has each play."""
    task = make_task(config)
    hyper = Hyper.of(task)
    keys_K = jnp.stack([jax.random.key(seed) for seed in seeds])
    together = jax.vmap(functools.partial(train, task, updates=config.updates), in_axes=(0, None))
    compiled = jax.jit(together).lower(keys_K, hyper).compile()
    start = time.perf_counter()
    states, metrics = jax.block_until_ready(compiled(keys_K, hyper))
    seconds = time.perf_counter() - start
    playing = functools.partial(play, task, world=hyper.world, episodes=config.episodes)
    returns_KxE, _ = jax.vmap(lambda params, key: playing(params, key))(states.learner.params, keys_K)
    return Outcome(states, metrics, np.asarray(returns_KxE), seconds)


def run(config: ControlConfig) -> dict[str, Any]:
    """Trains all members; leaves a curve and a model of each, which `mmrlhf_jax.sb3` loads, and the result.

    Returns:
      Mean return of the greedy episodes: of each member, of all together, and steps a second.
    """
    task = make_task(config)
    if config.dry_run:
        hyper = jax.tree.map(jnp.asarray, Hyper.of(task))
        state = jax.eval_shape(functools.partial(init_state, task), jax.random.key(0), hyper.world)
        arguments = {"state": state, "hyper": hyper, "key": jax.random.key(0)}
        describe("control", state.learner.params, jax.jit(functools.partial(update_step, task)), arguments)
        return {}
    # Nothing is kept half-way, so that an interrupted run starts anew.
    with StageFolder.open(config.run / "control", config, resume=True) as folder:
        if not folder.is_done:
            outcome = learn_seeds(config, range(config.seeds))
            for seed in range(config.seeds):
                write_member(config, task, outcome, seed)
            steps = config.seeds * config.updates * config.training.rollout
            means_K = outcome.returns_KxE.mean(axis=1)
            folder.finish(
                {
                    "ep_rew_mean": float(means_K.mean()),
                    "ep_rew_std_of_seeds": float(means_K.std()),
                    "ep_rew_mean_of_each": means_K.tolist(),
                    "steps_per_second": steps / outcome.seconds,
                }
            )
        result = folder.result()
    print(
        f"{config.environment}, {config.training.algorithm}: mean return {result['ep_rew_mean']:.1f} of "
        f"{config.seeds} seeds after {config.updates * config.training.rollout:,} steps each, "
        f"{result['steps_per_second']:,.0f} steps/s together"
    )
    return result


def write_member(config: ControlConfig, task: Task, outcome: Outcome, number: int) -> None:
    """The curve and the model of one member, under RUN/seed_S/control."""
    folder = config.run / f"seed_{number}" / "control"
    metrics = jax.tree.map(lambda leaf: np.asarray(leaf[number]), outcome.metrics)
    with MetricsWriter(folder) as writer:
        writer.truncate(0)
        for step, point in curve(metrics, config.curve_points):
            writer.write(step * config.training.rollout, point)
    environment = task.environment
    agent = SavedAgent.of(
        config.policy,
        config.training,
        (environment.observation_space, environment.action_space),
        num_timesteps=config.updates * config.training.rollout,
        seed=number,
    )
    save_agent(folder / "model", agent, jax.tree.map(lambda leaf: leaf[number], outcome.states.learner))


def curve(metrics: Metrics, points: int) -> Iterator[tuple[int, Metrics]]:
    """(updates done, metrics since the point before), at most `points` of them."""
    updates = len(next(iter(metrics.values()))[0])
    ends = np.unique(np.linspace(0, updates, min(points, updates) + 1).astype(int))
    for start, end in itertools.pairwise(ends):
        yield int(end), {name: (s[start:end].sum(), w[start:end].sum()) for name, (s, w) in metrics.items()}
