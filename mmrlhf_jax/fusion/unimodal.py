"""No fusion: one modality alone, the baseline that every fusion must beat."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks


class UnimodalFusion(Fusion):
    """vector = W2 gelu(W1 x_m + b1) + b2 of one modality m; its weight is 1, also where it is missing.

    The other modalities have no parameters, and they reach nothing. In the cost M is 1 and the modality
    counts alone.

    Parameters: E + 2 * D**2 + 2 * D
    FLOPs: F + 4 * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, only: str, width: int, rngs: nnx.Rngs):
        """
        Args:
          only: name of the modality.

        Raises:
          UserError: there is none of that name.
        """
        if only not in widths:
            raise UserError(f"{only} alone, but there is no {only}: choose one of {', '.join(widths)}")
        super().__init__(widths, width=width, rngs=rngs, read=(only,))
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxD = self._pooled(features, masks)[:, 0]
        vector_BxD = self.out(jax.nn.gelu(self.hidden(pooled_BxD)))
        alone_M = jnp.asarray([name in self.read for name in self.names], vector_BxD.dtype)
        return Fused(vector_BxD, jnp.broadcast_to(alone_M[None], (pooled_BxD.shape[0], len(self.names))))
