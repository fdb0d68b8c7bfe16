"""Names that read alike: the hard negatives of contrastive training."""

from collections.abc import Sequence

import numpy as np

from mmrlhf_jax.errors import UserError


def nearest_names(names: Sequence[str], count: int) -> np.ndarray:
    """The `count` other names that share most words with each name, int32 (N, count), nearest first.

    Likeness is the Jaccard index of the two sets of words; equal names are no neighbours of each other, and
    ties go to the name that comes first.

    Raises:
      UserError: fewer than `count` + 1 different names.
    """
    if len(set(names)) <= count:
        raise UserError(f"{count} neighbours a name need more than {len(set(names))} different names")
    sets = [set(name.lower().replace(":", " ").replace(",", " ").split()) for name in names]
    column = {word: i for i, word in enumerate(sorted(set().union(*sets)))}
    has_NxW = np.zeros((len(names), len(column)), np.float32)
    for row, words in enumerate(sets):
        has_NxW[row, [column[word] for word in words]] = 1.0
    size_N = has_NxW.sum(axis=1)
    shared_NxN = has_NxW @ has_NxW.T
    likeness_NxN = shared_NxN / np.maximum(size_N[:, None] + size_N[None] - shared_NxN, 1.0)
    _, name_N = np.unique(np.array(names), return_inverse=True)
    likeness_NxN[name_N[:, None] == name_N[None]] = -1.0
    return np.argsort(-likeness_NxN, axis=1, kind="stable")[:, :count].astype(np.int32)
