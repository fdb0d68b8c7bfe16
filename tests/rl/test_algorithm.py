"""Choices that do not fit together are refused, and each preset is what its paper says."""

import dataclasses
import typing

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.rl.algorithm import ALGORITHMS, Algorithm, AlgorithmName
from mmrlhf_jax.training.config import PPOConfig


def test_every_name_has_an_algorithm():
    assert set(typing.get_args(AlgorithmName)) == set(ALGORITHMS)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"advantage": "group"}, "--group 8"),
        ({"advantage": "leave_one_out"}, "--group 8"),
        ({"loss": "plain"}, "leave both at 1"),
        ({"loss": "plain", "epochs": 1}, "leave both at 1"),
        ({"kl_in": "loss"}, "--kl k2 or k3"),
        ({"group": 0}, "group is 0"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"minibatches": True}, "minibatches is"),
        ({"microbatches": -1}, "microbatches is -1"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, message):
    with pytest.raises(UserError, match=message):
        Algorithm(**choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "grpo", "batch": 12}, "groups of 8"),
        ({"batch": 10, "minibatches": 4}, "minibatches"),
        ({"batch": 8, "microbatches": 3}, "microbatches"),
        ({"algorithm": "a2c", "epochs": 2}, "leave both at 1"),
        ({"algorithm": "rloo", "group": 1}, "--group 8"),
        ({"algorithm": "trpo"}, "one of ppo, a2c"),
        ({"dual_clip": 1.0}, "above 1"),
        ({"dual_clip": float("nan")}, "dual_clip is nan"),
        ({"steps": 10, "updates_per_call": 4}, "--steps 10 is no multiple"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
    ],
)
def test_a_run_whose_sizes_do_not_fit_is_refused_in_a_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        PPOConfig(**changes)
    assert len(str(error.value).splitlines()) == 1


def test_ppo_is_what_it_was():
    assert PPOConfig().choices == Algorithm(
        "gae", True, "clip", "token", "token", True, False, "k1", "reward", 1, 2, 2, 1
    )


def test_flags_change_single_choices():
    config = PPOConfig(algorithm="grpo", group=4, kl="k1", kl_in="reward", epochs=3, dual_clip=3.0)
    changed = {"group": 4, "kl": "k1", "kl_in": "reward", "epochs": 3, "dual_clip": True}
    assert config.choices == dataclasses.replace(ALGORITHMS["grpo"], **changed)


def test_which_algorithms_have_a_critic():
    assert {name for name, algorithm in ALGORITHMS.items() if algorithm.critic} == {"ppo", "a2c"}
