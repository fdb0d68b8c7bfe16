"""Judgements of captions: the gold rubric, simulated raters, and how far raters agree."""

from mmrlhf_jax.feedback.agreement import (
    choice_ratings,
    krippendorff_alpha,
    pairwise_agreement,
    rater_accuracy,
)
from mmrlhf_jax.feedback.raters import Judgement, SimulatedRater, judge, judge_pairs, simulated_panel
from mmrlhf_jax.feedback.rubric import Aspects, Rubric, RubricWeights

__all__ = [
    "Aspects",
    "Judgement",
    "Rubric",
    "RubricWeights",
    "SimulatedRater",
    "choice_ratings",
    "judge",
    "judge_pairs",
    "krippendorff_alpha",
    "pairwise_agreement",
    "rater_accuracy",
    "simulated_panel",
]
