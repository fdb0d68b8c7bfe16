"""How much picture and text each contribute to a judgement. A reward model that ignores the picture looks
perfect until the distribution moves, so no accuracy is reported without these numbers.

Everything is asked of one function, `score(image_rows, text_rows, present)`, which judges R examples put
together from N evaluated ones:

    image_rows: (R,) int, the example that gives the picture.
    text_rows: (R,) int, the example that gives the text (for a comparison: both answers).
    present: (R, 2) bool, False where the picture (column 0) or the text (column 1) is left out.
    returns: (R,) log-odds of the label 1.

How a model scores without a modality is its own affair: one that never met an absent picture in training
says little there, and the shuffled numbers are the ones to trust.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from mmrlhf_jax.evaluate.bootstrap import Interval, bootstrap_mean
from mmrlhf_jax.evaluate.preference import win_points

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Value = Literal["accuracy", "log_likelihood"]


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What is left of the accuracy when a modality is taken away, and how the gain is shared.

    Attributes:
      accuracy: with everything there; a score of 0 counts half.
      picture_shuffled: every picture replaced by another one.
      picture_absent: no picture.
      text_shuffled: every text replaced by another one.
      text_absent: no text.
      nothing: neither.
      emap: accuracy of the additive part of the score (see `emap_scores`), on a sample.
      emap_full: accuracy of the score itself on that sample; what it is above `emap` is interaction.
      picture_shapley: the picture's part of what both gain over nothing, in units of the value function.
      text_shapley: the text's part.
      picture_share: picture_shapley / (picture_shapley + text_shapley); NaN where both together gain nothing.
      picture_gain: accuracy minus that with pictures shuffled, with its interval.
    """

    accuracy: float
    picture_shuffled: float
    picture_absent: float
    text_shuffled: float
    text_absent: float
    nothing: float
    emap: float
    emap_full: float
    picture_shapley: float
    text_shapley: float
    picture_share: float
    picture_gain: Interval

    @property
    def warning(self) -> str | None:
        """One line where the picture adds nothing that can be told from chance, else None."""
        if self.picture_gain.low > 0:
            return None
        return (
            f"the picture adds nothing: accuracy {self.accuracy:.3f} with it and {self.picture_shuffled:.3f} "
            f"with another one (gain {self.picture_gain})"
        )


def attribute(
    score: Score,
    label_N: np.ndarray,
    *,
    picture_N: np.ndarray | None = None,
    value: Value = "accuracy",
    emap_rows: int = 64,
    seed: int = 0,
) -> Attribution:
    """Takes each modality away in turn and measures what that costs.

    Args:
      label_N: 0 or 1. Comparisons are to be turned round at random: where the first answer always wins, a
        constant would be right everywhere.
      picture_N: a label of any kind for each example's picture; a shuffled picture is one of another label,
        and the interval resamples pictures. None: every example has its own.
      value: what the Shapley values share out.
      emap_rows: size of EMAP's sample; it costs that number squared of judgements.

    Raises:
      ValueError: no examples, labels other than 0 and 1, or `picture_N` of another length.
    """
    label_N = np.asarray(label_N)
    count = len(label_N)
    picture_N = np.arange(count) if picture_N is None else np.asarray(picture_N)
    if count == 0 or not np.isin(label_N, (0, 1)).all() or picture_N.shape != label_N.shape:
        raise ValueError(f"labels {label_N.shape} must be 0 or 1, one for each of pictures {picture_N.shape}")
    sign_N = np.where(label_N == 1, 1.0, -1.0)
    rows_N, generator = np.arange(count), np.random.default_rng(seed)

    def ask(image_rows: np.ndarray, text_rows: np.ndarray, image: bool, text: bool) -> np.ndarray:
        return sign_N * np.asarray(score(image_rows, text_rows, np.tile([image, text], (count, 1))))

    margins = {
        "both": ask(rows_N, rows_N, True, True),
        "image": ask(rows_N, rows_N, True, False),
        "text": ask(rows_N, rows_N, False, True),
        "nothing": ask(rows_N, rows_N, False, False),
        "picture_shuffled": ask(another(picture_N, generator), rows_N, True, True),
        "text_shuffled": ask(rows_N, another(rows_N, generator), True, True),
    }
    accuracy = {name: float(np.mean(win_points(margin_N))) for name, margin_N in margins.items()}
    worth = accuracy
    if value == "log_likelihood":
        worth = {name: float(-np.mean(np.logaddexp(0, -margin_N))) for name, margin_N in margins.items()}
    picture, text = shapley_values(worth["nothing"], worth["image"], worth["text"], worth["both"])

    sample_S = np.sort(generator.permutation(count)[:emap_rows])
    size = len(sample_S)
    scores_SxS = np.asarray(
        score(np.repeat(sample_S, size), np.tile(sample_S, size), np.ones((size * size, 2), bool))
    ).reshape(size, size)
    additive_S = np.diagonal(emap_scores(scores_SxS))
    gain_N = win_points(margins["both"]) - win_points(margins["picture_shuffled"])
    return Attribution(
        accuracy=accuracy["both"],
        picture_shuffled=accuracy["picture_shuffled"],
        picture_absent=accuracy["text"],
        text_shuffled=accuracy["text_shuffled"],
        text_absent=accuracy["image"],
        nothing=accuracy["nothing"],
        emap=float(np.mean(win_points(sign_N[sample_S] * additive_S))),
        emap_full=float(np.mean(win_points(sign_N[sample_S] * np.diagonal(scores_SxS)))),
        picture_shapley=picture,
        text_shapley=text,
        picture_share=share(picture, text),
        picture_gain=bootstrap_mean(gain_N, clusters=picture_N),
    )


def shapley_values(nothing: float, image: float, text: float, both: float) -> tuple[float, float]:
    """Shapley values of picture and text, exact for two players: they sum to `both` - `nothing`.

    phi_image = ((v(image) - v(nothing)) + (v(both) - v(text))) / 2, and the text's likewise.

    Args are the values v of what is present. Source: Shapley 1953, "A value for n-person games"; for
    modalities Hu et al. 2022, SHAPE (arXiv:2205.00302).
    """
    return (image - nothing + both - text) / 2, (text - nothing + both - image) / 2


def share(picture: float, text: float) -> float:
    """The picture's share of two Shapley values; NaN where they sum to less than 0.01, that is to chance."""
    total = picture + text
    return picture / total if abs(total) >= 0.01 else float("nan")


def emap_scores(scores_IxT: np.ndarray) -> np.ndarray:
    """The additive function nearest to the scores of all pictures I with all texts T, (I, T).

    emap(i, t) = mean_t' s(i, t') + mean_i' s(i', t) - mean s

    EMAP, Hessel and Lee 2020 (arXiv:2010.06572), algorithm 1: what a model could say if neither modality
    could change what the other one means.
    """
    return scores_IxT.mean(axis=1, keepdims=True) + scores_IxT.mean(axis=0) - scores_IxT.mean()


def another(label_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For each row a row of another label, (N,) int; labels change places in one random cycle.

    Of a label that stands in several rows the first is taken. With a single label nothing can change.
    """
    _, first_C, inverse_N = np.unique(label_N, return_index=True, return_inverse=True)
    cycle_C = generator.permutation(len(first_C))
    next_C = np.empty_like(cycle_C)
    next_C[cycle_C] = np.roll(cycle_C, -1)
    return first_C[next_C[inverse_N]]
