"""The interface that users of Stable-Baselines3 (SB3) know, with the same meaning, names and defaults.

    model = PPO("MultiInputPolicy", env, seed=0)
    model.learn(total_timesteps=10_000)
    model.save("ppo_model")
    action, _ = PPO.load("ppo_model").predict(observation, deterministic=True)

`env` is an environment of `mmrlhf_jax.envs` or gymnax, which runs on the device, one of Gymnasium's, which
runs on the host, or a name; `make_vec_env` makes several copies. What differs from SB3: a model is a folder
with config.json and model.safetensors, no pickle; rollouts must divide into minibatches; on the device a
callback's `on_step` comes once an iteration, because an iteration is one compiled call.
"""

from mmrlhf_jax.sb3.algorithm import A2C, PPO, Algorithm
from mmrlhf_jax.sb3.callbacks import BaseCallback
from mmrlhf_jax.sb3.environments import VecEnv, make_vec_env
from mmrlhf_jax.sb3.evaluation import evaluate_policy

__all__ = ["A2C", "PPO", "Algorithm", "BaseCallback", "VecEnv", "evaluate_policy", "make_vec_env"]
