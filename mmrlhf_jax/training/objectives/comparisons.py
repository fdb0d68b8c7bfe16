"""Comparisons of two answers, with or without ties."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.preference import (
    expected_calibration_error,
    reliability_curve,
    tie_calibrated_accuracy,
    win_points,
)
from mmrlhf_jax.modules import Params
from mmrlhf_jax.reward.losses import (
    Outcomes,
    bradley_terry_loss,
    centering_loss,
    davidson,
    outcome_loss,
    rao_kupper,
)
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.judgements import Judgements, from_preferences
from mmrlhf_jax.training.objectives.base import Said

_SHARES = (0.01, 0.9)  # of ties, between which a learned parameter starts


@dataclasses.dataclass(frozen=True)
class Comparisons:
    """Two answers, the chosen one first.

    Attributes:
      label_smoothing: how often a rater is taken to err.
      center: weight of the term that keeps rewards near zero.
      margin: factor on the margins that the file gives.
      ties: the model of ties; without one, nothing is learned from them.
      tie_parameter: log theta or log nu; None: learned.
      tie_share: share of ties among the judgements, from which a learned parameter starts.
    """

    label_smoothing: float = 0.0
    center: float = 0.0
    margin: float = 0.0
    ties: Literal["none", "rao_kupper", "davidson"] = "none"
    tie_parameter: float | None = None
    tie_share: float = 0.1
    headline: ClassVar[str] = "accuracy"
    shown: ClassVar[tuple[str, ...]] = ("loss", "rewards/accuracies")

    @classmethod
    def of(cls, preferences: PreferenceSet, config: LossConfig) -> "Comparisons":
        """The objective for these preferences.

        Raises:
          UserError: a margin is wanted and the file has none.
        """
        if config.margin and "margin" not in preferences.extras:
            raise UserError("the preferences have no column 'margin': leave --loss.margin at 0, or add it")
        share = 0.0 if preferences.tie_P is None else float(np.mean(preferences.tie_P))
        return cls(
            config.label_smoothing,
            config.center,
            config.margin,
            config.ties,
            config.tie_parameter,
            float(np.clip(share, *_SHARES)),
        )

    def to_device(
        self, judged: PreferenceSet, tokenizer: CaptionTokenizer, max_length: int, *, learn: bool
    ) -> Judgements:
        if judged.tie_P is not None and judged.tie_P.all():
            raise UserError(
                f"all {len(judged)} pairs of a part are ties: give more of which one side was chosen"
            )
        if learn and self.ties == "none" and judged.tie_P is not None:
            judged = judged.take(np.flatnonzero(~judged.tie_P))
        return from_preferences(judged, tokenizer, max_length)

    def init(self, mean_reward: float = 0.0) -> Params:
        """Starts where a tie of two equal answers is as likely as ties are in the file."""
        if self.ties == "none" or self.tie_parameter is not None:
            return {}
        if self.ties == "rao_kupper":  # P(tie) = tanh(log theta / 2)
            raw = np.log(np.expm1(2 * np.arctanh(self.tie_share)))
        else:  # P(tie) = nu / (2 + nu)
            raw = np.log(2 * self.tie_share / (1 - self.tie_share))
        return {"tie": jnp.asarray(raw, jnp.float32)}

    def outcomes(self, params: Params, reward_BxS: jax.Array, margin_B: jax.Array | float = 0.0) -> Outcomes:
        """Log-probabilities of first, second and tie under the model of ties."""
        difference_B = reward_BxS[:, 0] - reward_BxS[:, 1] - margin_B
        if self.ties == "rao_kupper":
            return rao_kupper(difference_B, self._tie_parameter(params))
        return davidson(difference_B, self._tie_parameter(params))

    def losses(self, params: Params, reward_BxS: jax.Array, said: Said) -> jax.Array:
        chosen_B, rejected_B = reward_BxS[:, 0], reward_BxS[:, 1]
        tie_B = said.get("tie", jnp.zeros(chosen_B.shape, bool))
        margin_B: jax.Array | float = 0.0
        if self.margin:
            margin_B = jnp.where(tie_B, 0.0, self.margin * said["margin"])
        if self.ties == "none":
            each_B = bradley_terry_loss(chosen_B, rejected_B, self.label_smoothing, margin_B)
        else:
            outcomes = self.outcomes(params, reward_BxS, margin_B)
            each_B = outcome_loss(outcomes, tie_B, self.label_smoothing)
        return each_B + self.center * centering_loss(chosen_B, rejected_B)

    def metrics(self, params: Params, reward_BxS: jax.Array, said: Said) -> dict[str, jax.Array]:
        margin_B = reward_BxS[:, 0] - reward_BxS[:, 1]
        right_B = (margin_B > 0).astype(jnp.float32)
        if "tie" in said:  # no order of a tie is right
            right_B = jnp.where(said["tie"], 0.5, right_B)
        return {"rewards/accuracies": right_B, "rewards/margins": margin_B}

    def score(self, reward_RxS: np.ndarray, said: Said) -> float:
        margin_R = reward_RxS[:, 0] - reward_RxS[:, 1]
        return float(np.mean(win_points(margin_R[~_ties(margin_R, said)])))

    def measure(
        self, params: Params, reward_RxS: np.ndarray, said: Said, picture_R: np.ndarray
    ) -> dict[str, Any]:
        """Accuracy where raters decided, with its interval; calibration; what is known of ties."""
        margin_R = reward_RxS[:, 0] - reward_RxS[:, 1]
        tie_R = _ties(margin_R, said)
        # Half of the pairs are turned round: with the chosen answer always first, every outcome would be 1.
        turned_R = np.arange(len(margin_R)) % 2 == 1
        probability_R = 1 / (1 + np.exp(-np.where(turned_R, -margin_R, margin_R)))
        outcome_R = np.where(tie_R, 0.5, np.where(turned_R, 0.0, 1.0))
        result: dict[str, Any] = {
            "accuracy": bootstrap_mean(win_points(margin_R[~tie_R]), clusters=picture_R[~tie_R]),
            "pairs": len(margin_R),
            "calibration_error": expected_calibration_error(probability_R, outcome_R),
            "reliability": reliability_curve(probability_R, outcome_R),
        }
        if tie_R.any():
            accuracy, threshold = tie_calibrated_accuracy(margin_R, tie_R)
            result |= {"ties": int(tie_R.sum()), "accuracy_with_ties": accuracy, "tie_margin": threshold}
        if self.ties != "none":
            outcomes = self.outcomes(params, jnp.asarray(reward_RxS))
            each_R = np.where(tie_R, outcomes.tie_B, outcomes.first_B)
            result |= {
                "log_likelihood": float(np.mean(each_R)),
                "tie_parameter": float(self._tie_parameter(params)),
            }
        return result

    def _tie_parameter(self, params: Params) -> jax.Array | float:
        if self.tie_parameter is not None:
            return self.tie_parameter
        return jax.nn.softplus(params["tie"]) if self.ties == "rao_kupper" else params["tie"]


def _ties(margin_R: np.ndarray, said: Said) -> np.ndarray:
    return np.asarray(said["tie"]) if "tie" in said else np.zeros(len(margin_R), bool)
