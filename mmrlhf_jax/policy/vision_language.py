"""A policy that writes about a picture: picture tower, projector, decoder, value head.

The layout is LLaVA's (Liu et al. 2023, arXiv:2304.08485): the projected patch vectors stand before the text
and are read by the decoder like words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.encoders.vit import VisionTransformer
from mmrlhf_jax.language.decoder import Cache, Decoder
from mmrlhf_jax.masked import row_mean, token_logprobs


class Scored(NamedTuple):
    """The policy's view of given completions.

    Attributes:
      logits_BxTxV: of each completion token, given all before it.
      values_BxT: the critic's estimate of the return before each completion token.
    """

    logits_BxTxV: jax.Array
    values_BxT: jax.Array


class VisionLanguagePolicy(nnx.Module):
    """Pictures and prompts in, completions out."""

    def __init__(self, config: PolicyConfig, *, rngs: nnx.Rngs):
        vision_width, width = config.vision.transformer.width, config.decoder.width
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.project_in = nnx.Linear(vision_width, width, rngs=rngs)
        self.project_out = nnx.Linear(width, width, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs)
        self.value_head = nnx.Linear(width, 1, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def encode(self, pixels_BxHxWxC: jax.Array) -> jax.Array:
        """Picture tokens (B, P, D) as the decoder reads them; compute them once a rollout."""
        tokens_BxPxK = self.vision(pixels_BxHxWxC).tokens_BxTxD
        batch, count, size = tokens_BxPxK.shape
        hidden_NxD = self.project_out(jax.nn.gelu(self.project_in(tokens_BxPxK.reshape(-1, size))))
        return hidden_NxD.reshape(batch, count, -1)

    def score(
        self,
        image_BxPxD: jax.Array,
        prompt_BxL: jax.Array,
        prompt_mask_BxL: jax.Array,
        ids_BxT: jax.Array,
        mask_BxT: jax.Array,
    ) -> Scored:
        """Logits and values of the completion `ids`, all positions in one pass.

        Args:
          image_BxPxD: what `encode` gave.
          prompt_BxL: left-padded prompt, its last token real; starts with the begin token.
          ids_BxT: right-padded completion.
        """
        inputs_BxS = jnp.concatenate([prompt_BxL, ids_BxT[:, :-1]], axis=1)
        mask_BxS = jnp.concatenate([prompt_mask_BxL, mask_BxT[:, :-1]], axis=1)
        hidden_BxSxD = self.decoder(*self._with_image(image_BxPxD, inputs_BxS, mask_BxS))
        hidden_BxTxD = hidden_BxSxD[:, -ids_BxT.shape[1] :]
        values_BxT = self.value_head(hidden_BxTxD.reshape(-1, hidden_BxTxD.shape[-1]))
        return Scored(self.decoder.logits(hidden_BxTxD), values_BxT.reshape(ids_BxT.shape))

    def mean_logprob(
        self, image_BxPxD: jax.Array, ids_BxT: jax.Array, mask_BxT: jax.Array, *, begin_id: int
    ) -> jax.Array:
        """Mean log-probability of a text's tokens given the picture, (B,) in nats a token.

        Args:
          ids_BxT: right-padded, end token included, without the begin token `begin_id`, which is the prompt.
        """
        begin_Bx1 = jnp.full_like(ids_BxT[:, :1], begin_id)
        scored = self.score(image_BxPxD, begin_Bx1, jnp.ones_like(begin_Bx1, bool), ids_BxT, mask_BxT)
        return row_mean(token_logprobs(scored.logits_BxTxV, ids_BxT, mask_BxT), mask_BxT)

    def prefill(
        self, image_BxPxD: jax.Array, prompt_BxL: jax.Array, prompt_mask_BxL: jax.Array, *, capacity: int
    ) -> tuple[jax.Array, Cache]:
        """Logits (B, V) of the first completion token, and the cache for those after it."""
        x_BxTxD, mask_BxT = self._with_image(image_BxPxD, prompt_BxL, prompt_mask_BxL)
        hidden_BxTxD, cache = self.decoder.prefill(x_BxTxD, mask_BxT, capacity=capacity)
        return self.decoder.logits(hidden_BxTxD[:, -1]), cache

    def decode_step(self, ids_B: jax.Array, cache: Cache, slot: jax.Array) -> tuple[jax.Array, Cache]:
        """Logits (B, V) after one more token a row; `slot` counts from the first picture token."""
        hidden_BxD, cache = self.decoder.decode_step(self.decoder.embed(ids_B[:, None])[:, 0], cache, slot)
        return self.decoder.logits(hidden_BxD), cache

    def _with_image(
        self, image_BxPxD: jax.Array, ids_BxT: jax.Array, mask_BxT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        x_BxSxD = jnp.concatenate([image_BxPxD, self.decoder.embed(ids_BxT)], axis=1)
        return x_BxSxD, jnp.concatenate([jnp.ones(image_BxPxD.shape[:2], bool), mask_BxT], axis=1)
