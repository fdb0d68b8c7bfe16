"""What a kind of judgement asks of the rewards: a loss, what is logged of a step, held-out measures."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.preference import expected_calibration_error, reliability_curve, win_points
from mmrlhf_jax.modules import Params
from mmrlhf_jax.reward.losses import bradley_terry_loss, centering_loss

Said = dict[str, Any]  # arrays with R leading rows, see `Judgements.said`


class Objective(Protocol):
    """One kind of judgement. Hashable: it is static in the compiled step.

    Attributes:
      headline: the number among the held-out measures that is given without the true picture too.
      shown: metrics of a step that the progress bar shows.
    """

    headline: str
    shown: tuple[str, ...]

    def init(self) -> Params:
        """What is learned beside the reward model; empty where nothing is."""

    def losses(self, params: Params, reward_BxS: jax.Array, said: Said) -> jax.Array:
        """The loss of each judgement, (B,)."""

    def metrics(self, params: Params, reward_BxS: jax.Array, said: Said) -> dict[str, jax.Array]:
        """Numbers of each judgement, (B,) each, whose means are logged."""

    def score(self, reward_RxS: np.ndarray, said: Said) -> float:
        """The headline."""

    def measure(
        self, params: Params, reward_RxS: np.ndarray, said: Said, picture_R: np.ndarray
    ) -> dict[str, Any]:
        """Held-out measures; intervals resample the pictures, whose numbers are `picture_R`."""


@dataclasses.dataclass(frozen=True)
class Comparisons:
    """Two answers, the chosen one first: Bradley-Terry."""

    label_smoothing: float = 0.0
    center: float = 0.0  # weight of the term that keeps rewards near zero
    headline = "accuracy"
    shown = ("loss", "rewards/accuracies")

    def init(self) -> Params:
        return {}

    def losses(self, params: Params, reward_BxS: jax.Array, said: Said) -> jax.Array:
        chosen_B, rejected_B = reward_BxS[:, 0], reward_BxS[:, 1]
        each_B = bradley_terry_loss(chosen_B, rejected_B, self.label_smoothing)
        return each_B + self.center * centering_loss(chosen_B, rejected_B)

    def metrics(self, params: Params, reward_BxS: jax.Array, said: Said) -> dict[str, jax.Array]:
        margin_B = reward_BxS[:, 0] - reward_BxS[:, 1]
        return {"rewards/accuracies": (margin_B > 0).astype(jnp.float32), "rewards/margins": margin_B}

    def score(self, reward_RxS: np.ndarray, said: Said) -> float:
        return float(np.mean(win_points(reward_RxS[:, 0] - reward_RxS[:, 1])))

    def measure(
        self, params: Params, reward_RxS: np.ndarray, said: Said, picture_R: np.ndarray
    ) -> dict[str, Any]:
        """Accuracy with its interval, and calibration."""
        margin_R = reward_RxS[:, 0] - reward_RxS[:, 1]
        # Half of the pairs are turned round: with the chosen answer always first, every outcome would be 1.
        turned_R = np.arange(len(margin_R)) % 2 == 1
        probability_R = 1 / (1 + np.exp(-np.where(turned_R, -margin_R, margin_R)))
        outcome_R = np.where(turned_R, 0.0, 1.0)
        return {
            "accuracy": bootstrap_mean(win_points(margin_R), clusters=picture_R),
            "pairs": len(margin_R),
            "calibration_error": expected_calibration_error(probability_R, outcome_R),
            "reliability": reliability_curve(probability_R, outcome_R),
        }
