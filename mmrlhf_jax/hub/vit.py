"""ViT as transformers' ViTModel and ViTForImageClassification lay it out: config.json and tensors' names."""

from typing import Any

from mmrlhf_jax.architecture import VisionConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.fields import (
    require,
    require_model_type,
    side,
    transformer_from_hf,
    transformer_to_hf,
    with_defaults,
)
from mmrlhf_jax.hub.layers import layers
from mmrlhf_jax.hub.names import Rule, Table, linear, norm, patch_kernel, same, side_by_side

# What transformers takes where config.json says nothing.
_VISION = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
}
POOLER = "pooler.dense"


def config_from_hf(values: dict[str, Any]) -> VisionConfig:
    """The architecture that config.json describes, pooled by the class token.

    Whether there is a pooler ("dense") is written in the weights alone.

    Raises:
      UserError: it describes another model, or something that this package does not have.
    """
    require_model_type(values, "vit")
    values = with_defaults(_VISION, values)
    require(values, num_channels=3, pooler_act="tanh", pooler_output_size=values["hidden_size"])
    return VisionConfig(
        side(values, "image_size"),
        side(values, "patch_size"),
        transformer_from_hf(values),
        patch_bias=True,
        pre_norm=False,
    )


def config_to_hf(config: VisionConfig) -> dict[str, Any]:
    """config.json of a ViTModel; without a pooler load it there with add_pooling_layer=False.

    Raises:
      UserError: the tower has not the form of ViT.
    """
    if not config.class_token or config.pre_norm or not config.patch_bias or config.pooling == "attention":
        raise UserError(
            "transformers' ViT has a class token, no norm before the blocks and a bias at the patches; this "
            "tower is built otherwise"
        )
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "qkv_bias": config.transformer.qkv_bias,
        **transformer_to_hf(config.transformer),
    }


def table(config: VisionConfig, prefix: str = "") -> Table:
    """Names of our VisionTransformer and of transformers' ViTModel.

    Args:
      prefix: "vit." in files of ViTForImageClassification, which holds a ViTModel.
    """
    embeddings, stack = f"{prefix}embeddings", config.transformer

    def block(ours: str, theirs: str) -> Table:
        names = _block(ours, theirs)
        if not stack.qkv_bias:
            del names[f"{ours}.qkv.bias"]
        return names

    names = {
        "class_token": Rule(
            (f"{embeddings}.cls_token",), lambda token: token[0, 0], lambda token: (token[None, None],)
        ),
        "positions": Rule(
            (f"{embeddings}.position_embeddings",), lambda array: array[0], lambda array: (array[None],)
        ),
        **patch_kernel(
            "patch.kernel", f"{embeddings}.patch_embeddings.projection.weight", config.patch_size, 3
        ),
        **same("patch.bias", f"{embeddings}.patch_embeddings.projection.bias"),
        **layers("transformer.blocks", f"{prefix}encoder.layer", block, count=stack.layers, scan=stack.scan),
        **norm("post_norm", f"{prefix}layernorm"),
    }
    return names | linear("dense", f"{prefix}{POOLER}") if config.pooling == "dense" else names


def _block(ours: str, theirs: str) -> Table:
    heads = tuple(f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value"))
    return {
        **norm(f"{ours}.norm1", f"{theirs}.layernorm_before"),
        **side_by_side(f"{ours}.qkv", heads),
        **linear(f"{ours}.out", f"{theirs}.attention.output.dense"),
        **norm(f"{ours}.norm2", f"{theirs}.layernorm_after"),
        **linear(f"{ours}.up", f"{theirs}.intermediate.dense"),
        **linear(f"{ours}.down", f"{theirs}.output.dense"),
    }
