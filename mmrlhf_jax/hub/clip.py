"""CLIP as transformers' CLIPModel lays it out: config.json and the names of the tensors.

The names of towers and blocks are SigLIP's and LLaVA's too.
"""

from typing import Any

from mmrlhf_jax.architecture import CLIPConfig, TextConfig, VisionConfig
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

# Buffers that old versions of transformers saved; they hold 0, 1, 2, ...
IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")

# What transformers takes where config.json says nothing.
_VISION = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 32,
}
_TEXT = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
# transformers' sign for configurations from a time when eos_token_id was wrong: it takes the highest id then.
_UNKNOWN_END = 2


def config_from_hf(values: dict[str, Any]) -> CLIPConfig:
    """The architecture that a CLIPModel's config.json describes.

    Raises:
      UserError: it describes another model, or something that this package does not have.
    """
    require_model_type(values, "clip")
    # Old files have both; transformers lets the one that ends in _dict win.
    vision = values.get("vision_config_dict") or values.get("vision_config") or {}
    text = values.get("text_config_dict") or values.get("text_config") or {}
    return CLIPConfig(
        vision=vision_config_from_hf(vision),
        text=_text_config_from_hf(text),
        projection_width=with_defaults({"projection_dim": 512}, values)["projection_dim"],
        max_logit_scale=None,
    )


def config_to_hf(config: CLIPConfig) -> dict[str, Any]:
    """config.json of a CLIPModel.

    Raises:
      UserError: transformers' CLIP has no such form, e.g. pooling "last" (name the end token instead:
        pooling "end_id").
    """
    text = config.text
    if not text.causal or text.pooling not in ("end_id", "highest_id"):
        raise UserError(
            f"transformers' CLIP reads text causally and pools the end token, not {text.pooling!r}: give "
            "TextConfig pooling 'end_id' and the id of the end token, which must not be 2"
        )
    if text.end_id == _UNKNOWN_END and text.pooling == "end_id":
        raise UserError(
            f"end_id is {text.end_id}, which transformers' CLIP takes for 'the highest id ends the text': "
            "give the end token another id"
        )
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_width,
        "text_config": {
            "model_type": "clip_text_model",
            "projection_dim": config.projection_width,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_length,
            "eos_token_id": text.end_id if text.pooling == "end_id" else _UNKNOWN_END,
            **transformer_to_hf(text.transformer),
        },
        "vision_config": {
            "projection_dim": config.projection_width,
            **vision_config_to_hf(config.vision),
        },
    }


def vision_config_from_hf(values: dict[str, Any]) -> VisionConfig:
    """The picture tower of a `vision_config`; those that stand alone (LLaVA's) have the same fields."""
    values = with_defaults(_VISION, values)
    require(values, num_channels=3)
    return VisionConfig(side(values, "image_size"), side(values, "patch_size"), transformer_from_hf(values))


def vision_config_to_hf(config: VisionConfig) -> dict[str, Any]:
    """A `vision_config`. Raises UserError where the tower has not the form of CLIP's."""
    if config != VisionConfig(config.image_size, config.patch_size, config.transformer):
        raise UserError(
            "transformers' CLIP has a class token that pools, a norm before the blocks and no bias at the "
            "patches; this tower is built otherwise"
        )
    return {
        "model_type": "clip_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        **transformer_to_hf(config.transformer),
    }


def table(config: CLIPConfig) -> Table:
    """Names of our CLIP and of transformers' CLIPModel."""
    return {
        **linear("vision_projection", "visual_projection", bias=False),
        **linear("text_projection", "text_projection", bias=False),
        **same("logit_scale", "logit_scale"),
        **vision_table(config.vision, "vision", "vision_model"),
        **text_table(config.text, "text", "text_model"),
    }


def vision_table(config: VisionConfig, ours: str, theirs: str) -> Table:
    """Names of a picture tower, CLIP's or SigLIP's."""
    embeddings = f"{theirs}.embeddings"
    names = {
        **patch_kernel(f"{ours}.patch.kernel", f"{embeddings}.patch_embedding.weight", config.patch_size, 3),
        **same(f"{ours}.positions", f"{embeddings}.position_embedding.weight"),
        **_encoder(config.transformer.layers, config.transformer.scan, ours, theirs),
        **norm(f"{ours}.post_norm", f"{theirs}.post_layernorm"),
    }
    if config.class_token:
        names |= same(f"{ours}.class_token", f"{embeddings}.class_embedding")
    if config.patch_bias:
        names |= same(f"{ours}.patch.bias", f"{embeddings}.patch_embedding.bias")
    if config.pre_norm:
        names |= norm(f"{ours}.pre_norm", f"{theirs}.pre_layrnorm")
    if config.pooling == "attention":
        names |= _attention_pool(f"{ours}.gather", f"{theirs}.head")
    return names


def text_table(config: TextConfig, ours: str, theirs: str) -> Table:
    """Names of a text tower, CLIP's or SigLIP's."""
    return {
        **same(f"{ours}.embed.embedding", f"{theirs}.embeddings.token_embedding.weight"),
        **same(f"{ours}.positions", f"{theirs}.embeddings.position_embedding.weight"),
        **_encoder(config.transformer.layers, config.transformer.scan, ours, theirs),
        **norm(f"{ours}.post_norm", f"{theirs}.final_layer_norm"),
    }


def _text_config_from_hf(values: dict[str, Any]) -> TextConfig:
    values = with_defaults(_TEXT, values)
    end_id = values["eos_token_id"]
    if not isinstance(end_id, int):
        raise UserError(f"eos_token_id is {end_id!r}: one whole number is supported")
    known = end_id != _UNKNOWN_END
    return TextConfig(
        vocab_size=values["vocab_size"],
        max_length=values["max_position_embeddings"],
        transformer=transformer_from_hf(values),
        pooling="end_id" if known else "highest_id",
        end_id=end_id if known else None,
    )


def _encoder(count: int, scan: bool, ours: str, theirs: str) -> Table:
    return layers(f"{ours}.transformer.blocks", f"{theirs}.encoder.layers", _block, count=count, scan=scan)


def _block(ours: str, theirs: str) -> Table:
    heads = tuple(f"{theirs}.self_attn.{letter}_proj" for letter in "qkv")
    return {
        **norm(f"{ours}.norm1", f"{theirs}.layer_norm1"),
        **side_by_side(f"{ours}.qkv", heads),
        **linear(f"{ours}.out", f"{theirs}.self_attn.out_proj"),
        **norm(f"{ours}.norm2", f"{theirs}.layer_norm2"),
        **linear(f"{ours}.up", f"{theirs}.mlp.fc1"),
        **linear(f"{ours}.down", f"{theirs}.mlp.fc2"),
    }


def _attention_pool(ours: str, theirs: str) -> Table:
    """SigLIP's head: torch's MultiheadAttention keeps queries, keys and values as one, outputs first."""
    return {
        f"{ours}.query": Rule(
            (f"{theirs}.probe",), lambda probe: probe[0, 0], lambda query: (query[None, None],)
        ),
        f"{ours}.qkv.kernel": Rule(
            (f"{theirs}.attention.in_proj_weight",), lambda weight: weight.T, lambda kernel: (kernel.T,)
        ),
        **same(f"{ours}.qkv.bias", f"{theirs}.attention.in_proj_bias"),
        **linear(f"{ours}.out", f"{theirs}.attention.out_proj"),
        **norm(f"{ours}.norm", f"{theirs}.layernorm"),
        **linear(f"{ours}.up", f"{theirs}.mlp.fc1"),
        **linear(f"{ours}.down", f"{theirs}.mlp.fc2"),
    }
