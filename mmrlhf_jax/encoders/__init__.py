"""Encoders of pictures and text."""
