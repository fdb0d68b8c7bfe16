"""Fusion: several modalities' features become one vector, with the weight that each got.

Every method has one signature (see `base.py`):

    fusion = build_fusion("attention", {"image": 128, "text": 128}, width=128, rngs=rngs)
    fused = fusion({"image": image_BxPxD, "text": text_BxTxD}, masks)

To add one, write its file and name it in `build_fusion`.
"""

from collections.abc import Mapping

from flax import nnx

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.fusion.attention import AttentionFusion
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks
from mmrlhf_jax.fusion.concat import ConcatFusion
from mmrlhf_jax.fusion.weighted_sum import WeightedSumFusion

__all__ = ["AttentionFusion", "ConcatFusion", "Fused", "Fusion", "Masks", "WeightedSumFusion", "build_fusion"]


def build_fusion(name: FusionName, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs) -> Fusion:
    """The fusion called `name` for modalities of the given widths."""
    match name:
        case "concat":
            return ConcatFusion(widths, width=width, rngs=rngs)
        case "weighted_sum":
            return WeightedSumFusion(widths, width=width, rngs=rngs)
        case "attention":
            return AttentionFusion(widths, width=width, rngs=rngs)
