"""What of a policy is trained."""

import dataclasses
import re
from typing import Literal

from mmrlhf_jax.config import positive, positive_int
from mmrlhf_jax.errors import UserError

AdaptName = Literal["full", "lora", "head"]
CriticName = Literal["trunk", "separate"]


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of the decoder, for --adapt lora."""

    rank: int = 8
    alpha: float = 16.0
    """The adapters' product is multiplied by alpha / rank, as in PEFT."""
    layers: str = r"blocks\.\d+\.(query|key|value|out|gate|up|down)"
    """Which of the decoder's linear layers are adapted: a regular expression for their whole names."""

    def __post_init__(self) -> None:
        positive_int("lora.rank", self.rank, "8")
        positive("lora.alpha", self.alpha, "16")
        try:
            re.compile(self.layers)
        except re.error as error:
            raise UserError(
                f"--lora.layers {self.layers!r} is no regular expression ({error}): "
                r"give one, e.g. 'blocks\.\d+\.(query|value)'"
            ) from None

    @property
    def scale(self) -> float:
        """Factor of the adapters' product."""
        return self.alpha / self.rank
