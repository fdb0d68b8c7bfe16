"""What the chatbot's stages are asked to do. Free of jax."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.config import OptimizerConfig, positive_int
from mmrlhf_jax.data.tone_faces import IMAGE_SIZE
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config import (
    AugmentConfig,
    CollectConfig,
    JudgementAugmentConfig,
    PPOConfig,
    RewardStageConfig,
    RewardWeights,
    SFTConfig,
    StageConfig,
)

Arm = Literal["with_picture", "without_picture"]


def _policy() -> PolicyConfig:
    tower = TransformerConfig(width=128, layers=3, heads=4, mlp_width=512)
    return PolicyConfig(
        VisionConfig(image_size=IMAGE_SIZE, patch_size=8, transformer=tower),
        DecoderConfig(vocab_size=800, layers=2),
        max_length=16,
        prompt_length=12,
    )


@dataclasses.dataclass(frozen=True)
class ChatSFTConfig(SFTConfig):
    """Trains the policy, picture tower and all, on answers of mixed quality."""

    policy: PolicyConfig = dataclasses.field(default_factory=_policy)
    cases: int = 8192
    """Things said with a face, each with an answer."""
    namings: int = 4096
    """Examples of a face without words whose answer names its feeling: so the picture tower learns faces."""
    held_out: int = 256
    """Cases of each held-out part, with good answers, on which the loss is looked at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cases", "namings", "held_out"):
            positive_int(name, getattr(self, name))
        if self.policy.vision.image_size != IMAGE_SIZE:
            raise UserError(
                f"the faces have {IMAGE_SIZE} pixels: give --policy.vision.image-size {IMAGE_SIZE}"
            )


@dataclasses.dataclass(frozen=True)
class ChatCollectConfig(CollectConfig):
    """Samples pairs of answers from the policy and has simulated raters compare them."""

    cases: int = 768
    """Cases whose answers the reward model learns from; PPO answers the same ones."""
    held_out: int = 128
    """Cases of each held-out part, on which the reward model is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cases", "held_out"):
            positive_int(name, getattr(self, name))
        if self.kinds:
            raise UserError(
                "kinds is given, but the chatbot's raters only compare: leave --collect.kinds out"
            )


@dataclasses.dataclass(frozen=True)
class ChatEvaluateConfig(StageConfig):
    """Compares the policies on held-out faces and held-out combinations of topic and feeling."""

    cases: int = 256
    """Of each held-out part."""
    samples: int = 1
    """Answers sampled in each case."""
    gallery: int = 24
    """Cases shown in the report."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cases", "samples", "gallery"):
            positive_int(name, getattr(self, name))


@dataclasses.dataclass(frozen=True)
class ChatbotConfig:
    """All stages, and which arms of them: with the picture, and the same without it."""

    preset: str
    run: Path
    sft: ChatSFTConfig
    collect: ChatCollectConfig
    reward: RewardStageConfig
    ppo: PPOConfig
    evaluate: ChatEvaluateConfig
    seed: int = 0
    arms: tuple[Arm, ...] = get_args(Arm)
    """Which policies to train and compare with the SFT policy; "without_picture" has reward model and policy
    go by the words alone."""
    dry_run: bool = False
    """Print shapes, parameter counts and memory of each stage; train nothing, write nothing."""

    def __post_init__(self) -> None:
        odd = [arm for arm in self.arms if arm not in get_args(Arm)]
        if odd or not self.arms:
            shown = f"has {odd[0]!r}" if odd else "is empty"
            raise UserError(f"arms {shown}: choose from {', '.join(get_args(Arm))}")

    def stage(self, name: str, **changes: Any) -> Any:
        """The config of one stage, in this run's folder and with its seed; a stage that is there goes on."""
        shared = {"run": self.run, "seed": self.seed, "dry_run": self.dry_run, "resume": True}
        return dataclasses.replace(getattr(self, name), **shared, **changes)


def _quick() -> ChatbotConfig:
    """Learns in about ten minutes on two CPU cores; docs/chatbot.md has what came of it."""
    return ChatbotConfig(
        "quick",
        Path("runs/chatbot"),
        ChatSFTConfig(
            steps=480,
            batch=64,
            picture_dropout=0.1,
            augment=AugmentConfig(shift=2.0, flip=0.5),
            eval_every=480,
        ),
        ChatCollectConfig(pairs_per_picture=3, held_out_pairs=2, cases=2048),
        RewardStageConfig(
            backbone="policy",
            steps=300,
            batch=64,
            clip_rate=0.7,
            augment=JudgementAugmentConfig(shift=2.0, flip=0.5),
            optimizer=OptimizerConfig(learning_rate=6e-4, warmup_steps=10, weight_decay=0.1),
        ),
        PPOConfig(
            steps=40,
            batch=96,
            log_every=2,
            weights=RewardWeights(fluency=0.0, image_accuracy=0.0, preference=1.0),
            kl_coef=0.1,
            kl_target=4.0,
            optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.0, b2=0.95),
        ),
        ChatEvaluateConfig(),
    )


def _smoke() -> ChatbotConfig:
    """Everything once, too small to learn: proves that the parts fit, in under a minute."""
    quick = _quick()
    tower = TransformerConfig(width=16, layers=1, heads=2, mlp_width=32)
    tiny = PolicyConfig(
        VisionConfig(image_size=IMAGE_SIZE, patch_size=16, transformer=tower),
        DecoderConfig(vocab_size=800, width=16, layers=1, heads=2, kv_heads=2, mlp_width=32),
        max_length=16,
        prompt_length=12,
    )
    small: dict[str, Any] = {"steps": 3, "log_every": 1, "batch": 16}
    return ChatbotConfig(
        "smoke",
        Path("runs/chatbot_smoke"),
        dataclasses.replace(
            quick.sft,
            **small,
            policy=tiny,
            cases=64,
            namings=16,
            held_out=32,
            eval_every=3,
            augment=AugmentConfig(2.0),
        ),
        dataclasses.replace(quick.collect, pairs_per_picture=1, held_out_pairs=1, cases=64, held_out=32),
        dataclasses.replace(quick.reward, **small, augment=JudgementAugmentConfig(2.0)),
        dataclasses.replace(quick.ppo, **small),
        dataclasses.replace(quick.evaluate, cases=64, samples=1, gallery=4),
    )


def _full() -> ChatbotConfig:
    """More of everything: about four times as long."""
    quick = _quick()
    return dataclasses.replace(
        quick,
        preset="full",
        run=Path("runs/chatbot_full"),
        sft=dataclasses.replace(quick.sft, steps=1600, cases=24_576, namings=8192),
        collect=dataclasses.replace(quick.collect, cases=4096),
        reward=dataclasses.replace(quick.reward, steps=800),
        ppo=dataclasses.replace(quick.ppo, steps=200),
        evaluate=dataclasses.replace(quick.evaluate, cases=1024, samples=2),
    )


PRESETS = {"quick": _quick(), "smoke": _smoke(), "full": _full()}
