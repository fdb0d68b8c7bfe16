"""The facade: what people of Stable-Baselines3 type works, and means the same."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.envs.cartpole import CartPole, CartPoleParams
from mmrlhf_jax.envs.corners import Corners
from mmrlhf_jax.envs.protocol import Step
from mmrlhf_jax.envs.spaces import Box, zeros
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.sb3 import A2C, PPO, BaseCallback, VecEnv, evaluate_policy, make_vec_env
from mmrlhf_jax.sb3.callbacks import TrainingLog, as_table

SMALL = {"net_arch": [8]}
# What SB3 logs for PPO, but train/std of continuous actions.
NAMES = {
    "rollout/ep_len_mean",
    "rollout/ep_rew_mean",
    "time/fps",
    "time/iterations",
    "time/time_elapsed",
    "time/total_timesteps",
    "train/approx_kl",
    "train/clip_fraction",
    "train/entropy_loss",
    "train/explained_variance",
    "train/learning_rate",
    "train/loss",
    "train/policy_gradient_loss",
    "train/value_loss",
}


class Watch(BaseCallback):
    """Notes what is called, and stops after so many steps."""

    def __init__(self, stop_at: int = 10**9):
        self.stop_at = stop_at
        self.calls: list[str] = []

    def _on_training_start(self) -> None:
        self.calls.append("start")

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout")

    def _on_step(self) -> bool:
        self.calls.append(f"step {self.num_timesteps}")
        return self.num_timesteps < self.stop_at

    def _on_rollout_end(self) -> None:
        self.calls.append("rollout end")

    def _on_training_end(self) -> None:
        self.calls.append("end")


def make_ppo(**changes) -> PPO:
    options = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "policy_kwargs": SMALL, "seed": 0, **changes}
    return PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=4), **options)


@pytest.mark.medium
def test_learn_predict_save_load(tmp_path: Path, capsys: pytest.CaptureFixture):
    seen = []
    model = make_ppo(verbose=1, learning_rate=lambda remaining: 1e-3 * remaining)
    watch = Watch()
    assert model.learn(100, callback=[watch, lambda _, __: seen.append(1)]) is model
    assert model.num_timesteps == 128, "whole rollouts of 64 steps"
    assert watch.calls == [
        "start", *["rollout", "step 64", "rollout end"], *["rollout", "step 128", "rollout end"], "end"
    ]  # fmt: skip
    assert len(seen) == 2
    assert set(model.metrics) >= NAMES
    assert model.metrics["time/total_timesteps"] == 128 and model.metrics["time/fps"] > 0
    assert model.metrics["train/learning_rate"] == pytest.approx(0.0), "128 of 100 steps are done"
    assert "approx_kl" in capsys.readouterr().out

    observation_Nx4 = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    actions_N, state = model.predict(observation_Nx4, deterministic=True)
    assert actions_N.shape == (50,) and state is None and set(actions_N.tolist()) == {0, 1}
    one, _ = model.predict(observation_Nx4[3], deterministic=True)
    assert one.shape == () and one == actions_N[3]
    samples = np.stack([model.predict(observation_Nx4)[0] for _ in range(2)])
    assert not np.array_equal(*samples), "sampled anew each time"
    with pytest.raises(UserError, match=r"shape \(3,\)"):
        model.predict([0.0, 1.0, 2.0])

    model.save(tmp_path / "ppo_model")
    assert {path.name for path in (tmp_path / "ppo_model").iterdir()} == {"config.json", "model.safetensors"}
    loaded = PPO.load(tmp_path / "ppo_model")
    np.testing.assert_array_equal(loaded.predict(observation_Nx4, deterministic=True)[0], actions_N)
    jax.tree.map(np.testing.assert_array_equal, loaded.learner, model.learner)  # the optimizer's state too
    assert loaded.training == model.training and loaded.num_timesteps == 128
    with pytest.raises(UserError, match="no environment"):
        loaded.learn(64)
    loaded.set_env(make_vec_env("CartPole-v1", n_envs=4))
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 192 and int(loaded.learner.step) == 3
    mean, spread = evaluate_policy(loaded, n_eval_episodes=5)
    assert 8 <= mean <= 500 and spread >= 0
    with pytest.raises(UserError, match=r"holds PPO: load it with PPO\.load"):
        A2C.load(tmp_path / "ppo_model")
    with pytest.raises(UserError, match="the model was made for"):
        loaded.set_env("Acrobot-v1")

    again = make_ppo(learning_rate=lambda remaining: 1e-3 * remaining).learn(100, progress_bar=True)
    assert "PPO" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)  # the seed decides all


@pytest.mark.medium
def test_a_callback_stops_the_training():
    model, watch = make_ppo(), Watch(stop_at=64)
    model.learn(10_000, callback=watch)
    assert model.num_timesteps == 64 and watch.n_calls == 1 and watch.calls[-1] == "end"
    model.learn(10_000, callback=lambda locals_, globals_: locals_["self"].num_timesteps < 128)
    assert model.num_timesteps == 128, "counted from 0 again"


@pytest.mark.slow
def test_pictures_and_words_with_a_fusion_by_name(tmp_path: Path):
    kwargs = {
        "net_arch": {"pi": [8], "vf": [4]},
        "activation_fn": "relu",
        "fusion": "gated",
        "fusion_width": 8,
        "picture_width": 8,
    }
    environment = Corners(size=8)
    env = VecEnv(environment, num_envs=4)
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=16, n_epochs=1, policy_kwargs=kwargs, seed=0)
    model.learn(total_timesteps=32)
    assert (model.architecture.actor, model.architecture.critic) == ((8,), (4,))
    assert model.metrics["rollout/ep_len_mean"] == 8
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=env)
    observation = zeros(environment.observation_space, 5)
    action, _ = loaded.predict(observation, deterministic=True)
    np.testing.assert_array_equal(action, model.predict(observation, deterministic=True)[0])
    assert loaded.architecture.fusion == "gated"


@dataclasses.dataclass(frozen=True)
class Push:
    """Rewards what it is pushed by, between -1 and 1; five steps long."""

    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)
    default_params = None

    def reset(self, key, params):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(self, key, state, action, params) -> Step:
        return Step(state + 1, jnp.zeros(1), action[0], jnp.zeros((), bool), state >= 4, {})


@pytest.mark.medium
def test_a2c_with_continuous_actions():
    model = A2C("MlpPolicy", make_vec_env(Push(), 4), policy_kwargs={**SMALL, "log_std_init": 1.0}, seed=0)
    model.learn(20 * 10, log_interval=1)
    assert -5 <= model.metrics["rollout/ep_rew_mean"] <= 5, "actions are cut to the bounds"
    assert {"train/policy_loss", "train/value_loss", "train/explained_variance"} <= set(model.metrics)
    observation_Nx1 = np.zeros((100, 1), np.float32)
    actions_Nx1, _ = model.predict(observation_Nx1)
    assert actions_Nx1.shape == (100, 1) and np.abs(actions_Nx1).max() == 1.0


def test_defaults_are_those_of_sb3():
    ppo = PPO.defaults
    assert (ppo.n_steps, ppo.batch_size, ppo.n_epochs, ppo.learning_rate) == (2048, 64, 10, 3e-4)
    assert (ppo.gamma, ppo.gae_lambda, ppo.clip_range, ppo.clip_range_vf) == (0.99, 0.95, 0.2, None)
    assert (ppo.ent_coef, ppo.vf_coef, ppo.max_grad_norm, ppo.normalize_advantage) == (0.0, 0.5, 0.5, True)
    a2c = A2C.defaults
    assert (a2c.n_steps, a2c.learning_rate, a2c.gae_lambda, a2c.use_rms_prop) == (5, 7e-4, 1.0, True)
    assert not a2c.normalize_advantage and a2c.n_epochs == 1


def test_what_does_not_exist_is_refused():
    for kwargs, message in (
        ({"n_step": 16}, "no hyperparameter 'n_step': choose from anneal, batch_size"),
        ({"algorithm": "a2c"}, "no hyperparameter 'algorithm'"),
        ({"batch_size": 60}, "a divisor of n_steps x n_envs, 64"),
        ({"policy_kwargs": {"net": [8]}}, "policy_kwargs has 'net'"),
        ({"policy_kwargs": {"activation_fn": "gelu"}}, "activation is 'gelu'"),
    ):
        with pytest.raises(UserError, match=message):
            make_ppo(**kwargs)
    with pytest.raises(UserError, match="kind is 'CnnPolicy'"):
        PPO("CnnPolicy", CartPole())
    with pytest.raises(UserError, match="no environment"):
        PPO("MlpPolicy", object())
    with pytest.raises(UserError, match="n_envs is 0"):
        make_vec_env(CartPole(), 0)
    with pytest.raises(UserError, match="total_timesteps is 0"):
        make_ppo().learn(0)


def test_environments_of_every_origin():
    assert make_vec_env("Acrobot-v1", 3).num_envs == 3
    heavy = VecEnv(CartPole(), params=CartPoleParams(gravity=20.0))
    assert heavy.world.gravity == 20.0 and VecEnv(CartPole()).world == CartPoleParams()
    theirs = SimpleNamespace(
        step_env=None,
        is_truncated=None,
        default_params=CartPoleParams(),
        observation_space=lambda params: SimpleNamespace(shape=(1,), low=0, high=1, dtype="float32"),
        action_space=lambda params: SimpleNamespace(n=2),
    )
    assert make_vec_env(theirs, 2).observation_space == Box((1,), (0.0,), (1.0,))


def test_returns_are_those_of_the_last_hundred_episodes():
    log = TrainingLog(0, interval=2)
    for returns, count in ((1000.0, 10.0), (120.0, 60.0), (0.0, 0.0), (80.0, 40.0)):
        pair = (jnp.array(returns), jnp.array(count))
        due = log.add(
            {"rollout/ep_rew_mean": pair, "rollout/ep_len_mean": pair, "train/loss": (returns, 1.0)}
        )
    metrics = log.read(50)
    assert due and metrics["rollout/ep_rew_mean"] == pytest.approx(2.0), "the first ten are forgotten"
    assert metrics["train/loss"] == 80.0 and metrics["time/iterations"] == 4
    log.add({"rollout/ep_rew_mean": (0.0, 0.0), "rollout/ep_len_mean": (0.0, 0.0)})
    assert log.read(60)["rollout/ep_rew_mean"] == pytest.approx(2.0), "no episode ended in this rollout"
    assert as_table({"train/loss": 0.5, "time/fps": 10.0}).split() == [
        "time/",
        "fps",
        "10",
        "train/",
        "loss",
        "0.5",
    ]
    json.dumps(metrics)


@pytest.mark.medium
def test_gymnasium_where_it_is_installed(tmp_path: Path):
    gymnasium = pytest.importorskip("gymnasium")
    model = PPO("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=64, policy_kwargs=SMALL, seed=0)
    watch = Watch(stop_at=70)
    model.learn(128, callback=watch)
    assert model.num_timesteps == 70 and watch.n_calls == 70 and int(model.learner.step) == 1
    mean, _ = evaluate_policy(model, n_eval_episodes=3)
    assert 8 <= mean <= 500
    model.save(tmp_path / "model")
    pair = make_vec_env("MountainCarContinuous-v0", 2)
    assert A2C("MlpPolicy", pair, policy_kwargs=SMALL, seed=0).learn(20).num_timesteps == 20
    wrong = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.raises(UserError, match="SAME_STEP"):
        PPO("MlpPolicy", wrong)
    with pytest.raises(UserError, match="gymnasium cannot make"):
        make_vec_env("NoSuchThing-v0")
