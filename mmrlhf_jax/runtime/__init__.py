"""The host side of a run: command line, platform, run folder, metrics, checkpoints, progress, signals."""
