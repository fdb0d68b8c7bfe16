"""A reward model that looks at the picture and reads the answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.encoders.clip import CLIP, similarity_scale, unit_length
from mmrlhf_jax.fusion import Masks, build_fusion

MODALITIES = ("image", "text")


class Seen(NamedTuple):
    """What the picture tower says of B pictures.

    Attributes:
      tokens_BxPxD: the class token, then the patches.
      embed_BxE: CLIP's projected embedding, of length 1.
    """

    tokens_BxPxD: jax.Array
    embed_BxE: jax.Array


class Judged(NamedTuple):
    """What the reward model says of B answers.

    Attributes:
      reward_B: higher is better; only differences mean anything.
      weights_BxM: weight of picture and text in the fusion; None where the method has none.
    """

    reward_B: jax.Array
    weights_BxM: jax.Array | None


class RewardModel(nnx.Module):
    """reward = w . gelu(fusion(picture tokens, text tokens)) + v s cos(picture, text)

    with the towers, projections and similarity scale s of a CLIP. The second term hands on the agreement of
    picture and text that CLIP has learned already; a fusion that starts from nothing would have to find it
    again in a few thousand comparisons.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        widths = (config.clip.vision.transformer.width, config.clip.text.transformer.width)
        self.clip = CLIP(config.clip, rngs=rngs)
        self.fusion = build_fusion(
            config.fusion, dict(zip(MODALITIES, widths, strict=True)), width=config.fusion_width, rngs=rngs
        )
        self.head = nnx.Linear(config.fusion_width, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.similarity_weight = nnx.Param(jnp.asarray(0.3, jnp.float32))

    def encode(self, pixels_BxHxWxC: jax.Array) -> Seen:
        """What the picture tower says; compute it once for several answers."""
        encoded = self.clip.vision(pixels_BxHxWxC)
        tokens_BxPxD = jnp.concatenate([encoded.pooled_BxD[:, None], encoded.tokens_BxTxD], axis=1)
        return Seen(tokens_BxPxD, unit_length(self.clip.vision_projection(encoded.pooled_BxD)))

    def judge(
        self,
        seen: Seen,
        ids_BxT: jax.Array,
        mask_BxT: jax.Array,
        modality_BxM: jax.Array | None = None,
    ) -> Judged:
        """Rewards of answers to encoded pictures.

        Args:
          ids_BxT: right-padded.
          mask_BxT: True on real tokens.
          modality_BxM: True where picture and text are there (see `fusion.Masks`); None: both everywhere.
            Where either is missing the similarity counts as 0.
        """
        read = self.clip.text(ids_BxT, mask_BxT)
        features = {"image": seen.tokens_BxPxD, "text": read.tokens_BxTxD}
        fused = self.fusion(features, Masks(modality_BxM, {"text": mask_BxT}))
        image_BxE, text_BxE = seen.embed_BxE, unit_length(self.clip.text_projection(read.pooled_BxD))
        if modality_BxM is not None:
            # Cleared before the product: a missing picture's NaN would reach the text's gradient.
            image_BxE = jnp.where(jnp.all(modality_BxM, axis=-1)[:, None], image_BxE, 0.0)
        similarity_B = similarity_scale(self.clip) * jnp.sum(image_BxE * text_BxE, axis=-1)
        reward_B = self.head(jax.nn.gelu(fused.vector_BxD))[:, 0] + self.similarity_weight[...] * similarity_B
        return Judged(reward_B, fused.weights_BxM)
