"""How much picture and text contribute to a reward model's choices between two answers."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.tokens import PAD_ID
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.evaluate.attribution import attribute
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.model import RewardModel

ROWS = 256  # pairs that are asked about: six questions each
EMAP_ROWS = 24  # of these, every picture with every text: the square of it


def attribute_choices(
    model: Definition[RewardModel],
    params: Params,
    image_NxHxWxC: jax.Array,
    image_index_P: jax.Array,
    chosen_PxT: jax.Array,
    rejected_PxT: jax.Array,
    *,
    rows: int = ROWS,
    emap_rows: int = EMAP_ROWS,
    batch: int = 128,
) -> dict[str, Any]:
    """`evaluate.attribution.Attribution` of a sample of P pairs as a dict, with its "pairs" and "warning".

    Half of the pairs are turned round. Without text both answers are the same, so accuracy is then one half;
    without a picture the model scores by its fusion alone, on null vectors that training may never have met.

    Args:
      image_NxHxWxC: uint8.
      image_index_P: the picture of each pair.
      chosen_PxT: tokens, right-padded with PAD_ID; so `rejected_PxT`.
    """
    count = len(image_index_P)
    row_S = np.linspace(0, count - 1, min(rows, count)).astype(np.int64)
    picture_S = np.asarray(image_index_P)[row_S]
    label_S = np.arange(len(row_S)) % 2
    turn_S = np.where(label_S == 1, 1.0, -1.0)

    def score(image_rows: np.ndarray, text_rows: np.ndarray, present: np.ndarray) -> np.ndarray:
        def chunk(asked: np.ndarray) -> jax.Array:
            pairs = row_S[text_rows[asked]]
            image_BxHxWxC = image_NxHxWxC[picture_S[image_rows[asked]]]
            return _margins(
                model, params, image_BxHxWxC, chosen_PxT[pairs], rejected_PxT[pairs], present[asked]
            )

        return turn_S[text_rows] * in_chunks(chunk, len(text_rows), batch)

    found = attribute(score, label_S, picture_N=picture_S, emap_rows=emap_rows)
    return {**dataclasses.asdict(found), "pairs": len(row_S), "warning": found.warning}


@functools.partial(jax.jit, static_argnums=0)
def _margins(
    model: Definition[RewardModel],
    params: Params,
    image_BxHxWxC: jax.Array,
    chosen_BxT: jax.Array,
    rejected_BxT: jax.Array,
    present_Bx2: jax.Array,
) -> jax.Array:
    """Reward of the chosen answer minus that of the rejected one, (B,)."""
    bound = model.bind(params)
    seen = bound.encode(to_pixels(image_BxHxWxC))
    rewards = [
        bound.judge(seen, ids_BxT, ids_BxT != PAD_ID, present_Bx2).reward_B
        for ids_BxT in (chosen_BxT, rejected_BxT)
    ]
    return rewards[0] - rewards[1]
