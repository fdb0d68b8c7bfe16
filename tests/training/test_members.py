"""Swept rates: which members there are, that they are one program, and that each is the single run."""

import dataclasses

import jax
import numpy as np
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.cli import parse_config
from mmrlhf_jax.training import policy as rl
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.config.sweep import SweepConfig, WeightSweep
from mmrlhf_jax.training.guard import begin
from mmrlhf_jax.training.members import member_of, member_rates
from mmrlhf_jax.training.networks import Frozen
from mmrlhf_jax.training.rollout import Hyper
from tests.ppo_steps import KEY, frozen_without_judges, reward_by_hand
from tests.tiny_networks import NETWORKS, PICTURES

# Adam's epsilon is large, so that entries whose gradient is rounding do not move by the learning rate.
CONFIG = PPOConfig(
    batch=PICTURES,
    kl_horizon=100.0,
    epochs=1,
    minibatches=2,
    optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=0.0, eps=1e-2),
)
SWEEP = SweepConfig(kl_coef=(0.01, 0.5), weights=WeightSweep(preference=(1.0, 3.0)))


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return frozen_without_judges()


@pytest.fixture(scope="module", autouse=True)
def hand_made_reward():
    with pytest.MonkeyPatch.context() as patch:
        reward_by_hand(patch)
        yield


def test_members_are_every_seed_of_every_combination():
    config = dataclasses.replace(CONFIG, sweep=SWEEP, seeds=2)
    assert config.members == 8
    wanted = [(0.01, 1.0), (0.01, 3.0), (0.5, 1.0), (0.5, 3.0)]
    assert [tuple(setting.values()) for setting in config.settings[::2]] == wanted
    assert [(variant.kl_coef, variant.weights.preference) for variant in config.variants] == wanted
    assert all(variant.members == 2 and variant.clip == config.clip for variant in config.variants)
    assert (CONFIG.members, CONFIG.variants, CONFIG.settings) == (1, [CONFIG], [{}])


def test_the_command_line_takes_values_side_by_side():
    flags = ["--sweep.learning-rate", "1e-4", "3e-4", "--sweep.weights.fluency", "0", "0.2"]
    config = parse_config({"only": CONFIG}, argv=flags)
    assert config.sweep.learning_rate == (1e-4, 3e-4)
    assert [variant.optimizer.learning_rate for variant in config.variants] == [1e-4, 1e-4, 3e-4, 3e-4]
    assert [variant.weights.fluency for variant in config.variants] == [0, 0.2, 0, 0.2]


def test_values_that_a_run_would_refuse_are_refused():
    with pytest.raises(UserError, match=r"clip is -0\.1"):
        dataclasses.replace(CONFIG, sweep=SweepConfig(clip=(0.2, -0.1)))
    with pytest.raises(UserError, match=r"--sweep\.kl-coef 0\.1 0\.1 names a value twice"):
        SweepConfig(kl_coef=(0.1, 0.1))
    with pytest.raises(UserError, match="single policy"):
        dataclasses.replace(CONFIG, sweep=SWEEP, watch_every=1, stop_on_alarm=True)


def test_rates_in_which_members_agree_stay_one_number():
    hyper, axes = member_rates(dataclasses.replace(CONFIG, sweep=SWEEP))
    assert hyper.kl_coef.shape == hyper.weights["preference"].shape == (4,)
    assert (axes.kl_coef, axes.weights["preference"]) == (0, 0)
    assert hyper.clip.shape == hyper.weights["fluency"].shape == ()
    assert (axes.clip, axes.weights["fluency"]) == (None, None)
    swept = dataclasses.replace(
        CONFIG, critic="separate", critic_learning_rate=0.02, sweep=SweepConfig(learning_rate=(0.01, 0.04))
    )
    np.testing.assert_allclose(member_rates(swept)[0].critic_factor, [2.0, 0.5])  # its own rate is not swept


@pytest.mark.slow
def test_a_sweep_is_compiled_once_and_each_member_is_the_single_run(frozen, monkeypatch):
    traces = []
    step = rl.update_step

    def counted(*inputs):
        traces.append(1)
        return step(*inputs)

    monkeypatch.setattr(rl, "update_step", counted)
    config = dataclasses.replace(CONFIG, sweep=SweepConfig(kl_coef=(0.01, 0.5), gamma=(1.0, 0.5)), seeds=2)
    update, (hyper, _) = rl.compile_update(NETWORKS, config), member_rates(config)
    state, keys = rl.start_members(config, frozen.reference, KEY)
    rows = []
    for _ in range(2):
        state, metrics = update(state, frozen, hyper, keys)
        rows.append(metrics)
    assert len(traces) == 1 and config.members == 8

    single = rl.compile_update(NETWORKS, CONFIG)
    for member in (0, 3, 6):  # of seed 0, 1 and 0
        variant = config.variants[member // 2]
        alone = rl.start(variant, frozen.reference, keys[member], Hyper.of(variant).kl_coef)
        alone = begin(alone, rl.watched(CONFIG))
        for row in rows:
            alone, metrics = single(alone, frozen, Hyper.of(variant), keys[member])
            for name, (total, weight) in metrics.items():
                got = row[name][0][member] / row[name][1][member]
                np.testing.assert_allclose(got, total / weight, rtol=1e-4, atol=1e-4, err_msg=name)
        for want, got in zip(
            jax.tree.leaves(alone), jax.tree.leaves(member_of(state, member, 8)), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert len(traces) == 2  # one more for the single runs, whatever their rates
    scores = np.asarray(rows[1]["objective/rlhf_reward"][0])
    assert len(set(scores.tolist())) == 8
