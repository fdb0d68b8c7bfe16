"""Decoders of the Llama family as Hugging Face lays them out: Llama 1-3, SmolLM, Mistral, Qwen2."""

from typing import Any

from mmrlhf_jax.architecture import DecoderConfig, RopeKind, RopeScaling
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.names import Table, linear, norm, same, transposed

FAMILIES = ("llama", "mistral", "qwen2")

# Tensors that some checkpoints hold and no one needs: the rotary frequencies follow from config.json.
IGNORED = ("*.rotary_emb.inv_freq",)

# Ours → transformers', and the value where config.json says nothing (None: it must say something).
_SIZES: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", None),
    "width": ("hidden_size", None),
    "layers": ("num_hidden_layers", None),
    "heads": ("num_attention_heads", None),
    "mlp_width": ("intermediate_size", None),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "tied": ("tie_word_embeddings", False),
}
# Ours → transformers' names of what a kind of scaling needs, in `rope_scaling` or `rope_parameters`.
_SCALING_FIELDS: dict[RopeKind, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_positions": "original_max_position_embeddings",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_positions": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "truncate": "truncate",
        "attention_factor": "attention_factor",
    },
}


def config_from_hf(values: dict[str, Any]) -> DecoderConfig:
    """The architecture that a config.json of transformers 4 or 5 describes.

    Raises:
      UserError: another family of models, a missing size, or a feature that is not supported.
    """
    family = values.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"model_type is {family!r}: the decoders that load are {', '.join(FAMILIES)}")
    if values.get("hidden_act", "silu") != "silu":
        raise UserError(f"hidden_act is {values['hidden_act']!r}: the decoders that load have silu")
    for name in ("attention_bias", "mlp_bias"):
        if values.get(name):
            raise UserError(f"{name} is true: among the decoders that load only qwen2 has biases")
    if "quantization_config" in values:
        raise UserError(
            "quantization_config: quantised safetensors do not load; take the full weights or GGUF"
        )
    sizes = {}
    for ours, (theirs, default) in _SIZES.items():
        sizes[ours] = values.get(theirs, default)
        if sizes[ours] is None:
            raise UserError(f"config.json lacks {theirs}: restore it or download the model again")
    # transformers writes all values but the family's own defaults may be missing from files made by hand.
    kv_heads = values.get("num_key_value_heads", 8 if family == "mistral" else None)
    max_positions = values.get("max_position_embeddings")
    theta, scaling = _rope(values, max_positions)
    return DecoderConfig(
        **sizes,
        kv_heads=kv_heads or sizes["heads"],
        rope_theta=theta,
        head_dim=values.get("head_dim"),
        rope_scaling=scaling,
        qkv_bias=family == "qwen2",
        max_positions=max_positions,
        sliding_window=_sliding_window(values),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """A config.json for `config`, in the spelling that transformers 4 and 5 both read.

    Raises:
      UserError: no family of transformers has these features together.
    """
    if config.qkv_bias and config.sliding_window is not None:
        raise UserError(
            "a decoder with both qkv_bias and sliding_window belongs to no family of transformers"
        )
    family = "qwen2" if config.qkv_bias else "llama" if config.sliding_window is None else "mistral"
    architecture = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    scaling = config.rope_scaling
    fields = {theirs: getattr(scaling, ours) for ours, theirs in _SCALING_FIELDS[scaling.kind].items()}
    values = {
        "architectures": [architecture[family]],
        "model_type": family,
        **{theirs: getattr(config, ours) for ours, (theirs, _) in _SIZES.items()},
        "num_key_value_heads": config.kv_heads,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": None
        if scaling.kind == "default"
        else {"rope_type": scaling.kind}
        | {name: value for name, value in fields.items() if value is not None},
    }
    if config.head_dim is not None:
        values["head_dim"] = config.head_dim
    if config.max_positions is not None:
        values["max_position_embeddings"] = config.max_positions
    if family == "mistral":
        values["sliding_window"] = config.sliding_window
    return values


def table(config: DecoderConfig) -> Table:
    """Names of our Decoder and of transformers' LlamaForCausalLM and its kin."""
    rules = {
        **same("embedding.embedding", "model.embed_tokens.weight"),
        **norm("norm", "model.norm", bias=False),
    }
    if not config.tied:
        rules |= transposed("head.kernel", "lm_head.weight")
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        rules |= {
            **norm(f"{ours}.norm1", f"{theirs}.input_layernorm", bias=False),
            **linear(f"{ours}.query", f"{theirs}.self_attn.q_proj", bias=config.qkv_bias),
            **linear(f"{ours}.key", f"{theirs}.self_attn.k_proj", bias=config.qkv_bias),
            **linear(f"{ours}.value", f"{theirs}.self_attn.v_proj", bias=config.qkv_bias),
            **linear(f"{ours}.out", f"{theirs}.self_attn.o_proj", bias=False),
            **norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", bias=False),
            **linear(f"{ours}.gate", f"{theirs}.mlp.gate_proj", bias=False),
            **linear(f"{ours}.up", f"{theirs}.mlp.up_proj", bias=False),
            **linear(f"{ours}.down", f"{theirs}.mlp.down_proj", bias=False),
        }
    return rules


def ignored(config: DecoderConfig) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may hold besides those of `table`."""
    return (*IGNORED, "lm_head.weight") if config.tied else IGNORED


def _rope(values: dict[str, Any], max_positions: int | None) -> tuple[float, RopeScaling]:
    """The base and the scaling: `rope_parameters` in transformers 5, two keys in transformers 4."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    theta = given.get("rope_theta") or values.get("rope_theta") or 10_000.0
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in _SCALING_FIELDS:
        raise UserError(f"rope_type is {kind!r}: the kinds that load are {', '.join(_SCALING_FIELDS)}")
    if given.get("mscale") or given.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("mscale and partial_rotary_factor of rotary positions are not supported")
    names = _SCALING_FIELDS[kind]
    fields = {ours: given[theirs] for ours, theirs in names.items() if given.get(theirs) is not None}
    if "original_positions" in names and max_positions is not None:
        fields.setdefault("original_positions", max_positions)
    if "factor" in names and "factor" not in fields:
        raise UserError(f"rope_type is {kind!r}, but its factor is missing: restore config.json")
    return float(theta), RopeScaling(kind, **fields)


def _sliding_window(values: dict[str, Any]) -> int | None:
    """The window where it is set for all layers; a window that no layer has counts as none."""
    if values["model_type"] == "mistral":
        return values.get("sliding_window", 4096)
    windowed = "sliding_attention" in (values.get("layer_types") or [])
    if windowed or (
        values["model_type"] == "qwen2"
        and values.get("use_sliding_window")
        and values.get("max_window_layers", 28) < values["num_hidden_layers"]
    ):
        raise UserError("some layers have a sliding window (use_sliding_window): only full attention loads")
    return None
