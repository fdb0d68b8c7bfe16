"""A Python function of texts as a term of the reward: the one place where a step leaves the device.

For a scorer whose tokenizer is not the policy's, or that is no network at all. What it costs is in
docs/rewards.md; whatever can read token ids stays on the device (`reward.composite.TERMS`).
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.tokens import PAD_ID
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.types import Completions

Scorer = Callable[[list[str]], Sequence[float]]  # texts → one number each; the same texts, the same numbers


class TextTerm:
    """Scores completions as text, on the host.

    Works under jit and vmap: all members of a vmap come in one call. No gradient passes.

    Attributes:
      failure: what the scorer raised, in one line; "" as long as it raised nothing.
    """

    def __init__(self, scorer: Scorer, decode: Callable[[np.ndarray], list[str]]) -> None:
        self._scorer, self._decode = scorer, decode
        self.failure = ""

    def __call__(self, completions: Completions) -> jax.Array:
        """The scores (B,), float32; NaN for all where the scorer raises, and `failure` says why.

        To raise inside a callback leaves the program in no defined state.
        """
        ids_BxT, mask_BxT = completions
        result = jax.ShapeDtypeStruct(ids_BxT.shape[:-1], jnp.float32)
        ids_BxT = jnp.where(mask_BxT, ids_BxT, PAD_ID)
        return jax.pure_callback(self._score, result, ids_BxT, vmap_method="expand_dims")

    def _score(self, ids: jax.Array) -> np.ndarray:
        try:  # ids are (..., B, T): vmap puts its axes in front
            texts = self._decode(np.asarray(ids).reshape(-1, ids.shape[-1]))
            scores = np.asarray(self._scorer(texts), np.float32)
            if scores.shape != (len(texts),):
                raise ValueError(f"gave shape {list(scores.shape)} for {len(texts)} texts")
            return scores.reshape(ids.shape[:-1])
        except Exception as error:  # whatever a user's function may raise
            self.failure = " ".join(f"{type(error).__name__}: {error}".split())
            return np.full(ids.shape[:-1], np.nan, np.float32)


def load_scorer(name: str) -> Scorer:
    """The function that "module:function" names; modules are looked for in the working folder too.

    Raises:
      UserError: there is no such module or function, or it cannot be called.
    """
    module_name, _, function = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        scorer = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{name!r} is no scorer: {error}; give MODULE:FUNCTION") from error
    finally:
        sys.path.remove(here)
    if not callable(scorer):
        raise UserError(f"{name!r} is no scorer: it cannot be called; give MODULE:FUNCTION")
    return scorer
