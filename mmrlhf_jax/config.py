"""Number checks for configs, the frozen dataclasses that several experiments share, and configs from dicts.

A check takes the field's dotted path, as it stands on the command line, and the value. It returns nothing
and raises `UserError` in one form:

    learning_rate is nan: give a finite number above 0, e.g. --optimizer.learning-rate 1e-3
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, get_args

from mmrlhf_jax.errors import UserError

MemberKind = Literal["heads", "fusions"]
Pooling = Literal["mean", "worst", "mean_minus_variance"]
Bootstrap = Literal["none", "poisson", "multinomial"]
Transfer = Literal["full", "frozen", "lora"]


def _check(
    name: str, value: Any, valid: Callable[[Any], bool], wanted: str, example: str, kind: type
) -> None:
    # bool is an int in Python: `steps=True` is a slip, not the number 1
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and valid(value):
        return
    field = name.rsplit(".", 1)[-1]
    shown = value if isinstance(value, Real) else repr(value)
    raise UserError(f"{field} is {shown}: give {wanted}, e.g. --{name.replace('_', '-')} {example}")


def positive(name: str, value: float, example: str = "1e-3") -> None:
    """Raise `UserError` unless `value` is a finite number above 0."""
    _check(name, value, lambda x: x > 0, "a finite number above 0", example, Real)


def non_negative(name: str, value: float, example: str = "0.1") -> None:
    """Raise `UserError` unless `value` is a finite number, 0 or above."""
    _check(name, value, lambda x: x >= 0, "a finite number, 0 or above", example, Real)


def finite(name: str, value: float, example: str = "1.0") -> None:
    """Raise `UserError` unless `value` is a finite number (of either sign)."""
    _check(name, value, lambda x: True, "a finite number", example, Real)


def fraction(name: str, value: float, example: str = "0.5") -> None:
    """Raise `UserError` unless 0 <= value <= 1."""
    _check(name, value, lambda x: 0 <= x <= 1, "a number from 0 to 1", example, Real)


def decay_rate(name: str, value: float, example: str = "0.9") -> None:
    """Raise `UserError` unless 0 <= value < 1, as the decay of a running mean must be."""
    _check(name, value, lambda x: 0 <= x < 1, "a number from 0 up to, but not including, 1", example, Real)


def positive_int(name: str, value: int, example: str = "100") -> None:
    """Raise `UserError` unless `value` is a whole number, 1 or above."""
    _check(name, value, lambda x: x >= 1, "a whole number, 1 or above", example, Integral)


def non_negative_int(name: str, value: int, example: str = "0") -> None:
    """Raise `UserError` unless `value` is a whole number, 0 or above."""
    _check(name, value, lambda x: x >= 0, "a whole number, 0 or above", example, Integral)


def one_of(choices: Any, value: Any, what: str) -> None:
    """Raise `UserError` unless `value` is one of those that the Literal type `choices` names."""
    if value not in get_args(choices):
        raise UserError(f"{what} is {value!r}: choose one of {', '.join(get_args(choices))}")


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Several reward models on one set of towers.

    Attributes:
      members: how many; 1 is a single model.
      kind: what each has of its own: "heads" a head and the weights of the terms, "fusions" a fusion too.
      pooling: the ensemble's reward: "mean", "worst" of the members, or "mean_minus_variance".
      variance_weight: factor of the variance in "mean_minus_variance", at first; it is a parameter, which no
        gradient reaches, so that another value compiles nothing anew.
    """

    members: int = 1
    kind: MemberKind = "fusions"
    pooling: Pooling = "mean"
    variance_weight: float = 1.0

    def __post_init__(self):
        positive_int("ensemble.members", self.members)
        one_of(MemberKind, self.kind, "ensemble.kind")
        one_of(Pooling, self.pooling, "ensemble.pooling")
        non_negative("ensemble.variance_weight", self.variance_weight, "1.0")


@dataclasses.dataclass(frozen=True)
class PoolingConfig:
    """How the rewards of a trained ensemble become one; None: as it was trained."""

    pooling: Pooling | None = None
    variance_weight: float | None = None  # factor of the variance in mean_minus_variance

    def __post_init__(self) -> None:
        if self.pooling is not None:
            one_of(Pooling, self.pooling, "ensemble.pooling")
        if self.variance_weight is not None:
            non_negative("ensemble.variance_weight", self.variance_weight, "1.0")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and clipping by the global norm of the gradient."""

    learning_rate: float = 1e-3  # after the warm-up
    warmup_steps: int = 50  # optimizer steps from 0 up to the full learning rate
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8

    def __post_init__(self) -> None:
        positive("optimizer.learning_rate", self.learning_rate)
        non_negative_int("optimizer.warmup_steps", self.warmup_steps, "50")
        non_negative("optimizer.weight_decay", self.weight_decay, "0.01")
        positive("optimizer.max_grad_norm", self.max_grad_norm, "1.0")
        decay_rate("optimizer.b1", self.b1, "0.9")
        decay_rate("optimizer.b2", self.b2, "0.98")
        positive("optimizer.eps", self.eps, "1e-8")


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Rebuilds a (nested) configuration of class `cls` from what `dataclasses.asdict` gave.

    A key that is missing gets its default, so that what an older version wrote can be read.

    Raises:
      UserError: a key that `cls` does not have, or a missing one that has no default.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(values, dict):
        raise UserError(
            f"{cls.__name__}: {values!r} stands where an object with keys {sorted(fields)} belongs"
        )
    missing = dataclasses.MISSING
    needed = {
        n for n, field in fields.items() if field.default is missing and field.default_factory is missing
    }
    odd = sorted((set(values) - set(fields)) | (needed - set(values)))
    if odd:
        raise UserError(
            f"{cls.__name__}: unknown or missing keys {odd}; written by another version of the package?"
        )
    types = typing.get_type_hints(cls)
    return cls(**{name: _rebuild(types[name], value) for name, value in values.items()})


def _rebuild(kind: Any, value: Any) -> Any:
    """`value` as a field of type `kind`: a dataclass, one that may be None, or anything plain."""
    if value is None and type(None) in get_args(kind):
        return None
    nested = [part for part in (kind, *get_args(kind)) if dataclasses.is_dataclass(part)]
    return from_dict(nested[0], value) if nested else value  # type: ignore[arg-type]
