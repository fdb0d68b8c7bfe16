"""A reward model that looks at the picture and reads the answer."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import CLIPConfig, RewardConfig, SigLIPConfig
from mmrlhf_jax.data.tokens import BEGIN_ID
from mmrlhf_jax.encoders.clip import CLIP, unit_length
from mmrlhf_jax.encoders.siglip import SigLIP
from mmrlhf_jax.encoders.vit import Encoded, from_pixels
from mmrlhf_jax.fusion import Fusion, Masks, build_fusion
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


class Read(NamedTuple):
    """What the towers and the frozen parts say of B answers, before anything is weighed.

    Attributes:
      features: tokens of picture and text as the towers give them, by modality.
      masks: which of them are there.
      similarity_B: CLIP's scaled cosine of picture and text.
      captioner_B: mean log-likelihood of a token under the captioner, in nats; None without one.
      language_model_B: the same under the language model.
    """

    features: dict[str, jax.Array]
    masks: Masks
    similarity_B: jax.Array
    captioner_B: jax.Array | None
    language_model_B: jax.Array | None


class Judged(NamedTuple):
    """What the reward model says of B answers.

    Attributes:
      reward_B: higher is better; only differences mean anything.
      weights_BxM: weight of picture and text in the fusion; None where the method has none.
      rewards_KxB: by the members of an ensemble, of which `reward_B` is made; None for a single model.
    """

    reward_B: jax.Array
    weights_BxM: jax.Array | None
    rewards_KxB: jax.Array | None = None

    @property
    def members_KxB(self) -> jax.Array:
        """The rewards of all members; a single model is one."""
        return self.reward_B[None] if self.rewards_KxB is None else self.rewards_KxB

    @property
    def disagreement_B(self) -> jax.Array:
        """Standard deviation of the members' rewards for each answer; 0 for a single model."""
        return jnp.std(self.members_KxB, axis=0)


class RewardModel(nnx.Module):
    """reward = w . gelu(fusion(picture tokens, text tokens)) + v s cos(picture, text)
             + a log pi(text | picture) + b log p(text)

    with the towers, projections and similarity scale s of a CLIP or a SigLIP; log pi is the mean
    log-likelihood of a token under a frozen captioner and log p that under a frozen language model. The later
    terms hand on what pretraining knows of picture and text already, and they err in other places than the
    fusion; a fusion that starts from nothing would have to find all that in a few thousand comparisons. b < 0
    takes off what is likely whatever the picture shows (VisualGPTScore, Lin et al. 2024, arXiv:2306.01879). A
    fusion whose `linear_readout` is True goes without the gelu.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.clip = None if config.clip is None else CLIP(config.clip, rngs=rngs)
        self.siglip = None if config.siglip is None else SigLIP(config.siglip, rngs=rngs)
        self.fusion = fusion_of(config, rngs=rngs)
        self.head = head_of(config, rngs=rngs)
        self.similarity_weight = nnx.Param(jnp.asarray(0.15, jnp.float32))
        captioner, language_model = config.captioner, config.language_model
        self.captioner = None if captioner is None else VisionLanguagePolicy(captioner, rngs=rngs)
        self.language_model = None if language_model is None else Decoder(language_model, rngs=rngs)
        self.captioner_weight = nnx.Param(jnp.asarray(1.0, jnp.float32))
        self.language_model_weight = nnx.Param(jnp.asarray(-0.4, jnp.float32))

    def encode(self, pixels_BxHxWxC: jax.Array) -> Seen:
        """What the picture tower says; compute it once for several answers.

        Args:
          pixels_BxHxWxC: as `to_pixels` makes them; of any size, the towers get theirs.
        """
        encoded = self.towers.vision(_as_trained(pixels_BxHxWxC, self.config.towers))
        tokens_BxPxD = jnp.concatenate([encoded.pooled_BxD[:, None], encoded.tokens_BxTxD], axis=1)
        return Seen(
            tokens_BxPxD,
            unit_length(self.towers.project_image(encoded.pooled_BxD)),
            None if self.captioner is None else self.captioner.encode(pixels_BxHxWxC),
        )

    @property
    def towers(self) -> CLIP | SigLIP:
        """The pretrained towers."""
        return cast(CLIP | SigLIP, self.clip or self.siglip)

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
        return self.weigh(self.read(seen, ids_BxT, mask_BxT, modality_BxM))

    def read(
        self, seen: Seen, ids_BxT: jax.Array, mask_BxT: jax.Array, modality_BxM: jax.Array | None = None
    ) -> Read:
        """The part of `judge` that pretraining has taught; arguments as there."""
        if not self.config.picture:
            words_BxM = jnp.broadcast_to(jnp.array([[False, True]]), (len(ids_BxT), 2))
            modality_BxM = words_BxM if modality_BxM is None else modality_BxM & words_BxM
        text = self._read_text(ids_BxT, mask_BxT)
        image_BxE, text_BxE = seen.embed_BxE, unit_length(self.towers.project_text(text.pooled_BxD))
        both_B = jnp.all(modality_BxM, axis=-1) if modality_BxM is not None else jnp.ones(len(ids_BxT), bool)
        # Cleared before the product: a missing picture's NaN would reach the text's gradient.
        image_BxE = jnp.where(both_B[:, None], image_BxE, 0.0)
        captioner_B = language_model_B = None
        if self.captioner is not None:
            if seen.captioner_BxPxD is None:
                raise ValueError("the pictures were encoded by a reward model without a captioner")
            image_BxPxD = jnp.where(both_B[:, None, None], seen.captioner_BxPxD, 0.0)
            likelihood_B = self.captioner.mean_logprob(image_BxPxD, ids_BxT, mask_BxT, begin_id=BEGIN_ID)
            captioner_B = jnp.where(both_B, likelihood_B, 0.0)
        if self.language_model is not None:
            likelihood_B = mean_logprob(self.language_model, ids_BxT, mask_BxT, begin_id=BEGIN_ID)
            language_model_B = jnp.where(both_B, likelihood_B, 0.0)
        return Read(
            {"image": seen.tokens_BxPxD, "text": text.tokens_BxTxD},
            Masks(modality_BxM, {"text": mask_BxT}),
            self.towers.scale() * jnp.sum(image_BxE * text_BxE, axis=-1),
            captioner_B,
            language_model_B,
        )

    def _read_text(self, ids_BxT: jax.Array, mask_BxT: jax.Array) -> Encoded:
        """The text tower's tokens (B, T, D) and what stands for the whole."""
        if self.siglip is None:
            return self.towers.text(ids_BxT, mask_BxT)
        # SigLIP reads its padding, and its last place stands for the text.
        length, size = ids_BxT.shape[1], self.siglip.config.text.max_length
        pad_id = self.config.text_pad_id or 0
        padded_BxT = jnp.where(mask_BxT, ids_BxT, pad_id)
        padded_BxT = jnp.pad(padded_BxT, ((0, 0), (0, max(0, size - length))), constant_values=pad_id)
        read = self.siglip.text(padded_BxT)
        return Encoded(read.tokens_BxTxD[:, :length], read.pooled_BxD)

    def weigh(self, read: Read) -> Judged:
        """The part of `judge` that preferences teach: fusion, head, and the weights of the other terms."""
        fused = self.fusion(read.features, read.masks)
        vector_BxD = fused.vector_BxD if self.fusion.linear_readout else jax.nn.gelu(fused.vector_BxD)
        reward_B = self.head(vector_BxD)[:, 0] + self.similarity_weight[...] * read.similarity_B
        if read.captioner_B is not None:
            reward_B += self.captioner_weight[...] * read.captioner_B
        if read.language_model_B is not None:
            reward_B += self.language_model_weight[...] * read.language_model_B
        return Judged(reward_B, fused.weights_BxM)


def fusion_of(config: RewardConfig, *, rngs: nnx.Rngs) -> Fusion:
    """A fresh fusion of the towers' tokens."""
    widths = (config.towers.vision.transformer.width, config.towers.text.transformer.width)
    return build_fusion(
        config.fusion, dict(zip(MODALITIES, widths, strict=True)), width=config.fusion_width, rngs=rngs
    )


def head_of(config: RewardConfig, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A fresh head, small enough that the other terms decide at first."""
    return nnx.Linear(config.fusion_width, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)


def _as_trained(pixels_BxHxWxC: jax.Array, towers: CLIPConfig | SigLIPConfig) -> jax.Array:
    """The pictures in the size and on the scale that the towers were trained with."""
    batch, height, width, channels = pixels_BxHxWxC.shape
    size = towers.vision.image_size
    if (height, width) != (size, size):
        pixels_BxHxWxC = jax.image.resize(pixels_BxHxWxC, (batch, size, size, channels), "linear")
    # SigLIP's processors take all channels from 0-255 to -1 to 1.
    return pixels_BxHxWxC if isinstance(towers, CLIPConfig) else from_pixels(pixels_BxHxWxC) / 127.5 - 1.0
