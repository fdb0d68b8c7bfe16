"""Fusion: several modalities' features become one vector, with the weight that each got.

Every method has one signature (see `base.py`):

    fusion = build_fusion("attention", {"image": 128, "text": 128}, width=128, rngs=rngs)
    fused = fusion({"image": image_BxPxD, "text": text_BxTxD}, masks)

To add one, write its file and name it in `METHODS`.
"""

import functools
from collections.abc import Callable, Mapping

from flax import nnx

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion.attention import AttentionFusion
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks
from mmrlhf_jax.fusion.concat import ConcatFusion, ConcatLinearFusion
from mmrlhf_jax.fusion.cross_attention import CrossAttentionFusion
from mmrlhf_jax.fusion.dropout import drop_modalities
from mmrlhf_jax.fusion.film import FilmFusion
from mmrlhf_jax.fusion.gated import GatedFusion
from mmrlhf_jax.fusion.late import LateFusion
from mmrlhf_jax.fusion.low_rank import LowRankFusion
from mmrlhf_jax.fusion.perceiver import PerceiverFusion
from mmrlhf_jax.fusion.tensor import TensorFusion
from mmrlhf_jax.fusion.unimodal import UnimodalFusion
from mmrlhf_jax.fusion.weighted_sum import WeightedSumFixedFusion, WeightedSumFusion, WeightedSumLearnedFusion

__all__ = [
    "METHODS",
    "AttentionFusion",
    "ConcatFusion",
    "ConcatLinearFusion",
    "CrossAttentionFusion",
    "FilmFusion",
    "Fused",
    "Fusion",
    "GatedFusion",
    "LateFusion",
    "LowRankFusion",
    "Masks",
    "PerceiverFusion",
    "TensorFusion",
    "UnimodalFusion",
    "WeightedSumFixedFusion",
    "WeightedSumFusion",
    "WeightedSumLearnedFusion",
    "build_fusion",
    "drop_modalities",
]

METHODS: dict[FusionName, Callable[..., Fusion]] = {
    "concat": ConcatFusion,
    "concat_linear": ConcatLinearFusion,
    "weighted_sum": WeightedSumFusion,
    "weighted_sum_learned": WeightedSumLearnedFusion,
    "weighted_sum_fixed": WeightedSumFixedFusion,
    "attention": AttentionFusion,
    "cross_attention": CrossAttentionFusion,
    "perceiver": PerceiverFusion,
    "gated": GatedFusion,
    "film": FilmFusion,
    "low_rank": LowRankFusion,
    "tensor": TensorFusion,
    "late": LateFusion,
    "image_only": functools.partial(UnimodalFusion, only="image"),
    "text_only": functools.partial(UnimodalFusion, only="text"),
}


def build_fusion(name: FusionName, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs) -> Fusion:
    """The fusion called `name` for modalities of the given widths, with its class's own defaults.

    Raises:
      UserError: no fusion has that name, or it cannot be made for these modalities and widths.
    """
    if name not in METHODS:
        raise UserError(f"fusion is {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name](widths, width=width, rngs=rngs)
