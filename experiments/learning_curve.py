"""How much a reward model learns from 1, 3, 10, 30 and 100 % of the judgements, by transfer and augmentation.

    python experiments/learning_curve.py --run runs/quickstart --preset quick
    python experiments/learning_curve.py --run runs/quickstart --preset full
    python experiments/learning_curve.py --run runs/smoke --preset smoke

Reads a run of experiments/pipeline.py. Leaves RUN/seed_S/learning_curve/learning_curve.{md,json,html}.
All shares and runs of a transfer are one vmapped program; "frozen" encodes every picture once.
"""

import dataclasses
from pathlib import Path

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import LearningCurveConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: LearningCurveConfig) -> None:
    from mmrlhf_jax.training.learning_curve import run

    run(config)


if __name__ == "__main__":
    quickstart, smoke = PRESETS["quickstart"].reward, PRESETS["smoke"].reward
    presets = {
        "quick": LearningCurveConfig(
            runs=2, reward=dataclasses.replace(quickstart, steps=30, batch=32), max_held_out=500
        ),
        "full": LearningCurveConfig(runs=5, reward=quickstart),
        "smoke": LearningCurveConfig(
            run=Path("runs/smoke"),
            shares=(0.1, 1.0),
            transfers=("frozen",),
            runs=2,
            reward=dataclasses.replace(smoke, steps=2, batch=8),
            max_held_out=64,
        ),
    }
    run_cli(main, presets, description=__doc__)
