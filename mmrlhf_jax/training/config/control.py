"""Learning an environment on the device with several seeds: what the command line offers. Free of jax."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.config import positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config.environment import ActorCriticTraining, a2c_training

EnvironmentName = Literal["CartPole-v1", "Acrobot-v1", "Corners"]


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """An environment, an algorithm, and how many seeds learn side by side in one program."""

    preset: str = "cartpole-ppo"
    run: Path = Path("runs/control")
    """Folder of the whole run."""
    environment: EnvironmentName = "CartPole-v1"
    seeds: int = 5
    """Members, with seeds 0, 1, ...: one compiled program for all."""
    total_timesteps: int = 200_000
    """Steps of each member, in whole rollouts."""
    episodes: int = 100
    """Greedy episodes of each member at the end."""
    curve_points: int = 50
    """Lines of metrics of each member."""
    training: ActorCriticTraining = dataclasses.field(default_factory=ActorCriticTraining)
    policy: ActorCriticConfig = dataclasses.field(default_factory=ActorCriticConfig)
    dry_run: bool = False
    """Print shapes, parameter counts and the compiled step's memory; train nothing, write nothing."""

    def __post_init__(self) -> None:
        if self.environment not in get_args(EnvironmentName):
            names = ", ".join(get_args(EnvironmentName))
            raise UserError(f"environment is {self.environment!r}: choose one of {names}")
        for name in ("seeds", "total_timesteps", "episodes", "curve_points"):
            positive_int(name, getattr(self, name), "5")
        if not self.updates:
            raise UserError(
                f"total_timesteps is {self.total_timesteps}: give at least one rollout, "
                f"{self.training.rollout} (n_steps x n_envs)"
            )

    @property
    def updates(self) -> int:
        """Iterations of a member."""
        return self.total_timesteps // self.training.rollout


# By environment and algorithm; the first is the default.
PRESETS = {
    "cartpole-ppo": ControlConfig(
        total_timesteps=100_000,
        training=ActorCriticTraining(
            n_envs=8,
            n_steps=32,
            batch_size=256,
            n_epochs=20,
            learning_rate=1e-3,
            gamma=0.98,
            gae_lambda=0.8,
            anneal=True,
        ),
    ),
    "cartpole-a2c": ControlConfig(total_timesteps=500_000, training=a2c_training(n_envs=8, anneal=True)),
    "acrobot-ppo": ControlConfig(
        environment="Acrobot-v1",
        total_timesteps=300_000,
        training=ActorCriticTraining(
            n_envs=16, n_steps=256, batch_size=512, n_epochs=8, learning_rate=1e-3, gae_lambda=0.94
        ),
    ),
    "acrobot-a2c": ControlConfig(
        environment="Acrobot-v1",
        total_timesteps=500_000,
        training=a2c_training(n_envs=16, n_steps=16, learning_rate=1e-3),
    ),
    "corners-ppo": ControlConfig(
        environment="Corners",
        seeds=1,
        total_timesteps=60_000,
        training=ActorCriticTraining(
            n_envs=32,
            n_steps=16,
            batch_size=128,
            n_epochs=4,
            learning_rate=1e-3,
            gamma=0.5,
            ent_coef=0.01,
            anneal=True,
        ),
        policy=ActorCriticConfig("MultiInputPolicy", picture_width=64, fusion="concat"),
    ),
    "smoke": ControlConfig(
        seeds=2,
        total_timesteps=256,
        episodes=4,
        curve_points=2,
        training=ActorCriticTraining(n_envs=4, n_steps=16, batch_size=32, n_epochs=1),
        policy=ActorCriticConfig(actor=(8,), critic=(8,)),
    ),
}
