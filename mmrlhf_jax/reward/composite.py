"""The composite reward: named terms in units of their spread under the reference policy, weighted and summed.

A term is a function of completions with one number a completion; to add one, write it here and name it in
`raw_terms`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.encoders.clip import CLIP, unit_length
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.language.likelihood import mean_logprob
from mmrlhf_jax.reward.model import RewardModel, Seen
from mmrlhf_jax.types import Completions, RewardLedger

TERMS = ("fluency", "image_accuracy", "preference")


class Judges(NamedTuple):
    """The frozen networks that score completions."""

    language_model: Decoder
    clip: CLIP
    reward_model: RewardModel


class Views(NamedTuple):
    """What the frozen picture towers say of each picture; computed once, since they never change.

    Attributes:
      policy_NxPxD: picture tokens as the policy's decoder reads them.
      reward_model: as the reward model sees it, rows (N, ...).
      clip_NxD: CLIP's embedding, of length 1.
      baseline: mean of each raw term over completions by the reference policy for this picture, (N,) by name.
        Some pictures earn more than others whatever is said of them; what counts is to say it better.
        Empty: the normaliser's mean over all pictures stands in.
    """

    policy_NxPxD: jax.Array
    reward_model: Seen
    clip_NxD: jax.Array
    baseline: Mapping[str, jax.Array] = {}


class Normaliser(NamedTuple):
    """Mean (over all pictures, or (B,) for each) and spread of each term under the reference policy."""

    mean: Mapping[str, jax.Array]
    std: Mapping[str, jax.Array]


def fluency(language_model: Decoder, completions: Completions, *, begin_id: int) -> jax.Array:
    """Mean log-likelihood (B,) of a completion under a frozen language model, in nats a token."""
    return mean_logprob(language_model, *completions, begin_id=begin_id)


def image_accuracy(clip: CLIP, clip_BxD: jax.Array, completions: Completions) -> jax.Array:
    """CLIPScore (B,) = 2.5 max(cos, 0) of picture and text (Hessel et al. 2021, arXiv:2104.08718, eq. 1)."""
    text_BxD = unit_length(clip.encode_text(*completions))
    return 2.5 * jnp.maximum(jnp.sum(clip_BxD * text_BxD, axis=-1), 0.0)


def preference(reward_model: RewardModel, seen: Seen, completions: Completions) -> jax.Array:
    """The learned reward (B,): what the raters would choose."""
    return reward_model.judge(seen, *completions).reward_B


def raw_terms(
    judges: Judges, views: Views, completions: Completions, *, begin_id: int
) -> dict[str, jax.Array]:
    """Every term in its own unit, (B,) each; `views` holds the rows of the completions' pictures."""
    return {
        "fluency": fluency(judges.language_model, completions, begin_id=begin_id),
        "image_accuracy": image_accuracy(judges.clip, views.clip_NxD, completions),
        "preference": preference(judges.reward_model, views.reward_model, completions),
    }


def fit_normaliser(raw: dict[str, jax.Array]) -> Normaliser:
    """Mean and spread of samples of the reference policy."""
    return Normaliser(
        {name: jnp.mean(values) for name, values in raw.items()},
        {name: jnp.maximum(jnp.std(values), 1e-6) for name, values in raw.items()},
    )


def compose(raw: dict[str, jax.Array], normaliser: Normaliser, weights: dict[str, jax.Array]) -> RewardLedger:
    """total = sum over terms of weight (raw - mean) / std, kept term by term."""
    weighted = {
        name: weights[name] * (values - normaliser.mean[name]) / normaliser.std[name]
        for name, values in raw.items()
    }
    total_B = sum(weighted[name] for name in raw)
    return RewardLedger(raw, weighted, jnp.asarray(total_B))
