"""Pictures with the names people gave them, held in memory."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Caption:
    """What is known about one picture.

    Attributes:
      name: the name that people gave it, e.g. "woman judge: dark skin tone".
      keywords: further words that people connect with it.
      group: coarse class, e.g. "people-body".
      subgroup: finer class, e.g. "person-role".
      others: further captions of the same picture, each as right as the name.
    """

    name: str
    keywords: tuple[str, ...] = ()
    group: str = ""
    subgroup: str = ""
    others: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All captions of the picture, the name first."""
        return (self.name, *self.others)


@dataclasses.dataclass(frozen=True)
class CaptionSet:
    """N pictures and their captions.

    Attributes:
      images_NxHxWxC: uint8, RGB, 0-255.
      captions: N captions.
    """

    images_NxHxWxC: np.ndarray
    captions: tuple[Caption, ...]

    def __post_init__(self):
        if len(self.images_NxHxWxC) != len(self.captions):
            raise ValueError(f"{len(self.images_NxHxWxC)} pictures but {len(self.captions)} captions")

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def names(self) -> list[str]:
        return [caption.name for caption in self.captions]

    @property
    def references(self) -> list[list[str]]:
        """All captions of each picture."""
        return [list(caption.texts) for caption in self.captions]

    def take(self, indices: Sequence[int] | np.ndarray) -> "CaptionSet":
        """The pictures at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return CaptionSet(self.images_NxHxWxC[indices], tuple(self.captions[i] for i in indices))
