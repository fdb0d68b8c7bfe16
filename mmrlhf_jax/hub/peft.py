"""Low-rank adapters in the layout of PEFT: adapter_config.json and adapter_model.safetensors."""

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text
from mmrlhf_jax.hub.names import Table
from mmrlhf_jax.hub.tensors import read_header
from mmrlhf_jax.processes import is_first
from mmrlhf_jax.sharding import on_host
from mmrlhf_jax.types import Adapter, Adapters

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."

# What changes the meaning of the two matrices, or adds more than them.
_UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "use_qalora")


def save_adapters(
    folder: str | Path, adapters: Adapters, table: Table, *, scale: float, base_model: str = ""
) -> None:
    """Writes adapters so that `peft.PeftModel.from_pretrained(model, folder)` loads them.

    Args:
      table: how the adapted network's parameters are made of its checkpoint's tensors.
      scale: the factor of a @ b; PEFT's lora_alpha is scale times the rank.
      base_model: where the adapted checkpoint is, for PEFT's AutoPeftModel.

    Raises:
      UserError: the adapters differ in rank, or a layer is several layers of the checkpoint side by side.
    """
    ranks = {adapter.a_IxR.shape[-1] for adapter in adapters.values()}
    if len(ranks) != 1:
        raise UserError(f"adapters of the ranks {sorted(ranks)} do not go into one file: save one rank")
    rank = ranks.pop()
    arrays = {}
    modules = [_module(name, table) for name in adapters]
    for module, adapter in zip(modules, adapters.values(), strict=True):
        a_IxR, b_RxO = on_host(adapter)
        arrays[f"{_PREFIX}{module}.lora_A.weight"] = np.asarray(a_IxR.T, order="C")
        arrays[f"{_PREFIX}{module}.lora_B.weight"] = np.asarray(b_RxO.T, order="C")
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": modules,
    }
    write_text(Path(folder) / _CONFIG, json.dumps(config, indent=2) + "\n")
    if not is_first():
        return
    temporary = Path(folder) / f".{_WEIGHTS}.tmp"
    safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
    os.replace(temporary, Path(folder) / _WEIGHTS)


def load_adapters(folder: str | Path, table: Table) -> tuple[Adapters, float]:
    """Adapters and their scale from what PEFT or `save_adapters` wrote.

    Raises:
      UserError: a file is missing or damaged, belongs to another network, or has more than plain adapters.
    """
    config = _read_config(Path(folder) / _CONFIG)
    tensors = read_header(Path(folder) / _WEIGHTS)
    modules = {
        rule.sources[0].removesuffix(".weight"): name.removesuffix(".kernel")
        for name, rule in table.items()
        if name.endswith(".kernel") and len(rule.sources) == 1
    }
    adapters = {}
    taken = set()
    for module, name in modules.items():
        pair = [f"{_PREFIX}{module}.lora_{letter}.weight" for letter in "AB"]
        if pair[0] in tensors and pair[1] in tensors:
            a_RxI, b_OxR = (tensors[part].read() for part in pair)
            adapters[name] = Adapter(jnp.asarray(a_RxI.T, jnp.float32), jnp.asarray(b_OxR.T, jnp.float32))
            taken |= set(pair)
    # PEFT adds a copy of the frozen output layer where that is adapted.
    taken |= {tensor for tensor in tensors if tensor.endswith(".base_layer.weight")}
    for tensor in sorted(tensors.keys() - taken):
        raise UserError(
            f"{Path(folder) / _WEIGHTS} has an unknown tensor {tensor}: it adapts another network"
        )
    rank = config["r"]
    return adapters, config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)


def _module(name: str, table: Table) -> str:
    sources = table[f"{name}.kernel"].sources
    if len(sources) > 1:
        raise UserError(
            f"{name} is {len(sources)} layers of the checkpoint side by side: PEFT adapts them apart"
        )
    return sources[0].removesuffix(".weight")


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        plain = config["peft_type"] == "LORA" and config["r"] > 0 and config["lora_alpha"] > 0
    except FileNotFoundError:
        raise UserError(f"{file} is not there: give the folder of saved adapters") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} describes no LoRA adapters: restore it") from None
    odd = [name for name in _UNSUPPORTED if config.get(name)]
    if not plain or odd or config.get("bias", "none") != "none":
        raise UserError(f"{file} has more than plain LoRA adapters ({', '.join(odd) or 'peft_type, bias'})")
    return config
