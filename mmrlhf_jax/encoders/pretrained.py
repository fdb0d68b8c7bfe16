"""Encoders from folders in Hugging Face's layout."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmrlhf_jax.architecture import CLIPConfig, SigLIPConfig, TransformerConfig, VisionPooling
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.encoders.siglip import SigLIP
from mmrlhf_jax.encoders.vit import VisionTransformer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub import clip, siglip, vit
from mmrlhf_jax.hub.config import read_architecture
from mmrlhf_jax.hub.source import resolve
from mmrlhf_jax.hub.tensors import Shardings, load_module, tensor_names

TowersT = TypeVar("TowersT", CLIPConfig, SigLIPConfig)


def load_clip(
    path: str | Path,
    *,
    dtype: Any = None,
    sharding: Shardings | None = None,
    scan: bool = False,
    remat: bool = False,
) -> CLIP:
    """A CLIP as transformers' CLIPModel is saved.

    Args:
      path: a folder, or a repository of the hub ("org/name").
      dtype: of the parameters; None keeps that of the file.
      sharding: where each parameter goes, as in `hub.tensors.read_params`.
      scan: stack the layers' parameters and run them as one loop (see `TransformerConfig`).
      remat: compute the layers anew in the backward pass.

    Raises:
      UserError: another model's folder, weights that are missing or damaged, or a feature that this package
        does not have.
    """
    folder = resolve(path)
    config = _with_flags(read_architecture(folder, clip.config_from_hf), scan, remat)
    return load_module(
        folder,
        lambda rngs: CLIP(config, rngs=rngs),
        clip.table(config),
        dtype=dtype,
        sharding=sharding,
        ignore=clip.IGNORED,
    )


def load_siglip(
    path: str | Path,
    *,
    dtype: Any = None,
    sharding: Shardings | None = None,
    scan: bool = False,
    remat: bool = False,
) -> SigLIP:
    """A SigLIP as transformers' SiglipModel is saved; arguments and errors as of `load_clip`."""
    folder = resolve(path)
    config = _with_flags(read_architecture(folder, siglip.config_from_hf), scan, remat)
    return load_module(
        folder,
        lambda rngs: SigLIP(config, rngs=rngs),
        siglip.table(config),
        dtype=dtype,
        sharding=sharding,
        ignore=siglip.IGNORED,
    )


def load_vit(
    path: str | Path,
    *,
    pooling: VisionPooling | None = None,
    ignore: Sequence[str] = (),
    dtype: Any = None,
    sharding: Shardings | None = None,
    scan: bool = False,
    remat: bool = False,
) -> VisionTransformer:
    """A ViT as transformers' ViTModel or ViTForImageClassification is saved.

    Args:
      pooling: None pools as transformers does: through the pooler where the file has one, else the class
        token. "class" and "mean" leave a pooler out.
      ignore: tensors of the file that are not wanted; ("classifier.*",) for a classifier.

    The other arguments, and the errors, are those of `load_clip`.
    """
    folder = resolve(path)
    names = tensor_names(folder)
    prefix = "vit." if any(name.startswith("vit.") for name in names) else ""
    pooler = f"{prefix}{vit.POOLER}"
    if pooling is None:
        pooling = "dense" if f"{pooler}.weight" in names else "class"
    elif pooling != "dense":
        ignore = (*ignore, f"{pooler}.*")
    if "classifier.weight" in names and "classifier.*" not in ignore:
        raise UserError(
            f"{folder} has a classifier, which this tower has not: leave it out, "
            "load_vit(path, ignore=('classifier.*',))"
        )
    config = dataclasses.replace(read_architecture(folder, vit.config_from_hf), pooling=pooling)
    config = dataclasses.replace(config, transformer=_flagged(config.transformer, scan, remat))
    return load_module(
        folder,
        lambda rngs: VisionTransformer(config, rngs=rngs),
        vit.table(config, prefix),
        dtype=dtype,
        sharding=sharding,
        ignore=ignore,
    )


def _with_flags(config: TowersT, scan: bool, remat: bool) -> TowersT:
    def flagged(tower: Any) -> Any:
        return dataclasses.replace(tower, transformer=_flagged(tower.transformer, scan, remat))

    return dataclasses.replace(config, vision=flagged(config.vision), text=flagged(config.text))


def _flagged(config: TransformerConfig, scan: bool, remat: bool) -> TransformerConfig:
    return dataclasses.replace(config, scan=scan, remat=remat)
