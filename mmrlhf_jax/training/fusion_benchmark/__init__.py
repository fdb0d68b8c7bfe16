"""The benchmark of fusions: every method on every task, over many seeds, with attribution."""
