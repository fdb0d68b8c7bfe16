"""What all fusions share: the signature, the masks and the entrance of each modality."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class Masks(NamedTuple):
    """What is there and what is not.

    Attributes:
      modality_BxM: True where row b has modality m, in the order of the fusion's names; None: all there.
      tokens: for modalities that come as tokens, name → (B, T) True on real ones; a name left out: all real.
    """

    modality_BxM: jax.Array | None = None
    tokens: Mapping[str, jax.Array] = {}


class Fused(NamedTuple):
    """The outcome.

    Attributes:
      vector_BxD: one vector for all modalities together.
      weights_BxM: share that each modality got, rows sum to 1; None where the method has none.
    """

    vector_BxD: jax.Array
    weights_BxM: jax.Array | None


class Fusion(nnx.Module):
    """Projects every modality to one width, with a learned null vector where a modality is missing."""

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        self.names = tuple(widths)
        self.project = nnx.List([nnx.Linear(size, width, rngs=rngs) for size in widths.values()])
        self.null = nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (len(widths), width)))

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        """features[name] is (B, D_name) pooled or (B, T_name, D_name) tokens."""
        raise TypeError(f"{type(self).__name__} does not say how it fuses")

    def _present(self, features: Mapping[str, jax.Array], masks: Masks) -> jax.Array:
        if masks.modality_BxM is not None:
            return masks.modality_BxM
        return jnp.ones((features[self.names[0]].shape[0], len(self.names)), bool)

    def _tokens(self, features: Mapping[str, jax.Array], masks: Masks) -> list[tuple[jax.Array, jax.Array]]:
        """For each modality its tokens (B, T, D) and their mask (B, T); missing: one null token."""
        present_BxM = self._present(features, masks)
        entered = []
        for index, name in enumerate(self.names):
            x_BxTxK = features[name] if features[name].ndim == 3 else features[name][:, None]
            batch, length, size = x_BxTxK.shape
            here_B = present_BxM[:, index]
            real_BxT = masks.tokens.get(name, jnp.ones((batch, length), bool))
            # Cleared before the projection: 0 x NaN is NaN, in attention and in the kernel's gradient.
            x_BxTxK = jnp.where((here_B[:, None] & real_BxT)[..., None], x_BxTxK, 0.0)
            x_BxTxD = self.project[index](x_BxTxK.reshape(-1, size)).reshape(batch, length, -1)
            x_BxTxD = jnp.where(here_B[:, None, None], x_BxTxD, self.null[...][index][None, None])
            only_first_T = jnp.arange(length) == 0
            entered.append((x_BxTxD, jnp.where(here_B[:, None], real_BxT, only_first_T[None])))
        return entered

    def _pooled(self, features: Mapping[str, jax.Array], masks: Masks) -> jax.Array:
        """Mean over the real tokens of each modality, (B, M, D)."""
        means = [
            jnp.sum(jnp.where(mask_BxT[..., None], x_BxTxD, 0.0), axis=1)
            / jnp.maximum(jnp.sum(mask_BxT, axis=1), 1)[:, None].astype(x_BxTxD.dtype)
            for x_BxTxD, mask_BxT in self._tokens(features, masks)
        ]
        return jnp.stack(means, axis=1)
