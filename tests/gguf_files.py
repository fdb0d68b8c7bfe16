"""GGUF files for tests, as llama.cpp's converter lays them out."""

from pathlib import Path

import numpy as np
import safetensors.numpy

from mmrlhf_jax.language import load_decoder

GOLDEN = Path(__file__).parent / "golden"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def pair_rows(array: np.ndarray, heads: int) -> np.ndarray:
    """Row i and row i + half of each head side by side, as llama.cpp's converter puts them."""
    rows = array.reshape(heads, array.shape[0] // heads, -1)
    half = rows.shape[1] // 2
    order = [place for i in range(half) for place in (i, i + half)]
    return rows[:, order].reshape(array.shape)


def write_gguf(file: Path, variant: str, family: str, change=lambda writer, arrays: None) -> None:
    """The golden checkpoint `variant` as llama.cpp would convert it, without quantisation."""
    import gguf

    config = load_decoder(GOLDEN / variant).config
    writer = gguf.GGUFWriter(file, family)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    arrays = {}
    for name, array in safetensors.numpy.load_file(GOLDEN / variant / "model.safetensors").items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if family == "llama" and ("attn_q" in name or "attn_k" in name):
            array = pair_rows(array, config.heads if "attn_q" in name else config.kv_heads)
        arrays[name] = array
    change(writer, arrays)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
