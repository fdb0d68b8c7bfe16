"""Captions from a policy: the glue between a vision-language policy and `rl.generate`."""

import jax
import jax.numpy as jnp

from mmrlhf_jax.data.tokens import BEGIN_ID, END_ID, PAD_ID
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.rl.generate import generate
from mmrlhf_jax.types import Completions, Prompts


def begin_prompts(rows: int) -> Prompts:
    """The prompt of a captioner: the begin token alone, the picture says the rest."""
    return Prompts(jnp.full((rows, 1), BEGIN_ID, jnp.int32), jnp.ones((rows, 1), bool))


def forbidden_tokens(vocab_size: int, known: int) -> jax.Array:
    """(V,) True for what a policy must never write: padding, the begin token, ids that no text has."""
    ids_V = jnp.arange(vocab_size)
    return (ids_V == PAD_ID) | (ids_V == BEGIN_ID) | (ids_V >= known)


def sample_completions(
    policy: VisionLanguagePolicy,
    image_BxPxD: jax.Array,
    prompts: Prompts,
    key: jax.Array,
    *,
    length: int,
    forbidden_V: jax.Array,
    temperature: jax.Array | float,
) -> Completions:
    """Completions of up to `length` tokens for encoded pictures; temperature 0 takes the likeliest token."""
    first_slot = image_BxPxD.shape[1] + prompts.ids_BxL.shape[1]
    return generate(
        lambda: policy.prefill(image_BxPxD, prompts.ids_BxL, prompts.mask_BxL, capacity=length - 1),
        lambda ids_B, cache, t: policy.decode_step(ids_B, cache, first_slot + t),
        key,
        length=length,
        end_id=END_ID,
        pad_id=PAD_ID,
        forbidden_V=forbidden_V,
        temperature=temperature,
    )
