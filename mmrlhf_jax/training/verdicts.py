"""Ratings, thumbs and click logs of simulated raters about the captions that were collected, as files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.clicks import ClickLog, write_clicks
from mmrlhf_jax.data.ratings import RatingSet, write_ratings
from mmrlhf_jax.data.unpaired import LabelledSet, write_labels
from mmrlhf_jax.feedback.raters import SimulatedRater
from mmrlhf_jax.feedback.rubric import Aspects, Rubric
from mmrlhf_jax.feedback.simulation import LEVELS, click_lists, examination_curve, give_thumbs, rate_answers

LISTS_PER_PICTURE = 12
LIST_LENGTH = 5
RANDOM_ORDER = 0.2  # share of the shown lists


class Collected(NamedTuple):
    """Distinct captions that the policy wrote, about pictures that come several times.

    Attributes:
      image_index_R: the picture of each caption.
      texts: R captions; of one picture no two are equal.
    """

    image_index_R: np.ndarray
    texts: list[str]


def distinct(image_index: np.ndarray, texts: Sequence[str]) -> Collected:
    """The captions without repetitions, by picture."""
    pairs = sorted(set(zip(np.asarray(image_index).tolist(), texts, strict=True)))
    return Collected(np.array([picture for picture, _ in pairs], np.int32), [text for _, text in pairs])


def write_verdicts(
    folder: Path,
    kinds: Sequence[str],
    captions: CaptionSet,
    collected: Collected,
    rubric: Rubric,
    panel: Sequence[SimulatedRater],
    seed: int,
) -> dict[str, Any]:
    """Writes KIND.parquet for each of `kinds` out of "ratings", "labels" and "clicks".

    Returns:
      Counts by kind, and the planted examination curve.
    """
    write: dict[str, Callable[..., dict[str, Any]]] = {
        "ratings": _ratings,
        "labels": _labels,
        "clicks": _clicks,
    }
    return {
        kind: write[kind](folder / f"{kind}.parquet", captions, collected, rubric, panel, [seed, number])
        for number, kind in enumerate(write)
        if kind in kinds
    }


def _ratings(
    path: Path,
    captions: CaptionSet,
    collected: Collected,
    rubric: Rubric,
    panel: Sequence[SimulatedRater],
    seed: Sequence[int],
) -> dict[str, Any]:
    rated = rate_answers(rubric, panel, collected.texts, _about(captions, collected), seed=seed)
    low, high = LEVELS
    ratings = RatingSet(
        captions.images_NxHxWxC,
        collected.image_index_R,
        [""] * len(collected.texts),
        collected.texts,
        {aspect: rated.rating_NxA[:, a] for a, aspect in enumerate(Aspects._fields)},
        {aspect: (float(low), float(high)) for aspect in Aspects._fields},
        {"rater": rated.rater},
    )
    write_ratings(path, ratings)
    return {"answers": len(ratings)}


def _labels(
    path: Path,
    captions: CaptionSet,
    collected: Collected,
    rubric: Rubric,
    panel: Sequence[SimulatedRater],
    seed: Sequence[int],
) -> dict[str, Any]:
    thumbs = give_thumbs(rubric, panel, collected.texts, _about(captions, collected), seed=seed)
    labelled = LabelledSet(
        captions.images_NxHxWxC,
        collected.image_index_R,
        [""] * len(collected.texts),
        collected.texts,
        thumbs.up_N,
        {"rater": thumbs.rater},
    )
    write_labels(path, labelled)
    return {"answers": len(labelled), "thumbs_up": float(np.mean(thumbs.up_N))}


def _clicks(
    path: Path,
    captions: CaptionSet,
    collected: Collected,
    rubric: Rubric,
    panel: Sequence[SimulatedRater],
    seed: Sequence[int],
) -> dict[str, Any]:
    """The panel takes no part: who clicks is anyone."""
    answers: list[list[str]] = [[] for _ in captions.captions]
    for picture, text in zip(collected.image_index_R, collected.texts, strict=True):
        answers[picture].append(text)
    shown = click_lists(
        rubric,
        answers,
        captions.captions,
        lists=LISTS_PER_PICTURE,
        length=LIST_LENGTH,
        random_order=RANDOM_ORDER,
        seed=seed,
    )
    length_L = np.array([len(texts) for texts in shown.answers])
    position_K = np.arange(LIST_LENGTH, dtype=np.int32)
    log = ClickLog(
        captions.images_NxHxWxC,
        shown.subject_L,
        [""] * len(shown.answers),
        shown.answers,
        np.where(position_K < length_L[:, None], position_K, -1).astype(np.int32),
        shown.clicked_LxK,
        extras={"random_order": shown.random_order},
    )
    write_clicks(path, log)
    return {
        "lists": len(log),
        "clicks": int(shown.clicked_LxK.sum()),
        "planted_examination": examination_curve(LIST_LENGTH).tolist(),
    }


def _about(captions: CaptionSet, collected: Collected) -> list[Caption]:
    return [captions.captions[i] for i in collected.image_index_R]
