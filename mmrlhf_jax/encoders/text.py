"""The text tower of CLIP and SigLIP."""

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import TextConfig
from mmrlhf_jax.encoders.vit import Encoded
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.transformer import Transformer


class TextTransformer(nnx.Module):
    """Tokens and learned positions through a transformer; one token's vector stands for the whole text."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        width = config.transformer.width
        self.config = config
        self.embed = nnx.Embed(
            config.vocab_size, width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.positions = nnx.Param(nnx.initializers.normal(0.01)(rngs.params(), (config.max_length, width)))
        self.transformer = Transformer(config.transformer, rngs=rngs)
        self.post_norm = nnx.LayerNorm(width, epsilon=config.transformer.norm_eps, rngs=rngs)

    def __call__(self, ids_BxT: jax.Array, mask_BxT: jax.Array | None = None) -> Encoded:
        """All tokens and the one that `config.pooling` names, after the last norm.

        Args:
          ids_BxT: right-padded, end token included.
          mask_BxT: True (or 1) on real tokens, which alone are looked at; None: all are real.

        Raises:
          UserError: more tokens than the tower has positions.
        """
        x_BxTxD = self.post_norm(self._run(ids_BxT, mask_BxT, self.config.transformer.layers))
        place_B = self._place(ids_BxT, mask_BxT)
        return Encoded(x_BxTxD, jnp.take_along_axis(x_BxTxD, place_B[:, None, None], axis=1)[:, 0])

    def features(
        self, ids_BxT: jax.Array, mask_BxT: jax.Array | None = None, *, layer: int = -1
    ) -> jax.Array:
        """All tokens (B, T, D) as they leave block number `layer`: transformers' hidden_states[layer]."""
        count = self.config.transformer.layers
        if not -count - 1 <= layer <= count:
            raise UserError(f"layer {layer} of a tower of {count} layers: choose {-count - 1} to {count}")
        return self._run(ids_BxT, mask_BxT, layer % (count + 1))

    def _run(self, ids_BxT: jax.Array, mask_BxT: jax.Array | None, layers: int) -> jax.Array:
        length = ids_BxT.shape[1]
        if length > self.config.max_length:
            raise UserError(
                f"texts of {length} tokens: the tower reads {self.config.max_length}, so cut them; "
                "TextProcessor does that"
            )
        mask_Bx1xTxT = None
        if mask_BxT is not None:
            mask_Bx1xTxT = jnp.broadcast_to(
                mask_BxT.astype(bool)[:, None, None], (ids_BxT.shape[0], 1, length, length)
            )
        if self.config.causal:
            causal_TxT = jnp.tril(jnp.ones((length, length), bool))[None, None]
            mask_Bx1xTxT = causal_TxT if mask_Bx1xTxT is None else mask_Bx1xTxT & causal_TxT
        x_BxTxD = self.embed(ids_BxT) + self.positions[...][None, :length]
        return self.transformer(x_BxTxD, mask_Bx1xTxT, layers=layers)

    def _place(self, ids_BxT: jax.Array, mask_BxT: jax.Array | None) -> jax.Array:
        """Where the token stands that speaks for the text, (B,)."""
        batch, length = ids_BxT.shape
        match self.config.pooling:
            case "highest_id":
                return jnp.argmax(ids_BxT, axis=1)
            case "end_id":
                return jnp.argmax(ids_BxT == self.config.end_id, axis=1)
            case "last" if mask_BxT is not None:
                return jnp.maximum(jnp.sum(mask_BxT, axis=1) - 1, 0)
            case _:
                return jnp.full((batch,), length - 1)
