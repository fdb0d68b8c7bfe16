"""Which feeling each of the bundled smileys shows.

The table is this project's own reading of Unicode's names and subgroups (face-smiling, face-affection,
face-concerned, face-negative, face-sleepy, face-unwell, cat-face ...). Faces whose feeling people would argue
about (thinking, smirking, upside-down, melting, clown ...) are left out. Of each feeling a fifth is held out:
pictures that no training shows.
"""

import dataclasses
import functools

import numpy as np

from mmrlhf_jax.data.emoji import load_emoji

FACES = {
    "happy": (
        "grinning face",
        "grinning face with big eyes",
        "grinning face with smiling eyes",
        "beaming face with smiling eyes",
        "grinning squinting face",
        "rolling on the floor laughing",
        "face with tears of joy",
        "slightly smiling face",
        "smiling face with smiling eyes",
        "smiling face with halo",
        "smiling face",
        "partying face",
        "smiling face with sunglasses",
        "cowboy hat face",
        "grinning cat",
        "grinning cat with smiling eyes",
        "cat with tears of joy",
    ),
    "loving": (
        "smiling face with hearts",
        "smiling face with heart-eyes",
        "face blowing a kiss",
        "kissing face",
        "kissing face with closed eyes",
        "kissing face with smiling eyes",
        "smiling cat with heart-eyes",
        "kissing cat",
        "smiling face with open hands",
    ),
    "sad": (
        "pensive face",
        "slightly frowning face",
        "frowning face",
        "frowning face with open mouth",
        "pleading face",
        "face holding back tears",
        "sad but relieved face",
        "crying face",
        "loudly crying face",
        "disappointed face",
        "downcast face with sweat",
        "crying cat",
    ),
    "angry": (
        "face with steam from nose",
        "enraged face",
        "angry face",
        "face with symbols on mouth",
        "angry face with horns",
        "unamused face",
        "face with rolling eyes",
        "pouting cat",
    ),
    "afraid": (
        "worried face",
        "anguished face",
        "fearful face",
        "anxious face with sweat",
        "face screaming in fear",
        "grimacing face",
        "face with peeking eye",
        "weary cat",
    ),
    "sick": (
        "face with medical mask",
        "face with thermometer",
        "face with head-bandage",
        "nauseated face",
        "face vomiting",
        "sneezing face",
        "hot face",
        "cold face",
        "woozy face",
        "face with spiral eyes",
    ),
    "tired": (
        "sleepy face",
        "sleeping face",
        "yawning face",
        "tired face",
        "weary face",
        "persevering face",
        "face exhaling",
    ),
    "surprised": (
        "face with open mouth",
        "hushed face",
        "astonished face",
        "flushed face",
        "face with open eyes and hand over mouth",
        "exploding head",
        "star-struck",
    ),
}
FEELINGS = tuple(FACES)
IMAGE_SIZE = 32  # pixels of a side: the bundled pictures, halved
_HELD_OUT = 0.2  # share of each feeling's faces


@dataclasses.dataclass(frozen=True)
class Faces:
    """F faces.

    Attributes:
      images_FxHxWxC: uint8, IMAGE_SIZE pixels of a side.
      names: Unicode's.
      feelings: of FEELINGS, one for each face.
      held_out_F: bool, True for the faces that training never shows.
    """

    images_FxHxWxC: np.ndarray
    names: tuple[str, ...]
    feelings: tuple[str, ...]
    held_out_F: np.ndarray

    def of(self, feeling: str, *, held_out: bool) -> np.ndarray:
        """The numbers of the faces that show `feeling`, those held out or the others."""
        same_F = np.array([each == feeling for each in self.feelings])
        return np.flatnonzero(same_F & (self.held_out_F == held_out))


@functools.cache
def load_faces() -> Faces:
    """All faces of the table, in its order; the same ones are held out every time."""
    emoji = load_emoji(None)
    row_of = {name: row for row, name in enumerate(emoji.names)}
    pairs = [(name, feeling) for feeling, names in FACES.items() for name in names]
    image_FxHxWxC = emoji.images_NxHxWxC[[row_of[name] for name, _ in pairs]].astype(np.float32)
    count, side = len(pairs), image_FxHxWxC.shape[1] // IMAGE_SIZE
    blocks = image_FxHxWxC.reshape(count, IMAGE_SIZE, side, IMAGE_SIZE, side, 3)
    generator = np.random.default_rng(0)
    held_out = {
        name
        for names in FACES.values()
        for name in generator.permutation(names)[: round(_HELD_OUT * len(names))]
    }
    return Faces(
        np.round(blocks.mean(axis=(2, 4))).astype(np.uint8),
        tuple(name for name, _ in pairs),
        tuple(feeling for _, feeling in pairs),
        np.array([name in held_out for name, _ in pairs]),
    )
