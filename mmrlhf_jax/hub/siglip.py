"""SigLIP as transformers' SiglipModel lays it out: config.json and the names of the tensors."""

from typing import Any

from mmrlhf_jax.architecture import SigLIPConfig, TextConfig, VisionConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.clip import IGNORED, text_table, vision_table
from mmrlhf_jax.hub.fields import (
    require,
    require_model_type,
    side,
    transformer_from_hf,
    transformer_to_hf,
    with_defaults,
)
from mmrlhf_jax.hub.names import Rule, Table, linear

__all__ = ["IGNORED", "config_from_hf", "config_to_hf", "table", "vision_config_from_hf", "vision_table"]

# What transformers takes where config.json says nothing.
_TOWER = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_VISION = {**_TOWER, "image_size": 224, "patch_size": 16, "vision_use_head": True}
_TEXT = {**_TOWER, "vocab_size": 32000, "max_position_embeddings": 64}


def config_from_hf(values: dict[str, Any]) -> SigLIPConfig:
    """The architecture that a SiglipModel's config.json describes.

    Raises:
      UserError: it describes another model, or something that this package does not have.
    """
    require_model_type(values, "siglip")
    vision = vision_config_from_hf(values.get("vision_config") or {})
    text = with_defaults(_TEXT, values.get("text_config") or {})
    head_width = text.get("projection_size", text["hidden_size"])
    if head_width != vision.transformer.width:
        raise UserError(
            f"the text tower ends in {head_width} numbers and the picture tower in "
            f"{vision.transformer.width}: they must be equal to be compared"
        )
    if vision.pooling != "attention":
        raise UserError("vision_use_head is false: a SiglipModel needs the picture tower's pooling head")
    return SigLIPConfig(
        vision,
        TextConfig(
            vocab_size=text["vocab_size"],
            max_length=text["max_position_embeddings"],
            transformer=transformer_from_hf(text),
            causal=False,
            pooling="final",
        ),
    )


def config_to_hf(config: SigLIPConfig) -> dict[str, Any]:
    """config.json of a SiglipModel. Raises UserError where a tower has not the form of SigLIP's."""
    text = config.text
    if text.causal or text.pooling != "final" or config.vision.pooling != "attention":
        raise UserError(
            "transformers' SigLIP reads text both ways, pools its final position, and pictures by attention; "
            "these towers are built otherwise"
        )
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_length,
            "projection_size": config.vision.transformer.width,
            **transformer_to_hf(text.transformer),
        },
        "vision_config": vision_config_to_hf(config.vision),
    }


def vision_config_from_hf(values: dict[str, Any]) -> VisionConfig:
    """The picture tower of a `vision_config`; without its pooling head it pools the patches' mean."""
    values = with_defaults(_VISION, values)
    require(values, num_channels=3)
    return VisionConfig(
        side(values, "image_size"),
        side(values, "patch_size"),
        transformer_from_hf(values),
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        pooling="attention" if values["vision_use_head"] else "mean",
    )


def vision_config_to_hf(config: VisionConfig) -> dict[str, Any]:
    """A `vision_config`. Raises UserError where the tower has not the form of SigLIP's."""
    if config.class_token or config.pre_norm or not config.patch_bias or config.pooling == "class":
        raise UserError(
            "transformers' SigLIP has no class token, no norm before the blocks and a bias at the patches; "
            "this tower is built otherwise"
        )
    return {
        "model_type": "siglip_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "vision_use_head": config.pooling == "attention",
        **transformer_to_hf(config.transformer),
    }


def table(config: SigLIPConfig) -> Table:
    """Names of our SigLIP and of transformers' SiglipModel."""
    return {
        **vision_table(config.vision, "vision", "vision_model"),
        **text_table(config.text, "text", "text_model"),
        **linear("text_head", "text_model.head"),
        **_number("logit_scale"),
        **_number("logit_bias"),
    }


def _number(name: str) -> Table:
    """A scalar here is an array of one number there."""
    return {name: Rule((name,), lambda array: array.reshape(()), lambda scalar: (scalar.reshape(1),))}
