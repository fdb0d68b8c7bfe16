"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) in the form that CLIP gave it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import VisionConfig
from mmrlhf_jax.transformer import Transformer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Encoded(NamedTuple):
    """What a tower says about its input.

    Attributes:
      tokens_BxTxD: one vector for each patch or text token.
      pooled_BxD: one vector for the whole.
    """

    tokens_BxTxD: jax.Array
    pooled_BxD: jax.Array


def to_pixels(image_BxHxWxC: jax.Array) -> jax.Array:
    """Pictures of 0-255 to float32 pixels, shifted and scaled by channel as CLIP's processors do."""
    unit = image_BxHxWxC.astype(jnp.float32) / 255.0
    return (unit - jnp.asarray(CLIP_MEAN)[None, None, None]) / jnp.asarray(CLIP_STD)[None, None, None]


def patches(pixels_BxHxWxC: jax.Array, size: int) -> jax.Array:
    """Cuts pictures into (B, P, size x size x C) patches, row by row."""
    batch, height, width, channels = pixels_BxHxWxC.shape
    grid = pixels_BxHxWxC.reshape(batch, height // size, size, width // size, size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)


class VisionTransformer(nnx.Module):
    """Patches, a class token and learned positions through a transformer."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        width, eps = config.transformer.width, config.transformer.norm_eps
        normal = nnx.initializers.normal(width**-0.5)
        self.patch_size = config.patch_size
        self.patch = nnx.Linear(3 * config.patch_size**2, width, use_bias=False, rngs=rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        self.positions = nnx.Param(normal(rngs.params(), (config.num_patches + 1, width)))
        self.pre_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.transformer = Transformer(config.transformer, rngs=rngs)
        self.post_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)

    def __call__(self, pixels_BxHxWxC: jax.Array) -> Encoded:
        """Tokens of the patches, and the class token as the pooled vector, all after the last norm."""
        cut_BxPxK = patches(pixels_BxHxWxC, self.patch_size)
        batch, count, size = cut_BxPxK.shape
        patch_BxPxD = self.patch(cut_BxPxK.reshape(-1, size)).reshape(batch, count, -1)
        first_Bx1xD = jnp.broadcast_to(self.class_token[...], (batch, 1, patch_BxPxD.shape[-1]))
        x_BxTxD = jnp.concatenate([first_Bx1xD, patch_BxPxD], axis=1) + self.positions[...][None]
        x_BxTxD = self.post_norm(self.transformer(self.pre_norm(x_BxTxD)))
        return Encoded(x_BxTxD[:, 1:], x_BxTxD[:, 0])
