"""A chatbot that hears the tone: RLHF with the user's face, and the same without it.

    python experiments/chatbot.py --preset quick
    python experiments/chatbot.py --preset smoke --run runs/chatbot_smoke
    python experiments/chatbot.py --arms with_picture --reward.backbone towers --reward.fusion gated

sft, collect, reward and ppo of both arms, evaluate. Reads nothing. Leaves RUN/summary.json, RUN/report.html
and RUN/seed_S/STAGE; started again, it skips the stages that are done and goes on with the one that was
interrupted.
Takes 278 s at quick size on two CPU cores (Intel Xeon, no accelerator). Expected with seed 0: on held-out
combinations RLHF with the picture gains 0.106 of the gold rubric over RLHF without it, see docs/chatbot.md.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.chatbot.config import PRESETS, ChatbotConfig


def main(config: ChatbotConfig) -> None:
    from mmrlhf_jax.training.chatbot.run import run

    run(config)


if __name__ == "__main__":
    run_cli(main, PRESETS, description=__doc__)
