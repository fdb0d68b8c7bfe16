"""A multimodal reward model, trained on comparisons, ratings, thumbs or clicks.

    python experiments/reward.py --run runs/my-run --fusion concat
    python experiments/reward.py --run runs/my-run --preferences my_preferences.jsonl --loss.ties rao_kupper
    python experiments/reward.py --run runs/my-run --preferences my_ratings.parquet

Reads RUN/seed_S/{pretrain,sft} and a file of judgements; its columns say of what kind they are. Leaves
RUN/seed_S/reward with the model under model/.
Takes about 55 s at quickstart size on two CPU cores (AMD EPYC, no accelerator).
Expected with seed 0: 0.80 against the noiseless rubric, 0.79 against the raters.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: RewardStageConfig) -> None:
    from mmrlhf_jax.training.reward import run

    run(config)


if __name__ == "__main__":
    run_cli(main, {name: preset.reward for name, preset in PRESETS.items()}, description=__doc__)
