"""What each kind of judgement teaches; the kind follows from the data."""

from typing import Any

from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.judgements import JudgementSet
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.unpaired import LabelledSet
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.objectives.base import Objective, Said
from mmrlhf_jax.training.objectives.clicks import Clicks
from mmrlhf_jax.training.objectives.comparisons import Comparisons
from mmrlhf_jax.training.objectives.labels import Labels
from mmrlhf_jax.training.objectives.ratings import Ratings

__all__ = ["Clicks", "Comparisons", "Labels", "Objective", "Ratings", "Said", "objective_of"]


def objective_of(judged: JudgementSet, config: LossConfig) -> Objective[Any]:
    """The objective for judgements of this kind. Raises UserError where they and the config do not fit."""
    match judged:
        case PreferenceSet():
            return Comparisons.of(judged, config)
        case RatingSet():
            return Ratings.of(judged, config)
        case LabelledSet():
            return Labels.of(judged, config)
        case ClickLog():
            return Clicks.of(judged, config)
