"""Causal language models."""

from mmrlhf_jax.language.pretrained import load_decoder

__all__ = ["load_decoder"]
