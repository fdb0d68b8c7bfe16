"""Decoders from checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any

from mmrlhf_jax.hub import llama
from mmrlhf_jax.hub.config import read_architecture
from mmrlhf_jax.hub.gguf import GGUFFile
from mmrlhf_jax.hub.source import resolve
from mmrlhf_jax.hub.tensors import Shardings, load_module
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import define


def load_decoder(
    path: str | Path, *, dtype: Any = None, sharding: Shardings | None = None, remat: bool = False
) -> Decoder:
    """The decoder of a Hugging Face folder, a repository on the hub ("org/name"), or a GGUF file.

    Args:
      path: holds a Llama 1-3, SmolLM, Mistral or Qwen2 causal language model.
      dtype: of all parameters, e.g. jnp.bfloat16; None: as the checkpoint has them, float32 for GGUF.
      sharding: where each parameter goes, as `hub.tensors.read_params` takes it.
      remat: compute each block's inside anew in the backward pass, which saves memory.

    Raises:
      UserError: the files are missing, damaged or of another architecture; the message tells which and why.
    """
    folder = resolve(path)
    if folder.suffix == ".gguf":
        file = GGUFFile(folder)
        config = dataclasses.replace(file.config, remat=remat)
        definition = define(lambda rngs: Decoder(config, rngs=rngs))
        return definition.bind(file.params(definition.abstract(), dtype=dtype, sharding=sharding))
    config = dataclasses.replace(read_architecture(folder, llama.config_from_hf), remat=remat)
    return load_module(
        folder,
        lambda rngs: Decoder(config, rngs=rngs),
        llama.table(config),
        dtype=dtype,
        sharding=sharding,
        ignore=llama.ignored(config),
    )
