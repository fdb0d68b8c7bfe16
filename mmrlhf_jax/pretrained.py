"""Checkpoints of the world: the loaders of every family, and the one way back.

policy = load_vlm("llava-hf/llava-1.5-7b-hf")
save_pretrained(policy, "mine", like="llava-hf/llava-1.5-7b-hf")
"""

from pathlib import Path
from typing import Any

from mmrlhf_jax.encoders import load_clip, load_siglip, load_vit
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.encoders.siglip import SigLIP
from mmrlhf_jax.encoders.vit import VisionTransformer
from mmrlhf_jax.hub import clip, llama, llava, siglip, vit
from mmrlhf_jax.hub.config import copy_companions, with_special_tokens, write_config
from mmrlhf_jax.hub.names import Table
from mmrlhf_jax.hub.source import resolve
from mmrlhf_jax.hub.tensors import MAX_SHARD_BYTES, write_params
from mmrlhf_jax.language import load_decoder
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import params_of
from mmrlhf_jax.policy import load_vlm
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy

__all__ = ["load_clip", "load_decoder", "load_siglip", "load_vit", "load_vlm", "resolve", "save_pretrained"]

Model = CLIP | SigLIP | VisionTransformer | Decoder | VisionLanguagePolicy


def save_pretrained(
    model: Model,
    path: str | Path,
    *,
    like: str | Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes config.json and model.safetensors so that transformers loads them.

    As CLIPModel, SiglipModel, ViTModel (without a pooler: add_pooling_layer=False), Llama-, Mistral- or
    Qwen2ForCausalLM, or LlavaForConditionalGeneration. A policy's value head has no place there and is left
    out; `hub.folder.save_model` keeps it.

    Args:
      like: the folder or repository that the model came from: its tokenizer, processor and chat template are
        copied, and the ids of its special tokens kept; it may be `path` itself.
      max_shard_bytes: size at which the weights are split into several files and an index.

    Raises:
      UserError: transformers has no model of this form; the message says what differs.
    """
    source = None if like is None else resolve(like)
    values, table = _described(model)
    write_config(path, values if source is None else with_special_tokens(values, source))
    write_params(path, table, params_of(model), max_shard_bytes=max_shard_bytes)
    if source is not None:
        copy_companions(source, path)


def _described(model: Model) -> tuple[dict[str, Any], Table]:
    """config.json, and the names of the tensors."""
    match model:
        case CLIP():
            return clip.config_to_hf(model.config), clip.table(model.config)
        case SigLIP():
            return siglip.config_to_hf(model.config), siglip.table(model.config)
        case VisionTransformer():
            return vit.config_to_hf(model.config), vit.table(model.config)
        case Decoder():
            return llama.config_to_hf(model.config), llama.table(model.config)
        case VisionLanguagePolicy():
            return llava.config_to_hf(model.config), llava.table(model.config)
