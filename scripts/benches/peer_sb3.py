"""Stable-Baselines3's PPO, one iteration at a time; runs in the peer's own environment.

python peer_sb3.py JSON
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benches.peer import taking_turns


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    if given["policy"] == "MlpPolicy":
        make = functools.partial(gymnasium.make, "CartPole-v1")
    else:
        make = functools.partial(corners, given["picture_size"], *given["words"])
    model = stable_baselines3.PPO(
        given["policy"],
        make_vec_env(make, given["copies"]),
        n_steps=given["steps"] // given["copies"],
        device="cpu",
        **given["settings"],
    )
    turn = taking_turns("stable-baselines3", "gymnasium", "torch")
    while True:
        turn()
        model.learn(given["steps"], reset_num_timesteps=False)


def corners(size: int, there: int, opposite: int, please: int) -> Any:
    """The package's `Corners` as a Gymnasium environment in numpy; its words are a MultiDiscrete."""

    class HostCorners(gymnasium.Env):
        observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (size, size, 3), np.uint8),
                "text": spaces.MultiDiscrete([4, 4]),
                "switch": spaces.Box(-1.0, 1.0, (1,), np.float32),
            }
        )
        action_space = spaces.Discrete(4)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            super().reset(seed=seed)
            self.time = 0
            return self._pose(), {}

        def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
            reward = float(action == self.target)
            self.time += 1
            return self._pose(), reward, self.time >= 8, False, {}

        def _pose(self) -> dict[str, np.ndarray]:
            lit, colour, turned, polite, switched = self.np_random.integers([4, 3, 2, 2, 2])
            image = np.zeros((size, size, 3), np.uint8)
            half = size // 2
            rows = slice(half, None) if lit >= 2 else slice(half)
            columns = slice(half, None) if lit % 2 else slice(half)
            image[rows, columns] = np.where(np.arange(3) != colour, 255, 0)
            self.target = lit ^ (3 * turned) ^ switched
            return {
                "image": image,
                "text": np.array([opposite if turned else there, please * polite]),
                "switch": np.array([-1.0 if switched else 1.0], np.float32),
            }

    return HostCorners()


if __name__ == "__main__":
    main()
