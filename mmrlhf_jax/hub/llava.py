"""LLaVA as transformers' LlavaForConditionalGeneration lays it out: config.json and the tensors' names."""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from mmrlhf_jax.architecture import DecoderConfig, FeatureTokens, PolicyConfig, VisionConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub import clip, llama, siglip, vit
from mmrlhf_jax.hub.fields import activation_from_hf, activation_to_hf, require_model_type, with_defaults
from mmrlhf_jax.hub.names import Rule, Table, linear, moved

# Tensors that files may hold besides those of `table`: buffers of old versions, and output weights where
# the embeddings serve as such.
_BUFFERS = ("*.rotary_emb.inv_freq", "*.embeddings.position_ids")
_HEAD = ("language_model.lm_head.weight", "lm_head.weight")

# What transformers takes where config.json says nothing.
_TOP = {
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_LARGE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_TEXT = {
    "llama": {
        **_LARGE,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        **_LARGE,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "qwen2": {
        **_LARGE,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
}


def config_from_hf(values: dict[str, Any]) -> PolicyConfig:
    """The architecture that a LLaVA's config.json describes, written by transformers 4 or 5.

    Raises:
      UserError: it describes another model, or something that this package does not have.
    """
    require_model_type(values, "llava")
    top = with_defaults(_TOP, values)
    vision = _vision_from_hf(values.get("vision_config") or _VISION)
    layer = top["vision_feature_layer"]
    if isinstance(layer, list) and len(layer) == 1:
        layer = layer[0]
    if not isinstance(layer, int):
        raise UserError(f"vision_feature_layer is {layer}: one layer is supported, not several side by side")
    return PolicyConfig(
        vision,
        _decoder_from_hf(values),
        feature_layer=layer,
        feature_tokens=_tokens_from_hf(top["vision_feature_select_strategy"], vision),
        projector_activation=activation_from_hf(top["projector_hidden_act"]),
        projector_bias=top["multimodal_projector_bias"],
        image_token_id=values.get("image_token_id", top["image_token_index"]),
    )


def config_to_hf(config: PolicyConfig) -> dict[str, Any]:
    """config.json of a LlavaForConditionalGeneration.

    Raises:
      UserError: transformers' LLaVA has no such form.
    """
    if config.feature_layer is None or config.image_token_id is None:
        raise UserError(
            "transformers' LLaVA reads a layer of the tower and puts pictures into places of the prompt: "
            "give PolicyConfig a feature_layer (-2) and an image_token_id to build a policy that it can load"
        )
    decoder = llama.config_to_hf(config.decoder)
    del decoder["architectures"]
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": config.image_token_id,
        "image_seq_length": config.picture_tokens,
        "projector_hidden_act": activation_to_hf(config.projector_activation),
        "multimodal_projector_bias": config.projector_bias,
        "vision_feature_layer": config.feature_layer,
        "vision_feature_select_strategy": "default" if config.skipped_tokens else "full",
        "tie_word_embeddings": config.decoder.tied,
        "vision_config": _vision_to_hf(config.vision),
        "text_config": decoder,
    }


def table(config: PolicyConfig, names: Collection[str] = ()) -> Table:
    """Names of our VisionLanguagePolicy and of transformers' LLaVA.

    The value head, which LLaVA has not, is made of nothing: zeros when read, left out when written.

    Args:
      names: the tensors of a checkpoint, whose spelling is taken; else that of transformers 4, which 5 reads.
    """
    rules = {
        **linear("project_in", "multi_modal_projector.linear_1", bias=config.projector_bias),
        **linear("project_out", "multi_modal_projector.linear_2", bias=config.projector_bias),
        **_vision_table(config.vision),
        **moved(llama.table(config.decoder), "decoder", lambda name: f"language_model.{name}"),
        **_zeros("value_head.kernel", (config.decoder.width, 1)),
        **_zeros("value_head.bias", (1,)),
    }

    def spelt(name: str) -> str:
        return next((spelling for spelling in _spellings(name) if spelling in names), name)

    return {
        ours: dataclasses.replace(rule, sources=tuple(map(spelt, rule.sources)))
        for ours, rule in rules.items()
    }


def ignored(config: PolicyConfig) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may hold besides those of `table`."""
    return (*_BUFFERS, *_HEAD) if config.decoder.tied else _BUFFERS


def _spellings(name: str) -> tuple[str, ...]:
    """A tensor's names in files of transformers 4 and 5, given the oldest one."""
    if name in _HEAD:
        return _HEAD
    flat = name.replace("vision_tower.vision_model.", "vision_tower.")
    inner = name.replace("language_model.model.", "language_model.")
    return (name, flat, f"model.{inner}", f"model.{flat}")


def _vision_from_hf(values: dict[str, Any]) -> VisionConfig:
    match values.get("model_type", "clip_vision_model"):
        case "clip_vision_model":
            return clip.vision_config_from_hf(values)
        case "siglip_vision_model":
            return siglip.vision_config_from_hf(values)
        case "vit":
            return dataclasses.replace(vit.config_from_hf(values), pooling="dense")
        case other:
            raise UserError(
                f"the picture tower is a {other!r}: those that load are clip_vision_model, "
                "siglip_vision_model and vit"
            )


def _vision_to_hf(config: VisionConfig) -> dict[str, Any]:
    if not config.class_token:
        return siglip.vision_config_to_hf(config)
    if config.pre_norm:
        return clip.vision_config_to_hf(config)
    if config.pooling != "dense":
        raise UserError(
            f"transformers' LLaVA has ViT with its pooler, and this one pools {config.pooling!r}: "
            "load it with pooling='dense'"
        )
    values = vit.config_to_hf(config)
    del values["architectures"]
    return values


def _vision_table(config: VisionConfig) -> Table:
    if config.class_token and not config.pre_norm:
        return moved(vit.table(config, "vision_tower."), "vision", lambda name: name)
    return clip.vision_table(config, "vision", "vision_tower.vision_model")


def _decoder_from_hf(values: dict[str, Any]) -> DecoderConfig:
    """The decoder of `text_config`, whose files leave out what its family has by default."""
    text = values.get("text_config") or {}
    family = text.get("model_type", "llama")
    text = with_defaults({"model_type": "llama", **_TEXT.get(family, {})}, text)
    config = llama.config_from_hf(text)
    return dataclasses.replace(config, tied=config.tied or bool(values.get("tie_word_embeddings")))


def _tokens_from_hf(strategy: str, vision: VisionConfig) -> FeatureTokens:
    if strategy not in ("default", "full"):
        raise UserError(f"vision_feature_select_strategy is {strategy!r}: only default and full are known")
    if vision.class_token:
        return "patches" if strategy == "default" else "all"
    return "but_first" if strategy == "default" else "patches"


def _zeros(ours: str, shape: tuple[int, ...]) -> Table:
    return {ours: Rule((), lambda: np.zeros(shape, np.float32), lambda array: ())}
