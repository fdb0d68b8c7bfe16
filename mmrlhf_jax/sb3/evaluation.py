"""How well a model does."""

from typing import Any

import jax
import numpy as np

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.sb3.algorithm import Algorithm
from mmrlhf_jax.sb3.environments import VecEnv, as_vec_env
from mmrlhf_jax.training.environment import Task, play


def evaluate_policy(model: Algorithm, env: Any = None, n_eval_episodes: int = 10) -> tuple[float, float]:
    """(mean, standard deviation) of the returns of whole episodes, with the likeliest actions.

    Args:
      env: by default the model's own; a Gymnasium environment is reset.

    Raises:
      UserError: there is no environment.
    """
    found = model.env if env is None else as_vec_env(env)
    if found is None:
        raise UserError("the model has no environment: evaluate_policy(model, env)")
    if isinstance(found, VecEnv):
        task = Task(found.environment, model.policy, model.training.structure())
        returns_E, _ = play(
            task, model.params, jax.random.key(model.seed), found.world, episodes=n_eval_episodes
        )
        return float(np.mean(returns_E)), float(np.std(returns_E))
    returns: list[float] = []
    running_B = np.zeros(found.num_envs)
    observation = found.reset(model.seed)
    while len(returns) < n_eval_episodes:
        action, _ = model.predict(observation, deterministic=True)
        moved = found.step(action)
        observation, running_B = moved.observation, running_B + moved.reward_B
        done_B = moved.terminated_B | moved.truncated_B
        returns += running_B[done_B].tolist()
        running_B[done_B] = 0.0
    return float(np.mean(returns)), float(np.std(returns))
