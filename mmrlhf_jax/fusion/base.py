"""What all fusions share: the signature, the masks and the entrance of each modality."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.errors import UserError


class Masks(NamedTuple):
    """What is there and what is not; boolean, True where something is.

    Attributes:
      modality_BxM: True where row b has modality m, in the order of the fusion's names; None: all there.
      tokens: for modalities that come as tokens, name → (B, T) True on real ones; a name left out: all real.
        A modality without a real token is missing.
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
    """Projects every modality to one width, with a learned null vector where a modality is missing.

    x_m = P_m f_m + c_m for each token f_m of modality m, n_m where it is missing; a method that takes one
    vector of each modality gets the mean over its real tokens. What is masked is cleared before it enters:
    no value there, be it NaN, reaches an outcome or a gradient.

    The docstrings of the methods state their cost for M modalities of widths K_m that become D wide, T tokens
    in a row all together. E and F are the cost of this entrance. FLOPs are those of the matrix products of
    one row, two for a multiplication with its addition.

    E = D sum_m K_m + 2 M D
    F = 2 D sum_m T_m K_m

    Attributes:
      names: the modalities, in the order of the masks' columns.
      linear_readout: a head must read the vector as it is; with a nonlinearity before it the method would
        no longer be what it is.
    """

    linear_readout: ClassVar[bool] = False

    def __init__(
        self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs, read: tuple[str, ...] | None = None
    ):
        """The entrance.

        Args:
          widths: name of each modality → size of its features.
          width: size of the fused vector.
          read: the modalities that the method reads; None: all.
        """
        if not widths:
            raise UserError("a fusion without modalities: give at least one name and width")
        self.names = tuple(widths)
        self.read = self.names if read is None else read
        self.project = nnx.List([nnx.Linear(widths[name], width, rngs=rngs) for name in self.read])
        self.null = nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (len(self.read), width)))

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        """features[name] is (B, D_name) pooled or (B, T_name, D_name) tokens.

        A name left out is a modality that no row has.

        Raises:
          UserError: features of other names than the fusion's, none at all, or of another width; a modality
            mask of another shape.
        """
        raise TypeError(f"{type(self).__name__} does not say how it fuses")

    def _present(self, features: Mapping[str, jax.Array], masks: Masks) -> jax.Array:
        """Which row has which modality, (B, M)."""
        if not features or set(features) - set(self.names):
            raise UserError(f"features of {sorted(features)}: give some of {', '.join(self.names)}")
        shape = (next(iter(features.values())).shape[0], len(self.names))
        present_BxM = jnp.ones(shape, bool) if masks.modality_BxM is None else masks.modality_BxM
        if present_BxM.shape != shape:
            raise UserError(
                f"the modality mask has shape {present_BxM.shape}: give {shape}, a column for each of "
                f"{', '.join(self.names)}"
            )
        columns = []
        for index, name in enumerate(self.names):
            here_B = present_BxM[:, index] if name in features else jnp.zeros(shape[0], bool)
            columns.append(here_B & jnp.any(masks.tokens[name], axis=1) if name in masks.tokens else here_B)
        return jnp.stack(columns, axis=1)

    def _tokens(self, features: Mapping[str, jax.Array], masks: Masks) -> list[tuple[jax.Array, jax.Array]]:
        """For each modality read its tokens (B, T, D) and their mask (B, T); missing: one null token."""
        present_BxM = self._present(features, masks)
        batch = present_BxM.shape[0]
        null_MxD = self.null[...]
        entered = []
        for name, project, null_D in zip(self.read, self.project, null_MxD, strict=True):
            if name not in features:
                null_Bx1xD = jnp.broadcast_to(null_D[None, None], (batch, 1, null_D.size))
                entered.append((null_Bx1xD, jnp.ones((batch, 1), bool)))
                continue
            x_BxTxK = features[name] if features[name].ndim == 3 else features[name][:, None]
            _, length, size = x_BxTxK.shape
            if size != project.in_features:
                raise UserError(f"features of {name} are {size} wide: give {project.in_features}, as built")
            here_B = present_BxM[:, self.names.index(name)]
            real_BxT = masks.tokens.get(name, jnp.ones((batch, length), bool))
            # Cleared before the projection: 0 x NaN is NaN, in attention and in the kernel's gradient.
            x_BxTxK = jnp.where((here_B[:, None] & real_BxT)[..., None], x_BxTxK, 0.0)
            x_BxTxD = project(x_BxTxK.astype(null_MxD.dtype).reshape(-1, size)).reshape(batch, length, -1)
            x_BxTxD = jnp.where(here_B[:, None, None], x_BxTxD, null_D[None, None])
            only_first_T = jnp.arange(length) == 0
            entered.append((x_BxTxD, jnp.where(here_B[:, None], real_BxT, only_first_T[None])))
        return entered

    def _pooled(self, features: Mapping[str, jax.Array], masks: Masks) -> jax.Array:
        """Mean over the real tokens of each modality read, (B, M, D)."""
        return jnp.stack([token_mean(*entered) for entered in self._tokens(features, masks)], axis=1)


def token_mean(x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """Mean over the real tokens of each row, (B, D)."""
    total_BxD = jnp.sum(jnp.where(mask_BxT[..., None], x_BxTxD, 0.0), axis=1)
    return total_BxD / jnp.maximum(jnp.sum(mask_BxT, axis=1), 1)[:, None].astype(x_BxTxD.dtype)
