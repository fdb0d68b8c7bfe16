"""A reward model that looks at the picture and reads the answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.encoders.clip import TextTransformer
from mmrlhf_jax.encoders.vit import VisionTransformer
from mmrlhf_jax.fusion import Masks, build_fusion

MODALITIES = ("image", "text")


class Judged(NamedTuple):
    """What the reward model says of B answers.

    Attributes:
      reward_B: higher is better; only differences mean anything.
      weights_BxM: weight of picture and text in the fusion; None where the method has none.
    """

    reward_B: jax.Array
    weights_BxM: jax.Array | None


class RewardModel(nnx.Module):
    """The two towers of a CLIP, a fusion of their tokens and a linear head to one number."""

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        widths = {
            "image": config.clip.vision.transformer.width,
            "text": config.clip.text.transformer.width,
        }
        self.vision = VisionTransformer(config.clip.vision, rngs=rngs)
        self.text = TextTransformer(config.clip.text, rngs=rngs)
        self.fusion = build_fusion(config.fusion, widths, width=config.fusion_width, rngs=rngs)
        self.head = nnx.Linear(config.fusion_width, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)

    def encode(self, pixels_BxHxWxC: jax.Array) -> jax.Array:
        """Picture tokens (B, P + 1, D), the class token first; compute them once for several answers."""
        encoded = self.vision(pixels_BxHxWxC)
        return jnp.concatenate([encoded.pooled_BxD[:, None], encoded.tokens_BxTxD], axis=1)

    def judge(
        self,
        image_BxPxD: jax.Array,
        ids_BxT: jax.Array,
        mask_BxT: jax.Array,
        modality_BxM: jax.Array | None = None,
    ) -> Judged:
        """Rewards of answers (right-padded ids, mask True on real tokens) to encoded pictures."""
        text_BxTxD = self.text(ids_BxT, mask_BxT).tokens_BxTxD
        features = {"image": image_BxPxD, "text": text_BxTxD}
        fused = self.fusion(features, Masks(modality_BxM, {"text": mask_BxT}))
        return Judged(self.head(jax.nn.gelu(fused.vector_BxD))[:, 0], fused.weights_BxM)
