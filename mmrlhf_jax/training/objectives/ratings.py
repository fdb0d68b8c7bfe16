"""Ratings on ordered levels, of one aspect or several."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.ranking import kendall_tau, spearman
from mmrlhf_jax.modules import Params
from mmrlhf_jax.reward.ordinal import (
    expected_level,
    level_edges,
    marginal_cutpoints,
    ordered_cutpoints,
    ordinal_loss,
    raw_cutpoints,
)
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.judgements import Judgements, from_ratings
from mmrlhf_jax.training.objectives.base import Said


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Proportional odds: one reward, and for each aspect cutpoints of its own.

    Attributes:
      aspects: their names.
      edges: of each aspect, the ratings between which one level ends and the next one begins.
      cutpoints: of each aspect, those of the levels' shares: where training starts.
    """

    aspects: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    cutpoints: tuple[tuple[float, ...], ...]
    headline: ClassVar[str] = "spearman"
    shown: ClassVar[tuple[str, ...]] = ("loss", "rewards/level_errors")

    @classmethod
    def of(cls, ratings: RatingSet, config: LossConfig) -> "Ratings":
        """The objective for these ratings; by default of all aspects in which ratings differ.

        Raises:
          UserError: an aspect that the file lacks, or one asked for whose ratings are all equal, or no other.
        """
        aspects = config.aspects or _varied(ratings) or tuple(ratings.ratings)
        unknown = sorted(set(aspects) - set(ratings.ratings))
        if unknown:
            raise UserError(
                f"the ratings have no aspect {', '.join(unknown)} (--loss.aspects); they have "
                f"{', '.join(ratings.ratings)}"
            )
        edges, cutpoints = [], []
        for aspect in aspects:
            try:
                edge = level_edges(ratings.ratings[aspect])
            except ValueError as error:
                raise UserError(f"ratings of {aspect}: {error}; choose others with --loss.aspects") from error
            edges.append(tuple(edge.tolist()))
            shares = marginal_cutpoints(_levels(ratings.ratings[aspect], edge), len(edge) + 1)
            cutpoints.append(tuple(shares.tolist()))
        return cls(tuple(aspects), tuple(edges), tuple(cutpoints))

    def to_device(
        self, judged: RatingSet, tokenizer: CaptionTokenizer, max_length: int, *, learn: bool
    ) -> Judgements:
        columns = [
            _levels(judged.ratings[aspect], np.array(edge))
            for aspect, edge in zip(self.aspects, self.edges, strict=True)
        ]
        level_RxA = np.stack(columns, axis=1)
        rated = np.flatnonzero((level_RxA >= 0).any(axis=1))
        if not rated.size:
            raise UserError(f"no answer of a part is rated on {', '.join(self.aspects)}: give more ratings")
        return from_ratings(judged.take(rated), level_RxA[rated], tokenizer, max_length)

    def init(self, mean_reward: float = 0.0) -> Params:
        return {
            str(i): jnp.asarray(raw_cutpoints(np.array(cutpoints) + mean_reward))
            for i, cutpoints in enumerate(self.cutpoints)
        }

    def losses(self, params: Params, reward_BxS: jax.Array, said: Said) -> jax.Array:
        """The mean over the aspects that were rated."""
        each_BxA = [
            ordinal_loss(reward_BxS[:, 0], said["level"][:, a], ordered_cutpoints(params[str(a)]))
            for a in range(len(self.aspects))
        ]
        return jnp.sum(jnp.stack(each_BxA, axis=1), axis=1) / _rated(said)

    def metrics(self, params: Params, reward_BxS: jax.Array, said: Said) -> dict[str, jax.Array]:
        """How many levels the expectation is off."""
        expected_BxA = jnp.stack(
            [
                expected_level(reward_BxS[:, 0], ordered_cutpoints(params[str(a)]))
                for a in range(len(self.aspects))
            ],
            axis=1,
        )
        error_BxA = jnp.abs(expected_BxA - said["level"].astype(jnp.float32))
        error_BxA = jnp.where(said["level"] >= 0, error_BxA, 0.0)
        return {"rewards/level_errors": jnp.sum(error_BxA, axis=1) / _rated(said)}

    def score(self, reward_RxS: np.ndarray, said: Said) -> float:
        return spearman(reward_RxS[:, 0], self._grade(np.asarray(said["level"])))

    def measure(
        self, params: Params, reward_RxS: np.ndarray, said: Said, picture_R: np.ndarray
    ) -> dict[str, Any]:
        """Rank correlations with the mean of the aspects and with each; likelihood; the cutpoints."""
        level_RxA, reward_R = np.asarray(said["level"]), reward_RxS[:, 0]
        by_aspect = {}
        for a, aspect in enumerate(self.aspects):
            rated_R = level_RxA[:, a] >= 0
            if rated_R.any():
                by_aspect[aspect] = spearman(reward_R[rated_R], level_RxA[rated_R, a])
        return {
            "spearman": self.score(reward_RxS, said),
            "kendall_tau": kendall_tau(reward_R, self._grade(level_RxA)),
            "spearman_by_aspect": by_aspect,
            "log_likelihood": -float(np.mean(self.losses(params, jnp.asarray(reward_RxS), said))),
            "answers": len(reward_R),
            "cutpoints": {
                aspect: np.asarray(ordered_cutpoints(params[str(a)])).tolist()
                for a, aspect in enumerate(self.aspects)
            },
        }

    def _grade(self, level_RxA: np.ndarray) -> np.ndarray:
        """Mean of an answer's levels, each as a share of its scale."""
        share_RxA = level_RxA / np.array([len(edge) for edge in self.edges])
        return np.sum(np.where(level_RxA >= 0, share_RxA, 0.0), axis=1) / (level_RxA >= 0).sum(axis=1)


def _levels(ratings_R: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """int32 levels, -1 where there is no rating."""
    return np.where(np.isnan(ratings_R), -1, np.searchsorted(edges, ratings_R)).astype(np.int32)


def _rated(said: Said) -> jax.Array:
    return jnp.sum(said["level"] >= 0, axis=1).astype(jnp.float32)


def _varied(ratings: RatingSet) -> tuple[str, ...]:
    """The aspects with two ratings and more that differ; tells which have none."""
    given = {name: np.unique(values[~np.isnan(values)]) for name, values in ratings.ratings.items()}
    alike = [name for name, values in given.items() if len(values) < 2]
    if 0 < len(alike) < len(given):
        print(f"ratings of {', '.join(alike)} are all alike: nothing is learned from them")
    return tuple(name for name in given if name not in alike)
