"""Clicks in shown lists, corrected for the positions at which answers stood."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.ranking import ndcg
from mmrlhf_jax.modules import Params
from mmrlhf_jax.reward.clicks import click_weights, pairwise_click_loss, softmax_click_loss
from mmrlhf_jax.reward.examination import examination_of_random_order, fit_position_model
from mmrlhf_jax.training.config.loss import ClickLossConfig, LossConfig
from mmrlhf_jax.training.judgements import Judgements, from_clicks
from mmrlhf_jax.training.objectives.base import Said

_LEAST = 1e-3  # examination of a position where nobody clicked at all


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Inverse propensity weighting of a loss over each list.

    Attributes:
      config: the loss, its clipping and normalisation.
      examination: of each position, relative to the first.
    """

    config: ClickLossConfig
    examination: tuple[float, ...]
    headline: ClassVar[str] = "ndcg"
    shown: ClassVar[tuple[str, ...]] = ("loss", "rewards/top_clicked")

    @classmethod
    def of(cls, log: ClickLog, config: LossConfig) -> "Clicks":
        """The objective for this log, the examination curve estimated from it.

        Raises:
          UserError: the curve cannot be told from this log.
        """
        try:
            examination_K = examination(log, config.clicks)
        except ValueError as error:
            raise UserError(
                f"clicks: {error}; choose another way with --loss.clicks.examination, e.g. none"
            ) from error
        return cls(config.clicks, tuple(np.maximum(examination_K, _LEAST).tolist()))

    def to_device(
        self, judged: ClickLog, tokenizer: CaptionTokenizer, max_length: int, *, learn: bool
    ) -> Judgements:
        """Lists of two and more answers, of which one was clicked. A click counts from `least_dwell` on."""
        clicked_LxK = counted_clicks(judged, self.config.least_dwell)
        several_L = (judged.position_LxK >= 0).sum(axis=1) > 1
        rows = np.flatnonzero(clicked_LxK.any(axis=1) & several_L)
        if not rows.size:
            raise UserError("no list of two and more answers has a click that counts: give a longer log")
        examination_K = np.array(self.examination, np.float32)
        # held-out lists may be longer than those from which the curve was learned
        position_LxK = np.clip(judged.position_LxK[rows], 0, len(examination_K) - 1)
        return from_clicks(
            judged.take(rows), clicked_LxK[rows], examination_K[position_LxK], tokenizer, max_length
        )

    def init(self, mean_reward: float = 0.0) -> Params:
        return {}

    def losses(self, params: Params, reward_BxS: jax.Array, said: Said) -> jax.Array:
        loss = {"softmax": softmax_click_loss, "pairwise": pairwise_click_loss}[self.config.loss]
        return loss(reward_BxS, self._weights(said), said["shown"])

    def metrics(self, params: Params, reward_BxS: jax.Array, said: Said) -> dict[str, jax.Array]:
        """How often the answer of the highest reward was clicked."""
        top_B = jnp.argmax(jnp.where(said["shown"], reward_BxS, -jnp.inf), axis=1)
        clicked_B = jnp.take_along_axis(said["clicked"], top_B[:, None], axis=1)[:, 0]
        return {"rewards/top_clicked": clicked_B.astype(jnp.float32)}

    def score(self, reward_RxS: np.ndarray, said: Said) -> float:
        return float(np.mean(self._gains(reward_RxS, said)))

    def measure(
        self, params: Params, reward_RxS: np.ndarray, said: Said, picture_R: np.ndarray
    ) -> dict[str, Any]:
        """Discounted gain of the order by reward, clicks weighted by inverse propensity, and of the order
        shown; log-likelihood of a weighted click, and that of clicks at random."""
        weights, shown = self._weights(said), said["shown"]
        total = float(jnp.sum(weights))

        def likelihood(rewards: jax.Array) -> float:
            return -float(jnp.sum(softmax_click_loss(rewards, weights, shown))) / total

        return {
            "ndcg": bootstrap_mean(self._gains(reward_RxS, said), clusters=picture_R),
            "ndcg_as_shown": float(np.mean(self._gains(-np.asarray(said["position"], np.float32), said))),
            "log_likelihood": likelihood(jnp.asarray(reward_RxS)),
            "log_likelihood_at_random": likelihood(jnp.zeros(reward_RxS.shape)),
            "lists": len(reward_RxS),
            "examination": list(self.examination),
        }

    def _weights(self, said: Said) -> jax.Array:
        return click_weights(
            said["clicked"],
            said["propensity"],
            least=self.config.least_propensity,
            self_normalise=self.config.self_normalise,
        )

    def _gains(self, score_RxS: np.ndarray, said: Said) -> np.ndarray:
        """NDCG of each list, (R,)."""
        weight_RxS, shown_RxS = np.asarray(self._weights(said)), np.asarray(said["shown"])
        lists = zip(score_RxS, weight_RxS, shown_RxS, strict=True)
        return np.array([ndcg(score_S[shown_S], weight_S[shown_S]) for score_S, weight_S, shown_S in lists])


def counted_clicks(log: ClickLog, least_dwell: float) -> np.ndarray:
    """Clicks (L, K) after which people stayed for `least_dwell` seconds; those of unknown stay count."""
    if log.dwell_LxK is None:
        return log.clicked_LxK
    return log.clicked_LxK & ~(log.dwell_LxK < least_dwell)


def examination(log: ClickLog, config: ClickLossConfig) -> np.ndarray:
    """The examination curve (K,) of a log, relative to the first position.

    Raises:
      ValueError: it cannot be told.
    """
    shown_LxK = log.position_LxK >= 0
    clicked_LxK = counted_clicks(log, config.least_dwell)
    if config.examination == "none":
        return np.ones(int(log.position_LxK.max()) + 1)
    if config.examination == "random_order":
        shuffled_L = np.array([value is True for value in log.extras.get("random_order", [])], bool)
        if not shuffled_L.any():
            raise ValueError("no list is marked true in a column 'random_order'")
        chosen_LxK = shown_LxK & shuffled_L[:, None]
        return examination_of_random_order(log.position_LxK[chosen_LxK], clicked_LxK[chosen_LxK])
    numbers: dict[tuple[int, str, str], int] = {}
    item_I = [
        numbers.setdefault((int(picture), prompt, answer), len(numbers))
        for picture, prompt, answers in zip(log.image_index_L, log.prompts, log.answers, strict=True)
        for answer in answers
    ]
    model = fit_position_model(
        np.array(item_I), log.position_LxK[shown_LxK], clicked_LxK[shown_LxK], prior=config.prior
    )
    return model.examination_K
