"""How likely a decoder finds a text."""

import jax
import jax.numpy as jnp

from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.masked import row_mean, token_logprobs


def mean_logprob(decoder: Decoder, ids_BxT: jax.Array, mask_BxT: jax.Array, *, begin_id: int) -> jax.Array:
    """Mean log-probability of a text's tokens, end token included, (B,) in nats a token.

    Args:
      ids_BxT: right-padded, without the begin token.
      mask_BxT: True on real tokens.
      begin_id: the token that stands before every text.
    """
    begin_Bx1 = jnp.full_like(ids_BxT[:, :1], begin_id)
    inputs_BxT = jnp.concatenate([begin_Bx1, ids_BxT[:, :-1]], axis=1)
    input_mask_BxT = jnp.concatenate([jnp.ones_like(mask_BxT[:, :1]), mask_BxT[:, :-1]], axis=1)
    logits_BxTxV = decoder.logits(decoder(decoder.embed(inputs_BxT), input_mask_BxT))
    return row_mean(token_logprobs(logits_BxTxV, ids_BxT, mask_BxT), mask_BxT)
