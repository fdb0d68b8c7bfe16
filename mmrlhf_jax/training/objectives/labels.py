"""Thumbs up or down for single answers."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.data.unpaired import LabelledSet
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.preference import expected_calibration_error
from mmrlhf_jax.evaluate.ranking import roc_auc
from mmrlhf_jax.modules import Params
from mmrlhf_jax.reward.losses import batch_threshold, label_loss
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.judgements import Judgements, from_labels
from mmrlhf_jax.training.objectives.base import Said


@dataclasses.dataclass(frozen=True)
class Labels:
    """A logistic regression on the reward above a threshold.

    Attributes:
      label_smoothing: how often a rater is taken to err.
      threshold: a number that is learned, or the mean reward of the batch.
      share: of thumbs up, from which a learned threshold starts.
    """

    label_smoothing: float = 0.0
    threshold: Literal["learned", "batch"] = "learned"
    share: float = 0.5
    headline: ClassVar[str] = "auc"
    shown: ClassVar[tuple[str, ...]] = ("loss", "rewards/accuracies")

    @classmethod
    def of(cls, labelled: LabelledSet, config: LossConfig) -> "Labels":
        """The objective for these labels.

        Raises:
          UserError: all labels are the same.
        """
        share = float(np.mean(labelled.label_R))
        if share in (0.0, 1.0):
            raise UserError("all labels are the same: thumbs up and thumbs down are needed to learn from")
        return cls(config.label_smoothing, config.threshold, share)

    def to_device(
        self, judged: LabelledSet, tokenizer: CaptionTokenizer, max_length: int, *, learn: bool
    ) -> Judgements:
        return from_labels(judged, tokenizer, max_length)

    def init(self, mean_reward: float = 0.0) -> Params:
        if self.threshold == "batch":
            return {}
        start = mean_reward - np.log(self.share / (1 - self.share))
        return {"threshold": jnp.asarray(start, jnp.float32)}

    def losses(self, params: Params, reward_BxS: jax.Array, said: Said) -> jax.Array:
        reward_B = reward_BxS[:, 0]
        return label_loss(reward_B, said["label"], self._threshold(params, reward_B), self.label_smoothing)

    def metrics(self, params: Params, reward_BxS: jax.Array, said: Said) -> dict[str, jax.Array]:
        above_B = reward_BxS[:, 0] > self._threshold(params, reward_BxS[:, 0])
        return {"rewards/accuracies": (above_B == said["label"]).astype(jnp.float32)}

    def score(self, reward_RxS: np.ndarray, said: Said) -> float:
        return roc_auc(reward_RxS[:, 0], np.asarray(said["label"]))

    def measure(
        self, params: Params, reward_RxS: np.ndarray, said: Said, picture_R: np.ndarray
    ) -> dict[str, Any]:
        """Area under the curve; accuracy at the threshold, with its interval; likelihood; calibration."""
        reward_R, label_R = jnp.asarray(reward_RxS[:, 0]), np.asarray(said["label"])
        threshold = float(self._threshold(params, reward_R))
        surplus_R = reward_RxS[:, 0] - threshold
        probability_R = 1 / (1 + np.exp(-surplus_R))
        return {
            "auc": self.score(reward_RxS, said),
            "label_accuracy": bootstrap_mean(((surplus_R > 0) == label_R).astype(float), clusters=picture_R),
            "log_likelihood": -float(np.mean(label_loss(reward_R, said["label"], threshold))),
            "calibration_error": expected_calibration_error(probability_R, label_R.astype(float)),
            "answers": len(label_R),
            "thumbs_up": float(np.mean(label_R)),
            "threshold": threshold,
        }

    def _threshold(self, params: Params, reward_B: jax.Array) -> jax.Array:
        return params["threshold"] if self.threshold == "learned" else batch_threshold(reward_B)
