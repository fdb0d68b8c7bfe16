"""What simulated raters say besides comparisons: ratings by aspect, thumbs, and clicks in shown lists."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.feedback.raters import SimulatedRater
from mmrlhf_jax.feedback.rubric import Rubric

LEVELS = (1, 5)  # of a rating, lowest and highest
BAR = 0.6  # the utility at which a thumb is as likely up as down, and an answer that is examined is clicked
_ATTRACTION_SCALE = 0.1  # of the utility: how sharply clicks tell good from bad
_RANKER_NOISE = 0.15  # of the utility: how badly the order of shown lists follows it


class Ratings(NamedTuple):
    """N ratings.

    Attributes:
      rater: names, N.
      rating_NxA: float32, whole numbers within LEVELS; the aspects are those of `Aspects`.
    """

    rater: list[str]
    rating_NxA: np.ndarray


class Thumbs(NamedTuple):
    """N thumbs: the raters' names, and bool, True for up."""

    rater: list[str]
    up_N: np.ndarray


class ShownLists(NamedTuple):
    """L lists of up to K answers as they were shown, and what was clicked.

    Attributes:
      subject_L: int32, index of what each list is about.
      answers: L lists of texts, the one at the top first.
      clicked_LxK: bool; False beyond the end of a shorter list.
      random_order: L bools, whether a list was shuffled; the others were ordered by a ranker.
    """

    subject_L: np.ndarray
    answers: list[list[str]]
    clicked_LxK: np.ndarray
    random_order: list[bool]


def rate_answers(
    rubric: Rubric,
    panel: Sequence[SimulatedRater],
    texts: Sequence[str],
    captions: Sequence[Caption],
    *,
    seed: int | Sequence[int],
) -> Ratings:
    """Each answer rated on each aspect by a rater drawn from `panel`.

    The rating is the aspect, in [0, 1], with the rater's logistic noise, on the scale of LEVELS, rounded.
    """
    rng = np.random.default_rng(seed)
    who_N = rng.integers(len(panel), size=len(texts))
    scale_N = np.array([rater.noise_scale for rater in panel])[who_N]
    noisy_NxA = rubric.aspect_table(texts, captions)
    noisy_NxA += scale_N[:, None] * rng.logistic(size=noisy_NxA.shape)
    low, high = LEVELS
    rating_NxA = np.clip(np.round(low + (high - low) * noisy_NxA), low, high)
    return Ratings([panel[i].name for i in who_N], rating_NxA.astype(np.float32))


def give_thumbs(
    rubric: Rubric,
    panel: Sequence[SimulatedRater],
    texts: Sequence[str],
    captions: Sequence[Caption],
    *,
    seed: int | Sequence[int],
) -> Thumbs:
    """A thumb for each answer by a rater from `panel`: P(up) = sigmoid((utility - BAR) / noise_scale)."""
    rng = np.random.default_rng(seed)
    who_N = rng.integers(len(panel), size=len(texts))
    table_NxA = rubric.aspect_table(texts, captions)
    weight_RxA = np.array([dataclasses.astuple(rater.weights) for rater in panel])
    weight_RxA /= weight_RxA.sum(axis=1, keepdims=True)
    scale_N = np.array([rater.noise_scale for rater in panel])[who_N]
    utility_N = np.sum(table_NxA * weight_RxA[who_N], axis=1)
    return Thumbs([panel[i].name for i in who_N], utility_N + scale_N * rng.logistic(size=len(texts)) > BAR)


def examination_curve(positions: int) -> np.ndarray:
    """The planted chance (K,) that each position of a simulated list is examined: 1 / (1 + position)."""
    return 1 / (1 + np.arange(positions))


def attraction(utility: np.ndarray) -> np.ndarray:
    """The chance that an answer is clicked by somebody who examines it: sigmoid((utility - BAR) / 0.1)."""
    return 1 / (1 + np.exp(-(np.asarray(utility) - BAR) / _ATTRACTION_SCALE))


def click_lists(
    rubric: Rubric,
    answers: Sequence[Sequence[str]],
    captions: Sequence[Caption],
    *,
    lists: int,
    length: int,
    random_order: float,
    seed: int | Sequence[int],
) -> ShownLists:
    """Lists of the answers about each caption, shown to simulated people who click.

    A list holds up to `length` of the answers, drawn without repetition. Most are ordered by a ranker, the
    rubric with noise, as a product would: good answers stand high and are seen more often. An answer is
    clicked when it is examined, see `examination_curve`, and attractive, see `attraction`.

    Args:
      answers: of each caption, distinct.
      lists: for each caption that has two answers and more.
      random_order: share of the lists that are shuffled instead, from which the curve can be read off.
    """
    rng = np.random.default_rng(seed)
    examined_K = examination_curve(length)
    subjects: list[int] = []
    shown: list[list[str]] = []
    shuffled: list[bool] = []
    clicked_LxK = np.zeros((lists * len(answers), length), bool)
    for subject, (texts, caption) in enumerate(zip(answers, captions, strict=True)):
        if len(texts) < 2:
            continue
        utility_N = rubric.utilities(texts, [caption] * len(texts))
        for _ in range(lists):
            drawn = rng.permutation(len(texts))[:length]
            is_random = bool(rng.random() < random_order)
            if not is_random:
                drawn = drawn[np.argsort(-utility_N[drawn] - _RANKER_NOISE * rng.normal(size=len(drawn)))]
            chance = examined_K[: len(drawn)] * attraction(utility_N[drawn])
            clicked_LxK[len(subjects), : len(drawn)] = rng.random(len(drawn)) < chance
            subjects.append(subject)
            shown.append([texts[i] for i in drawn])
            shuffled.append(is_random)
    return ShownLists(np.array(subjects, np.int32), shown, clicked_LxK[: len(subjects)], shuffled)
