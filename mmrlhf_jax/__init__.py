"""Multimodal RLHF in JAX and Flax: pictures, text and people's judgements in, an aligned policy out."""

__version__ = "0.1.0"
