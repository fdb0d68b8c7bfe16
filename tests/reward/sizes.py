"""Tiny towers and texts for the tests of reward models."""

import numpy as np

from mmrlhf_jax.architecture import CLIPConfig, TextConfig, TransformerConfig, VisionConfig

CLIP = CLIPConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    text=TextConfig(11, 6, TransformerConfig(width=12, layers=1, heads=2, mlp_width=8)),
    projection_width=8,
)
PIXELS = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
IDS = np.array([[3, 4, 2, 0, 0], [5, 6, 7, 8, 2]], np.int32)
MASK = IDS > 0
