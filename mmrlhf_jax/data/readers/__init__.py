"""Readers of the public sets of judgements, each in its own columns.

>>> judged = read_set("pick-a-pic", "pickapic_v2/data", image_size=224, on_bad="skip")

Adding a set is one function in the file of its family and one line in SETS.
"""

from collections.abc import Callable
from pathlib import Path

from mmrlhf_jax.data.fetch import Fetcher
from mmrlhf_jax.data.pictures import Pictures
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.readers.answers import read_rlaif_v, read_rlhf_v, read_trl, read_vl_rewardbench
from mmrlhf_jax.data.readers.generated import (
    read_hpdv2,
    read_hpdv3,
    read_imagerewarddb,
    read_pick_a_pic,
)
from mmrlhf_jax.data.readers.rated import read_flickr8k_expert, read_polaris, read_vlfeedback
from mmrlhf_jax.data.readers.source import Source
from mmrlhf_jax.data.records import find_files
from mmrlhf_jax.errors import UserError

SETS: dict[str, Callable[[Source], PreferenceSet | RatingSet]] = {
    "rlhf-v": read_rlhf_v,
    "rlaif-v": read_rlaif_v,
    "trl": read_trl,
    "vl-rewardbench": read_vl_rewardbench,
    "pick-a-pic": read_pick_a_pic,
    "hpdv2": read_hpdv2,
    "hpdv3": read_hpdv3,
    "imagerewarddb": read_imagerewarddb,
    "vlfeedback": read_vlfeedback,
    "polaris": read_polaris,
    "nebula": read_polaris,
    "flickr8k-expert": read_flickr8k_expert,
}


def read_set(
    name: str,
    path: str | Path,
    image_size: int,
    *,
    on_bad: str = "error",
    image_root: str | Path | None = None,
    allow_urls: bool = False,
    split: str = "train",
) -> PreferenceSet | RatingSet:
    """Reads a public set in its own columns.

    Args:
      name: of SETS.
      path: a parquet, JSON, JSONL, CSV or TSV file, or a folder of several.
      image_size: pixels; each distinct picture is decoded once and fitted into a square on white.
      on_bad: "error" raises for the first record that cannot be used, "skip" leaves it out and tells of it in
        the result's `skipped`. Records that nobody judged are always left out and told of.
      image_root: the folder under which pictures given by path lie; by default that of the file.
      allow_urls: whether pictures given by address are fetched, from public addresses only.
      split: which files of a folder to take where it has several splits.

    Raises:
      UserError: no such set or file, no usable record, or (on_bad="error") a bad one. The message names the
        file, the line or row (from 1) and the column.
    """
    if name not in SETS:
        raise UserError(f"there is no set {name!r}: give one of {', '.join(SETS)}")
    path = Path(path)
    root = Path(image_root) if image_root is not None else path if path.is_dir() else path.parent
    if image_root is not None and not root.is_dir():
        raise UserError(f"{root}: there is no such folder of pictures")
    pictures = Pictures(root, image_size, Fetcher() if allow_urls else None)
    return SETS[name](Source(find_files(path, split), pictures, on_bad))
