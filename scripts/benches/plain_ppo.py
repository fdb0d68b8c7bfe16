"""PPO on gymnax's CartPole in one hand-written loop, in the manner of PureJaxRL (Lu et al. 2022).

It stands for what people write for one task: no module system, no protocol of environments, no metrics.
Sizes, network and rates are those of the case that it is the peer of; the auto-reset is gymnax's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import optax

from mmrlhf_jax.training.config.environment import ActorCriticTraining

WIDTH = 64  # of both hidden layers of actor and critic


class Transition(NamedTuple):
    """A step of all copies."""

    observation: jax.Array
    action: jax.Array
    logprob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def dense(key: jax.Array, inputs: int, outputs: int, gain: float) -> tuple[jax.Array, jax.Array]:
    """An orthogonal kernel and a bias of zeros."""
    return jax.nn.initializers.orthogonal(gain)(key, (inputs, outputs)), jnp.zeros(outputs)


def network(key: jax.Array, inputs: int, outputs: int, gain: float) -> list[tuple[jax.Array, jax.Array]]:
    """Two hidden layers and an output."""
    first, second, last = jax.random.split(key, 3)
    root = 2.0**0.5
    return [
        dense(first, inputs, WIDTH, root),
        dense(second, WIDTH, WIDTH, root),
        dense(last, WIDTH, outputs, gain),
    ]


def forward(layers: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """tanh between the layers."""
    for kernel, bias in layers[:-1]:
        x = jnp.tanh(x @ kernel + bias)
    kernel, bias = layers[-1]
    return x @ kernel + bias


def make_iteration(training: ActorCriticTraining) -> tuple[Any, Callable[[Any], Any]]:
    """The first state, and the compiled iteration state → state."""
    environment, params = gymnax.make("CartPole-v1")
    copies = training.n_envs
    optimizer = optax.chain(
        optax.clip_by_global_norm(training.max_grad_norm), optax.adam(training.learning_rate, eps=1e-5)
    )

    def choose(logits: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)[:, 0]

    def act(carry: Any, _: None) -> tuple[Any, Transition]:
        weights, state, observation, key = carry
        key, key_action, key_step = jax.random.split(key, 3)
        logits, value = forward(weights["actor"], observation), forward(weights["critic"], observation)[:, 0]
        action = jax.random.categorical(key_action, logits)
        following, state, reward, ended, cut, _ = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(
            jax.random.split(key_step, copies), state, action, params
        )
        taken = Transition(observation, action, choose(logits, action), value, reward, ended | cut)
        return (weights, state, following, key), taken

    def advantages(taken: Transition, last_value: jax.Array) -> jax.Array:
        def back(carry: tuple[jax.Array, jax.Array], now: Transition) -> tuple[Any, jax.Array]:
            advantage, value_after = carry
            alive = 1.0 - now.done
            delta = now.reward + training.gamma * value_after * alive - now.value
            advantage = delta + training.gamma * training.gae_lambda * alive * advantage
            return (advantage, now.value), advantage

        start = jnp.zeros_like(last_value), last_value
        return jax.lax.scan(back, start, taken, reverse=True, unroll=16)[1]

    def loss(weights: Any, batch: tuple[Transition, jax.Array, jax.Array]) -> jax.Array:
        taken, advantage, target = batch
        logits = forward(weights["actor"], taken.observation)
        value = forward(weights["critic"], taken.observation)[:, 0]
        ratio = jnp.exp(choose(logits, taken.action) - taken.logprob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1.0 - training.clip_range, 1.0 + training.clip_range)
        policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
        entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1).mean()
        value_loss = jnp.square(value - target).mean()
        return policy_loss + training.vf_coef * value_loss - training.ent_coef * entropy

    def descend(carry: Any, batch: Any) -> tuple[Any, None]:
        weights, moments = carry
        updates, moments = optimizer.update(jax.grad(loss)(weights, batch), moments, weights)
        return (optax.apply_updates(weights, updates), moments), None

    def epoch(carry: Any, key: jax.Array) -> tuple[Any, None]:
        learned, whole = carry
        order = jax.random.permutation(key, training.rollout).reshape(training.minibatches, -1)
        return (jax.lax.scan(descend, learned, jax.tree.map(lambda leaf: leaf[order], whole))[0], whole), None

    @jax.jit
    def iteration(state: Any) -> Any:
        weights, moments, world, observation, key = state
        carry, taken = jax.lax.scan(act, (weights, world, observation, key), None, length=training.n_steps)
        _, world, observation, key = carry
        advantage = advantages(taken, forward(weights["critic"], observation)[:, 0])
        whole = taken, advantage, advantage + taken.value
        flat = jax.tree.map(lambda leaf: leaf.reshape(training.rollout, *leaf.shape[2:]), whole)
        key, key_epochs = jax.random.split(key)
        (learned, _), _ = jax.lax.scan(
            epoch, ((weights, moments), flat), jax.random.split(key_epochs, training.n_epochs)
        )
        return *learned, world, observation, key

    key = jax.random.key(0)
    key_actor, key_critic, key_reset = jax.random.split(key, 3)
    inputs, actions = environment.observation_space(params).shape[0], environment.action_space(params).n
    weights = {
        "actor": network(key_actor, inputs, actions, 0.01),
        "critic": network(key_critic, inputs, 1, 1.0),
    }
    observation, world = jax.vmap(environment.reset, in_axes=(0, None))(
        jax.random.split(key_reset, copies), params
    )
    return (weights, optimizer.init(weights), world, observation, key), iteration
