"""An assistant that acts: it reads an instruction, sees a room, and does as told.

    python experiments/assistant.py --preset quick     # 220 s on two cores: 98 % done as told, held-out 97 %
    python experiments/assistant.py --preset level3    # 12 minutes: 97 %, held-out 96 %
    python experiments/assistant.py --preset learned --teaching.rater-noise 0.2
    python experiments/assistant.py --preset smoke --algorithm a2c --seeds 3

Leaves RUN/seed_0/assistant with metrics, checkpoints and the model, which mmrlhf_jax.sb3 loads;
RUN/summary.json and RUN/report.html with success by split, beside an exact oracle and chance, and films.
docs/assistant.md says what was measured.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.assistant.config import PRESETS, AssistantConfig


def main(config: AssistantConfig) -> None:
    from mmrlhf_jax.training.assistant.run import run

    run(config)


if __name__ == "__main__":
    run_cli(main, PRESETS, description=__doc__)
