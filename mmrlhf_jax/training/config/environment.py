"""How an actor-critic learns in an environment, with SB3's names and defaults. Free of jax."""

import dataclasses
from typing import Literal, get_args

from mmrlhf_jax.config import finite, fraction, non_negative, positive, positive_int
from mmrlhf_jax.errors import UserError

Algorithm = Literal["ppo", "a2c"]

# The fields of `ActorCriticTraining` that shape nothing.
RATES = (
    "learning_rate",
    "gamma",
    "gae_lambda",
    "clip_range",
    "clip_range_vf",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
)


@dataclasses.dataclass(frozen=True)
class ActorCriticTraining:
    """PPO (Schulman et al. 2017) or A2C (Mnih et al. 2016); the defaults are SB3's for PPO."""

    algorithm: Algorithm = "ppo"
    n_envs: int = 1
    """Copies of the environment."""
    n_steps: int = 2048
    """Steps of each copy between two updates."""
    batch_size: int | None = 64
    """Steps in a minibatch; none: the whole rollout."""
    n_epochs: int = 10
    """Passes over each rollout."""
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = None
    """How far a value may move; none: as far as it likes."""
    normalize_advantage: bool = True
    """Within each minibatch."""
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    use_rms_prop: bool = False
    """RMSprop instead of Adam."""
    anneal: bool = False
    """Learning rate and clip range fall to zero along a line."""

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            raise UserError(
                f"algorithm is {self.algorithm!r}: choose one of {', '.join(get_args(Algorithm))}"
            )
        for name in ("n_envs", "n_steps", "n_epochs"):
            positive_int(name, getattr(self, name), "8")
        if self.batch_size is not None:
            positive_int("batch_size", self.batch_size, "64")
        non_negative("learning_rate", self.learning_rate, "3e-4")
        for name in ("gamma", "gae_lambda"):
            fraction(name, getattr(self, name), "0.99")
        positive("clip_range", self.clip_range, "0.2")
        if self.clip_range_vf is not None:
            positive("clip_range_vf", self.clip_range_vf, "0.2")
        finite("ent_coef", self.ent_coef, "0.01")
        non_negative("vf_coef", self.vf_coef, "0.5")
        positive("max_grad_norm", self.max_grad_norm, "0.5")
        if self.algorithm == "a2c" and (self.n_epochs > 1 or self.minibatches > 1):
            raise UserError("a2c takes one step on each rollout: leave n_epochs at 1 and batch_size out")
        if self.rollout % (self.batch_size or self.rollout):
            raise UserError(
                f"batch_size is {self.batch_size}: give a divisor of n_steps x n_envs, {self.rollout}"
            )

    def structure(self) -> "ActorCriticTraining":
        """The same with default rates: all that a compilation depends on, where the rates are traced."""
        return dataclasses.replace(self, **dict.fromkeys(RATES, 1.0))  # type: ignore[arg-type]

    @property
    def rollout(self) -> int:
        """Steps between two updates, of all copies together."""
        return self.n_steps * self.n_envs

    @property
    def minibatches(self) -> int:
        """Gradient steps in one pass."""
        return max(1, self.rollout // (self.batch_size or self.rollout))


def a2c_training(**changes: object) -> ActorCriticTraining:
    """SB3's defaults for A2C."""
    defaults: dict[str, object] = {
        "algorithm": "a2c",
        "n_steps": 5,
        "batch_size": None,
        "n_epochs": 1,
        "learning_rate": 7e-4,
        "gae_lambda": 1.0,
        "normalize_advantage": False,
        "use_rms_prop": True,
    }
    return ActorCriticTraining(**{**defaults, **changes})  # type: ignore[arg-type]
