"""What the reward model is taught by, for each kind of judgement. Free of jax."""

import dataclasses
from typing import Literal

from mmrlhf_jax.config import finite, fraction, non_negative
from mmrlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClickLossConfig:
    """How clicks in shown lists are corrected for position."""

    loss: Literal["softmax", "pairwise"] = "softmax"
    examination: Literal["log", "random_order", "none"] = "log"
    """Where the chance of each position to be examined is learned: by expectation maximisation from the whole
    log, from the lists that the column `random_order` marks, or nowhere: clicks count as they are."""
    prior: float = 1.0
    """Showings by which the relevance of each answer is drawn towards the mean while the curve is learned."""
    least_propensity: float = 0.1
    """Chances of examination below this count as this: bounds a click's weight."""
    self_normalise: bool = True
    """Divide the weights by their mean."""
    least_dwell: float = 0.0
    """Seconds from which on a click counts, where the log knows them."""

    def __post_init__(self) -> None:
        non_negative("loss.clicks.prior", self.prior, "1")
        fraction("loss.clicks.least_propensity", self.least_propensity, "0.1")
        non_negative("loss.clicks.least_dwell", self.least_dwell, "2")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What the reward model is taught by; which fields count follows from the kind of judgement."""

    label_smoothing: float = 0.05
    """How often a rater who compares, or gives a thumb, is taken to err."""
    center: float = 0.0
    """Comparisons: weight of the term that keeps rewards near zero."""
    ties: Literal["none", "rao_kupper", "davidson"] = "none"
    """Comparisons: the model of ties; without one, nothing is learned from them."""
    tie_parameter: float | None = None
    """log theta of Rao and Kupper (above 0), or log nu of Davidson; by default it is learned."""
    margin: float = 0.0
    """Comparisons: factor on the file's column `margin`, by which the chosen reward must lead."""
    aspects: tuple[str, ...] = ()
    """Ratings: the aspects to learn from; by default all."""
    threshold: Literal["learned", "batch"] = "learned"
    """Thumbs: the reward from which on a thumb goes up is learned, or it is the mean of the batch."""
    clicks: ClickLossConfig = dataclasses.field(default_factory=ClickLossConfig)

    def __post_init__(self) -> None:
        fraction("loss.label_smoothing", self.label_smoothing, "0.05")
        if self.label_smoothing >= 0.5:
            raise UserError(
                f"label_smoothing is {self.label_smoothing}: from 0.5 on nothing is learned; "
                "give e.g. --loss.label-smoothing 0.05"
            )
        non_negative("loss.center", self.center, "0.01")
        non_negative("loss.margin", self.margin, "1.0")
        if self.tie_parameter is not None:
            finite("loss.tie_parameter", self.tie_parameter, "0.5")
            if self.ties == "none" or (self.ties == "rao_kupper" and self.tie_parameter <= 0):
                raise UserError(
                    f"tie_parameter is {self.tie_parameter} with ties {self.ties}: it is log theta, above 0, "
                    "of --loss.ties rao_kupper, or log nu of --loss.ties davidson"
                )
