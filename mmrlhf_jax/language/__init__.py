"""Causal language models."""

from mmrlhf_jax.language.pretrained import load_decoder, save_decoder

__all__ = ["load_decoder", "save_decoder"]
