"""The stage behind experiments/control.py: what it leaves, and that it is not done twice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.metrics import finalize, read_metrics
from mmrlhf_jax.sb3 import PPO, evaluate_policy
from mmrlhf_jax.training import control
from mmrlhf_jax.training.config.control import PRESETS, ControlConfig
from mmrlhf_jax.training.config.environment import ActorCriticTraining


@pytest.mark.slow
def test_a_run_leaves_curves_models_and_a_result(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    config = dataclasses.replace(PRESETS["smoke"], run=tmp_path)
    result = control.run(config)
    assert len(result["ep_rew_mean_of_each"]) == 2 and result["steps_per_second"] > 0
    assert np.mean(result["ep_rew_mean_of_each"]) == pytest.approx(result["ep_rew_mean"])
    assert "CartPole-v1, ppo: mean return" in capsys.readouterr().out
    for seed in (0, 1):
        folder = tmp_path / f"seed_{seed}" / "control"
        rows = read_metrics(folder / "metrics.jsonl")
        assert [row["step"] for row in rows] == [128, 256]
        assert {"rollout/ep_rew_mean", "train/approx_kl", "train/explained_variance"} <= set(rows[0])
        model = PPO.load(folder / "model")
        assert model.num_timesteps == 256 and model.seed == seed
        assert 8 <= evaluate_policy(model, "CartPole-v1", n_eval_episodes=4)[0] <= 500
    monkeypatch.setattr(control, "learn_seeds", None)  # a second start only tells the result
    assert control.run(config) == result


def test_a_curve_adds_up_what_lies_between_its_points():
    sums, weights = np.arange(5.0), np.ones(5)
    points = [(step, finalize(metrics)) for step, metrics in control.curve({"a": (sums, weights)}, 2)]
    assert points == [(2, {"a": 0.5}), (5, {"a": 3.0})]
    assert [step for step, _ in control.curve({"a": (sums, weights)}, 50)] == [1, 2, 3, 4, 5]


def test_configs_are_checked():
    with pytest.raises(UserError, match="at least one rollout, 2048"):
        ControlConfig(total_timesteps=100, training=ActorCriticTraining())
    with pytest.raises(UserError, match="environment is 'Pong'"):
        ControlConfig(environment="Pong")  # type: ignore[arg-type]
    assert PRESETS["smoke"].updates == 4
