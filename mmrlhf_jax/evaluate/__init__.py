"""Metrics of captions, retrieval and preferences, their intervals, and the report. Host-side, no jax."""
