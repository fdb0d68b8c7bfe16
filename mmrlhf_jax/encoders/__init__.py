"""Encoders of pictures and text."""

from mmrlhf_jax.encoders.pretrained import load_clip, load_siglip, load_vit

__all__ = ["load_clip", "load_siglip", "load_vit"]
