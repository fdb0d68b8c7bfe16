"""Number checks for configs, and the frozen dataclasses that several experiments share.

A check takes the field's dotted path, as it stands on the command line, and the value. It returns nothing
and raises `UserError` in one form:

    learning_rate is nan: give a finite number above 0, e.g. --optimizer.learning-rate 1e-3
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from mmrlhf_jax.errors import UserError


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


@dataclass(frozen=True)
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
