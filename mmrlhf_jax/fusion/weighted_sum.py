"""Fusion by a weighted sum: the weights depend on the input, are learned, or are given."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks
from mmrlhf_jax.masked import masked_softmax


class _Mixture(Fusion):
    """The sum and the layer after it, which lets modalities interact; a subclass says how to weigh."""

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def _weights(self, pooled_BxMxD: jax.Array, present_BxM: jax.Array) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not say how it weighs")

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        weights_BxM = self._weights(pooled_BxMxD, self._present(features, masks))
        mixed_BxD = jnp.sum(weights_BxM[..., None] * pooled_BxMxD, axis=1)
        return Fused(self.out(jax.nn.gelu(self.hidden(mixed_BxD))), weights_BxM)


class WeightedSumFusion(_Mixture):
    """w = softmax_m(g([x_1; ...; x_M])), vector = W2 gelu(W1 sum_m w_m x_m + b1) + b2, g a linear layer.

    The weights move with the input, as those of a mixture of experts do (Jacobs et al. 1991, "Adaptive
    mixtures of local experts"). Missing modalities get weight 0.

    Parameters: E + M**2 * D + M + 2 * D**2 + 2 * D
    FLOPs: F + 2 * M**2 * D + 4 * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.gate = nnx.Linear(len(widths) * width, len(widths), rngs=rngs)

    def _weights(self, pooled_BxMxD: jax.Array, present_BxM: jax.Array) -> jax.Array:
        scores_BxM = self.gate(pooled_BxMxD.reshape(pooled_BxMxD.shape[0], -1))
        return masked_softmax(scores_BxM, present_BxM)


class WeightedSumLearnedFusion(_Mixture):
    """w = softmax_m(a_m), vector = W2 gelu(W1 sum_m w_m x_m + b1) + b2, a_m a learned number.

    The same weights for every input, as in the scalar mix of ELMo (Peters et al. 2018, arXiv:1802.05365,
    equation 1). The softmax is over the modalities that are there; missing ones get weight 0.

    Parameters: E + M + 2 * D**2 + 2 * D
    FLOPs: F + 4 * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.scores = nnx.Param(jnp.zeros(len(widths), jnp.float32))

    def _weights(self, pooled_BxMxD: jax.Array, present_BxM: jax.Array) -> jax.Array:
        return masked_softmax(jnp.broadcast_to(self.scores[...][None], present_BxM.shape), present_BxM)


class WeightedSumFixedFusion(_Mixture):
    """w_m = p_m / sum_n p_n over the n that are there, vector = W2 gelu(W1 sum_m w_m x_m + b1) + b2.

    The baseline of all weighing: weights p that someone chose. Missing modalities get weight 0; where none
    that has a weight is there, w = p, on the null vectors.

    Parameters: E + 2 * D**2 + 2 * D
    FLOPs: F + 4 * D**2
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        width: int,
        rngs: nnx.Rngs,
        weights: Sequence[float] | None = None,
    ):
        """
        Args:
          weights: p, a number for each modality, scaled here so that they sum to 1; None: all equal.

        Raises:
          UserError: not one finite number, 0 or above, for each modality, or all 0.
        """
        super().__init__(widths, width=width, rngs=rngs)
        chosen = [1.0] * len(widths) if weights is None else [float(weight) for weight in weights]
        good = len(chosen) == len(widths) and min(chosen) >= 0 and 0 < sum(chosen) < math.inf
        if not good:
            raise UserError(
                f"fixed weights {chosen}: give one finite number, 0 or above, for each of "
                f"{', '.join(self.names)}, at least one above 0"
            )
        self.fixed = tuple(weight / sum(chosen) for weight in chosen)

    def _weights(self, pooled_BxMxD: jax.Array, present_BxM: jax.Array) -> jax.Array:
        fixed_1xM = jnp.asarray(self.fixed, pooled_BxMxD.dtype)[None]
        counted_BxM = jnp.where(present_BxM, fixed_1xM, 0.0)
        total_Bx1 = jnp.sum(counted_BxM, axis=1, keepdims=True)
        shares_BxM = counted_BxM / jnp.where(total_Bx1 > 0, total_Bx1, 1.0)
        return jnp.where(total_Bx1 > 0, shares_BxM, fixed_1xM)
