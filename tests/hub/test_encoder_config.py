"""config.json of published encoders, read and written; old spellings and missing fields."""

import dataclasses

import numpy as np
import pytest

from mmrlhf_jax.architecture import (
    CLIPConfig,
    SigLIPConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub import clip, siglip, vit
from mmrlhf_jax.hub.fields import activation_from_hf, activation_to_hf
from mmrlhf_jax.hub.layers import layers
from mmrlhf_jax.hub.names import linear

END_BY_ID = TextConfig(49408, 77, TransformerConfig(), pooling="end_id", end_id=49407)


def test_nothing_said_is_what_transformers_takes():
    """An empty description is CLIP ViT-B/32, SigLIP base and ViT-B/16, as their classes there are."""
    ours = clip.config_from_hf({"model_type": "clip"})
    assert ours.vision == VisionConfig(224, 32, TransformerConfig(768, 12, 12, 3072, "quick_gelu"))
    assert (ours.text.vocab_size, ours.text.max_length, ours.text.end_id) == (49408, 77, 49407)
    assert ours.text.transformer == TransformerConfig(512, 12, 8, 2048, "quick_gelu")
    assert ours.projection_width == 512
    tower = TransformerConfig(768, 12, 12, 3072, "gelu_tanh", 1e-6)
    ours = siglip.config_from_hf({"model_type": "siglip"})
    assert (ours.vision.image_size, ours.vision.patch_size, ours.vision.transformer) == (224, 16, tower)
    assert (ours.text.vocab_size, ours.text.max_length, ours.text.transformer) == (32000, 64, tower)
    ours = vit.config_from_hf({"model_type": "vit"})
    assert ours.transformer == TransformerConfig(768, 12, 12, 3072, "gelu", 1e-12)
    assert (ours.image_size, ours.patch_size, ours.num_positions) == (224, 16, 197)


def test_the_defaults_agree_with_the_installed_transformers():
    import transformers

    pairs = (
        (clip, transformers.CLIPConfig()),
        (siglip, transformers.SiglipConfig()),
        (vit, transformers.ViTConfig()),
    )
    for hub, theirs in pairs:
        assert hub.config_from_hf(theirs.to_dict()) == hub.config_from_hf({"model_type": theirs.model_type})


def test_openai_large_at_336():
    values = {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "eos_token_id": 2,
            "bos_token_id": 0,
        },
        "text_config_dict": None,
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        "vision_config_dict": None,
    }
    config = clip.config_from_hf(values)
    assert config.vision.num_positions == 577 and config.vision.transformer.layers == 24
    assert config.text.pooling == "highest_id" and config.text.end_id is None
    assert clip.config_from_hf(clip.config_to_hf(config)) == config


def test_the_part_that_ends_in_dict_wins_as_a_whole():
    """Old LAION files have both; transformers fills the winner up with its defaults."""
    values = {
        "model_type": "clip",
        "projection_dim": 1024,
        "text_config": {"hidden_size": 512, "num_hidden_layers": 3},
        "text_config_dict": {"hidden_size": 1024, "num_attention_heads": 16, "hidden_act": "gelu"},
    }
    text = clip.config_from_hf(values).text.transformer
    assert (text.width, text.layers, text.activation) == (1024, 12, "gelu")


@pytest.mark.parametrize("size", [224, [224, 224]])
def test_sizes_may_be_written_as_pairs(size):
    values = {"model_type": "vit", "image_size": size, "patch_size": 16}
    assert vit.config_from_hf(values).image_size == 224


@pytest.mark.parametrize(
    "config",
    [
        CLIPConfig(VisionConfig(32, 8), END_BY_ID, 40, max_logit_scale=None),
        SigLIPConfig(),
        VisionConfig(patch_bias=True, pre_norm=False, transformer=TransformerConfig(qkv_bias=False)),
    ],
    ids=["clip", "siglip", "vit"],
)
def test_there_and_back(config):
    hub = {CLIPConfig: clip, SigLIPConfig: siglip, VisionConfig: vit}[type(config)]
    values = hub.config_to_hf(config)
    assert values["architectures"] and hub.config_from_hf(values) == config


@pytest.mark.parametrize(
    ("hub", "config", "message"),
    [
        (clip, CLIPConfig(), "pools the end token, not 'last'"),
        (clip, CLIPConfig(text=dataclasses.replace(END_BY_ID, causal=False)), "reads text causally"),
        (clip, CLIPConfig(text=dataclasses.replace(END_BY_ID, end_id=2)), "end_id is 2"),
        (clip, CLIPConfig(vision=VisionConfig(patch_bias=True), text=END_BY_ID), "no bias at the patches"),
        (siglip, SigLIPConfig(text=TextConfig()), "both ways"),
        (siglip, SigLIPConfig(vision=VisionConfig()), "pictures by attention"),
        (vit, VisionConfig(), "no norm before the blocks"),
    ],
)
def test_forms_that_transformers_does_not_have(hub, config, message):
    with pytest.raises(UserError, match=message) as told:
        hub.config_to_hf(config)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("hub", "values", "message"),
    [
        (clip, {"model_type": "clip", "text_config": {"eos_token_id": [1, 2]}}, "eos_token_id"),
        (clip, {"model_type": "clip", "vision_config": 5}, "5 stands where an object"),
        (clip, {}, "model_type is None"),
        (siglip, {"model_type": "siglip", "text_config": {"projection_size": 8}}, "must be equal"),
        (siglip, {"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "pooling head"),
    ],
)
def test_descriptions_of_something_else(hub, values, message):
    with pytest.raises(UserError, match=message):
        hub.config_from_hf(values)


def test_a_tower_of_siglip_without_its_head_stands_alone():
    """As vision-language models keep it: only the patches are read."""
    config = siglip.vision_config_from_hf({"vision_use_head": False})
    assert config.pooling == "mean"
    assert not any("head" in s for r in siglip.vision_table(config, "v", "t").values() for s in r.sources)
    assert siglip.vision_config_to_hf(config)["vision_use_head"] is False


def test_names_of_activations():
    same = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"}
    assert {activation_from_hf(name) for name in same} == {"gelu_tanh"}
    for name in ("gelu", "quick_gelu", "relu", "silu", "gelu_pytorch_tanh"):
        assert activation_to_hf(activation_from_hf(name)) == name
    with pytest.raises(UserError, match="hidden_act is 'tanh'"):
        activation_from_hf("tanh")


def test_stacked_names_join_and_split_layer_by_layer():
    table = layers("ours", "theirs", linear, count=3, scan=True)
    assert set(table) == {"ours.kernel", "ours.bias"}
    rule = table["ours.kernel"]
    assert rule.sources == ("theirs.0.weight", "theirs.1.weight", "theirs.2.weight")
    arrays = [np.full((2, 4), i) + np.arange(4) for i in range(3)]
    joined = rule.join(*arrays)
    assert joined.shape == (3, 4, 2) and joined[2, :, 0].tolist() == [2, 3, 4, 5]
    for array, back in zip(arrays, rule.split(joined), strict=True):
        np.testing.assert_array_equal(array, back)
