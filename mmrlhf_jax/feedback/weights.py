"""How much each aspect of a rubric counts."""

import dataclasses
import math
from collections.abc import Sequence

from mmrlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class AspectWeights:
    """Base of the weights of a rubric: one float field for each aspect, in the rubric's order.

    Only the proportions matter.

    Raises:
      UserError: a weight is negative or not finite, or all are zero.
    """

    def __post_init__(self) -> None:
        weights = dataclasses.astuple(self)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            names = ", ".join(field.name for field in dataclasses.fields(self))
            raise UserError(
                f"Rubric weights {weights} must be finite, not negative, and not all zero; "
                f"they are for {names}."
            )

    def mean(self, aspects: Sequence[float]) -> float:
        """The weighted mean of `aspects`, in [0, 1]."""
        weights = dataclasses.astuple(self)
        return sum(w * a for w, a in zip(weights, aspects, strict=True)) / sum(weights)
