"""Names of a stack's layers: each apart, or all stacked on a leading axis for a scan."""

from collections.abc import Callable

import numpy as np

from mmrlhf_jax.hub.names import Rule, Table


def layers(
    ours: str, theirs: str, block: Callable[[str, str], Table], *, count: int, scan: bool = False
) -> Table:
    """The names of `count` layers.

    Args:
      ours: the stack here; with `scan` its leaves hold all layers, else it has children 0, 1, ...
      theirs: the stack in the checkpoint, whose children are 0, 1, ...
      block: the table of one layer, given its name here and in the checkpoint.
    """
    if scan:
        tables = [block(ours, f"{theirs}.{i}") for i in range(count)]
        return {name: _stacked([table[name] for table in tables]) for name in tables[0]}
    table: Table = {}
    for i in range(count):
        table |= block(f"{ours}.{i}", f"{theirs}.{i}")
    return table


def _stacked(rules: list[Rule]) -> Rule:
    """One rule for the parameters of all `rules` on a new leading axis."""
    each = len(rules[0].sources)

    def join(*arrays: np.ndarray) -> np.ndarray:
        return np.stack([rule.join(*arrays[i * each : (i + 1) * each]) for i, rule in enumerate(rules)])

    def split(array: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(part for rule, leaf in zip(rules, array, strict=True) for part in rule.split(leaf))

    return Rule(tuple(source for rule in rules for source in rule.sources), join, split)
