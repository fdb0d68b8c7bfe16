"""Vision-language policies from folders in Hugging Face's layout."""

import dataclasses
from pathlib import Path
from typing import Any

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.hub import llava
from mmrlhf_jax.hub.config import read_architecture
from mmrlhf_jax.hub.source import resolve
from mmrlhf_jax.hub.tensors import Shardings, load_module, tensor_names
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy


def load_vlm(
    path: str | Path, *, dtype: Any = None, sharding: Shardings | None = None, remat: bool = False
) -> VisionLanguagePolicy:
    """A LLaVA as transformers' LlavaForConditionalGeneration is saved, with a value head that says 0.

    Args:
      path: a folder, or a repository on the hub ("org/name"). The tower is CLIP's, SigLIP's or a ViT, the
        decoder of the Llama family.
      dtype: of all parameters, e.g. jnp.bfloat16; None: as the checkpoint has them.
      sharding: where each parameter goes, as `hub.tensors.read_params` takes it.
      remat: compute each block's inside anew in the backward pass, which saves memory.

    Raises:
      UserError: the files are missing, damaged or of another architecture; the message tells which and why.
    """
    folder = resolve(path)
    config = _with_remat(read_architecture(folder, llava.config_from_hf), remat)
    return load_module(
        folder,
        lambda rngs: VisionLanguagePolicy(config, rngs=rngs),
        llava.table(config, tensor_names(folder)),
        dtype=dtype,
        sharding=sharding,
        ignore=llava.ignored(config),
    )


def _with_remat(config: PolicyConfig, remat: bool) -> PolicyConfig:
    blocks = dataclasses.replace(config.vision.transformer, remat=remat)
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, transformer=blocks),
        decoder=dataclasses.replace(config.decoder, remat=remat),
    )
