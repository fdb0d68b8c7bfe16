"""Evaluation: the SFT policy against the one after PPO on held-out pictures, and the report.

    python experiments/evaluate.py --run runs/my-run
    python experiments/evaluate.py --run runs/full --seeds 0 1 2
    python experiments/evaluate.py --run runs/my-run --policy grpo --samples 8

Reads every stage of the given seeds. Leaves RUN/report.html and RUN/summary.json.
Takes about 40 s at quickstart size on two CPU cores (AMD EPYC, no accelerator).
Expected with seed 0: gold rubric of sampled captions 0.55 -> 0.63, win rate 62 %.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import EvaluateConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: EvaluateConfig) -> None:
    from mmrlhf_jax.training.evaluate import run

    run(config)


if __name__ == "__main__":
    run_cli(main, {name: preset.evaluate for name, preset in PRESETS.items()}, description=__doc__)
