"""config.json of the Llama family: published files of transformers 4 and 5, and the way back."""

import dataclasses
import json
from pathlib import Path

import pytest

from mmrlhf_jax.architecture import DecoderConfig, RopeScaling
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.llama import config_from_hf, config_to_hf

GOLDEN = Path(__file__).parents[1] / "golden"

# What matters of published config.json files.
SMOLLM2 = {
    "model_type": "llama",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA31 = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}
QWEN25 = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MISTRAL_NEMO = {
    "model_type": "mistral",
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 131072,
}


def test_published_configs():
    assert config_from_hf(SMOLLM2) == DecoderConfig(
        49152, 576, 30, 9, 3, 1536, 100_000.0, 1e-5, max_positions=8192
    )
    assert config_from_hf(LLAMA31) == DecoderConfig(
        128256, 4096, 32, 32, 8, 14336, 500_000.0, 1e-5,
        tied=False, max_positions=131072, rope_scaling=RopeScaling("llama3", 8.0, 8192, 1.0, 4.0),
    )  # fmt: skip
    assert config_from_hf(QWEN25) == DecoderConfig(
        151936, 896, 24, 14, 2, 4864, 1e6, 1e-6, qkv_bias=True, max_positions=32768
    )
    nemo = config_from_hf(MISTRAL_NEMO)
    assert nemo.head_width == 128 and nemo.length_limit == 131072 and not nemo.tied


def test_windows_are_limits():
    config = config_from_hf(MISTRAL_NEMO | {"sliding_window": 4096})
    assert config.length_limit == 4096
    assert config_to_hf(config)["model_type"] == "mistral"
    assert config_to_hf(config)["sliding_window"] == 4096


def test_long_context_as_qwen_documents_it():
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = config_from_hf(QWEN25 | {"rope_scaling": scaling})
    assert config.rope_scaling == RopeScaling("yarn", 4.0, 32768)
    assert config.length_limit == 131072


@pytest.mark.parametrize("values", [SMOLLM2, LLAMA31, QWEN25, MISTRAL_NEMO], ids=lambda v: v["hidden_size"])
def test_both_spellings_of_rotary_positions_say_the_same(values):
    newer = {k: v for k, v in values.items() if k not in ("rope_theta", "rope_scaling")}
    scaling = values.get("rope_scaling") or {"rope_type": "default"}
    newer["rope_parameters"] = {**scaling, "rope_theta": values["rope_theta"]}
    assert config_from_hf(newer) == config_from_hf(values)


@pytest.mark.parametrize(
    "name", ["llama_tied", "llama_untied_llama3", "llama_linear", "qwen2_yarn", "mistral"]
)
def test_there_and_back(name):
    """From what transformers 5 itself wrote."""
    values = json.loads((GOLDEN / name / "config.json").read_text())
    config = config_from_hf(values)
    again = json.loads(json.dumps(config_to_hf(config)))
    assert config_from_hf(again) == config
    assert again["model_type"] == values["model_type"]


def test_sizes_without_defaults_and_old_files():
    few = {k: SMOLLM2[k] for k in ("model_type", "hidden_size", "intermediate_size", "vocab_size")}
    few |= {"num_attention_heads": 9, "num_hidden_layers": 2}
    config = config_from_hf(few)
    assert config.kv_heads == 9 and config.norm_eps == 1e-6 and not config.tied
    assert config.rope_theta == 10_000 and config.max_positions is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "gpt2"}, ["gpt2", "llama, mistral, qwen2"]),
        ({}, ["model_type", "llama, mistral, qwen2"]),
        (SMOLLM2 | {"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        (SMOLLM2 | {"attention_bias": True}, ["attention_bias"]),
        (SMOLLM2 | {"mlp_bias": True}, ["mlp_bias"]),
        (SMOLLM2 | {"quantization_config": {"quant_method": "awq"}}, ["quantization_config"]),
        (SMOLLM2 | {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, ["longrope", "yarn"]),
        (SMOLLM2 | {"rope_scaling": {"type": "linear"}}, ["linear", "factor"]),
        (SMOLLM2 | {"hidden_size": None}, ["hidden_size"]),
        (SMOLLM2 | {"hidden_size": 577}, ["577"]),
        (QWEN25 | {"use_sliding_window": True}, ["use_sliding_window"]),
    ],
)
def test_what_does_not_load_is_told_in_one_line(values, words):
    with pytest.raises(UserError) as error:
        config_from_hf(values)
    assert len(str(error.value).splitlines()) == 1
    for word in words:
        assert word in str(error.value)


def test_a_mixture_of_families_is_not_written():
    mixed = dataclasses.replace(config_from_hf(QWEN25), sliding_window=64)
    with pytest.raises(UserError, match="qkv_bias and sliding_window"):
        config_to_hf(mixed)
