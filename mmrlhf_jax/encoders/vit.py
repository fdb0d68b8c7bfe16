"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), also as CLIP and SigLIP shape it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.positions import interpolate_positions
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.transformer import Transformer, activate

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
    """Pictures of 0-255 to float32 pixels, shifted and scaled by channel as CLIP's processors do.

    Any axes may stand before H.
    """
    unit = image_BxHxWxC.astype(jnp.float32) / 255.0
    mean, std = (jnp.asarray(value).reshape(*[1] * (unit.ndim - 1), -1) for value in (CLIP_MEAN, CLIP_STD))
    return (unit - mean) / std


def from_pixels(pixels_BxHxWxC: jax.Array) -> jax.Array:
    """The pictures of 0-255 that `to_pixels` made pixels of, float32."""
    unit = pixels_BxHxWxC * jnp.asarray(CLIP_STD)[None, None, None] + jnp.asarray(CLIP_MEAN)[None, None, None]
    return 255.0 * unit


def patches(pixels_BxHxWxC: jax.Array, size: int) -> jax.Array:
    """Cuts pictures into (B, P, size x size x C) patches, row by row; what is left over is dropped."""
    batch, height, width, channels = pixels_BxHxWxC.shape
    rows, columns = height // size, width // size
    whole_BxHxWxC = pixels_BxHxWxC[:, : rows * size, : columns * size]
    # A patch's pixels of one row lie side by side: moved as one axis, a CPU copies them as a block.
    grid = whole_BxHxWxC.reshape(batch, rows, size, columns, size * channels)
    return grid.transpose(0, 1, 3, 2, 4).reshape(batch, -1, size * size * channels)


class AttentionPool(nnx.Module):
    """A learned query gathers all tokens, a feed-forward part follows: the head of SigLIP's picture tower.

    Zhai et al. 2022 (arXiv:2106.04560), "multihead attention pooling".
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        linear = functools.partial(nnx.Linear, rngs=rngs, kernel_init=nnx.initializers.xavier_uniform())
        self.heads = config.heads
        self.activation = config.activation
        self.query = nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (width,)))
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        self.norm = nnx.LayerNorm(width, epsilon=config.norm_eps, rngs=rngs)
        self.up = linear(width, config.mlp_width)
        self.down = linear(config.mlp_width, width)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        """One vector a row, (B, D)."""
        batch, _, width = x_BxTxD.shape
        asked = self.qkv(self.query[...][None]).reshape(1, 1, 3, self.heads, -1)
        query = jnp.broadcast_to(asked[:, :, 0], (batch, 1, self.heads, width // self.heads))
        qkv = self.qkv(x_BxTxD.reshape(-1, width)).reshape(batch, -1, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(query, qkv[:, :, 1], qkv[:, :, 2])
        x_BxD = self.out(attended.reshape(batch, width))
        return x_BxD + self.down(activate(self.up(self.norm(x_BxD)), self.activation))


class VisionTransformer(nnx.Module):
    """Patches and learned positions through a transformer: the towers of CLIP, ViT and SigLIP."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        width, eps = config.transformer.width, config.transformer.norm_eps
        normal = nnx.initializers.normal(width**-0.5)
        self.config = config
        self.patch = nnx.Linear(3 * config.patch_size**2, width, use_bias=config.patch_bias, rngs=rngs)
        if config.class_token:
            self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        self.positions = nnx.Param(normal(rngs.params(), (config.num_positions, width)))
        if config.pre_norm:
            self.pre_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.transformer = Transformer(config.transformer, rngs=rngs)
        self.post_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        if config.pooling == "attention":
            self.gather = AttentionPool(config.transformer, rngs=rngs)
        elif config.pooling == "dense":
            self.dense = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, pixels_BxHxWxC: jax.Array) -> Encoded:
        """Tokens of the patches and the pooled vector, all after the last norm; no token for the class.

        Pictures of another size than the trained one are read with interpolated positions.

        Raises:
          UserError: another size, of which a side is not a multiple of the patch size.
        """
        x_BxTxD = self.post_norm(self.transformer(self._embed(pixels_BxHxWxC)))
        patches_BxPxD = x_BxTxD[:, 1:] if self.config.class_token else x_BxTxD
        match self.config.pooling:
            case "class":
                pooled_BxD = x_BxTxD[:, 0]
            case "dense":
                pooled_BxD = jnp.tanh(self.dense(x_BxTxD[:, 0]))
            case "mean":
                pooled_BxD = jnp.mean(patches_BxPxD, axis=1)
            case "attention":
                pooled_BxD = self.gather(x_BxTxD)
        return Encoded(patches_BxPxD, pooled_BxD)

    def features(self, pixels_BxHxWxC: jax.Array, *, layer: int = -1) -> jax.Array:
        """All tokens (B, T, D), class token first, as they leave block number `layer`, before the last norm.

        transformers' hidden_states[layer]: 0 is what enters the first block, -1 what leaves the last one, -2
        what LLaVA reads. Blocks above are not computed.
        """
        count = self.config.transformer.layers
        if not -count - 1 <= layer <= count:
            raise UserError(f"layer {layer} of a tower of {count} layers: choose {-count - 1} to {count}")
        return self.transformer(self._embed(pixels_BxHxWxC), layers=layer % (count + 1))

    def _embed(self, pixels_BxHxWxC: jax.Array) -> jax.Array:
        """What enters the first block, (B, T, D)."""
        size, side = self.config.patch_size, self.config.image_size // self.config.patch_size
        _, height, width, _ = pixels_BxHxWxC.shape
        trained = height == width == self.config.image_size
        if not trained and (height % size or width % size):
            raise UserError(f"a picture of {width}x{height} pixels: patches of {size} must divide both sides")
        cut_BxPxK = patches(pixels_BxHxWxC.astype(self.patch.kernel.dtype), size)
        batch, count, _ = cut_BxPxK.shape
        x_BxTxD = self.patch(cut_BxPxK.reshape(batch * count, -1)).reshape(batch, count, -1)
        first_FxD, grid_PxD = jnp.split(self.positions[...], [self.config.num_positions - side**2])
        grid_PxD = interpolate_positions(grid_PxD, (side, side), (height // size, width // size))
        x_BxTxD = x_BxTxD + grid_PxD[None]
        if self.config.class_token:
            first_Bx1xD = jnp.broadcast_to(
                self.class_token[...][None, None] + first_FxD[None], (batch, 1, x_BxTxD.shape[-1])
            )
            x_BxTxD = jnp.concatenate([first_Bx1xD, x_BxTxD], axis=1)
        return self.pre_norm(x_BxTxD) if self.config.pre_norm else x_BxTxD
