"""transformers' torch models of this package's architectures, and their weights under this package's names.

Golden files and parity tests share it. torch and transformers are imported only where a model is made or run,
so that the name tables work without them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import DecoderConfig
from mmrlhf_jax.hub.folder import parameter_names
from mmrlhf_jax.modules import Params

# Our name → the names that it is made from, and how.
Table = dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]]


def decoder_table(layers: int) -> Table:
    """Names of our Decoder and of transformers' LlamaForCausalLM with tied embeddings."""
    table: Table = {
        "embedding.embedding": (("model.embed_tokens.weight",), _same),
        "norm.scale": (("model.norm.weight",), _same),
    }
    for i in range(layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        table |= {
            f"{ours}.norm1.scale": ((f"{theirs}.input_layernorm.weight",), _same),
            **_kernel(f"{ours}.query", f"{theirs}.self_attn.q_proj"),
            **_kernel(f"{ours}.key", f"{theirs}.self_attn.k_proj"),
            **_kernel(f"{ours}.value", f"{theirs}.self_attn.v_proj"),
            **_kernel(f"{ours}.out", f"{theirs}.self_attn.o_proj"),
            f"{ours}.norm2.scale": ((f"{theirs}.post_attention_layernorm.weight",), _same),
            **_kernel(f"{ours}.gate", f"{theirs}.mlp.gate_proj"),
            **_kernel(f"{ours}.up", f"{theirs}.mlp.up_proj"),
            **_kernel(f"{ours}.down", f"{theirs}.mlp.down_proj"),
        }
    return table


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
        sources, transform = table[name]
        array = transform(*(arrays[source] for source in sources))
        if array.shape != leaf.shape:
            raise ValueError(f"{name}: {array.shape} from {sources}, wanted {leaf.shape}")
        leaves.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def torch_decoder(config: DecoderConfig, seed: int) -> Any:
    """A LlamaForCausalLM of our architecture with random weights and tied embeddings."""
    import transformers

    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=True,
        )
    )
    return randomised(model, seed)


def decoder_logits(model: Any, ids_BxT: np.ndarray, mask_BxT: np.ndarray) -> Any:
    """Logits (B, T, V) of a LlamaForCausalLM as a torch tensor; positions count real tokens alone."""
    import torch

    positions_BxT = np.maximum(np.cumsum(mask_BxT, axis=1) - 1, 0)
    return model(
        input_ids=torch.from_numpy(ids_BxT.astype(np.int64)),
        attention_mask=torch.from_numpy(mask_BxT.astype(np.int64)),
        position_ids=torch.from_numpy(positions_BxT),
    ).logits


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


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _transposed(weight_OxI: np.ndarray) -> np.ndarray:
    return weight_OxI.T


def _kernel(ours: str, theirs: str) -> Table:
    return {f"{ours}.kernel": ((f"{theirs}.weight",), _transposed)}
