"""Training reward models."""

import dataclasses
from pathlib import Path

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.config import (
    Bootstrap,
    EnsembleConfig,
    OptimizerConfig,
    Transfer,
    fraction,
    one_of,
    positive,
    positive_int,
)
from mmrlhf_jax.data.set_names import SetName
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config.augment import JudgementAugmentConfig
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.config.stage import StageConfig


@dataclasses.dataclass(frozen=True)
class RewardStageConfig(StageConfig):
    """Trains a reward model on a preference file."""

    preferences: Path | None = None
    """Judgements, as parquet or JSONL: comparisons in TRL's columns (by default those that `collect` wrote),
    ratings, thumbs or a click log; the columns say which. With --set a file, a folder or a repository on the
    hub (org/name)."""
    set: SetName | None = None
    """The public set whose columns the preferences have."""
    image_root: Path | None = None
    """The folder under which pictures lie that the preferences name by path; by default that of the file."""
    allow_urls: bool = False
    """Fetch pictures that the preferences name by address, from public addresses only."""
    survey: bool = False
    """Print what there is to know of the preferences (ties, contradictions, lengths, ...); train nothing."""
    backbone: str = "clip"
    """The run's own "clip", "policy" (the SFT policy with a head on its last token) or "towers" (its picture
    tower and a fresh text tower), or the folder or hub name of a pretrained CLIP, SigLIP or LLaVA."""
    fusion: FusionName = "attention"
    """How picture and text meet, over two towers."""
    fusion_width: int = 128
    without_picture: bool = False
    """Judge by the words alone; the folder is then reward_without_picture."""
    steps: int = 60
    batch: int = 64
    """Pairs in a step."""
    augment: JudgementAugmentConfig = dataclasses.field(default_factory=JudgementAugmentConfig)
    transfer: Transfer = "full"
    """How far training reaches into the backbone; frozen: not at all, pictures are encoded once."""
    features: Path | None = None
    """With frozen: the folder in which what the towers see is kept for further runs. More than 2 GiB are
    always stored, by default in the stage's folder, and read step by step (extra `data`)."""
    workers: int = 4
    """Threads that read ahead where features are on disk."""
    clip_rate: float = 0.05
    """Learning rate of the pretrained backbone, as a share of the rest's, with full transfer."""
    lora_rank: int = 8
    """Rank of the adapters on the backbone's linear layers, with lora transfer."""
    lora_scale: float = 2.0
    """Factor on what the adapters add."""
    ensemble: EnsembleConfig = dataclasses.field(default_factory=EnsembleConfig)
    bootstrap: Bootstrap = "poisson"
    """How the members of an ensemble resample the judgements."""
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-4, weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("set", "image_root") if getattr(self, name) is not None]
        if self.preferences is None and given:
            raise UserError(f"{given[0]} is given without preferences: add e.g. --preferences FILE")
        if self.set is None and (self.image_root is not None or self.allow_urls):
            raise UserError("image_root and allow_urls are for public sets: add e.g. --set trl")
        if self.features is not None and self.transfer != "frozen":
            raise UserError("features are those of towers that stay as they are: add --transfer frozen")
        for name in ("fusion_width", "steps", "batch", "lora_rank", "workers"):
            positive_int(name, getattr(self, name))
        fraction("clip_rate", self.clip_rate, "0.1")
        positive("lora_scale", self.lora_scale, "2.0")
        one_of(Transfer, self.transfer, "transfer")
        one_of(Bootstrap, self.bootstrap, "bootstrap")
        if self.transfer == "frozen" and self.augment.mix:
            raise UserError(
                "augment.mix changes pictures in every step, which --transfer frozen encodes once: "
                "give --augment.mix 0 or another --transfer"
            )


@dataclasses.dataclass(frozen=True)
class LearningCurveConfig(StageConfig):
    """Reward models that see a part of the judgements: by share, transfer and augmentation."""

    shares: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Shares of the judgements to learn from."""
    transfers: tuple[Transfer, ...] = ("frozen", "lora", "full")
    """How far training reaches into the backbone."""
    runs: int = 3
    """Reward models of each kind: each has its own part of the judgements, order and start."""
    augment: JudgementAugmentConfig = dataclasses.field(
        default_factory=lambda: JudgementAugmentConfig(shift=4.0, zoom=0.1, crop=0.15, flip=0.5, colour=0.2)
    )
    """What varies the examples where augmentation is on; where it is off, nothing does."""
    reward: RewardStageConfig = dataclasses.field(default_factory=RewardStageConfig)
    """Everything else about the reward models; its transfer, augment and ensemble are not read."""
    max_held_out: int = 1_000
    """Measure on at most so many judgements."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mesh:
            raise UserError(f"mesh is {self.mesh}, but a learning curve is one device's: leave --mesh out")
        positive_int("runs", self.runs, "3")
        positive_int("max_held_out", self.max_held_out, "1000")
        if not self.shares or not self.transfers:
            raise UserError(
                "shares or transfers is empty: give e.g. --shares 0.1 1.0 --transfers frozen full"
            )
        for share in self.shares:
            positive("shares", share, "0.1 1.0")
            fraction("shares", share, "0.1 1.0")
        for transfer in self.transfers:
            one_of(Transfer, transfer, "transfers")
