"""A policy that writes about a picture: picture tower, projector, decoder, value head.

The layout is LLaVA's (Liu et al. 2023, arXiv:2304.08485): the projected vectors of a picture are read by the
decoder like words. They stand before the text, or where the prompt holds places for them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.encoders.vit import VisionTransformer
from mmrlhf_jax.language.decoder import Cache, Decoder
from mmrlhf_jax.masked import row_mean, token_logprobs
from mmrlhf_jax.transformer import activate


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
        bias = config.projector_bias
        self.config = config
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.project_in = nnx.Linear(vision_width, width, use_bias=bias, rngs=rngs)
        self.project_out = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs)
        self.value_head = nnx.Linear(width, 1, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def encode(self, pixels_BxHxWxC: jax.Array) -> jax.Array:
        """Picture tokens (B, P, D) as the decoder reads them; compute them once a rollout.

        P is 0 for a policy that never looks at the picture.
        """
        if not self.config.picture:
            return jnp.zeros((pixels_BxHxWxC.shape[0], 0, self.config.decoder.width), jnp.float32)
        tokens_BxPxK = self.look(pixels_BxHxWxC)
        batch, count, size = tokens_BxPxK.shape
        hidden_NxD = activate(
            self.project_in(tokens_BxPxK.reshape(-1, size)), self.config.projector_activation
        )
        return self.project_out(hidden_NxD).reshape(batch, count, -1)

    def look(self, pixels_BxHxWxC: jax.Array) -> jax.Array:
        """The tower's vectors (B, P, K) that the projector reads."""
        if self.config.feature_layer is None:
            return self.vision(pixels_BxHxWxC).tokens_BxTxD
        tokens_BxTxK = self.vision.features(pixels_BxHxWxC, layer=self.config.feature_layer)
        return tokens_BxTxK[:, self.config.skipped_tokens :]

    def score(
        self,
        image_BxPxD: jax.Array,
        prompt_BxL: jax.Array,
        prompt_mask_BxL: jax.Array,
        ids_BxT: jax.Array,
        mask_BxT: jax.Array,
        picture_B: jax.Array | None = None,
    ) -> Scored:
        """Logits and values of the completion `ids`, all positions in one pass.

        Args:
          image_BxPxD: what `encode` gave.
          prompt_BxL: left-padded prompt, its last token real; with `image_token_id` in as many places of each
            row as the picture has tokens, where the configuration names one.
          ids_BxT: right-padded completion.
          picture_B: False where the picture is left out; None: it is there everywhere.
        """
        hidden_BxTxD = self.hidden(image_BxPxD, prompt_BxL, prompt_mask_BxL, ids_BxT, mask_BxT, picture_B)
        return Scored(self.decoder.logits(hidden_BxTxD), self._values(hidden_BxTxD))

    def values(
        self,
        image_BxPxD: jax.Array,
        prompt_BxL: jax.Array,
        prompt_mask_BxL: jax.Array,
        ids_BxT: jax.Array,
        mask_BxT: jax.Array,
    ) -> jax.Array:
        """The values of `score` alone, (B, T): for a critic of its own."""
        return self._values(self.hidden(image_BxPxD, prompt_BxL, prompt_mask_BxL, ids_BxT, mask_BxT))

    def hidden(
        self,
        image_BxPxD: jax.Array,
        prompt_BxL: jax.Array,
        prompt_mask_BxL: jax.Array,
        ids_BxT: jax.Array,
        mask_BxT: jax.Array,
        picture_B: jax.Array | None = None,
    ) -> jax.Array:
        """The decoder's vectors (B, T, D) before each token of the completion `ids`; arguments as `score`."""
        x_BxLxD, x_mask_BxL = self.merge(image_BxPxD, prompt_BxL, prompt_mask_BxL, picture_B)
        x_BxSxD = jnp.concatenate([x_BxLxD, self.decoder.embed(ids_BxT[:, :-1])], axis=1)
        hidden_BxSxD = self.decoder(x_BxSxD, jnp.concatenate([x_mask_BxL, mask_BxT[:, :-1]], axis=1))
        return hidden_BxSxD[:, -ids_BxT.shape[1] :]

    def mean_logprob(
        self, image_BxPxD: jax.Array, ids_BxT: jax.Array, mask_BxT: jax.Array, *, begin_id: int
    ) -> jax.Array:
        """Mean log-probability of a text's tokens given the picture, (B,) in nats a token.

        Args:
          ids_BxT: right-padded, end token included, without the begin token `begin_id`, which is the prompt
            (and the picture's places behind it, where the prompt has them).
        """
        prompt_BxL = jnp.full_like(ids_BxT[:, :1], begin_id)
        if self.config.image_token_id is not None:
            places_BxP = jnp.full(image_BxPxD.shape[:2], self.config.image_token_id, ids_BxT.dtype)
            prompt_BxL = jnp.concatenate([prompt_BxL, places_BxP], axis=1)
        scored = self.score(image_BxPxD, prompt_BxL, jnp.ones_like(prompt_BxL, bool), ids_BxT, mask_BxT)
        return row_mean(token_logprobs(scored.logits_BxTxV, ids_BxT, mask_BxT), mask_BxT)

    def prefill(
        self, image_BxPxD: jax.Array, prompt_BxL: jax.Array, prompt_mask_BxL: jax.Array, *, capacity: int
    ) -> tuple[jax.Array, Cache]:
        """Logits (B, V) of the first completion token, and the cache for those after it."""
        x_BxTxD, mask_BxT = self.merge(image_BxPxD, prompt_BxL, prompt_mask_BxL)
        hidden_BxTxD, cache = self.decoder.prefill(x_BxTxD, mask_BxT, capacity=capacity)
        return self.decoder.logits(hidden_BxTxD[:, -1]), cache

    def decode_step(self, ids_B: jax.Array, cache: Cache, slot: jax.Array) -> tuple[jax.Array, Cache]:
        """Logits (B, V) after one more token a row; `slot` counts what `merge` gave and the tokens since."""
        hidden_BxD, cache = self.decoder.decode_step(self.decoder.embed(ids_B[:, None])[:, 0], cache, slot)
        return self.decoder.logits(hidden_BxD), cache

    def merge(
        self,
        image_BxPxD: jax.Array,
        prompt_BxL: jax.Array,
        prompt_mask_BxL: jax.Array,
        picture_B: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """What the decoder reads of picture and prompt: vectors, and the mask of those that are real.

        (B, P + L, D) and (B, P + L) with the picture first; (B, L, D) and (B, L) with places in the prompt.
        `picture_B` is as of `score`.
        """
        x_BxLxD = self.decoder.embed(prompt_BxL)
        image_BxPxD = image_BxPxD.astype(x_BxLxD.dtype)
        there_B = jnp.ones(image_BxPxD.shape[0], bool) if picture_B is None else picture_B
        if self.config.image_token_id is None:
            mask_BxP = jnp.broadcast_to(there_B[:, None], image_BxPxD.shape[:2])
            return (
                jnp.concatenate([image_BxPxD, x_BxLxD], axis=1),
                jnp.concatenate([mask_BxP, prompt_mask_BxL], axis=1),
            )
        here_BxL = prompt_BxL == self.config.image_token_id
        number_BxL = jnp.clip(jnp.cumsum(here_BxL, axis=1) - 1, 0, image_BxPxD.shape[1] - 1)
        filled_BxLxD = jnp.take_along_axis(image_BxPxD, number_BxL[..., None], axis=1)
        mask_BxL = prompt_mask_BxL & (there_B[:, None] | ~here_BxL)
        return jnp.where(here_BxL[..., None], filled_BxLxD, x_BxLxD), mask_BxL

    def _values(self, hidden_BxTxD: jax.Array) -> jax.Array:
        values_Nx1 = self.value_head(hidden_BxTxD.reshape(-1, hidden_BxTxD.shape[-1]))
        return values_Nx1.reshape(hidden_BxTxD.shape[:2])
