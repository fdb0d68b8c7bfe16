"""The stages of a run; each takes a config, trains, and leaves a folder behind."""
