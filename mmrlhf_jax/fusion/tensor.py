"""Fusion by the full tensor product."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks

MAX_WEIGHTS = 2**26  # 256 MiB in float32, and three times that with Adam's moments


class TensorFusion(Fusion):
    """vector = W ([x_1; 1] (x) ... (x) [x_M; 1]), the outer product of all modalities.

    Zadeh et al. 2017 (arXiv:1707.07250), with one linear layer after it. The appended 1 keeps
    every product of fewer modalities, single ones included, and the constant. It gives no weights.

    Parameters: E + (D + 1)**M * D
    FLOPs: F + 2 * (D + 1)**M * D
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        """
        Raises:
          UserError: the tensor would have more than MAX_WEIGHTS weights.
        """
        super().__init__(widths, width=width, rngs=rngs)
        size = (width + 1) ** len(widths)
        if size * width > MAX_WEIGHTS:
            raise UserError(
                f"tensor fusion of {', '.join(widths)} at width {width} has ({width} + 1)^{len(widths)} x "
                f"{width} = {size * width:,} weights, above the limit of {MAX_WEIGHTS:,}: choose a smaller "
                "width, or low_rank, which is the same with a factored tensor"
            )
        self.out = nnx.Linear(size, width, use_bias=False, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        batch, count, _ = pooled_BxMxD.shape
        with_one = jnp.pad(pooled_BxMxD, ((0, 0), (0, 0), (0, 1)), constant_values=1)

        def outer(left_BxL: jax.Array, right_BxS: jax.Array) -> jax.Array:
            return (left_BxL[:, :, None] * right_BxS[:, None, :]).reshape(batch, -1)

        return Fused(self.out(functools.reduce(outer, (with_one[:, m] for m in range(count)))), None)
