"""The axes over which devices are laid out, as a user writes them. Free of jax."""

import math
from typing import Literal

from mmrlhf_jax.errors import UserError

# data: rows of a batch, parameters copied; fsdp: rows, parameters cut too; tensor: parameters and heads cut
AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # those that share the rows of a batch

FrozenName = Literal["sharded", "replicated"]  # how networks that are only read lie on a mesh


def parse_mesh(text: str) -> dict[str, int]:
    """Sizes of all AXES, in their order, of e.g. "data=2,fsdp=4"; those left out are 1.

    Raises:
      UserError: an unknown axis, one that comes twice, or no whole number above 0.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, size = part.strip().partition("=")
        if name not in AXES or not equals or not (size.isascii() and size.isdigit()) or int(size) < 1:
            raise UserError(
                f"mesh {text!r}: {part.strip()!r} is no AXIS=DEVICES; write e.g. data=2,fsdp=4,tensor=1 "
                f"(axes: {', '.join(AXES)})"
            )
        if name in sizes:
            raise UserError(f"mesh {text!r} names {name} twice: give each axis once")
        sizes[name] = int(size)
    return {axis: sizes.get(axis, 1) for axis in AXES}


def row_shares(text: str) -> int:
    """Into how many equal parts a mesh cuts the rows of a batch; 1 without a mesh."""
    return math.prod(parse_mesh(text)[axis] for axis in ROWS) if text else 1
