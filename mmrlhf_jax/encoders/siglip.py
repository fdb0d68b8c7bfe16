"""SigLIP: two towers trained pair by pair (Zhai et al. 2023, arXiv:2303.15343)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmrlhf_jax.architecture import SigLIPConfig
from mmrlhf_jax.encoders.clip import CLIPOutput, unit_length
from mmrlhf_jax.encoders.text import TextTransformer
from mmrlhf_jax.encoders.vit import VisionTransformer


class SigLIP(nnx.Module):
    """Two towers, a linear head on the text's, and a learned scale and bias of their similarity.

    Its texts are padded to the full length and read without a mask, as they were in training; the last
    position, padding or not, stands for the text.
    """

    def __init__(self, config: SigLIPConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.text = TextTransformer(config.text, rngs=rngs)
        self.text_head = nnx.Linear(config.text.transformer.width, config.vision.transformer.width, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.asarray(np.log(10.0), jnp.float32))
        self.logit_bias = nnx.Param(jnp.asarray(-10.0, jnp.float32))

    def encode_image(self, pixels_BxHxWx3: jax.Array) -> jax.Array:
        """Picture embeddings (B, D), not normalised: transformers' get_image_features."""
        return self.vision(pixels_BxHxWx3).pooled_BxD

    def encode_text(self, ids_BxT: jax.Array, mask_BxT: jax.Array | None = None) -> jax.Array:
        """Text embeddings (B, D), not normalised: transformers' get_text_features."""
        return self.project_text(self.text(ids_BxT, mask_BxT).pooled_BxD)

    def project_image(self, pooled_BxD: jax.Array) -> jax.Array:
        """The picture tower's pooled vectors, which lie in the common space already."""
        return pooled_BxD

    def project_text(self, pooled_BxD: jax.Array) -> jax.Array:
        """The text tower's pooled vectors in the common space."""
        return self.text_head(pooled_BxD)

    def scale(self) -> jax.Array:
        """Factor on cosine similarities."""
        return jnp.exp(self.logit_scale[...])

    def __call__(
        self, pixels_BxHxWx3: jax.Array, ids_BxT: jax.Array, mask_BxT: jax.Array | None = None
    ) -> CLIPOutput:
        """Embeddings of length 1, and logits_per_image = exp(logit_scale) cos + logit_bias."""
        image_BxD = unit_length(self.encode_image(pixels_BxHxWx3))
        text_BxD = unit_length(self.encode_text(ids_BxT, mask_BxT))
        logits_BxB = jnp.exp(self.logit_scale[...]) * (image_BxD @ text_BxD.T) + self.logit_bias[...]
        return CLIPOutput(image_BxD, text_BxD, logits_BxB)


def sigmoid_loss(logits_BxB: jax.Array, positives_BxB: jax.Array) -> jax.Array:
    """Each pair on its own: -1/B sum_ij log sigmoid(+-logit_ij), + where text j fits picture i.

    A scalar in nats, summed over the texts and averaged over the pictures (arXiv:2303.15343, algorithm 1).
    """
    signed_BxB = jnp.where(positives_BxB, logits_BxB, -logits_BxB)
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(signed_BxB), axis=-1))
