"""What the reward's judges need besides their networks: rules, references, and what two networks share."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.encoders.clip import CLIP, unit_length
from mmrlhf_jax.feedback.rubric import INSULTS
from mmrlhf_jax.modules import Definition, Params, equal_params
from mmrlhf_jax.reward.composite import Rules
from mmrlhf_jax.reward.model import RewardModel
from mmrlhf_jax.reward.text import TextTerm, load_scorer
from mmrlhf_jax.reward.wording import word_table
from mmrlhf_jax.training.config import TermsConfig


def make_rules(config: TermsConfig, tokenizer: CaptionTokenizer, vocab_size: int) -> Rules:
    """The rules of the terms without a network; the word list is the rubric's insults.

    Args:
      vocab_size: of the policy, which may have more ids than the tokenizer.
    """
    return Rules(
        word_table(sorted(INSULTS), tokenizer.token_bytes(), vocab_size),
        jnp.asarray(float(config.shortest)),
        jnp.asarray(float(config.longest)),
    )


def make_text(config: TermsConfig, tokenizer: CaptionTokenizer) -> TextTerm | None:
    """The term that a Python function computes, None where the config names none."""
    if config.text_scorer is None:
        return None
    return TextTerm(load_scorer(config.text_scorer), tokenizer.decode_batch)


def unshared(params: Params, shared: Mapping[str, Params]) -> Params:
    """The parts of a reward model's `params` that are not those of the same name in `shared`."""
    return {
        name: part
        for name, part in params.items()
        if name not in shared or not equal_params(part, shared[name])
    }


def rejoined(model: Definition[RewardModel], params: Params, shared: Mapping[str, Params]) -> Params:
    """What `unshared` took apart, made of the very arrays in `shared`.

    The compiler then sees that two networks read the same text with the same parameters, and does it once.
    """
    return {name: params[name] if name in params else shared[name] for name in model.shapes}


def embed_references(
    clip: Definition[CLIP], params: Params, tokenizer: CaptionTokenizer, names: Sequence[str], length: int
) -> jax.Array:
    """CLIP's embeddings of the pictures' names, (N, 1, D), of length 1; names are cut to `length` tokens."""
    ids_NxT = tokenizer.encode_batch(names, length)
    return jnp.asarray(
        in_chunks(lambda rows_B: _embed(clip, params, jnp.asarray(ids_NxT[rows_B])), len(ids_NxT), 256)
    )


@functools.partial(jax.jit, static_argnums=0)
def _embed(clip: Definition[CLIP], params: Params, ids_BxT: jax.Array) -> jax.Array:
    return unit_length(clip.bind(params).encode_text(ids_BxT, ids_BxT != PAD_ID))[:, None]
