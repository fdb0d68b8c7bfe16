"""Judgements of the store as sets that train: preference pairs, ratings, click logs.

Attention checks, skips and what was undone are in none of them. All carry the further columns `rater`,
`time` (UTC), `kind` (of the item), `item`, `strategy` (how it was chosen) and `seconds` (how long it took).
"""

import datetime
import io
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.images import decode_image
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.store import Judged, Store
from mmrlhf_jax.feedback.tasks import ASPECTS, RATINGS, Item, is_skip, preferred

MAX_SIZE = 512  # pixels; larger pictures are fitted into it


class Said(NamedTuple):
    """A judgement with its item and the name of who gave it."""

    row: Judged
    item: Item
    rater: str

    def extras(self) -> dict[str, Any]:
        """The columns that every set has."""
        return {
            "rater": self.rater,
            "time": utc(self.row.time),
            "kind": self.item.kind,
            "item": self.row.item,
            "strategy": self.row.strategy,
            "seconds": self.row.seconds,
        }


def to_preferences(store: Store, *, image_size: int | None = None) -> PreferenceSet:
    """The pairs that comparisons, corrections and clicks say, oldest first; ties say none.

    Further columns: `chosen_shown_first` (None for a correction), and `chosen_ratings` and
    `rejected_ratings`: the mean of what raters gave the same answer, by aspect, or None.

    Args:
      image_size: pixels that pictures are fitted into on white; by default the size of the largest, at most
        MAX_SIZE. What has no picture gets a white one.

    Raises:
      UserError: no judgement prefers anything yet.
    """
    said = _said(store)
    ratings = _mean_ratings(said)
    pairs = []
    for one in said:
        item, row = one.item, one.row
        for chosen, rejected in preferred(item, row.answer, row.shown):
            places = {item.answers[number]: place for place, number in enumerate(row.shown)}
            both_shown = chosen in places and rejected in places
            extras = one.extras() | {
                "chosen_shown_first": places[chosen] < places[rejected] if both_shown else None,
                "chosen_ratings": ratings.get((item.prompt, item.picture, chosen)),
                "rejected_ratings": ratings.get((item.prompt, item.picture, rejected)),
            }
            pairs.append((item, chosen, rejected, extras))
    _need(pairs, store, "prefers one answer to another")
    images_NxHxWxC, index_P = _pictures(store, [item for item, *_ in pairs], image_size)
    return PreferenceSet(
        images_NxHxWxC=images_NxHxWxC,
        image_index_P=index_P,
        prompts=[item.prompt for item, *_ in pairs],
        chosen=[chosen for _, chosen, _, _ in pairs],
        rejected=[rejected for _, _, rejected, _ in pairs],
        extras=_columns([extras for *_, extras in pairs]),
    )


def to_ratings(store: Store, *, image_size: int | None = None) -> RatingSet:
    """Every rating by aspect, oldest first. See `to_preferences` for the argument.

    Raises:
      UserError: nothing was rated yet.
    """
    said = [one for one in _said(store) if one.item.kind == "rate"]
    _need(said, store, "rates an answer")
    images_NxHxWxC, index_R = _pictures(store, [one.item for one in said], image_size)
    return RatingSet(
        images_NxHxWxC=images_NxHxWxC,
        image_index_R=index_R,
        prompts=[one.item.prompt for one in said],
        answers=[one.item.answers[0] for one in said],
        ratings={
            aspect: np.array([one.row.answer["ratings"][aspect] for one in said], np.float32)
            for aspect in ASPECTS
        },
        levels={aspect: (float(RATINGS[0]), float(RATINGS[-1])) for aspect in ASPECTS},
        extras=_columns([one.extras() for one in said]),
    )


def to_clicks(store: Store, *, image_size: int | None = None) -> ClickLog:
    """Every shown list as it stood on the page, with clicks and seconds, oldest first.

    A further column `random_order` is true throughout: the page shuffles each list for each rater.

    Raises:
      UserError: no list was judged yet.
    """
    said = [one for one in _said(store) if one.item.kind == "list"]
    _need(said, store, "is about a list")
    images_NxHxWxC, index_L = _pictures(store, [one.item for one in said], image_size)
    shape = len(said), max(len(one.row.shown) for one in said)
    position_LxK = np.full(shape, -1, np.int32)
    clicked_LxK = np.zeros(shape, bool)
    dwell_LxK = np.full(shape, np.nan, np.float32)
    for row, one in enumerate(said):
        count, answer = len(one.row.shown), one.row.answer
        position_LxK[row, :count] = range(count)
        clicked_LxK[row, :count] = [number in answer["clicks"] for number in one.row.shown]
        dwell_LxK[row, :count] = [answer["dwell_seconds"][number] for number in one.row.shown]
    return ClickLog(
        images_NxHxWxC=images_NxHxWxC,
        image_index_L=index_L,
        prompts=[one.item.prompt for one in said],
        answers=[[one.item.answers[number] for number in one.row.shown] for one in said],
        position_LxK=position_LxK,
        clicked_LxK=clicked_LxK,
        dwell_LxK=dwell_LxK,
        extras=_columns([one.extras() | {"random_order": True} for one in said]),
    )


def media_of(store: Store, name: str) -> bytes:
    """The bytes of a picture or sound that an item names."""
    found = store.media(name)
    assert found is not None  # the database holds no item whose picture it has not
    return found[1]


def utc(time: float) -> str:
    """Seconds since 1970 as an ISO time."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="milliseconds")


def _said(store: Store) -> list[Said]:
    items, names = store.items(), {rater.id: rater.name for rater in store.raters()}
    return [
        Said(row, items[row.item], names[row.rater])
        for row in store.standing()
        if not items[row.item].is_check and not is_skip(row.answer)
    ]


def _need(found: Sequence[Any], store: Store, what: str) -> None:
    if not found:
        raise UserError(f"{store.path}: no judgement {what} yet; judge some items first")


def _columns(extras: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [one[name] for one in extras] for name in extras[0]}


def _mean_ratings(said: Sequence[Said]) -> dict[tuple[str, str | None, str], dict[str, float]]:
    """(prompt, picture, answer) → the mean rating of each aspect."""
    given: dict[tuple[str, str | None, str], list[dict[str, int]]] = defaultdict(list)
    for row, item, _ in said:
        if "ratings" in row.answer:
            given[item.prompt, item.picture, item.answers[0]].append(row.answer["ratings"])
    return {
        what: {aspect: statistics.fmean(one[aspect] for one in all_given) for aspect in ASPECTS}
        for what, all_given in given.items()
    }


def _pictures(store: Store, items: Sequence[Item], size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The items' pictures fitted into one size, each once, and each item's row; white where it has none."""
    names = sorted({item.picture for item in items if item.picture is not None})
    data = {name: media_of(store, name) for name in names}
    if size is None:
        size = max((max(Image.open(io.BytesIO(one)).size) for one in data.values()), default=64)
    size = min(size, MAX_SIZE)
    images = [decode_image(one, size=size, source=name) for name, one in data.items()]
    row_of: dict[str | None, int] = {name: row for row, name in enumerate(data)}
    if any(item.picture is None for item in items):
        row_of[None] = len(images)
        images.append(np.full((size, size, 3), 255, np.uint8))
    return np.stack(images), np.array([row_of[item.picture] for item in items], np.int32)
