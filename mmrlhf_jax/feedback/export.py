"""Judgements as files: preferences in TRL's columns, and a record of everything that was said."""

import datetime
import io
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmrlhf_jax.data.conversations import write_conversations
from mmrlhf_jax.data.images import decode_image
from mmrlhf_jax.data.preferences import PreferenceSet, write_preferences
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import ASPECTS, is_skip, preferred
from mmrlhf_jax.files import write_bytes, write_text

MAX_SIZE = 512  # pixels; larger pictures are fitted into it


def to_preferences(store: Store, *, image_size: int | None = None) -> PreferenceSet:
    """The pairs that people's judgements say, oldest first.

    Attention checks, skips, ties and what was undone are left out. Further columns: `rater`, `time` (UTC),
    `kind` (of the item), `item`, `strategy`, `seconds`, `chosen_shown_first` (None for a correction), and
    `chosen_ratings` and `rejected_ratings`: the mean of what raters gave the same answer, by aspect, or None.

    Args:
      image_size: pixels that pictures are fitted into on white; by default the size of the largest, at most
        MAX_SIZE. A pair without a picture gets a white one.

    Raises:
      UserError: no judgement prefers anything yet.
    """
    items, names = store.items(), {rater.id: rater.name for rater in store.raters()}
    ratings = _mean_ratings(store)
    pairs = []
    for row in store.standing():
        item = items[row.item]
        if item.is_check or is_skip(row.answer):
            continue
        for chosen, rejected in preferred(item, row.answer, row.shown):
            places = {item.answers[number]: place for place, number in enumerate(row.shown)}
            both_shown = chosen in places and rejected in places
            extras = {
                "rater": names[row.rater],
                "time": _utc(row.time),
                "kind": item.kind,
                "item": row.item,
                "strategy": row.strategy,
                "seconds": row.seconds,
                "chosen_shown_first": places[chosen] < places[rejected] if both_shown else None,
                "chosen_ratings": ratings.get((item.prompt, item.picture, chosen)),
                "rejected_ratings": ratings.get((item.prompt, item.picture, rejected)),
            }
            pairs.append((item, chosen, rejected, extras))
    if not pairs:
        raise UserError(
            f"{store.path}: no judgement prefers one answer to another yet; judge some items first"
        )
    pictures = sorted({item.picture for item, *_ in pairs if item.picture is not None})
    images_NxHxWxC, row_of = _pictures(store, pictures, image_size, any(p[0].picture is None for p in pairs))
    return PreferenceSet(
        images_NxHxWxC=images_NxHxWxC,
        image_index_P=np.array([row_of[item.picture] for item, *_ in pairs], np.int32),
        prompts=[item.prompt for item, *_ in pairs],
        chosen=[chosen for _, chosen, _, _ in pairs],
        rejected=[rejected for _, _, rejected, _ in pairs],
        extras={name: [extras[name] for *_, extras in pairs] for name in pairs[0][3]},
    )


def to_records(store: Store) -> list[dict[str, Any]]:
    """Every judgement that stands, ties, skips, ratings and checks included, as plain JSON."""
    items, names = store.items(), {rater.id: rater.name for rater in store.raters()}
    return [
        {
            "rater": names[row.rater],
            "time": _utc(row.time),
            "seconds": row.seconds,
            "key": row.key,
            "item": row.item,
            "kind": items[row.item].kind,
            "prompt": items[row.item].prompt,
            "answers": list(items[row.item].answers),
            "picture": picture_name(items[row.item].picture),
            "shown": list(row.shown),
            "strategy": row.strategy,
            "expected": items[row.item].expected,
            "answer": row.answer,
            "extras": items[row.item].extras,
        }
        for row in store.standing()
    ]


def export(
    store: Store, folder: Path, *, image_size: int | None = None, beside: bool = False
) -> dict[str, int]:
    """Writes FOLDER/preferences.{parquet,jsonl} (flat), conversations.{parquet,jsonl}, judgements.jsonl and
    the pictures that the latter names.

    Args:
      beside: the conversations' pictures lie in folders of their own instead of in the files.

    Returns:
      How many judgements and preference pairs were written. With no pair yet there are no preference files.
    """
    records = to_records(store)
    for picture in sorted({item.picture for item in store.items().values() if item.picture is not None}):
        write_bytes(folder / str(picture_name(picture)), _media(store, picture))
    write_text(
        folder / "judgements.jsonl",
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records),
    )
    try:
        preferences = to_preferences(store, image_size=image_size)
    except UserError:
        return {"judgements": len(records), "preferences": 0}
    for ending in ("parquet", "jsonl"):
        write_preferences(folder / f"preferences.{ending}", preferences)
        write_conversations(folder / f"conversations.{ending}", preferences, beside=beside)
    return {"judgements": len(records), "preferences": len(preferences)}


def picture_name(picture: str | None) -> str | None:
    """Where an export has the picture of this id, from its folder on."""
    return None if picture is None else f"pictures/{picture}.webp"


def _mean_ratings(store: Store) -> dict[tuple[str, str | None, str], dict[str, float]]:
    """(prompt, picture, answer) → the mean rating of each aspect."""
    items = store.items()
    given: dict[tuple[str, str | None, str], list[dict[str, int]]] = defaultdict(list)
    for row in store.standing():
        if "ratings" in row.answer:
            item = items[row.item]
            given[item.prompt, item.picture, item.answers[0]].append(row.answer["ratings"])
    return {
        what: {aspect: statistics.fmean(one[aspect] for one in all_given) for aspect in ASPECTS}
        for what, all_given in given.items()
    }


def _pictures(
    store: Store, names: list[str], size: int | None, white: bool
) -> tuple[np.ndarray, dict[str | None, int]]:
    """The pictures of these ids fitted into one size, and the row of each; None is the white one."""
    data: dict[str, bytes] = {}
    for name in names:
        data[name] = _media(store, name)
    if size is None:
        size = max((max(Image.open(io.BytesIO(one)).size) for one in data.values()), default=64)
    size = min(size, MAX_SIZE)
    images = [decode_image(one, size=size, source=name) for name, one in data.items()]
    row_of: dict[str | None, int] = {name: row for row, name in enumerate(data)}
    if white:
        row_of[None] = len(images)
        images.append(np.full((size, size, 3), 255, np.uint8))
    return np.stack(images), row_of


def _media(store: Store, name: str) -> bytes:
    found = store.media(name)
    assert found is not None  # the database holds no item whose picture it has not
    return found[1]


def _utc(time: float) -> str:
    return datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="milliseconds")
