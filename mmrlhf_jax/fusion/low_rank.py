"""Fusion by a tensor product that is never written out."""

import functools
import operator
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.config import positive_int
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks


class LowRankFusion(Fusion):
    """vector = R^(-1/2) sum_r prod_m (W_mr x_m + b_mr), the product taken dimension by dimension.

    Liu et al. 2018 (arXiv:1806.00064): the tensor fusion whose weight tensor has rank R. The
    biases are the paper's 1 appended to x_m. Its weights of the ranks are left out, since the factors hold
    them already. It gives no weights of modalities.

    Parameters: E + M * R * D * (D + 1)
    FLOPs: F + 2 * M * R * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs, rank: int = 4):
        super().__init__(widths, width=width, rngs=rngs)
        positive_int("rank", rank, "4")
        self.rank = rank
        # Biases of the size of the rest: at 0 a single modality would tell nothing at first.
        bias = nnx.initializers.normal(1.0)
        self.factors = nnx.List([nnx.Linear(width, rank * width, bias_init=bias, rngs=rngs) for _ in widths])

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        batch, _, width = pooled_BxMxD.shape
        factors = [factor(pooled_BxMxD[:, index]) for index, factor in enumerate(self.factors)]
        product_BxRxD = functools.reduce(operator.mul, factors).reshape(batch, self.rank, width)
        return Fused(jnp.sum(product_BxRxD, axis=1) * self.rank**-0.5, None)
