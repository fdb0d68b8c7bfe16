"""Reinforcement learning as pure functions of arrays: no model and no configuration is known here."""
