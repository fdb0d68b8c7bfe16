"""The one transformer block of encoders and fusions."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import Activation, TransformerConfig


def activate(x: jax.Array, name: Activation) -> jax.Array:
    """gelu is exact, gelu_tanh its tanh approximation, quick_gelu OpenAI's: x sigmoid(1.702 x)."""
    match name:
        case "gelu":
            return jax.nn.gelu(x, approximate=False)
        case "gelu_tanh":
            return jax.nn.gelu(x, approximate=True)
        case "quick_gelu":
            return x * jax.nn.sigmoid(1.702 * x)
        case "relu":
            return jax.nn.relu(x)
        case "silu":
            return jax.nn.silu(x)


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, rngs=rngs, kernel_init=nnx.initializers.xavier_uniform())
        norm = functools.partial(nnx.LayerNorm, config.width, epsilon=config.norm_eps, rngs=rngs)
        self.heads = config.heads
        self.activation = config.activation
        self.attention = config.attention
        self.norm1 = norm()
        self.qkv = linear(config.width, 3 * config.width, use_bias=config.qkv_bias)
        self.out = linear(config.width, config.width)
        self.norm2 = norm()
        self.up = linear(config.width, config.mlp_width)
        self.down = linear(config.mlp_width, config.width)

    def __call__(self, x_NxD: jax.Array, batch: int, mask_Bx1xTxT: jax.Array | None) -> jax.Array:
        """x_NxD holds N = batch x T tokens: two-dimensional products run fastest, on a CPU above all."""
        width = x_NxD.shape[-1]
        qkv = self.qkv(self.norm1(x_NxD)).reshape(batch, -1, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=mask_Bx1xTxT, implementation=self.attention
        )
        x_NxD = x_NxD + self.out(attended.reshape(-1, width))
        return x_NxD + self.down(activate(self.up(self.norm2(x_NxD)), self.activation))


class Transformer(nnx.Module):
    """A stack of blocks over (B, T, D) tokens."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        blocks = [Block(config, rngs=rngs) for _ in range(config.layers)]
        self.blocks: Block | nnx.List[Block] = _stacked(blocks) if config.scan else nnx.List(blocks)

    def __call__(
        self, x_BxTxD: jax.Array, mask_Bx1xTxT: jax.Array | None = None, *, layers: int | None = None
    ) -> jax.Array:
        """What comes out of the last block, or of block number `layers` (0: `x` itself).

        mask_Bx1xTxT[b, 0, t, s] is True where token t may look at token s; None: everywhere.
        """
        layers = self.config.layers if layers is None else layers

        def run(block: Block, x_NxD: jax.Array) -> jax.Array:
            return block(x_NxD, x_BxTxD.shape[0], mask_Bx1xTxT)

        if self.config.remat:
            run = nnx.remat(run)
        x_NxD = x_BxTxD.reshape(-1, x_BxTxD.shape[-1])
        if isinstance(self.blocks, Block):
            graphdef, stacked = nnx.split(self.blocks)

            def step(x_NxD: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
                return run(nnx.merge(graphdef, params), x_NxD), None

            x_NxD, _ = jax.lax.scan(step, x_NxD, jax.tree.map(lambda leaf: leaf[:layers], stacked))
        else:
            for block in self.blocks[:layers]:
                x_NxD = run(block, x_NxD)
        return x_NxD.reshape(x_BxTxD.shape)


def _stacked(blocks: list[Block]) -> Block:
    """One block whose parameters are those of all `blocks` on a new leading axis."""
    graphdef, _ = nnx.split(blocks[0])
    states = [nnx.split(block)[1] for block in blocks]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
