"""An actor-critic on disk: config.json says what it is, model.safetensors holds it and its optimizer."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.spaces import Space, from_plain, to_plain
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.policy.actor_critic import define_actor_critic
from mmrlhf_jax.training.config.environment import ActorCriticTraining
from mmrlhf_jax.training.environment import Policy, init_learner
from mmrlhf_jax.types import TrainState


@dataclasses.dataclass(frozen=True)
class SavedAgent:
    """What config.json holds."""

    architecture: ActorCriticConfig
    training: ActorCriticTraining
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    num_timesteps: int
    seed: int

    @classmethod
    def of(
        cls,
        architecture: ActorCriticConfig,
        training: ActorCriticTraining,
        spaces: tuple[Space, Space],
        *,
        num_timesteps: int,
        seed: int,
    ) -> "SavedAgent":
        """`spaces`: those of observations and actions."""
        observation, action = spaces
        return cls(architecture, training, to_plain(observation), to_plain(action), num_timesteps, seed)

    def spaces(self) -> tuple[Space, Space]:
        """Those of observations and actions."""
        return from_plain(self.observation_space), from_plain(self.action_space)

    def policy(self) -> Policy:
        """Without parameters."""
        return define_actor_critic(*self.spaces(), self.architecture)


def save_agent(folder: str | Path, agent: SavedAgent, learner: TrainState) -> None:
    """Writes the folder; what lay in it under these names is replaced."""
    save_model(folder, agent, learner)


def load_agent(folder: str | Path) -> tuple[SavedAgent, TrainState]:
    """What `save_agent` wrote. Raises UserError for a missing, damaged or foreign folder."""
    agent = load_architecture(folder, SavedAgent)
    init = functools.partial(init_learner, agent.policy(), agent.training)
    return agent, load_params(folder, jax.eval_shape(init, jax.random.key(0)))
