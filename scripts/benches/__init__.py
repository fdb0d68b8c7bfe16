"""Benches, one file for each capability; scripts/bench.py runs them."""
