"""PPO and A2C in environments on the device: all seeds of a run in one compiled program.

    python experiments/control.py --preset cartpole-ppo --seeds 5
    python experiments/control.py --preset acrobot-a2c --training.learning-rate 1e-3
    python experiments/control.py --preset corners-ppo --policy.fusion gated --run runs/corners

Leaves RUN/seed_S/control with each member's curve and model, which mmrlhf_jax.sb3 loads, and RUN/control.
Takes up to a minute, half of it compilation, on one CPU core (AMD EPYC, no accelerator). Expected greedy
returns of five seeds: cartpole-ppo and cartpole-a2c 500 (each), acrobot-ppo -86, acrobot-a2c -83.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config.control import PRESETS, ControlConfig


def main(config: ControlConfig) -> None:
    from mmrlhf_jax.training.control import run

    run(config)


if __name__ == "__main__":
    run_cli(main, PRESETS, description=__doc__)
