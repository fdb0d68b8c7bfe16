"""Policies: what acts, and is trained by reinforcement."""
