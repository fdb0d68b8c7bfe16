"""A reward model that looks at the picture and reads the answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.data.tokens import BEGIN_ID
from mmrlhf_jax.encoders.clip import CLIP, similarity_scale, unit_length
from mmrlhf_jax.fusion import Masks, build_fusion
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.language.likelihood import mean_logprob
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy

MODALITIES = ("image", "text")
FROZEN_PARTS = ("captioner", "language_model")


class Seen(NamedTuple):
    """What the picture tower says of B pictures.

    Attributes:
      tokens_BxPxD: the class token, then the patches.
      embed_BxE: CLIP's projected embedding, of length 1.
      captioner_BxPxD: picture tokens as the captioner's decoder reads them; None without a captioner.
    """

    tokens_BxPxD: jax.Array
    embed_BxE: jax.Array
    captioner_BxPxD: jax.Array | None = None


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
             + a log pi(text | picture) + b log p(text)

    with the towers, projections and similarity scale s of a CLIP; log pi is the mean log-likelihood of a
    token under a frozen captioner and log p that under a frozen language model. The later terms hand on what
    pretraining knows of picture and text already, and they err in other places than the fusion; a fusion that
    starts from nothing would have to find all that in a few thousand comparisons. b < 0 takes off what is
    likely whatever the picture shows (VisualGPTScore, Lin et al. 2024, arXiv:2306.01879). A fusion whose
    `linear_readout` is True goes without the gelu.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        widths = (config.clip.vision.transformer.width, config.clip.text.transformer.width)
        self.clip = CLIP(config.clip, rngs=rngs)
        self.fusion = build_fusion(
            config.fusion, dict(zip(MODALITIES, widths, strict=True)), width=config.fusion_width, rngs=rngs
        )
        self.head = nnx.Linear(config.fusion_width, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.similarity_weight = nnx.Param(jnp.asarray(0.15, jnp.float32))
        captioner, language_model = config.captioner, config.language_model
        self.captioner = None if captioner is None else VisionLanguagePolicy(captioner, rngs=rngs)
        self.language_model = None if language_model is None else Decoder(language_model, rngs=rngs)
        self.captioner_weight = nnx.Param(jnp.asarray(1.0, jnp.float32))
        self.language_model_weight = nnx.Param(jnp.asarray(-0.4, jnp.float32))

    def encode(self, pixels_BxHxWxC: jax.Array) -> Seen:
        """What the picture tower says; compute it once for several answers."""
        encoded = self.clip.vision(pixels_BxHxWxC)
        tokens_BxPxD = jnp.concatenate([encoded.pooled_BxD[:, None], encoded.tokens_BxTxD], axis=1)
        return Seen(
            tokens_BxPxD,
            unit_length(self.clip.vision_projection(encoded.pooled_BxD)),
            None if self.captioner is None else self.captioner.encode(pixels_BxHxWxC),
        )

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
            Where either is missing the similarity and the likelihoods count as 0.
        """
        read = self.clip.text(ids_BxT, mask_BxT)
        features = {"image": seen.tokens_BxPxD, "text": read.tokens_BxTxD}
        fused = self.fusion(features, Masks(modality_BxM, {"text": mask_BxT}))
        image_BxE, text_BxE = seen.embed_BxE, unit_length(self.clip.text_projection(read.pooled_BxD))
        both_B = jnp.all(modality_BxM, axis=-1) if modality_BxM is not None else jnp.ones(len(ids_BxT), bool)
        # Cleared before the product: a missing picture's NaN would reach the text's gradient.
        image_BxE = jnp.where(both_B[:, None], image_BxE, 0.0)
        similarity_B = similarity_scale(self.clip) * jnp.sum(image_BxE * text_BxE, axis=-1)
        vector_BxD = fused.vector_BxD if self.fusion.linear_readout else jax.nn.gelu(fused.vector_BxD)
        reward_B = self.head(vector_BxD)[:, 0] + self.similarity_weight[...] * similarity_B
        if self.captioner is not None:
            if seen.captioner_BxPxD is None:
                raise ValueError("the pictures were encoded by a reward model without a captioner")
            image_BxPxD = jnp.where(both_B[:, None, None], seen.captioner_BxPxD, 0.0)
            likelihood_B = self.captioner.mean_logprob(image_BxPxD, ids_BxT, mask_BxT, begin_id=BEGIN_ID)
            reward_B += self.captioner_weight[...] * jnp.where(both_B, likelihood_B, 0.0)
        if self.language_model is not None:
            likelihood_B = mean_logprob(self.language_model, ids_BxT, mask_BxT, begin_id=BEGIN_ID)
            reward_B += self.language_model_weight[...] * jnp.where(both_B, likelihood_B, 0.0)
        return Judged(reward_B, fused.weights_BxM)
