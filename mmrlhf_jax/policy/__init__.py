"""Policies: what acts, and is trained by reinforcement."""

from mmrlhf_jax.policy.pretrained import load_vlm

__all__ = ["load_vlm"]
