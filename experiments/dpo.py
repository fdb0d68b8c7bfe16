"""DPO: the SFT policy learns from the preference file itself, without a reward model or sampling.

    python experiments/dpo.py --run runs/my-run --beta 0.1 --loss sigmoid
    python experiments/dpo.py --run runs/my-run --preferences my_preferences.jsonl

Reads RUN/seed_S/sft and a preference file (by default that of RUN/seed_S/collect). Leaves RUN/seed_S/dpo
with the policy under model/.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import DPOConfig
from mmrlhf_jax.training.presets import DPO_PRESETS


def main(config: DPOConfig) -> None:
    from mmrlhf_jax.training.dpo import run

    run(config)


if __name__ == "__main__":
    run_cli(main, DPO_PRESETS, description=__doc__)
