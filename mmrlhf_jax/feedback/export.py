"""Judgements as files: preferences in TRL's columns, ratings, clicks, and a record of all that was said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmrlhf_jax.data.clicks import write_clicks
from mmrlhf_jax.data.conversations import write_conversations
from mmrlhf_jax.data.preferences import PreferenceSet, write_preferences
from mmrlhf_jax.data.ratings import write_ratings
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.judged_sets import media_of, to_clicks, to_preferences, to_ratings, utc
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.files import write_bytes, write_text

ENDINGS = ("parquet", "jsonl")


def export(
    store: Store, folder: Path, *, image_size: int | None = None, beside: bool = False
) -> dict[str, int]:
    """Writes what there is to FOLDER: preferences.{parquet,jsonl} (flat), conversations.{parquet,jsonl},
    ratings.{parquet,jsonl}, clicks.{parquet,jsonl}, judgements.jsonl, and the pictures and sounds that the
    last names.

    Args:
      beside: the conversations' pictures lie in folders of their own instead of in the files.

    Returns:
      How many judgements, preference pairs, ratings and lists were written; where there are none of a kind,
      its files are not written.
    """
    records = to_records(store)
    items = store.items().values()
    for name in sorted({item.picture for item in items if item.picture is not None}):
        write_bytes(folder / str(picture_name(name)), media_of(store, name))
    for name in sorted({item.sound for item in items if item.sound is not None}):
        write_bytes(folder / str(sound_name(name)), media_of(store, name))
    write_text(
        folder / "judgements.jsonl",
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records),
    )

    def write_pairs(path: Path, preferences: PreferenceSet) -> None:
        write_preferences(path, preferences)
        write_conversations(path.with_stem("conversations"), preferences, beside=beside)

    sets: dict[str, tuple[Callable[..., Any], Callable[[Path, Any], None]]] = {
        "preferences": (to_preferences, write_pairs),
        "ratings": (to_ratings, write_ratings),
        "clicks": (to_clicks, write_clicks),
    }
    counts = {"judgements": len(records)}
    for name, (collect, write) in sets.items():
        try:
            found = collect(store, image_size=image_size)
        except UserError:  # none of this kind yet
            counts[name] = 0
            continue
        for ending in ENDINGS:
            write(folder / f"{name}.{ending}", found)
        counts[name] = len(found)
    return counts


def to_records(store: Store) -> list[dict[str, Any]]:
    """Every judgement that stands, ties, skips, ratings and checks included, as plain JSON."""
    items, names = store.items(), {rater.id: rater.name for rater in store.raters()}
    return [
        {
            "rater": names[row.rater],
            "time": utc(row.time),
            "seconds": row.seconds,
            "key": row.key,
            "item": row.item,
            "kind": items[row.item].kind,
            "prompt": items[row.item].prompt,
            "answers": list(items[row.item].answers),
            "picture": picture_name(items[row.item].picture),
            "sound": sound_name(items[row.item].sound),
            "shown": list(row.shown),
            "strategy": row.strategy,
            "expected": items[row.item].expected,
            "answer": row.answer,
            "extras": items[row.item].extras,
        }
        for row in store.standing()
    ]


def picture_name(picture: str | None) -> str | None:
    """Where an export has the picture of this id, from its folder on."""
    return None if picture is None else f"pictures/{picture}.webp"


def sound_name(sound: str | None) -> str | None:
    """Where an export has the sound of this id, from its folder on."""
    return None if sound is None else f"sounds/{sound}.wav"
