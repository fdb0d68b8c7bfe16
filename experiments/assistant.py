"""An assistant that acts: it reads an instruction, sees a room, and does as told.

    python experiments/assistant.py --preset quick
    python experiments/assistant.py --preset level2 --fusion film
    python experiments/assistant.py --preset learned --teaching.rater-noise 0.2
    python experiments/assistant.py --preset smoke --algorithm a2c --seeds 3

TIMES
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.assistant.config import PRESETS, AssistantConfig


def main(config: AssistantConfig) -> None:
    from mmrlhf_jax.training.assistant.run import run

    run(config)


if __name__ == "__main__":
    run_cli(main, PRESETS, description=__doc__)
