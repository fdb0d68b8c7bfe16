"""Classic control is learned: by PPO and A2C, five seeds in one program, and from all modalities together."""

import pytest

from mmrlhf_jax.training.config.control import PRESETS
from mmrlhf_jax.training.control import learn_seeds

pytestmark = [pytest.mark.learning, pytest.mark.slow]


@pytest.mark.parametrize(
    ("preset", "goal"),
    [("cartpole-ppo", 475), ("cartpole-a2c", 475), ("acrobot-ppo", -100), ("acrobot-a2c", -100)],
)
def test_five_seeds_reach_the_goal(preset: str, goal: float):
    returns_KxE = learn_seeds(PRESETS[preset], range(5)).returns_KxE
    assert returns_KxE.mean() >= goal, returns_KxE.mean(axis=1)


def test_corners_need_picture_words_and_switch():
    returns_KxE = learn_seeds(PRESETS["corners-ppo"], range(1)).returns_KxE
    assert returns_KxE.mean() >= 0.95 * 8, returns_KxE.mean(axis=1)
