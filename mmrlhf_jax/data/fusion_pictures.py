"""Real pictures with the right name or one that nearly is, and plain frozen features of both.

The pairs call for both modalities: every picture and every name stands once in a matched and once in a
mismatched pair, so that either alone says nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.errors import UserError

_GRID = 16  # pictures are averaged down to so many pixels a side
_EPS = 1e-6


def swap_names(captions: Sequence[Caption], seed: int) -> np.ndarray:
    """For each picture the row of a name that is not its own but nearly: a hard negative, (N,) int.

    Names change places in one cycle within each subgroup; those that are alone in theirs within their group,
    and what is left over among all. Every name is given away once.

    Raises:
      UserError: fewer than two different names, or a set in which most pictures share one name.
    """
    generator = np.random.default_rng(seed)
    names = np.array([caption.name for caption in captions])
    row_N = np.arange(len(captions))
    given_N = row_N.copy()
    for level in ("subgroup", "group", ""):
        labels = np.array([getattr(caption, level) if level else "" for caption in captions])
        left_N = given_N == row_N
        for label in np.unique(labels[left_N]):
            members = generator.permutation(np.flatnonzero(left_N & (labels == label)))
            if len(members) > 1:
                given_N[members] = np.roll(members, 1)
    # A picture of the same name, or a single one left over, trades with any that keeps both in the wrong.
    for row in np.flatnonzero(names[given_N] == names):
        if names[given_N[row]] != names[row]:  # traded since
            continue
        free = (names[given_N] != names[row]) & (names[given_N[row]] != names)
        if not free.any():
            raise UserError(f"no wrong name is left for {str(names[row])!r}: give more different names")
        other = generator.choice(np.flatnonzero(free))
        given_N[[row, other]] = given_N[[other, row]]
    return given_N


@dataclasses.dataclass(frozen=True)
class PlainFeatures:
    """Features that no network learned: principal components of small pictures and of the words of names.

    Each of the `size` components has variance 1 over the pictures and names that it was fitted on.
    """

    picture_mean_P: np.ndarray
    picture_PxD: np.ndarray
    words: dict[str, int]
    rarity_W: np.ndarray
    text_mean_W: np.ndarray
    text_WxD: np.ndarray

    @classmethod
    def fit(cls, captions: CaptionSet, size: int) -> "PlainFeatures":
        """The components of these pictures and names.

        Raises:
          UserError: not more pictures, or not as many words, as components.
        """
        names = [_words(name) for name in captions.names]
        words = {word: column for column, word in enumerate(sorted(set().union(*names)))}
        if min(len(captions) - 1, len(words)) < size:
            raise UserError(
                f"{size} components need more than {size} pictures and as many words: got {len(captions)} "
                f"and {len(words)}; raise --trial.max-pictures"
            )
        count_W = np.zeros(len(words))
        for name in names:
            count_W[[words[word] for word in name]] += 1
        rarity_W = np.log(1 + len(names) / count_W)
        picture_NxP = _small(captions.images_NxHxWxC)
        text_NxW = _bags(captions.names, words, rarity_W)
        picture_mean_P, picture_PxD = _components(picture_NxP, size)
        text_mean_W, text_WxD = _components(text_NxW, size)
        return cls(picture_mean_P, picture_PxD, words, rarity_W, text_mean_W, text_WxD)

    def pictures(self, images_NxHxWxC: np.ndarray) -> np.ndarray:
        """float32 (N, D)."""
        return ((_small(images_NxHxWxC) - self.picture_mean_P) @ self.picture_PxD).astype(np.float32)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, D); words that no fitted name has count for nothing."""
        bags_NxW = _bags(texts, self.words, self.rarity_W)
        return ((bags_NxW - self.text_mean_W) @ self.text_WxD).astype(np.float32)


def _words(text: str) -> set[str]:
    return set(text.lower().replace(":", " ").replace(",", " ").split())


def _small(images_NxHxWxC: np.ndarray) -> np.ndarray:
    """Block means of the pictures, flat, from 0 to 1."""
    count, height, width, channels = images_NxHxWxC.shape
    if height % _GRID or width % _GRID:
        raise ValueError(f"pictures of {height} x {width} do not divide into {_GRID} x {_GRID} blocks")
    blocks = images_NxHxWxC.reshape(count, _GRID, height // _GRID, _GRID, width // _GRID, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1) / 255


def _bags(texts: Sequence[str], words: dict[str, int], rarity_W: np.ndarray) -> np.ndarray:
    bags_NxW = np.zeros((len(texts), len(words)), np.float32)
    for row, text in enumerate(texts):
        columns = [words[word] for word in _words(text) if word in words]
        bags_NxW[row, columns] = rarity_W[columns]
    return bags_NxW


def _components(x_NxP: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and the projection (P, size) to principal components of variance 1."""
    mean_P = x_NxP.mean(axis=0)
    centred_NxP = x_NxP - mean_P
    variance_P, vector_PxP = np.linalg.eigh(centred_NxP.T @ centred_NxP / len(x_NxP))
    top_D = np.argsort(-variance_P)[:size]
    return mean_P, vector_PxP[:, top_D] / np.sqrt(np.maximum(variance_P[top_D], _EPS))
