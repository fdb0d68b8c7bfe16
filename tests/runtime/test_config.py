import dataclasses
import math

import pytest

from mmrlhf_jax.config import (
    OptimizerConfig,
    decay_rate,
    finite,
    fraction,
    non_negative,
    non_negative_int,
    positive,
    positive_int,
)
from mmrlhf_jax.errors import UserError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (positive, [1e-12, 3], [0, 0.0, -1.0, NAN, INF, -INF, True, "1", None]),
        (non_negative, [0, 0.0, 2.5], [-1e-12, NAN, INF, False, None]),
        (finite, [-3.0, 0, 7], [NAN, INF, -INF, "x"]),
        (fraction, [0, 1, 0.5], [-0.001, 1.001, NAN, INF]),
        (decay_rate, [0, 0.999999], [1, 1.0, -0.1, NAN]),
        (positive_int, [1, 10**12], [0, -1, 1.0, NAN, True, "3"]),
        (non_negative_int, [0, 5], [-1, 0.0, INF, False]),
    ],
)
def test_each_check_draws_its_line(check, good, bad):
    for value in good:
        check("field", value)
    for value in bad:
        with pytest.raises(UserError, match=r"^field is "):
            check("field", value)


def test_message_names_field_value_and_flag():
    with pytest.raises(UserError) as caught:
        OptimizerConfig(learning_rate=NAN)
    assert str(caught.value) == (
        "learning_rate is nan: give a finite number above 0, e.g. --optimizer.learning-rate 1e-3"
    )


def test_text_is_quoted_in_the_message():
    with pytest.raises(UserError, match=r"^steps is '10': give a whole number"):
        positive_int("steps", "10")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(OptimizerConfig)])
def test_no_optimizer_field_goes_unchecked(field):
    with pytest.raises(UserError, match=f"^{field} is nan"):
        OptimizerConfig(**{field: NAN})
    with pytest.raises(UserError, match=f"^{field} is -1"):
        OptimizerConfig(**{field: -1})


def test_adam_refuses_a_decay_of_one():
    # 1 - b1 ** t, which the bias correction divides by, would be 0
    with pytest.raises(UserError, match=r"^b1 is 1\.0"):
        OptimizerConfig(b1=1.0)
