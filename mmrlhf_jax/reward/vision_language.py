"""A reward model on a vision-language policy: a scalar head on the last token."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.data.tokens import BEGIN_ID
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.reward.ensemble import pool
from mmrlhf_jax.reward.model import Judged, RewardModel, Seen


class VisionLanguageReward(RewardModel):
    """reward = w . h + b, with h what the decoder makes of picture and answer at the answer's last token.

    The head of Stiennon et al. 2020 (arXiv:2009.01325), on a policy that looks at pictures. `encode` and
    `judge` are used like those of a model with towers. Several heads, where the configuration asks for an
    ensemble, share all the rest.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        if config.policy is None:
            raise ValueError("the configuration names no policy")
        self.config = config
        policy = dataclasses.replace(config.policy, picture=config.picture)
        self.policy = VisionLanguagePolicy(policy, rngs=rngs)
        members, width = config.ensemble.members, config.policy.decoder.width
        initial = nnx.initializers.normal((width + 1) ** -0.5)
        self.head = nnx.Linear(width, members, kernel_init=initial, rngs=rngs)
        if members > 1:
            self.variance_weight = nnx.Param(jnp.asarray(config.ensemble.variance_weight, jnp.float32))
            self.level = nnx.Param(jnp.zeros(members, jnp.float32))

    def encode(self, pixels_BxHxWxC: jax.Array) -> Seen:
        """Picture tokens as the decoder reads them; compute them once for several answers."""
        tokens_BxPxD = self.policy.encode(pixels_BxHxWxC)
        return Seen(tokens_BxPxD, jnp.zeros((tokens_BxPxD.shape[0], 0), tokens_BxPxD.dtype))

    def judge(
        self,
        seen: Seen,
        ids_BxT: jax.Array,
        mask_BxT: jax.Array,
        modality_BxM: jax.Array | None = None,
    ) -> Judged:
        """Rewards of answers to encoded pictures; arguments as of `RewardModel.judge`.

        What is missing is not looked at: neither a picture's tokens nor an answer's.
        """
        batch, count = seen.tokens_BxPxD.shape[:2]
        there_BxM = jnp.ones((batch, 2), bool) if modality_BxM is None else modality_BxM
        image_BxPxD = jnp.where(there_BxM[:, 0, None, None], seen.tokens_BxPxD, 0.0)
        place_id = self.policy.config.image_token_id
        prompt_BxL = jnp.full((batch, 1), BEGIN_ID, ids_BxT.dtype)
        if place_id is not None:
            places_BxP = jnp.full((batch, count), place_id, ids_BxT.dtype)
            prompt_BxL = jnp.concatenate([prompt_BxL, places_BxP], axis=1)
        x_BxLxD, x_mask_BxL = self.policy.merge(image_BxPxD, prompt_BxL, jnp.ones_like(prompt_BxL, bool))
        first = 0 if place_id is None else 1  # the picture's tokens come before the begin token, or after it
        place_L = jnp.arange(x_mask_BxL.shape[1])
        of_picture_L = (place_L >= first) & (place_L < first + count)
        x_mask_BxL = x_mask_BxL & (there_BxM[:, :1] | ~of_picture_L[None])
        text_mask_BxT = mask_BxT & there_BxM[:, 1:]
        x_BxSxD = jnp.concatenate([x_BxLxD, self.policy.decoder.embed(ids_BxT)], axis=1)
        hidden_BxSxD = self.policy.decoder(x_BxSxD, jnp.concatenate([x_mask_BxL, text_mask_BxT], axis=1))
        last_B = x_BxLxD.shape[1] - 1 + jnp.sum(text_mask_BxT, axis=1)
        hidden_BxD = jnp.take_along_axis(hidden_BxSxD, last_B[:, None, None], axis=1)[:, 0]
        rewards_KxB = self.head(hidden_BxD).T
        if self.config.ensemble.members == 1:
            return Judged(rewards_KxB[0], None)
        rewards_KxB -= jax.lax.stop_gradient(self.level[...])[:, None]
        reward_B = pool(rewards_KxB, self.config.ensemble.pooling, self.variance_weight[...])
        return Judged(reward_B, None, rewards_KxB)
