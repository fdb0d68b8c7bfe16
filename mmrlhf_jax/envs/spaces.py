"""What observations and actions look like: small, hashable descriptions, as Gymnasium's."""

import dataclasses
import math
from typing import Any

import numpy as np

from mmrlhf_jax.errors import UserError

Bound = float | tuple[float, ...]  # one for all entries, or one for each, row by row


@dataclasses.dataclass(frozen=True)
class Box:
    """An array whose entries lie between `low` and `high`; uint8 (H, W, C) arrays are pictures."""

    shape: tuple[int, ...]
    low: Bound = -math.inf
    high: Bound = math.inf
    dtype: str = "float32"

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture of 0-255, rows x columns x channels."""
        return self.dtype == "uint8" and len(self.shape) == 3

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each of this shape."""
        low, high = (np.asarray(bound, np.float32) for bound in (self.low, self.high))
        size = math.prod(self.shape)
        return tuple(np.broadcast_to(b, size).reshape(self.shape) for b in (low, high))  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Discrete:
    """One of the whole numbers 0 .. n - 1."""

    n: int
    shape: tuple[int, ...] = ()
    dtype: str = "int32"


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several whole numbers, the k-th below sizes[k]."""

    sizes: tuple[int, ...]
    dtype: str = "int32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sizes),)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A text of at most `length` tokens, right-padded with id 0."""

    length: int
    vocab_size: int
    dtype: str = "int32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


@dataclasses.dataclass(frozen=True)
class Dict:
    """Several spaces by name; an observation is then a dict of the same names."""

    spaces: tuple[tuple[str, "Leaf"], ...]

    @classmethod
    def of(cls, **spaces: "Leaf") -> "Dict":
        """`Dict.of(image=Box(...), text=Tokens(...))`."""
        return cls(tuple(spaces.items()))

    def items(self) -> tuple[tuple[str, "Leaf"], ...]:
        """(name, space), in the order given."""
        return self.spaces


Leaf = Box | Discrete | MultiDiscrete | Tokens
Space = Leaf | Dict


_KINDS: dict[str, type[Leaf]] = {kind.__name__: kind for kind in (Box, Discrete, MultiDiscrete, Tokens)}


def to_plain(space: Space) -> dict[str, Any]:
    """The space as JSON can hold it; infinite bounds become None."""
    if isinstance(space, Dict):
        return {"kind": "Dict", "spaces": [[name, to_plain(part)] for name, part in space.items()]}
    fields = dataclasses.asdict(space)
    for name in ("low", "high"):
        if name in fields:
            bounds = np.atleast_1d(fields[name]).tolist()
            fields[name] = [bound if math.isfinite(bound) else None for bound in bounds]
    return {"kind": type(space).__name__, **fields}


def from_plain(values: dict[str, Any]) -> Space:
    """The space that `to_plain` described."""
    fields = {name: value for name, value in values.items() if name != "kind"}
    if values["kind"] == "Dict":
        return Dict(tuple((name, from_plain(part)) for name, part in fields["spaces"]))  # type: ignore[misc]
    for name, infinite in (("low", -math.inf), ("high", math.inf)):
        if name in fields:
            bounds = tuple(infinite if bound is None else bound for bound in fields[name])
            fields[name] = bounds if len(bounds) > 1 else bounds[0]
    for name in ("shape", "sizes"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return _KINDS[values["kind"]](**fields)


def zeros(space: Space, *leading: int) -> Any:
    """Observations of zeros, with `leading` axes before those of the space: numpy arrays."""
    if isinstance(space, Dict):
        return {name: zeros(part, *leading) for name, part in space.items()}
    return np.zeros((*leading, *space.shape), space.dtype)


def as_batch(space: Space, value: Any) -> tuple[Any, bool]:
    """(observation with one leading axis, whether that axis was added).

    Raises:
      UserError: the value has another shape, or other names.
    """
    if isinstance(space, Dict):
        names = [name for name, _ in space.items()]
        if not isinstance(value, dict) or set(value) != set(names):
            found = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise UserError(f"an observation of {found}: give a dict with {', '.join(names)}")
        parts = {name: as_batch(part, value[name]) for name, part in space.items()}
        added = {single for _, single in parts.values()}
        if len(added) > 1:
            raise UserError("parts of an observation with and without a leading axis: give all alike")
        return {name: array for name, (array, _) in parts.items()}, added == {True}
    array = np.asarray(value, space.dtype)
    if array.shape == space.shape:
        return array[None], True
    if array.shape[1:] == space.shape:
        return array, False
    raise UserError(
        f"an observation of shape {array.shape}: the environment's has {space.shape}, or (N, ...) of them"
    )
