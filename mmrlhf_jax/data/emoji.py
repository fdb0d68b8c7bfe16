"""The bundled pictures: 3,789 Noto Color Emoji, 64x64, with the names that people gave them in Unicode CLDR.

The names are compositional ("man judge: dark skin tone"), so the held-out parts measure understanding:

- "train": everything else, flags and keycaps included; the pictures whose names are there to be learnt.
- "feedback": pictures to write about and be judged on, chosen like "combinations". Their names are shown to
  no network. A policy has learnt its training pictures by heart, so it errs on others, and errors are what
  raters, a reward model and reinforcement learning need.
- "combinations": names whose every part occurs in "train", but never together: where "man farmer: light
  skin tone" is held out, "train" has men farmers of other skin tones, and other people of that one.
- "concepts": pictures of things that "train" does not show; each name has a word that "train" does not have.

`scripts/make_emoji.py` makes the file and documents its columns; the licences lie beside it.
"""

import importlib.resources

import numpy as np

from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.images import decode_image
from mmrlhf_jax.errors import UserError

SPLITS = ("train", "feedback", "combinations", "concepts")
IMAGE_SIZE = 64


def load_emoji(split: str | None = None, image_size: int = IMAGE_SIZE) -> CaptionSet:
    """The pictures of one split, or all of them for None, in the order of Unicode's emoji list.

    Returns:
      CaptionSet with images uint8 Nx64x64x3 (or of another `image_size`) on white, and for each the name,
      keywords, group and subgroup.

    Raises:
      UserError: `split` is not one of SPLITS.
    """
    import pyarrow.compute
    import pyarrow.parquet

    if split is not None and split not in SPLITS:
        raise UserError(
            f"there is no split {split!r} of the emoji pictures; choose one of {', '.join(SPLITS)}"
        )
    resource = importlib.resources.files("mmrlhf_jax.data").joinpath("emoji", "emoji.parquet")
    with resource.open("rb") as file:
        table = pyarrow.parquet.read_table(file)
    if split is not None:
        table = table.filter(pyarrow.compute.equal(table["split"], split))
    rows = table.select(["image", "name", "keywords", "group", "subgroup"]).to_pylist()
    images = [decode_image(row["image"]["bytes"], size=image_size, source=row["name"]) for row in rows]
    captions = tuple(
        Caption(row["name"], tuple(row["keywords"]), row["group"], row["subgroup"]) for row in rows
    )
    return CaptionSet(np.stack(images), captions)
