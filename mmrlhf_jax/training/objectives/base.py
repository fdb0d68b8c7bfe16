"""What a kind of judgement asks of the rewards: a loss, what is logged of a step, held-out measures."""

from typing import Any, ClassVar, Protocol, TypeVar

import jax
import numpy as np

from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.modules import Params
from mmrlhf_jax.training.judgements import Judgements

Said = dict[str, Any]  # arrays with R leading rows, see `Judgements.said`
SetT = TypeVar("SetT", contravariant=True)


class Objective(Protocol[SetT]):
    """One kind of judgement. Hashable: it is static in the compiled step.

    Attributes:
      headline: the number among the held-out measures that is given without the true picture too.
      shown: metrics of a step that the progress bar shows.
    """

    headline: ClassVar[str]
    shown: ClassVar[tuple[str, ...]]

    def to_device(
        self, judged: SetT, tokenizer: CaptionTokenizer, max_length: int, *, learn: bool
    ) -> Judgements:
        """The judgements as arrays; `learn` leaves out those from which nothing can be learned."""

    def init(self, mean_reward: float = 0.0) -> Params:
        """What is learned beside the reward model, empty where nothing is.

        Args:
          mean_reward: of the model before training, so that thresholds lie where its rewards are.
        """

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
