"""transformers' torch models of this package's architectures, and their weights under this package's names.

Golden files and parity tests share it. torch and transformers are imported only where a model is made or run,
so that the name tables work without them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import Activation, CLIPConfig, DecoderConfig, TextConfig, VisionConfig
from mmrlhf_jax.hub.llama import config_to_hf
from mmrlhf_jax.hub.names import (
    Rule,
    Table,
    linear,
    norm,
    parameter_names,
    same,
    side_by_side,
    transposed,
)
from mmrlhf_jax.modules import Params

# Of transformers' `hidden_act`.
TORCH_ACTIVATIONS: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
}


def clip_table(vision_layers: int, text_layers: int) -> Table:
    """Names of our CLIP and of transformers' CLIPModel."""
    return {
        **transposed("vision_projection.kernel", "visual_projection.weight"),
        **transposed("text_projection.kernel", "text_projection.weight"),
        **same("logit_scale", "logit_scale"),
        **same("vision.class_token", "vision_model.embeddings.class_embedding"),
        "vision.patch.kernel": Rule(
            ("vision_model.embeddings.patch_embedding.weight",), _patch_kernel, lambda kernel: (kernel,)
        ),
        **same("vision.positions", "vision_model.embeddings.position_embedding.weight"),
        **norm("vision.pre_norm", "vision_model.pre_layrnorm"),
        **_blocks("vision", "vision_model", vision_layers),
        **norm("vision.post_norm", "vision_model.post_layernorm"),
        **same("text.embed.embedding", "text_model.embeddings.token_embedding.weight"),
        **same("text.positions", "text_model.embeddings.position_embedding.weight"),
        **_blocks("text", "text_model", text_layers),
        **norm("text.post_norm", "text_model.final_layer_norm"),
    }


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


def torch_clip(config: CLIPConfig, seed: int) -> Any:
    """A CLIPModel of our architecture with random weights; the last token of the vocabulary ends a text."""
    import transformers

    def tower(part: VisionConfig | TextConfig) -> dict[str, Any]:
        return {
            "hidden_size": part.transformer.width,
            "intermediate_size": part.transformer.mlp_width,
            "num_hidden_layers": part.transformer.layers,
            "num_attention_heads": part.transformer.heads,
            "hidden_act": TORCH_ACTIVATIONS[part.transformer.activation],
            "layer_norm_eps": part.transformer.norm_eps,
        }

    vision = {"image_size": config.vision.image_size, "patch_size": config.vision.patch_size}
    text = {
        "vocab_size": config.text.vocab_size,
        "max_position_embeddings": config.text.max_length,
        "bos_token_id": 0,
        "eos_token_id": config.text.vocab_size - 1,
    }
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=tower(config.vision) | vision,
            text_config=tower(config.text) | text,
            projection_dim=config.projection_width,
        )
    )
    return randomised(model, seed)


def torch_decoder(config: DecoderConfig, seed: int) -> Any:
    """The causal language model of transformers that has our architecture, with random weights."""
    import transformers

    values = config_to_hf(config)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**values), attn_implementation="eager"
    )
    return randomised(model, seed)


def clip_answers(
    model: Any, pixels_BxHxWxC: np.ndarray, ids_BxT: np.ndarray, mask_BxT: np.ndarray
) -> dict[str, np.ndarray]:
    """What a CLIPModel makes of pictures and texts.

    Returns:
      patches (B, P, D), tokens (B, T, D), image_features and text_features (B, E), logits_per_image (B, B).
    """
    import torch

    pixels = torch.from_numpy(pixels_BxHxWxC.transpose(0, 3, 1, 2).copy())
    text = {
        "input_ids": torch.from_numpy(ids_BxT.astype(np.int64)),
        "attention_mask": torch.from_numpy(mask_BxT.astype(np.int64)),
    }
    with torch.no_grad():
        seen, read = model.vision_model(pixels), model.text_model(**text)
        answers = {
            # transformers norms only the class token; we norm the patches like it.
            "patches": model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:]),
            "tokens": read.last_hidden_state,
            "image_features": model.visual_projection(seen.pooler_output),
            "text_features": model.text_projection(read.pooler_output),
            "logits_per_image": model(pixel_values=pixels, **text).logits_per_image,
        }
    return {name: answer.numpy() for name, answer in answers.items()}


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


def with_activation(config: CLIPConfig, activation: Activation) -> CLIPConfig:
    """The same architecture with another activation in both towers."""

    def changed(part: Any) -> Any:
        return dataclasses.replace(
            part, transformer=dataclasses.replace(part.transformer, activation=activation)
        )

    return dataclasses.replace(config, vision=changed(config.vision), text=changed(config.text))


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


def _patch_kernel(weight_DxCxPxP: np.ndarray) -> np.ndarray:
    """A convolution's kernel as the kernel of a linear layer over row-major P x P x C patches."""
    return weight_DxCxPxP.transpose(2, 3, 1, 0).reshape(-1, weight_DxCxPxP.shape[0])


def _blocks(ours: str, theirs: str, layers: int) -> Table:
    table: Table = {}
    for i in range(layers):
        block, layer = f"{ours}.transformer.blocks.{i}", f"{theirs}.encoder.layers.{i}"
        table |= {
            **norm(f"{block}.norm1", f"{layer}.layer_norm1"),
            **side_by_side(f"{block}.qkv", tuple(f"{layer}.self_attn.{letter}_proj" for letter in "qkv")),
            **linear(f"{block}.out", f"{layer}.self_attn.out_proj"),
            **norm(f"{block}.norm2", f"{layer}.layer_norm2"),
            **linear(f"{block}.up", f"{layer}.mlp.fc1"),
            **linear(f"{block}.down", f"{layer}.mlp.fc2"),
        }
    return table
