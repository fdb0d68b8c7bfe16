"""A multimodal reward model, trained on a preference file.

    python experiments/reward.py --run runs/my-run --fusion concat
    python experiments/reward.py --run runs/my-run --preferences my_preferences.jsonl

Reads RUN/seed_S/pretrain and a preference file. Leaves RUN/seed_S/reward with the model under model/.
Takes about 70 s at quickstart size on two CPU cores (AMD EPYC, no accelerator).
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: RewardStageConfig) -> None:
    from mmrlhf_jax.training.reward import run

    run(config)


if __name__ == "__main__":
    run_cli(main, {name: preset.reward for name, preset in PRESETS.items()}, description=__doc__)
