"""PPO with a critic, or another algorithm: the policy learns to write what raters prefer, near the SFT one.

    python experiments/ppo.py --run runs/my-run --weights.preference 1.0 --kl-target 8
    python experiments/ppo.py --run runs/my-run --algorithm grpo --group 8
    python experiments/ppo.py --run runs/my-run --seeds 4 --sweep.kl-coef 0.01 0.05 0.2
    python experiments/ppo.py --run runs/my-run --adapt lora --critic separate --watch-every 10

Reads RUN/seed_S/{pretrain,sft,reward}. Leaves RUN/seed_S/ppo (or the algorithm's name) with the policy
under model/, and of several trained together all under members/. docs/rl.md explains the choices.
Takes about 160 s at quickstart size on two CPU cores (AMD EPYC, no accelerator).
Expected of PPO with seed 0: KL to the SFT policy at most 2.1 nats a caption.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: PPOConfig) -> None:
    from mmrlhf_jax.training.policy_stage import run

    run(config)


if __name__ == "__main__":
    run_cli(main, {name: preset.ppo for name, preset in PRESETS.items()}, description=__doc__)
