"""Files of judgements whatever their kind: it follows from the columns."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmrlhf_jax.data.clicks import ClickLog, read_clicks
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.data.ratings import RatingSet, read_ratings
from mmrlhf_jax.data.unpaired import LabelledSet, read_labels
from mmrlhf_jax.errors import UserError

JudgementSet = PreferenceSet | RatingSet | LabelledSet | ClickLog

# The first kind whose columns are all there.
_KINDS: dict[tuple[str, ...], Callable[..., JudgementSet]] = {
    ("chosen", "rejected"): read_preferences,
    ("answers", "clicked"): read_clicks,
    ("completion", "ratings"): read_ratings,
    ("completion", "label"): read_labels,
}


def read_judgements(path: str | Path, image_size: int, *, on_bad: str = "error") -> JudgementSet:
    """Reads comparisons, ratings, thumbs or a click log; see `read_preferences` for the arguments.

    Raises:
      UserError: columns that are those of no kind, and what the reader of the kind raises.
    """
    columns = _columns(Path(path))
    for needed, read in _KINDS.items():
        if columns >= set(needed):
            return read(path, image_size, on_bad=on_bad)
    kinds = "; or ".join(", ".join(needed) for needed in _KINDS)
    raise UserError(f"{path}: columns {', '.join(sorted(columns)) or 'none'} say no judgement: give {kinds}")


def pictures_of(judged: JudgementSet) -> np.ndarray:
    """The pictures (R, I) of each judgement: I is 2 where each side of a comparison has its own, else 1."""
    match judged:
        case PreferenceSet():
            sides = [judged.image_index_P, judged.rejected_image_index_P]
            return np.stack([side for side in sides if side is not None], axis=1)
        case ClickLog():
            return judged.image_index_L[:, None]
        case _:
            return judged.image_index_R[:, None]


def split_by_picture(judged: JudgementSet, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows to hold out: about `share` of the pictures, none of which is on both sides.

    Pictures that meet in a comparison, if only by way of others, stay together. Either may be empty.
    """
    index_RxI, count = pictures_of(judged), len(judged.images_NxHxWxC)
    group_N, before_N = np.arange(count), np.full(count, -1)
    while not np.array_equal(group_N, before_N):
        before_N = group_N.copy()
        lowest_R = group_N[index_RxI].min(axis=1)
        np.minimum.at(group_N, index_RxI, lowest_R[:, None])
        group_N = group_N[group_N]
    groups, group_N = np.unique(group_N, return_inverse=True)
    order_G = np.random.default_rng(0).permutation(len(groups))
    held_out_R = (order_G < max(1, round(share * len(groups))))[group_N[index_RxI[:, 0]]]
    return np.flatnonzero(~held_out_R), np.flatnonzero(held_out_R)


def _columns(path: Path) -> set[str]:
    """The columns of a parquet file, or the keys of the first record of a JSONL file; none if it has none."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return set(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged, or not a parquet file ({error}); fetch it again") from error
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                return set(row)
    raise UserError(f"{path}: no line is a JSON object; give .parquet, or .jsonl with one object a line")
