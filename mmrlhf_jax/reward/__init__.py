"""Rewards: learned from preferences, and composed of named terms."""
