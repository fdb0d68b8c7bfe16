"""PPO and A2C in environments: an iteration is one compiled step, a whole training a pure function.

task = Task.of(CartPole(), ActorCriticTraining(n_envs=64, n_steps=32, batch_size=256))
train = jax.jit(functools.partial(train, task, updates=100))
state, metrics = train(jax.random.key(0), Hyper.of(task))
states, metrics = jax.vmap(train, (0, None))(jax.random.split(jax.random.key(0), 5), Hyper.of(task))
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.protocol import Environment, EnvParams, Observation, State
from mmrlhf_jax.envs.vector import Moment, reset_all, step_all
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.policy.actions import as_action, draw_noise
from mmrlhf_jax.policy.actor_critic import ActorCritic, define_actor_critic
from mmrlhf_jax.rl.losses import ppo_clip_loss
from mmrlhf_jax.rl.step_rollout import (
    Finished,
    Running,
    as_lesson,
    collect_steps,
    follow_episodes,
    no_episodes,
    step_advantages,
)
from mmrlhf_jax.rl.update import run_epochs
from mmrlhf_jax.training.config.environment import RATES, ActorCriticTraining
from mmrlhf_jax.training.optimize import apply_gradients
from mmrlhf_jax.types import Lesson, Metrics, Steps, TrainState

Policy = Definition[ActorCritic]
Rate = Any  # a float32 scalar of numpy or JAX


@dataclasses.dataclass(frozen=True)
class Task:
    """What is static: an environment, a policy without parameters, and how it learns."""

    environment: Environment
    policy: Policy
    training: ActorCriticTraining

    @classmethod
    def of(
        cls,
        environment: Environment,
        training: ActorCriticTraining | None = None,
        architecture: ActorCriticConfig | None = None,
    ) -> "Task":
        """The task of learning in `environment`, by default with SB3's PPO and MlpPolicy.

        Raises:
          UserError: the policy cannot read the observations or choose such actions.
        """
        policy = define_actor_critic(
            environment.observation_space, environment.action_space, architecture or ActorCriticConfig()
        )
        return cls(environment, policy, training or ActorCriticTraining())


class Hyper(NamedTuple):
    """Rates: traced, so that one compilation serves every value of them, and vmap sweeps over them."""

    learning_rate: Rate
    gamma: Rate
    gae_lambda: Rate
    clip_range: Rate
    clip_range_vf: Rate  # infinite: no clipping
    ent_coef: Rate
    vf_coef: Rate
    max_grad_norm: Rate
    world: EnvParams  # the environment's numbers

    @classmethod
    def of(cls, task: Task, world: EnvParams | None = None) -> "Hyper":
        """The rates of the task's config; `world`: other params than the environment's default ones."""
        return cls.of_training(task.training, task.environment.default_params if world is None else world)

    @classmethod
    def of_training(cls, training: ActorCriticTraining, world: EnvParams = None) -> "Hyper":
        """The rates of `training` alone."""
        rates = {name: getattr(training, name) for name in RATES}
        if rates["clip_range_vf"] is None:
            rates["clip_range_vf"] = float("inf")
        return cls(world=world, **{name: np.float32(rate) for name, rate in rates.items()})


class EnvironmentState(NamedTuple):
    """All that learning in an environment needs to go on."""

    learner: TrainState
    world: State  # of all copies
    observation: Observation  # that they show
    running: Running  # the episodes that are not over yet


def init_learner(policy: Policy, training: ActorCriticTraining, key: jax.Array) -> TrainState:
    """Fresh parameters and optimizer."""
    params = policy.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, make_direction(training).init(params))


def init_state(task: Task, key: jax.Array, world: EnvParams) -> EnvironmentState:
    """A fresh learner and the starts of `n_envs` episodes."""
    key_params, key_world = jax.random.split(key)
    return begin_episodes(task, init_learner(task.policy, task.training, key_params), key_world, world)


def begin_episodes(task: Task, learner: TrainState, key: jax.Array, world: EnvParams) -> EnvironmentState:
    """Any learner at the starts of `n_envs` episodes."""
    count = task.training.n_envs
    state, observation = reset_all(task.environment, key, world, count)
    return EnvironmentState(learner, state, observation, no_episodes(count))


def update_step(
    task: Task, state: EnvironmentState, hyper: Hyper, key: jax.Array
) -> tuple[EnvironmentState, Metrics]:
    """One iteration: rollout → advantages → epochs of updates → metrics; random by (key, step) alone."""
    key_noise, key_world, key_epochs = jax.random.split(jax.random.fold_in(key, state.learner.step), 3)
    world, observation, steps = rollout(task, state, hyper, key_noise, key_world)
    last_values_B = task.policy.bind(state.learner.params).values(observation)
    running, finished = follow_episodes(state.running, steps)
    learner, metrics = learn(
        task.policy, task.training, state.learner, steps, last_values_B, hyper, key_epochs
    )
    return EnvironmentState(learner, world, observation, running), metrics | episode_metrics(finished)


def rollout(
    task: Task, state: EnvironmentState, hyper: Hyper, key_noise: jax.Array, key_world: jax.Array
) -> tuple[State, Observation, Steps]:
    """`n_steps` of all copies under the policy as it is."""
    policy = task.policy.bind(state.learner.params)
    space = task.environment.action_space
    noise_TxBxN = draw_noise(space, key_noise, (task.training.n_steps, task.training.n_envs))

    def act(observation: Observation, noise_BxN: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        out = policy(observation)
        action = out.distribution.sample(noise_BxN)
        return action, out.distribution.logprobs(action), out.values_B

    def advance(key: jax.Array, world: State, action: jax.Array) -> Moment:
        return step_all(task.environment, key, world, as_action(space, action), hyper.world)

    return collect_steps(act, advance, policy.values, state.world, state.observation, key_world, noise_TxBxN)


def learn(
    policy: Policy,
    training: ActorCriticTraining,
    learner: TrainState,
    steps: Steps,
    last_values_B: jax.Array,
    hyper: Hyper,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """Advantages of a rollout, and all gradient steps on it."""
    advantages_TxB, returns_TxB = step_advantages(
        steps, last_values_B, gamma=hyper.gamma, lam=hyper.gae_lambda
    )
    lesson = as_lesson(steps, advantages_TxB, returns_TxB)
    optimizer = make_direction(training)

    def step(carry: tuple[Params, Any], batch: Lesson) -> tuple[tuple[Params, Any], Metrics]:
        params, opt_state = carry
        gradients, metrics = jax.grad(
            lambda params: objective(policy, training, params, batch, hyper), has_aux=True
        )(params)
        norm = optax.tree.norm(gradients)
        scale = jnp.minimum(1.0, hyper.max_grad_norm / (norm + 1e-6))  # as torch clips
        gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
        params, opt_state, moved = apply_gradients(
            optimizer, gradients, params, opt_state, hyper.learning_rate
        )
        metrics |= {"train/grad_norm": (norm, jnp.ones(())), "train/skipped_steps": moved["skipped_steps"]}
        return (params, opt_state), metrics

    (params, opt_state), metrics = run_epochs(
        step,
        (learner.params, learner.opt_state),
        lesson,
        key,
        epochs=training.n_epochs,
        minibatches=training.minibatches,
    )
    one = jnp.ones(())
    unexplained = jnp.var(lesson.returns_N - lesson.values_N) / jnp.var(lesson.returns_N)
    metrics["train/explained_variance"] = (1.0 - unexplained, one)
    metrics["train/learning_rate"] = (hyper.learning_rate, one)
    return TrainState(learner.step + 1, params, opt_state), metrics


def objective(
    policy: Policy, training: ActorCriticTraining, params: Params, batch: Lesson, hyper: Hyper
) -> tuple[jax.Array, Metrics]:
    """Policy loss + vf_coef squared error of the values - ent_coef entropy: means over the steps, as SB3's.

    The policy's loss is the clipped surrogate of PPO, or -A log p of A2C.
    """
    out = policy.bind(params)(batch.observation)
    logprobs_N = out.distribution.logprobs(batch.action)
    advantages_N = batch.advantages_N
    if training.normalize_advantage and advantages_N.size > 1:
        spread = jnp.std(advantages_N, ddof=1)
        advantages_N = (advantages_N - jnp.mean(advantages_N)) / (spread + 1e-8)
    near_N = batch.values_N + jnp.clip(
        out.values_B - batch.values_N, -hyper.clip_range_vf, hyper.clip_range_vf
    )
    value_loss = jnp.mean(jnp.square(batch.returns_N - near_N))
    entropy_loss = -jnp.mean(out.distribution.entropy())
    one = jnp.ones(())
    metrics = {"train/value_loss": (value_loss, one), "train/entropy_loss": (entropy_loss, one)}
    if training.algorithm == "a2c":
        policy_loss = -jnp.mean(advantages_N * logprobs_N)
        metrics["train/policy_loss"] = (policy_loss, one)
    else:
        loss_N, ratio_N = ppo_clip_loss(logprobs_N, batch.logprobs_N, advantages_N, hyper.clip_range)
        policy_loss = jnp.mean(loss_N)
        clipped_N = (jnp.abs(ratio_N - 1.0) > hyper.clip_range).astype(jnp.float32)
        metrics |= {
            "train/policy_gradient_loss": (policy_loss, one),
            # Schulman, "Approximating KL divergence": unbiased and never negative
            "train/approx_kl": (jnp.mean(ratio_N - 1.0 - (logprobs_N - batch.logprobs_N)), one),
            "train/clip_fraction": (jnp.mean(clipped_N), one),
            "train/ratio": (jnp.mean(ratio_N), one),
        }
    loss = policy_loss + hyper.vf_coef * value_loss + hyper.ent_coef * entropy_loss
    return loss, metrics | {"train/loss": (loss, one)}


def episode_metrics(finished: Finished) -> Metrics:
    """Mean return and length of the episodes that ended in a rollout; NaN where none did."""
    return {
        "rollout/ep_rew_mean": (finished.returns, finished.episodes),
        "rollout/ep_len_mean": (finished.lengths, finished.episodes),
    }


def train(task: Task, key: jax.Array, hyper: Hyper, *, updates: int) -> tuple[EnvironmentState, Metrics]:
    """The whole training: jit it with `task` and `updates` fixed, vmap it over key and hyper.

    Returns:
      The last state, and the metrics of every update, stacked: (sums (U,), weights (U,)).
    """
    key_init, key_step = jax.random.split(key)

    def step(state: EnvironmentState, number: jax.Array) -> tuple[EnvironmentState, Metrics]:
        remaining = 1.0 - number.astype(jnp.float32) / updates
        rates = annealed(hyper, remaining) if task.training.anneal else hyper
        return update_step(task, state, rates, key_step)

    return jax.lax.scan(step, init_state(task, key_init, hyper.world), jnp.arange(updates))


def annealed(hyper: Hyper, remaining: jax.Array | float) -> Hyper:
    """Learning rate and clip range times `remaining`, the share of the training that is still to come."""
    return hyper._replace(
        learning_rate=hyper.learning_rate * remaining, clip_range=hyper.clip_range * remaining
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames="episodes")
def play(
    task: Task, params: Params, key: jax.Array, world: EnvParams, *, episodes: int
) -> tuple[jax.Array, jax.Array]:
    """(returns, lengths), (E,) each, of whole episodes in which the policy takes its likeliest action."""
    policy, environment = task.policy.bind(params), task.environment
    key_reset, key_step = jax.random.split(key)

    class Playing(NamedTuple):
        time: jax.Array
        state: State
        observation: Observation
        running_E: jax.Array
        returns_E: jax.Array
        lengths_E: jax.Array

    def step(now: Playing) -> Playing:
        action = as_action(environment.action_space, policy(now.observation).distribution.mode())
        keys_E = jax.random.split(jax.random.fold_in(key_step, now.time), episodes)
        moved = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(keys_E, now.state, action, world)
        return Playing(
            now.time + 1,
            moved.state,
            moved.observation,
            now.running_E & ~moved.terminated & ~moved.truncated,
            now.returns_E + jnp.where(now.running_E, moved.reward, 0.0),
            now.lengths_E + now.running_E.astype(jnp.float32),
        )

    state, observation = reset_all(environment, key_reset, world, episodes)
    nothing_E = jnp.zeros(episodes)
    start = Playing(
        jnp.zeros((), jnp.int32), state, observation, jnp.ones(episodes, bool), nothing_E, nothing_E
    )
    done = jax.lax.while_loop(lambda now: jnp.any(now.running_E), step, start)
    return done.returns_E, done.lengths_E


def make_direction(training: ActorCriticTraining) -> optax.GradientTransformation:
    """Adam or RMSprop with epsilon where torch has it; the learning rate comes with each step."""
    if training.use_rms_prop:
        return optax.scale_by_rms(decay=0.99, eps=1e-5, eps_in_sqrt=False)
    return optax.scale_by_adam(eps=1e-5)
