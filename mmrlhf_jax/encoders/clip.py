"""CLIP: a picture tower and a text tower that meet in one space (Radford et al. 2021, arXiv:2103.00020)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmrlhf_jax.architecture import CLIPConfig
from mmrlhf_jax.encoders.text import TextTransformer
from mmrlhf_jax.encoders.vit import VisionTransformer


class CLIPOutput(NamedTuple):
    """What the two towers make of a batch of pictures and a batch of texts.

    Attributes:
      image_embeds: (B, D), of length 1.
      text_embeds: (B, D), of length 1.
      logits_per_image: (B pictures, B texts), cosine similarity times the learned scale.
    """

    image_embeds: jax.Array
    text_embeds: jax.Array
    logits_per_image: jax.Array


class CLIP(nnx.Module):
    """Two towers, a projection each, and a learned temperature."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        def projection(width: int) -> nnx.Linear:
            return nnx.Linear(width, config.projection_width, use_bias=False, rngs=rngs)

        self.config = config
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.text = TextTransformer(config.text, rngs=rngs)
        self.vision_projection = projection(config.vision.transformer.width)
        self.text_projection = projection(config.text.transformer.width)
        self.logit_scale = nnx.Param(jnp.asarray(np.log(1 / 0.07), jnp.float32))

    def encode_image(self, pixels_BxHxWx3: jax.Array) -> jax.Array:
        """Projected picture embeddings (B, D), not normalised."""
        return self.project_image(self.vision(pixels_BxHxWx3).pooled_BxD)

    def encode_text(self, ids_BxT: jax.Array, mask_BxT: jax.Array | None = None) -> jax.Array:
        """Projected text embeddings (B, D), not normalised; see `TextTransformer`."""
        return self.project_text(self.text(ids_BxT, mask_BxT).pooled_BxD)

    def project_image(self, pooled_BxD: jax.Array) -> jax.Array:
        """The picture tower's pooled vectors in the common space."""
        return self.vision_projection(pooled_BxD)

    def project_text(self, pooled_BxD: jax.Array) -> jax.Array:
        """The text tower's pooled vectors in the common space."""
        return self.text_projection(pooled_BxD)

    def scale(self) -> jax.Array:
        """Factor on cosine similarities."""
        return similarity_scale(self)

    def __call__(
        self, pixels_BxHxWx3: jax.Array, ids_BxT: jax.Array, mask_BxT: jax.Array | None = None
    ) -> CLIPOutput:
        image_BxD = unit_length(self.encode_image(pixels_BxHxWx3))
        text_BxD = unit_length(self.encode_text(ids_BxT, mask_BxT))
        return CLIPOutput(image_BxD, text_BxD, similarity_scale(self) * image_BxD @ text_BxD.T)


def similarity_scale(clip: CLIP) -> jax.Array:
    """The learned factor on cosine similarities, capped as the configuration says."""
    scale, cap = jnp.exp(clip.logit_scale[...]), clip.config.max_logit_scale
    return scale if cap is None else jnp.minimum(scale, cap)


def unit_length(x_BxD: jax.Array) -> jax.Array:
    """Scales each row to Euclidean length 1."""
    return x_BxD * jax.lax.rsqrt(jnp.sum(jnp.square(x_BxD), axis=-1, keepdims=True) + 1e-12)


def contrastive_loss(logits_BxN: jax.Array, positives_BxN: jax.Array) -> jax.Array:
    """Symmetric cross-entropy over rows and columns, a scalar in nats.

    Args:
      logits_BxN: similarity of picture i and text j. The first B texts are the pictures' own; further ones
        are hard negatives, which pictures must be told from but which look for no picture themselves (as
        NegCLIP, arXiv:2210.01936).
      positives_BxN: True where text j fits picture i. Two pictures of the same name in one batch are each
        other's positives and share the target's mass (as UniCL, arXiv:2204.03610); with an identity matrix
        this is CLIP's loss.
    """
    target_BxN = positives_BxN.astype(jnp.float32)
    batch = logits_BxN.shape[0]

    def one_way(logits: jax.Array, target: jax.Array) -> jax.Array:
        target = target / jnp.sum(target, axis=-1, keepdims=True)
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1))

    return 0.5 * (one_way(logits_BxN, target_BxN) + one_way(logits_BxN[:, :batch].T, target_BxN[:, :batch].T))
