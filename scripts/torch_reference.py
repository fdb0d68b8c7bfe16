"""transformers' torch models of this package's architectures, and their weights under this package's names.

Golden files and parity tests share it. torch and transformers are imported only where a model is made or run,
so that the name tables work without them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import DecoderConfig
from mmrlhf_jax.hub.llama import config_to_hf
from mmrlhf_jax.hub.names import Table, parameter_names
from mmrlhf_jax.modules import Params


def convert(table: Table, arrays: Mapping[str, np.ndarray], abstract: Params) -> Params:
    """Parameters (or gradients) of the structure of `abstract` from those of the torch model.

    Raises:
      ValueError: table and `abstract` differ in names, or a shape does not fit.
    """
    wanted = parameter_names(abstract)
    if wanted.keys() != table.keys():
        raise ValueError(f"names on one side only: {sorted(wanted.keys() ^ table.keys())}")
    leaves = []
    for name, leaf in wanted.items():
        array = table[name].join(*(arrays[source] for source in table[name].sources))
        if array.shape != leaf.shape:
            raise ValueError(f"{name}: {array.shape} from {table[name].sources}, wanted {leaf.shape}")
        leaves.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def torch_decoder(config: DecoderConfig, seed: int) -> Any:
    """The causal language model of transformers that has our architecture, with random weights."""
    import transformers

    values = config_to_hf(config)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**values), attn_implementation="eager"
    )
    return randomised(model, seed)


def decoder_logits(model: Any, ids_BxT: np.ndarray, mask_BxT: np.ndarray) -> Any:
    """Logits (B, T, V) of a causal language model as a torch tensor; positions count real tokens alone."""
    return decoder_outputs(model, ids_BxT, mask_BxT).logits


def decoder_outputs(model: Any, ids_BxT: np.ndarray, mask_BxT: np.ndarray, **options: Any) -> Any:
    """All that the model gives; `options` are those of its forward."""
    import torch

    positions_BxT = np.maximum(np.cumsum(mask_BxT, axis=1) - 1, 0)
    return model(
        input_ids=torch.from_numpy(ids_BxT.astype(np.int64)),
        attention_mask=torch.from_numpy(mask_BxT.astype(np.int64)),
        position_ids=torch.from_numpy(positions_BxT),
        **options,
    )


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """A torch model's weights by name, each tied weight once."""
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def randomised(model: Any, seed: int) -> Any:
    """Draws every weight anew: fresh models have biases of 0 and norms of 1, which hide mistakes."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 0:
                continue  # CLIP's logit scale
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                fan_in = parameter[0].numel() if parameter.ndim > 1 and "embed" not in name else 10
                parameter.copy_(noise * fan_in**-0.5)
    return model.eval()
