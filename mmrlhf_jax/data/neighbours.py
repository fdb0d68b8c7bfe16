"""Names that read alike: the hard negatives of contrastive training."""

from collections.abc import Sequence

import numpy as np

from mmrlhf_jax.errors import UserError

MOST = 30_000  # names, beyond which comparing all with all takes too long
ROWS = 1024  # names that are compared with all others at a time


def nearest_names(names: Sequence[str], count: int) -> np.ndarray:
    """The `count` other names that share most words with each name, int32 (N, count), nearest first.

    Likeness is the Jaccard index of the two sets of words; equal names are no neighbours of each other, and
    ties go to the name that comes first.

    Raises:
      UserError: fewer than `count` + 1 different names, or more than MOST in all.
    """
    if not count:
        return np.zeros((len(names), 0), np.int32)
    if len(set(names)) <= count:
        raise UserError(
            f"{count} neighbours a name need more than {len(set(names))} different names: lower --neighbours"
        )
    if len(names) > MOST:
        raise UserError(
            f"neighbours compares each of {len(names)} names with all others, {MOST} at most: --neighbours 0"
        )
    sets = [set(name.lower().replace(":", " ").replace(",", " ").split()) for name in names]
    column = {word: i for i, word in enumerate(sorted(set().union(*sets)))}
    has_NxW = np.zeros((len(names), len(column)), np.float32)
    for row, words in enumerate(sets):
        has_NxW[row, [column[word] for word in words]] = 1.0
    size_N = has_NxW.sum(axis=1)
    _, name_N = np.unique(np.array(names), return_inverse=True)

    def nearest(rows_B: slice) -> np.ndarray:
        shared_BxN = has_NxW[rows_B] @ has_NxW.T
        likeness_BxN = shared_BxN / np.maximum(size_N[rows_B, None] + size_N[None] - shared_BxN, 1.0)
        likeness_BxN[name_N[rows_B, None] == name_N[None]] = -1.0
        return np.argsort(-likeness_BxN, axis=1, kind="stable")[:, :count].astype(np.int32)

    return np.concatenate([nearest(slice(row, row + ROWS)) for row in range(0, len(names), ROWS)])
