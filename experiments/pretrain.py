"""Pretraining: a CLIP on pictures and names, and a language model on the names.

    python experiments/pretrain.py --run runs/my-run
    python experiments/pretrain.py --run runs/my-run --steps 1000 --optimizer.learning-rate 5e-4

Reads the bundled pictures, or with --pictures your own (docs/data.md). Leaves RUN/seed_S/pretrain with both
networks and the tokenizer under model/.
Takes about 250 s at quickstart size on two CPU cores (AMD EPYC, no accelerator).
Expected with seed 0: CLIP's recall@1 on held-out combinations, picture to name: 0.67.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import PretrainConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: PretrainConfig) -> None:
    from mmrlhf_jax.training.contrastive import run

    run(config)


if __name__ == "__main__":
    run_cli(main, {name: preset.pretrain for name, preset in PRESETS.items()}, description=__doc__)
