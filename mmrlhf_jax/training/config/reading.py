"""Learning to read before learning to act: what the stage is told. Free of jax."""

import dataclasses

from mmrlhf_jax.config import non_negative_int, positive, positive_int


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """Which word does an instruction leave out? Picture and other words tell, and nobody has to judge."""

    steps: int = 0
    """Gradient steps, on new rooms each; 0: encoders start from nothing."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        non_negative_int("reading.steps", self.steps, "400")
        positive_int("reading.batch_size", self.batch_size, "128")
        for name in ("learning_rate", "max_grad_norm"):
            positive(f"reading.{name}", getattr(self, name))
