"""Rates of which several values are tried at once."""

import dataclasses
import itertools
from typing import Any

from mmrlhf_jax.errors import UserError

Values = tuple[float, ...]
Setting = dict[str, float]  # name of a rate, e.g. "kl_coef" or "weights.preference" → its value


@dataclasses.dataclass(frozen=True)
class WeightSweep:
    """Values of the weights of the reward's terms."""

    fluency: Values = ()
    image_accuracy: Values = ()
    preference: Values = ()
    reference_accuracy: Values = ()
    considerate_wording: Values = ()
    length: Values = ()
    repetition: Values = ()
    text: Values = ()


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Values of rates, e.g. --sweep.kl-coef 0.01 0.05 0.2; of several rates every combination.

    Each combination is a policy of its own, for every seed of --seeds; all are trained in one program.
    """

    learning_rate: Values = ()
    critic_learning_rate: Values = ()
    clip: Values = ()
    value_clip: Values = ()
    value_weight: Values = ()
    entropy_weight: Values = ()
    gamma: Values = ()
    lam: Values = ()
    missing_end_penalty: Values = ()
    kl_coef: Values = ()
    kl_target: Values = ()
    weights: WeightSweep = dataclasses.field(default_factory=WeightSweep)

    def __post_init__(self) -> None:
        for name, values in self._given().items():
            if len(set(values)) < len(values):
                flag = name.replace("_", "-")
                raise UserError(f"--sweep.{flag} {' '.join(map(str, values))} names a value twice: drop one")

    @property
    def settings(self) -> list[Setting]:
        """Every combination of values, the last rate's changing fastest; a single empty one without any."""
        given = self._given()
        return [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]

    def _given(self) -> dict[str, Values]:
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "weights"}
        weights = {
            f"weights.{f.name}": getattr(self.weights, f.name) for f in dataclasses.fields(self.weights)
        }
        return {name: values for name, values in (own | weights).items() if values}


def with_rates(config: Any, setting: Setting) -> Any:
    """The stage's config with these rates, and without a sweep.

    Raises:
      UserError: the config refuses a value.
    """
    changes: dict[str, Any] = {"sweep": SweepConfig()}
    for name, value in setting.items():
        if name == "learning_rate":
            changes["optimizer"] = dataclasses.replace(config.optimizer, learning_rate=value)
        elif name.startswith("weights."):
            weights = changes.get("weights", config.weights)
            changes["weights"] = dataclasses.replace(weights, **{name.removeprefix("weights."): value})
        else:
            changes[name] = value
    return dataclasses.replace(config, **changes)
