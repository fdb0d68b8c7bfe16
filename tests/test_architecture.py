"""Descriptions of networks: sizes that fit, and the way to JSON and back."""

import dataclasses
import json
import math

import pytest

from mmrlhf_jax.architecture import (
    CLIPConfig,
    DecoderConfig,
    PolicyConfig,
    RewardConfig,
    RopeScaling,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.config import from_dict
from mmrlhf_jax.errors import UserError

SINGLE = (TransformerConfig, VisionConfig, TextConfig, CLIPConfig, DecoderConfig, RewardConfig, RopeScaling)
NUMBERS = [
    (cls, field.name) for cls in SINGLE for field in dataclasses.fields(cls) if field.type in (int, float)
]


@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=[f"{cls.__name__}.{name}" for cls, name in NUMBERS])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf])
def test_no_size_or_number_may_be_zero_negative_or_not_finite(cls, name, value):
    with pytest.raises(UserError, match=name):
        cls(**{name: value})


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (TransformerConfig, {"width": 30, "heads": 4}),
        (VisionConfig, {"image_size": 64, "patch_size": 65}),
        (DecoderConfig, {"width": 30, "heads": 4, "kv_heads": 4}),
        (DecoderConfig, {"width": 32, "heads": 4, "kv_heads": 3}),
        (
            DecoderConfig,
            {"width": 12, "heads": 4, "kv_heads": 4},
        ),  # 3 numbers a head cannot be rotated in pairs
        (VisionConfig, {"class_token": False}),
        (TextConfig, {"pooling": "end_id"}),
        (TextConfig, {"end_id": -1}),
        (CLIPConfig, {"max_logit_scale": 0.0}),
        (DecoderConfig, {"head_dim": 5}),
        (DecoderConfig, {"max_positions": 0}),
        (DecoderConfig, {"rope_scaling": RopeScaling("dynamic", 2.0)}),  # dynamic from which length on?
        (RopeScaling, {"kind": "llama3", "low_freq_factor": 4.0}),
        (RopeScaling, {"attention_factor": -1.0}),
        (TransformerConfig, {"width": 32.0}),
        (TransformerConfig, {"attention": "flash"}),
        (DecoderConfig, {"attention": "flash"}),
        (PolicyConfig, {"feature_layer": -6}),  # of a tower of 4 layers
        (PolicyConfig, {"feature_layer": 5}),
        (PolicyConfig, {"feature_tokens": "all"}),  # of which layer?
        (PolicyConfig, {"projector_activation": "mish"}),
        (PolicyConfig, {"image_token_id": 2048}),
        (PolicyConfig, {"image_token_id": -1}),
        (TransformerConfig, {"layers": True}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(cls, values):
    with pytest.raises(UserError) as refused:
        cls(**values)
    assert len(str(refused.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("cls", "name", "wrong"),
    [
        (VisionConfig, "pooling", "max"),
        (TextConfig, "pooling", "max"),
        (TransformerConfig, "activation", "relu6"),
        (RewardConfig, "fusion", "sum"),
        (RopeScaling, "kind", "longrope"),
    ],
)
def test_unknown_choices_are_refused(cls, name, wrong):
    with pytest.raises(UserError, match=f"{name}.*{wrong}"):
        cls(**{name: wrong})


def test_patches_of_a_picture():
    assert VisionConfig(image_size=64, patch_size=16).num_patches == 16
    assert VisionConfig(image_size=224, patch_size=32).num_patches == 49
    assert VisionConfig(image_size=384, patch_size=14).num_patches == 27**2


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({}, None),
        ({"max_positions": 64}, 64),
        ({"max_positions": 64, "sliding_window": 16}, 16),
        ({"max_positions": 64, "rope_scaling": RopeScaling("linear", 2.0)}, 128),
        ({"max_positions": 64, "rope_scaling": RopeScaling("yarn", 4.0, 64)}, 256),
        ({"max_positions": 256, "rope_scaling": RopeScaling("yarn", 4.0, 64)}, 256),
        ({"max_positions": 64, "rope_scaling": RopeScaling("dynamic", 4.0)}, 64),
        ({"max_positions": 64, "rope_scaling": RopeScaling("llama3", 8.0, 32)}, 64),
    ],
)
def test_how_far_a_decoder_reads(values, limit):
    assert DecoderConfig(**values).length_limit == limit


@pytest.mark.parametrize(
    "config",
    [
        RewardConfig(
            CLIPConfig(VisionConfig(32, 8, TransformerConfig(16, 1, 2, 32, "quick_gelu", 1e-6))),
            "weighted_sum",
            48,
        ),
        RewardConfig(captioner=PolicyConfig(max_length=9), language_model=DecoderConfig(layers=2)),
        PolicyConfig(decoder=DecoderConfig(vocab_size=77, rope_theta=5e5)),
        PolicyConfig(decoder=DecoderConfig(head_dim=8, rope_scaling=RopeScaling("yarn", 4.0, 64))),
    ],
)
def test_json_and_back(config):
    again = from_dict(type(config), json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config and isinstance(again, type(config))
    assert hash(again) == hash(config)  # static under jit


def test_unknown_and_misplaced_keys_are_named():
    values = dataclasses.asdict(PolicyConfig())
    values["decoder"]["breadth"] = 3
    with pytest.raises(UserError, match=r"DecoderConfig.*breadth"):
        from_dict(PolicyConfig, values)
    with pytest.raises(UserError, match="RewardConfig"):
        from_dict(RewardConfig, dataclasses.asdict(PolicyConfig()))
    with pytest.raises(UserError, match="DecoderConfig: None"):
        from_dict(PolicyConfig, dataclasses.asdict(PolicyConfig()) | {"decoder": None})


def test_missing_keys_get_their_defaults():
    """What an older version wrote, before a field was there."""
    values = dataclasses.asdict(RewardConfig(CLIPConfig(VisionConfig(32, 8))))
    for name in ("class_token", "patch_bias", "pre_norm", "pooling"):
        del values["clip"]["vision"][name]
    for name in ("qkv_bias", "scan", "remat"):
        del values["clip"]["text"]["transformer"][name]
    assert from_dict(RewardConfig, values) == RewardConfig(CLIPConfig(VisionConfig(32, 8)))


def test_a_missing_key_without_a_default_is_named():
    @dataclasses.dataclass(frozen=True)
    class Needy:
        size: int
        kind: str = "a"

    with pytest.raises(UserError, match=r"Needy.*\['size'\]"):
        from_dict(Needy, {"kind": "b"})


def test_a_config_of_an_older_version_gets_the_new_fields_defaults():
    values = dataclasses.asdict(PolicyConfig(decoder=DecoderConfig(vocab_size=77)))
    for name in ("head_dim", "rope_scaling", "qkv_bias", "tied", "max_positions", "sliding_window", "remat"):
        del values["decoder"][name]
    for name in (
        "feature_layer",
        "feature_tokens",
        "projector_activation",
        "projector_bias",
        "image_token_id",
    ):
        del values[name]
    assert from_dict(PolicyConfig, values) == PolicyConfig(decoder=DecoderConfig(vocab_size=77))


@pytest.mark.parametrize("values", [None, 5, [], "text", {"vision": 5, "decoder": None}])
def test_json_of_another_kind_is_refused(values):
    with pytest.raises(UserError, match="Config"):
        from_dict(PolicyConfig, values)
