"""Fields of transformers' config.json that several families share."""

from collections.abc import Mapping
from typing import Any

from mmrlhf_jax.architecture import Activation, TransformerConfig
from mmrlhf_jax.errors import UserError

# transformers' `hidden_act`; all of its tanh approximations of gelu are one function.
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_NAMES: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}


def activation_from_hf(name: Any) -> Activation:
    """Our name of transformers' `hidden_act`. Raises UserError for one that is not known here."""
    if name not in _ACTIVATIONS:
        raise UserError(f"hidden_act is {name!r}: this package knows {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def activation_to_hf(name: Activation) -> str:
    """transformers' `hidden_act` for our name."""
    return _NAMES[name]


def require_model_type(values: Mapping[str, Any], wanted: str) -> None:
    """Raises UserError where a config.json describes another family than `wanted`."""
    found = values.get("model_type")
    if found != wanted:
        raise UserError(f"model_type is {found!r}, but {wanted!r} is wanted: give another folder")


def with_defaults(defaults: Mapping[str, Any], values: Any) -> dict[str, Any]:
    """`values` over `defaults`; null counts as not given, as transformers reads it."""
    if not isinstance(values, Mapping):
        raise UserError(f"{values!r} stands where an object with {sorted(defaults)} belongs")
    return {**defaults, **{name: value for name, value in values.items() if value is not None}}


def side(values: Mapping[str, Any], name: str) -> int:
    """A size in pixels, which may be written as [224, 224]. Raises UserError for one that is not square."""
    value = values[name]
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or value[0] != value[1]:
            raise UserError(f"{name} is {value}: only square ones are supported")
        value = value[0]
    return value


def require(values: Mapping[str, Any], **wanted: Any) -> None:
    """Raises UserError where a field has another value than the only one that is supported."""
    for name, value in wanted.items():
        if name in values and values[name] != value:
            raise UserError(f"{name} is {values[name]!r}: only {value!r} is supported")


def transformer_from_hf(values: Mapping[str, Any]) -> TransformerConfig:
    """The stack of blocks that a tower's fields describe."""
    return TransformerConfig(
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        mlp_width=values["intermediate_size"],
        activation=activation_from_hf(values["hidden_act"]),
        norm_eps=values["layer_norm_eps"],
        qkv_bias=values.get("qkv_bias", True),
    )


def transformer_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """The fields of a tower that describe its stack of blocks."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": activation_to_hf(config.activation),
        "layer_norm_eps": config.norm_eps,
    }
