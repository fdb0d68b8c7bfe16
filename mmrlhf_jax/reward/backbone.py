"""Pretrained backbones of reward models, from folders in Hugging Face's layout."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from mmrlhf_jax.architecture import CLIPConfig, PolicyConfig, SigLIPConfig, TextConfig
from mmrlhf_jax.data.foreign_tokens import ForeignTokenizer
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.encoders import load_clip, load_siglip
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.config import read_config
from mmrlhf_jax.hub.source import resolve
from mmrlhf_jax.modules import Params, define, params_of
from mmrlhf_jax.policy import load_vlm
from mmrlhf_jax.policy.captioner import Captioner


class Backbone(NamedTuple):
    """What a reward model is built on.

    Attributes:
      name: "clip", "siglip" or "policy", as in `RewardConfig`.
      architecture: its configuration.
      params: its parameters.
      tokenizer: how it reads text.
      image_size: pixels of a side of the pictures that it was trained on.
      max_length: tokens of a text at most.
    """

    name: str
    architecture: Any
    params: Params
    tokenizer: CaptionTokenizer
    image_size: int
    max_length: int


def load_backbone(path: str | Path) -> Backbone:
    """A CLIP, a SigLIP or a LLaVA as transformers saves them, with its tokenizer.

    Args:
      path: a folder, or a repository of the hub ("org/name").

    Raises:
      UserError: there is no such folder, it holds another kind of model, or a file is damaged.
    """
    folder = resolve(path)
    kind = read_config(folder).get("model_type")
    match kind:
        case "clip":
            clip = load_clip(folder)
            return _backbone("clip", clip.config, params_of(clip), folder)
        case "siglip":
            siglip = load_siglip(folder)
            return _backbone("siglip", siglip.config, params_of(siglip), folder)
        case "llava":
            policy = load_vlm(folder)
            return _backbone("policy", policy.config, params_of(policy), folder)
    raise UserError(
        f"{folder} holds a model of type {kind!r}: a reward model is built on clip, siglip or llava"
    )


def fresh_towers(policy: Captioner, seed: int) -> Backbone:
    """Two towers: the policy's picture tower, and a text tower of its size that knows nothing yet."""
    architecture = policy.architecture
    text = TextConfig(
        architecture.decoder.vocab_size, architecture.text_length, architecture.vision.transformer
    )
    towers = CLIPConfig(architecture.vision, text, projection_width=architecture.vision.transformer.width)
    params = define(lambda rngs: CLIP(towers, rngs=rngs)).init(jax.random.key(seed), without=("vision",))
    params["vision"] = policy.params["vision"]
    sizes = architecture.vision.image_size, text.max_length
    return Backbone("clip", towers, params, policy.tokenizer, *sizes)


def _backbone(
    name: str, architecture: CLIPConfig | SigLIPConfig | PolicyConfig, params: Params, folder: Path
) -> Backbone:
    length = (
        architecture.text_length if isinstance(architecture, PolicyConfig) else architecture.text.max_length
    )
    tokenizer = ForeignTokenizer.load(folder)
    return Backbone(name, architecture, params, tokenizer, architecture.vision.image_size, length)
