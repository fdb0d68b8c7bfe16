"""A reward on single steps, learned from comparisons of segments of trajectories."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.protocol import Observation
from mmrlhf_jax.envs.spaces import Discrete, Leaf, Space
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.policy.observation import Mlp, ObservationEncoder, flat_size, flatten, linear
from mmrlhf_jax.reward.losses import bradley_terry_loss


class Segments(NamedTuple):
    """N pieces of trajectories, T steps each."""

    observation: Any  # array or dict of arrays (N, T, ...)
    action: jax.Array  # (N, T) or (N, T, D)


class LearnedReward(NamedTuple):
    """What `normalised_reward` needs."""

    params: Params
    mean: jax.Array  # () float32, of the raw reward over the steps that it was learned from
    spread: jax.Array  # () float32, its standard deviation there


class SegmentReward(nnx.Module):
    """r(observation, action): the actor-critic's encoder, layers as wide as the critic's, one number.

    Of Discrete actions each has an output of its own, as in a Q-network: what an action is worth may then
    depend on all of the observation. Other actions enter beside the encoded observation.
    """

    def __init__(self, observation: Space, action: Leaf, config: ActorCriticConfig, *, rngs: nnx.Rngs):
        self.action_space = action
        self.encoder = ObservationEncoder(observation, config, rngs=rngs)
        self.by_output = isinstance(action, Discrete)
        inputs = self.encoder.width + (0 if self.by_output else flat_size(action))
        self.hidden = Mlp(inputs, config.critic, config.activation, rngs=rngs)
        self.out = linear(self.hidden.width, flat_size(action) if self.by_output else 1, 1.0, rngs)

    def __call__(self, observation: Observation, action: jax.Array) -> jax.Array:
        """One number for each of B steps, (B,)."""
        seen_BxK, action_BxA = self.encoder(observation), flatten(self.action_space, action)
        if self.by_output:
            return jnp.sum(self.out(self.hidden(seen_BxK)) * action_BxA, axis=1)
        return self.out(self.hidden(jnp.concatenate([seen_BxK, action_BxA], axis=-1)))[:, 0]

    def returns(self, segments: Segments) -> jax.Array:
        """The sum over the steps of each segment, (N,)."""
        count, length = segments.action.shape[:2]
        flat = jax.tree.map(lambda leaf: leaf.reshape(count * length, *leaf.shape[2:]), segments)
        return jnp.sum(self(*flat).reshape(count, length), axis=1)


@functools.cache
def define_segment_reward(
    observation: Space, action: Leaf, config: ActorCriticConfig
) -> Definition[SegmentReward]:
    """The reward for these spaces, without parameters; always the same object for the same arguments."""
    return define(lambda rngs: SegmentReward(observation, action, config, rngs=rngs))


def segment_loss(
    first_N: jax.Array, second_N: jax.Array, preference_N: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Cross-entropy of each comparison, (N,) in nats (Christiano et al. 2017, arXiv:1706.03741, eq. 1).

    -mu log P(1 > 2) - (1 - mu) log P(2 > 1),  P(1 > 2) = sigmoid(sum r(segment 1) - sum r(segment 2))

    Args:
      first_N, second_N: summed rewards of the two segments.
      preference_N: mu; 1 where the first is preferred, 0 where the second, 0.5 for a tie.
      label_smoothing: share of the comparisons that count as turned round. The paper mixes as much into P
        instead: a rater who answers at random in a tenth of the cases.
    """
    for_first_N = bradley_terry_loss(first_N, second_N, label_smoothing)
    for_second_N = bradley_terry_loss(second_N, first_N, label_smoothing)
    return preference_N * for_first_N + (1.0 - preference_N) * for_second_N


def normalised_reward(
    definition: Definition[SegmentReward], learned: LearnedReward, observation: Observation, action: jax.Array
) -> jax.Array:
    """The reward of one step, with zero mean and unit spread over what it was learned from: a scalar."""
    one = jax.tree.map(lambda leaf: leaf[None], (observation, action))
    return (definition.bind(learned.params)(*one)[0] - learned.mean) / (learned.spread + 1e-6)
