"""Captions from a policy: the glue between a vision-language policy and `rl.generate`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmrlhf_jax.data.tokens import BEGIN_ID, END_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.rl.generate import NO_LIMITS, Limits, generate
from mmrlhf_jax.sharding import by_rows, gathered
from mmrlhf_jax.types import Completions, Prompts


def begin_prompts(rows: int) -> Prompts:
    """The prompt of a captioner: the begin token alone, the picture says the rest."""
    return Prompts(jnp.full((rows, 1), BEGIN_ID, jnp.int32), jnp.ones((rows, 1), bool))


def encode_prompts(texts: Sequence[str], tokenizer: CaptionTokenizer, length: int | None = None) -> Prompts:
    """Begin token and text, padded on the left; an empty prompt is the begin token alone.

    Args:
      length: tokens with the begin token; a text that is too long loses its end. None: those of the longest.
    """
    if length is None:  # counted with the end token, whose place the begin token takes
        length = int(tokenizer.count_tokens(texts).max())
    ids_PxL = np.full((len(texts), length), PAD_ID, np.int32)
    for row, ids in zip(ids_PxL, tokenizer.encode_batch(texts, length), strict=True):
        count = int(np.sum(ids != PAD_ID))
        row[length - count :] = [BEGIN_ID, *ids[: count - 1]]
    return Prompts(jnp.asarray(ids_PxL), jnp.asarray(ids_PxL != PAD_ID))


def join_prompts(prompts: Prompts, completions: Completions, *, pad_id: int = PAD_ID) -> Completions:
    """Each completion behind its prompt as one right-padded text without the begin token, (B, L - 1 + T).

    It is what the tokenizer makes of "prompt answer" where neither was cut.
    """
    ids_BxS = jnp.concatenate([prompts.ids_BxL, completions.ids_BxT], axis=1)
    mask_BxS = jnp.concatenate([prompts.mask_BxL, completions.mask_BxT], axis=1)
    first_B = jnp.sum(~prompts.mask_BxL, axis=1, dtype=jnp.int32) + 1  # behind padding and begin token
    place_BxS = first_B[:, None] + jnp.arange(ids_BxS.shape[1] - 1, dtype=jnp.int32)[None]
    inside_BxS = place_BxS < ids_BxS.shape[1]
    place_BxS = jnp.minimum(place_BxS, ids_BxS.shape[1] - 1)
    mask_BxS = jnp.take_along_axis(mask_BxS, place_BxS, axis=1) & inside_BxS
    ids_BxS = jnp.take_along_axis(ids_BxS, place_BxS, axis=1)
    return Completions(jnp.where(mask_BxS, ids_BxS, pad_id), mask_BxS)


def forbidden_tokens(
    vocab_size: int,
    known: int,
    *,
    special: Sequence[int] = (PAD_ID, BEGIN_ID),
    image_token_id: int | None = None,
) -> jax.Array:
    """(V,) True for what a policy must never write.

    Args:
      known: ids from this one on belong to no text.
      special: padding, begin token.
      image_token_id: `PolicyConfig.image_token_id`.
    """
    ids_V = jnp.arange(vocab_size)
    never = [*special] if image_token_id is None else [*special, image_token_id]
    return jnp.isin(ids_V, jnp.asarray(never, ids_V.dtype)) | (ids_V >= known)


def sample_completions(
    policy: VisionLanguagePolicy,
    image_BxPxD: jax.Array,
    prompts: Prompts,
    key: jax.Array,
    *,
    length: int,
    forbidden_V: jax.Array,
    temperature: jax.Array | float,
    limits: Limits = NO_LIMITS,
    end_id: int = END_ID,
    pad_id: int = PAD_ID,
) -> Completions:
    """Completions of up to `length` tokens for encoded pictures; temperature 0 takes the likeliest token."""
    image_BxPxD, prompts = by_rows((image_BxPxD, prompts))
    graphdef, arrays = nnx.split(policy)
    policy = nnx.merge(graphdef, gathered(nnx.to_pure_dict(arrays)))  # once, not for every token
    in_prompt = policy.config.image_token_id is not None
    first_slot = prompts.ids_BxL.shape[1] + (0 if in_prompt else image_BxPxD.shape[1])
    return generate(
        lambda: policy.prefill(image_BxPxD, prompts.ids_BxL, prompts.mask_BxL, capacity=length - 1),
        lambda ids_B, cache, t: policy.decode_step(ids_B, cache, first_slot + t),
        key,
        length=length,
        end_id=end_id,
        pad_id=pad_id,
        forbidden_V=forbidden_V,
        temperature=temperature,
        limits=limits,
    )
