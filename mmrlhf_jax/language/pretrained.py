"""Decoders from checkpoints, and back to checkpoints that transformers loads."""

import dataclasses
from pathlib import Path
from typing import Any

from mmrlhf_jax.architecture import DecoderConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub import llama
from mmrlhf_jax.hub.config import CONFIG, copy_tokenizer, read_config, special_tokens, write_config
from mmrlhf_jax.hub.gguf import GGUFFile
from mmrlhf_jax.hub.source import resolve
from mmrlhf_jax.hub.tensors import Shardings, read_params, write_params
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import Definition, define, params_of


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
        definition = _definition(dataclasses.replace(file.config, remat=remat))
        return definition.bind(file.params(definition.abstract(), dtype=dtype, sharding=sharding))
    values = read_config(folder)
    try:
        config = dataclasses.replace(llama.config_from_hf(values), remat=remat)
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from None
    definition = _definition(config)
    table, ignore = llama.table(config), llama.ignored(config)
    abstract = definition.abstract()
    return definition.bind(
        read_params(folder, table, abstract, dtype=dtype, sharding=sharding, ignore=ignore)
    )


def save_decoder(decoder: Decoder, folder: str | Path, *, like: str | Path | None = None) -> None:
    """Writes config.json and model.safetensors (in several files above 5 GB), which transformers loads.

    Args:
      like: the folder that the decoder came from: its tokenizer, chat template and special tokens are kept,
        also when it is `folder` itself.
    """
    kept = {} if like is None else special_tokens(like)
    write_config(folder, llama.config_to_hf(decoder.config) | kept)
    write_params(folder, llama.table(decoder.config), params_of(decoder))
    if like is not None:
        copy_tokenizer(like, folder)


def _definition(config: DecoderConfig) -> Definition[Decoder]:
    return define(lambda rngs: Decoder(config, rngs=rngs))
