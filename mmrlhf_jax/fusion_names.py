"""The names of the fusions, as flags and configurations take them."""

from typing import Literal

FusionName = Literal[
    "concat",
    "concat_linear",
    "weighted_sum",
    "weighted_sum_learned",
    "weighted_sum_fixed",
    "attention",
    "cross_attention",
    "perceiver",
    "gated",
    "film",
    "low_rank",
    "tensor",
    "late",
    "image_only",
    "text_only",
]
