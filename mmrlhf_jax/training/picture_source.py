"""Where a stage's pictures come from: the bundled ones, or the user's own, in parts that are never mixed."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from mmrlhf_jax.data.captioned import PARTS, OwnPictures, picture_folder, read_pictures
from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.packed import PackedPictures, open_packed
from mmrlhf_jax.data.pictures import PassedPictures, Pictures
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.folder import read_config
from mmrlhf_jax.training.config import PretrainConfig, SplitConfig, StageConfig

BUNDLED_SIZE = 64  # pixels
MOST = 2_000  # held-out pictures of the user's own that are looked at: they are looked at together, in memory
PACKED = "pictures"  # the folder of a run's pictures that are not held in memory

EMOJI_RUBRIC = "noiseless rubric of the simulated raters"
REFERENCE_RUBRIC = (
    "noiseless rubric of the simulated raters, against the reference captions: words weighted by rarity, "
    "word pairs of the captions, length, claims that no reference makes; of several references the best"
)


@dataclasses.dataclass(frozen=True)
class PictureSource:
    """Pictures by part.

    Attributes:
      path: of the user's own; None: the bundled ones.
      image_size: pixels of a side.
      split: how pictures of the user's own are parted.
      on_bad: what to do with a bad record.
      at_most: so many pictures of each part, evenly thinned.
      store: the folder where pictures of the user's own are packed instead of being read into memory.
      captions_only: nothing is wanted of the pictures themselves.
    """

    path: Path | None
    image_size: int = BUNDLED_SIZE
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    on_bad: str = "error"
    at_most: int = 1_000_000
    store: Path | None = None
    captions_only: bool = False

    @property
    def held_out(self) -> tuple[str, ...]:
        """The parts that nothing is trained on; the numbers of the first one stand for all."""
        return ("combinations", "concepts") if self.path is None else ("held_out",)

    @property
    def rubric_name(self) -> str:
        """What the gold rubric is."""
        return EMOJI_RUBRIC if self.path is None else REFERENCE_RUBRIC

    def load(self, part: str) -> CaptionSet:
        """The pictures of a part, in memory: "train", "feedback", or one of `held_out`.

        Raises:
          UserError: pictures of the user's own that cannot be read, or none in this part.
        """
        if self.path is None:
            captions = load_emoji(part, self.image_size)
            return captions.take(_thinned(np.arange(len(captions)), self.at_most))
        return self.own.take(self.rows(part))

    def captions(self, part: str) -> tuple[Caption, ...]:
        """The captions of a part alone; raises as `load` does."""
        if self.path is None:
            return self.load(part).captions
        return tuple(self.own.captions[row] for row in self.rows(part))

    def rows(self, part: str) -> np.ndarray:
        """Which of the user's own pictures belong to a part, at most MOST where they are held out.

        Raises as `load` does.
        """
        rows = self._rows(part, self.own)
        if not len(rows):
            name = part.replace("_", "-")
            raise UserError(
                f"{self.path}: none of its {len(self.own.captions)} pictures is in the part {part}: give "
                f"more pictures, or other shares, e.g. --split.{'feedback' if part == 'train' else name} 0.3"
            )
        return _thinned(rows, min(self.at_most, MOST) if part in self.held_out else self.at_most)

    def all_captions(self) -> tuple[Caption, ...]:
        """The captions of all parts."""
        if self.path is None:
            captions = load_emoji().captions
            return tuple(captions[i] for i in _thinned(np.arange(len(captions)), self.at_most))
        return self.own.captions

    def packed(self) -> PackedPictures:
        """The user's own pictures where they are on disk rather than in memory.

        Raises:
          UserError: the source has no place for that.
        """
        if not isinstance(self.own, PackedPictures):
            raise UserError("--stream reads pictures of your own: add --pictures PATH, or leave --stream out")
        return self.own

    @functools.cached_property
    def own(self) -> OwnPictures:
        """The user's pictures, opened once; says what was left out."""
        if self.path is None:
            raise UserError("the bundled pictures are in memory: add --pictures PATH, or leave --stream out")
        if self.store is None:
            kind = PassedPictures if self.captions_only else Pictures
            pictures = kind(picture_folder(self.path), self.image_size)
            found: OwnPictures = read_pictures(
                self.path, self.image_size, on_bad=self.on_bad, pictures=pictures
            )
        else:
            found = open_packed(self.store, self.path, self.image_size, on_bad=self.on_bad)
        counts = ", ".join(f"{len(self._rows(part, found))} {part}" for part in PARTS)
        left_out = f"{len(found.skipped)} records left out"
        print(f"{self.path}: {len(found.captions)} pictures ({counts}), {left_out}")
        for message in found.skipped[:5]:
            print(f"  left out: {message}")
        return found

    def _rows(self, part: str, own: OwnPictures) -> np.ndarray:
        return own.rows(part, **dataclasses.asdict(self.split))


def _thinned(rows: np.ndarray, at_most: int) -> np.ndarray:
    """At most so many, evenly spread."""
    if len(rows) <= at_most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, at_most).astype(np.int64)]


def picture_source(config: StageConfig) -> PictureSource:
    """The pictures of a stage: its own `--pictures`, else those that the run was pretrained on.

    Size and split are those of pretraining, so that nothing that a stage learned from is held out later.
    """
    streams = getattr(config, "stream", False)
    if isinstance(config, PretrainConfig):
        size, split, path = config.sized().vision.image_size, config.split, config.pictures
    else:
        folder = config.folder("pretrain")
        pretrained = read_config(folder) if (folder / "config.yaml").exists() else {}
        known = pretrained.get("pictures")
        path = config.pictures or (None if known is None else Path(known))
        vision = pretrained.get("clip", {}).get("vision", {})
        size = pretrained.get("image_size") or vision.get("image_size", BUNDLED_SIZE)
        split = SplitConfig(**pretrained.get("split", {}))
        streams = streams or pretrained.get("stream", False)
    store = config.run / PACKED if streams and not config.dry_run else None
    only = streams and config.dry_run
    return PictureSource(path, size, split, config.on_bad, config.max_pictures, store, only)
