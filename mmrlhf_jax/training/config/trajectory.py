"""Learning a reward from comparisons of trajectories: what the stage is told. Free of jax."""

import dataclasses
from typing import Literal

from mmrlhf_jax.config import finite, fraction, non_negative, one_of, positive, positive_int

Second = Literal["policy", "untrained"]


@dataclasses.dataclass(frozen=True)
class TrajectoryConfig:
    """How much is asked, and how the reward is learned."""

    rounds: int = 2
    pairs: int = 256
    """Comparisons in each round; all rounds so far are learned from."""
    length: int = 16
    """Steps of a segment."""
    same_start: bool = False
    """Both segments of a pair begin in the same state, as two answers to one prompt: what tells them apart is
    then what was done, and not what was met."""
    second: Second = "policy"
    """Who acts in a pair's second segment: the policy too, or one that has learned nothing, so that pairs
    differ even where the policy is sure of itself, and actions that it has given up are still compared."""
    reward_steps: int = 300
    """Gradient steps on the reward in each round."""
    reward_batch: int = 64
    """Comparisons in a gradient step."""
    reward_learning_rate: float = 1e-3
    reward_max_grad_norm: float = 0.5
    reward_weight_decay: float = 0.0
    """Of AdamW; with few comparisons it keeps the reward from knowing them by heart."""
    label_smoothing: float = 0.05
    updates: int = 20
    """PPO iterations in each round."""
    held_out: int = 64
    """Comparisons in each round that nothing is learned from: what the learned reward is measured on."""
    rater_noise: float = 0.0
    """Share of the comparisons in which the simulated rater says the opposite of what he means."""
    rater_threshold: float = 1e-6
    """Differences of the true return below this are ties to him."""
    offset: float = 0.0
    """Taken off every step's normalised reward: segments of one length cannot tell what it costs to go on."""

    def __post_init__(self) -> None:
        for name in ("rounds", "pairs", "length", "reward_steps", "reward_batch", "updates", "held_out"):
            positive_int(name, getattr(self, name), "16")
        for name in ("reward_learning_rate", "reward_max_grad_norm"):
            positive(name, getattr(self, name))
        one_of(Second, self.second, "second")
        non_negative("reward_weight_decay", self.reward_weight_decay, "0.1")
        fraction("label_smoothing", self.label_smoothing, "0.05")
        fraction("rater_noise", self.rater_noise, "0.1")
        finite("offset", self.offset, "0.5")
        non_negative("rater_threshold", self.rater_threshold, "1e-6")
