"""Weights on disk: a folder with config.json, model.safetensors and the tokenizer's files."""
