"""Actor and critic for environments, with the defaults of Stable-Baselines3 (SB3)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.protocol import Observation
from mmrlhf_jax.envs.spaces import Box, Dict, Space
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import Definition, define
from mmrlhf_jax.policy.actions import Distribution, distribution, distribution_width
from mmrlhf_jax.policy.observation import Mlp, ObservationEncoder, linear


class ActorCriticOutput(NamedTuple):
    """What the policy does and how good it finds the state."""

    distribution: Distribution
    values_B: jax.Array


class ActorCritic(nnx.Module):
    """Two networks on the encoded observation: one acts, one judges. They share the encoder alone.

    With flat observations this is SB3's MlpPolicy; with dicts it is SB3's MultiInputPolicy, but with tokens,
    and with any fusion where SB3 concatenates.
    """

    def __init__(self, observation: Space, action: Space, config: ActorCriticConfig, *, rngs: nnx.Rngs):
        if isinstance(observation, Dict) != (config.kind == "MultiInputPolicy"):
            right = "MultiInputPolicy" if isinstance(observation, Dict) else "MlpPolicy"
            raise UserError(f'the policy is "{config.kind}": for observations of this kind use "{right}"')
        self.action_space = action
        self.encoder = ObservationEncoder(observation, config, rngs=rngs)
        self.actor = Mlp(self.encoder.width, config.actor, config.activation, rngs=rngs)
        self.critic = Mlp(self.encoder.width, config.critic, config.activation, rngs=rngs)
        width = distribution_width(action)
        self.act = linear(self.actor.width, width, 0.01, rngs)
        self.value = linear(self.critic.width, 1, 1.0, rngs)
        self.continuous = isinstance(action, Box)
        if self.continuous:
            self.log_std = nnx.Param(jnp.full((width,), config.log_std_init))

    def __call__(self, observation: Observation) -> ActorCriticOutput:
        """The distribution over actions, and the values."""
        x_BxK = self.encoder(observation)
        log_std_D = self.log_std[...] if self.continuous else None
        chosen = distribution(self.action_space, self.act(self.actor(x_BxK)), log_std_D)
        return ActorCriticOutput(chosen, self.value(self.critic(x_BxK))[:, 0])

    def values(self, observation: Observation) -> jax.Array:
        """The critic alone, (B,)."""
        return self.value(self.critic(self.encoder(observation)))[:, 0]


@functools.cache
def define_actor_critic(
    observation: Space, action: Space, config: ActorCriticConfig
) -> Definition[ActorCritic]:
    """The policy for these spaces, without parameters; always the same object for the same arguments."""
    return define(lambda rngs: ActorCritic(observation, action, config, rngs=rngs))
