"""The one transformer block of encoders and fusions."""

import functools

import jax
from flax import nnx

from mmrlhf_jax.architecture import Activation, TransformerConfig


def activate(x: jax.Array, name: Activation) -> jax.Array:
    """gelu (exact), gelu_tanh (its tanh approximation) or quick_gelu (x sigmoid(1.702 x), OpenAI's CLIP)."""
    match name:
        case "gelu":
            return jax.nn.gelu(x, approximate=False)
        case "gelu_tanh":
            return jax.nn.gelu(x, approximate=True)
        case "quick_gelu":
            return x * jax.nn.sigmoid(1.702 * x)


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, rngs=rngs, kernel_init=nnx.initializers.xavier_uniform())
        norm = functools.partial(nnx.LayerNorm, config.width, epsilon=config.norm_eps, rngs=rngs)
        self.heads = config.heads
        self.activation = config.activation
        self.norm1 = norm()
        self.qkv = linear(config.width, 3 * config.width)
        self.out = linear(config.width, config.width)
        self.norm2 = norm()
        self.up = linear(config.width, config.mlp_width)
        self.down = linear(config.mlp_width, config.width)

    def __call__(self, x_NxD: jax.Array, batch: int, mask_Bx1xTxT: jax.Array | None) -> jax.Array:
        """x_NxD holds N = batch x T tokens: two-dimensional products run fastest, on a CPU above all."""
        width = x_NxD.shape[-1]
        qkv = self.qkv(self.norm1(x_NxD)).reshape(batch, -1, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=mask_Bx1xTxT)
        x_NxD = x_NxD + self.out(attended.reshape(-1, width))
        return x_NxD + self.down(activate(self.up(self.norm2(x_NxD)), self.activation))


class Transformer(nnx.Module):
    """A stack of blocks over (B, T, D) tokens."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])

    def __call__(self, x_BxTxD: jax.Array, mask_Bx1xTxT: jax.Array | None = None) -> jax.Array:
        """mask_Bx1xTxT[b, 0, t, s] is True where token t may look at token s; None: everywhere."""
        x_NxD = x_BxTxD.reshape(-1, x_BxTxD.shape[-1])
        for block in self.blocks:
            x_NxD = block(x_NxD, x_BxTxD.shape[0], mask_Bx1xTxT)
        return x_NxD.reshape(x_BxTxD.shape)
