"""Looks at held-out pictures during reinforcement learning, and when they ring an alarm."""

import dataclasses

from mmrlhf_jax.config import non_negative, positive, positive_int
from mmrlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """How the watch of --watch-every looks, and what it takes for an alarm (`evaluate.alarms`)."""

    pictures: int = 128
    """Held-out combinations to write captions for."""
    greedy: bool = False
    """Take the likeliest captions rather than samples at --temperature."""
    t: float = 3.0
    """A change counts from this t statistic on, over paired differences of the pictures."""
    patience: int = 2
    """Looks in a row in which an alarm's condition must hold."""
    disagreement: float = 1.5
    """The reward ensemble's disagreement, as a multiple of that over the SFT policy's captions."""
    repetition: float = 0.05
    """Rise of the share of repeated pairs of tokens."""
    length: float = 0.25
    """Change of the mean length, as a share of that of the SFT policy's captions."""

    def __post_init__(self) -> None:
        for name in ("pictures", "patience"):
            positive_int(f"watch.{name}", getattr(self, name), "2")
        if self.pictures < 2:  # differences of one have no spread
            raise UserError("--watch.pictures 1: an alarm compares several, e.g. --watch.pictures 64")
        for name in ("t", "disagreement"):
            positive(f"watch.{name}", getattr(self, name), "1.5")
        for name in ("repetition", "length"):
            non_negative(f"watch.{name}", getattr(self, name), "0.1")
