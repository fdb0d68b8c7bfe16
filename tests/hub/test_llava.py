"""config.json of LLaVAs, published and saved here, and the names of their tensors."""

import dataclasses
from collections.abc import Callable

import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.llava import config_from_hf, config_to_hf, table

# The fields that matter of llava-hf/llava-1.5-7b-hf and llava-hf/llava-interleave-qwen-0.5b-hf.
LLAVA_15 = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
INTERLEAVE = {
    "image_token_index": 151646,
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "max_position_embeddings": 32768,
        "model_type": "qwen2",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "max_window_layers": 21,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "vocab_size": 152000,
    },
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
CLIP = VisionConfig(32, 8, TransformerConfig(32, 3, 2, 48, "quick_gelu"))
SIGLIP = VisionConfig(
    32, 8, TransformerConfig(32, 3, 2, 48), class_token=False, patch_bias=True, pre_norm=False, pooling="mean"
)
VIT = VisionConfig(32, 8, TransformerConfig(32, 3, 2, 48), patch_bias=True, pre_norm=False, pooling="dense")
DECODER = DecoderConfig(vocab_size=40, width=32, layers=2, max_positions=64)
POLICY = PolicyConfig(CLIP, DECODER, feature_layer=-2, image_token_id=39)


def test_llava_15():
    """Its file leaves out what Llama 7B has by default."""
    config = config_from_hf(LLAVA_15)
    assert config.vision.transformer == TransformerConfig(1024, 24, 16, 4096, "quick_gelu")
    assert config.decoder == DecoderConfig(
        32064, 4096, 32, 32, 32, 11008, 10_000.0, 1e-5, tied=False, max_positions=4096
    )
    assert (config.feature_layer, config.feature_tokens, config.picture_tokens) == (-2, "patches", 576)
    assert (config.projector_activation, config.projector_bias, config.image_token_id) == (
        "gelu",
        True,
        32000,
    )


def test_a_qwen2_with_siglip():
    config = config_from_hf(INTERLEAVE)
    assert config.vision.pooling == "mean" and not config.vision.class_token
    assert config.decoder.tied and config.decoder.qkv_bias and config.decoder.rope_theta == 1e6
    assert (config.feature_layer, config.feature_tokens, config.picture_tokens) == (-1, "patches", 729)


def test_the_defaults_agree_with_the_installed_transformers():
    import transformers

    def read(values: dict) -> PolicyConfig:
        values["text_config"].pop("head_dim", None)  # which says what follows from the width
        return config_from_hf(values)

    text = {"vocab_size": 32064}  # with its own default transformers' has no room for the picture token
    theirs = transformers.LlavaConfig(text_config={"model_type": "llama", **text}).to_dict()
    assert read(theirs) == config_from_hf({"model_type": "llava", "text_config": text})
    for family in ("llama", "mistral", "qwen2"):
        theirs = transformers.LlavaConfig(text_config={"model_type": family}, image_token_index=9).to_dict()
        short = {"model_type": "llava", "image_token_index": 9, "text_config": {"model_type": family}}
        assert read(theirs) == config_from_hf(short), family


@pytest.mark.parametrize(
    "config",
    [
        POLICY,
        dataclasses.replace(POLICY, feature_tokens="all", feature_layer=1, projector_activation="silu"),
        dataclasses.replace(POLICY, vision=SIGLIP, projector_bias=False),
        dataclasses.replace(POLICY, vision=SIGLIP, feature_tokens="but_first"),
        dataclasses.replace(POLICY, vision=VIT, decoder=dataclasses.replace(DECODER, qkv_bias=True)),
        dataclasses.replace(POLICY, decoder=dataclasses.replace(DECODER, tied=False, sliding_window=16)),
    ],
)
def test_there_and_back(config):
    assert config_from_hf(config_to_hf(config)) == config


def test_how_many_tokens_a_picture_has():
    """As LlavaProcessor counts them: patches, one more for a class token, one less for "default"."""
    for vision, tokens, wanted in (
        (CLIP, "patches", 16),
        (CLIP, "all", 17),
        (CLIP, "but_first", 16),
        (SIGLIP, "patches", 16),
        (SIGLIP, "all", 16),
        (SIGLIP, "but_first", 15),
    ):
        config = dataclasses.replace(POLICY, vision=vision, feature_tokens=tokens)
        assert config.picture_tokens == wanted, (vision.pooling, tokens)
        assert config_to_hf(config)["image_seq_length"] == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llava_next"}, "model_type is 'llava_next', but 'llava' is wanted"),
        ({"vision_feature_layer": [-2, -5]}, "one layer is supported"),
        ({"vision_feature_layer": -30}, "feature_layer is -30: choose -25 to 24"),
        ({"vision_feature_select_strategy": "cls"}, "only default and full"),
        ({"vision_config": {"model_type": "dinov2"}}, "picture tower is a 'dinov2'"),
        ({"text_config": {"model_type": "gpt2"}}, "model_type is 'gpt2': the decoders that load"),
        ({"image_token_index": 32064}, "image_token_id is 32064: the vocabulary has 32064"),
        ({"projector_hidden_act": "mish"}, "hidden_act is 'mish'"),
    ],
)
def test_configs_that_do_not_fit(values, message):
    with pytest.raises(UserError, match=message):
        config_from_hf({**LLAVA_15, **values})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_layer": None}, "give PolicyConfig a feature_layer"),
        ({"image_token_id": None}, "and an image_token_id"),
        ({"vision": dataclasses.replace(CLIP, patch_bias=True)}, "CLIP has a class token"),
        ({"vision": dataclasses.replace(VIT, pooling="mean")}, "with its pooler"),
    ],
)
def test_forms_that_transformers_has_not(changes, message):
    with pytest.raises(UserError, match=message):
        config_to_hf(dataclasses.replace(POLICY, **changes))


def test_one_layer_may_be_written_as_a_list():
    assert config_from_hf({**LLAVA_15, "vision_feature_layer": [-2]}) == config_from_hf(LLAVA_15)


# A tensor of each part by the spelling of its file: transformers 4 until 4.51 and what 5 saves of CLIP,
# transformers 4 in memory, transformers 5 in memory.
SPELLINGS: list[Callable[[str], str]] = [
    lambda name: name,
    lambda name: name.replace("vision_tower.vision_model.", "vision_tower."),
    lambda name: (
        name.removeprefix("language_model.")
        if "lm_head" in name
        else "model." + name.replace("language_model.model.", "language_model.")
    ),
    lambda name: SPELLINGS[2](SPELLINGS[1](name)),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_found(spelling):
    config = dataclasses.replace(POLICY, decoder=dataclasses.replace(DECODER, tied=False))
    oldest = [source for rule in table(config).values() for source in rule.sources]
    assert "language_model.lm_head.weight" in oldest and len(set(oldest)) == len(oldest)
    names = {spelling(name) for name in oldest}
    found = [source for rule in table(config, names).values() for source in rule.sources]
    assert set(found) == names and len(found) == len(oldest)
