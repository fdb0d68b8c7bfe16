"""What each stage is asked to do. Free of jax, so that command lines are parsed in no time."""

import dataclasses
from pathlib import Path
from typing import Literal

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, FusionName
from mmrlhf_jax.config import (
    OptimizerConfig,
    decay_rate,
    fraction,
    non_negative,
    non_negative_int,
    positive,
    positive_int,
)
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.rl.algorithm import ALGORITHMS, Algorithm, AlgorithmName, DPOLossName, KLName, KLPlace


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """What every stage is told.

    A stage reads what it needs from the stages before it and writes to its own folder,
    RUN/seed_SEED/STAGE.
    """

    preset: str = "quickstart"
    run: Path = Path("runs/quickstart")
    """Folder of the whole run."""
    seed: int = 0
    resume: bool = False
    """Go on where an interrupted start of this stage stopped."""
    dry_run: bool = False
    """Print shapes, parameter counts and the compiled step's memory; train nothing, write nothing."""
    max_pictures: int = 1_000_000
    """Use at most so many pictures of each split."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    save_every: int = 250
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        non_negative_int("seed", self.seed)
        for name in ("max_pictures", "log_every", "save_every"):
            positive_int(name, getattr(self, name))

    def folder(self, stage: str) -> Path:
        """Folder of `stage` in this run."""
        return self.run / f"seed_{self.seed}" / stage


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How training pictures are varied: every caption stays true under it."""

    shift: float = 4.0
    """Pixels by which a picture is moved at most."""
    zoom: float = 0.0
    """Share by which it is made larger or smaller at most."""

    def __post_init__(self) -> None:
        non_negative("augment.shift", self.shift, "4")
        decay_rate("augment.zoom", self.zoom, "0.2")


@dataclasses.dataclass(frozen=True)
class PretrainConfig(StageConfig):
    """Trains a CLIP on pictures and their names, and a language model on the names alone."""

    clip: CLIPConfig = dataclasses.field(default_factory=CLIPConfig)
    language_model: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    steps: int = 300
    batch: int = 128
    """Pictures in a step."""
    neighbours: int = 12
    """CLIP tells each picture from one of so many names that read most like its own; 0: from none."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch"):
            positive_int(name, getattr(self, name))
        non_negative_int("neighbours", self.neighbours)


@dataclasses.dataclass(frozen=True)
class SFTConfig(StageConfig):
    """Trains a policy, made of CLIP's picture tower and the language model, to write the names."""

    steps: int = 400
    batch: int = 128
    """Pictures in a step."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    eval_every: int = 100
    """Steps between two looks at the held-out loss."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch", "eval_every"):
            positive_int(name, getattr(self, name))


@dataclasses.dataclass(frozen=True)
class CollectConfig(StageConfig):
    """Samples pairs of captions from the policy and has simulated raters compare them."""

    pairs_per_picture: int = 12
    held_out_pairs: int = 3
    """Pairs of each held-out picture, on which the reward model is measured."""
    temperature: float = 1.0
    """Of the sampling; higher gives more different captions."""
    raters: int = 5
    """Simulated raters on the panel."""
    overlap: float = 0.1
    """Share of the pairs that two raters judge, so that their agreement can be measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pairs_per_picture", "held_out_pairs", "raters"):
            positive_int(name, getattr(self, name))
        positive("temperature", self.temperature, "1.0")
        fraction("overlap", self.overlap, "0.1")


@dataclasses.dataclass(frozen=True)
class RewardStageConfig(StageConfig):
    """Trains a reward model on a preference file."""

    preferences: Path | None = None
    """A preference file in TRL's columns (parquet or JSONL); by default the one that `collect` wrote."""
    fusion: FusionName = "attention"
    """How picture and text meet."""
    fusion_width: int = 128
    steps: int = 60
    batch: int = 64
    """Pairs in a step."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    clip_rate: float = 0.05
    """Learning rate of the pretrained CLIP inside, as a share of the fusion's."""
    label_smoothing: float = 0.05
    center: float = 0.0
    """Weight of the term that keeps rewards near zero."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-4, weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fusion_width", "steps", "batch"):
            positive_int(name, getattr(self, name))
        fraction("clip_rate", self.clip_rate, "0.1")
        fraction("label_smoothing", self.label_smoothing, "0.05")
        if self.label_smoothing >= 0.5:
            raise UserError(
                f"label_smoothing is {self.label_smoothing}: from 0.5 on nothing is learned; "
                "give e.g. --label-smoothing 0.05"
            )
        non_negative("center", self.center, "0.01")


@dataclasses.dataclass(frozen=True)
class RewardWeights:
    """Weight of each term of the composite reward, all normalised under the reference policy."""

    fluency: float = 0.1
    """Mean log-likelihood under the frozen language model."""
    image_accuracy: float = 0.5
    """CLIP similarity of picture and caption."""
    preference: float = 1.0
    """The reward model."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            non_negative(f"weights.{field.name}", getattr(self, field.name), "0.5")


@dataclasses.dataclass(frozen=True)
class PPOConfig(StageConfig):
    """Reinforcement learning on the composite reward, near the SFT policy; PPO with a critic by default."""

    algorithm: AlgorithmName = "ppo"
    """What learns: advantages, loss and KL as `mmrlhf_jax.rl.algorithm.ALGORITHMS` combines them."""
    steps: int = 100
    batch: int = 256
    """Completions in a rollout."""
    group: int | None = None
    """Completions of each picture; by default the algorithm's: 8 for rloo, grpo and kin, else 1."""
    epochs: int | None = None
    """Passes over each rollout; by default the algorithm's: 1 for a2c and reinforce, else 2."""
    minibatches: int | None = None
    """Gradient steps in a pass; by default the algorithm's: 1 for a2c and reinforce, else 2."""
    microbatches: int = 1
    """Parts of a minibatch that are in memory one after the other; the numbers stay the same."""
    updates_per_call: int = 1
    """Steps in one call of the compiled program; the numbers stay the same."""
    seeds: int = 1
    """Policies trained together, each with randomness of its own; the first is that of a single run."""
    weights: RewardWeights = dataclasses.field(default_factory=RewardWeights)
    clip: float = 0.2
    dual_clip: float | None = None
    """Bounds the loss of bad tokens that became likely, in units of the advantage (e.g. 3)."""
    value_clip: float = 0.2
    value_weight: float = 0.1
    entropy_weight: float = 0.0
    gamma: float = 1.0
    lam: float = 0.95
    temperature: float = 1.0
    top_k: int = 0
    """Sample from so many likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that have this probability together; 1: from all."""
    min_length: int = 0
    """Tokens before the end token at least."""
    missing_end_penalty: float = 1.0
    """Taken off the score of a caption that was cut before its end."""
    kl: KLName | None = None
    """Estimator of the KL penalty; by default the algorithm's: k3 for grpo and kin, else k1."""
    kl_in: KLPlace | None = None
    """Where the KL penalty goes; by default the algorithm's: the loss for grpo and kin, else the reward."""
    kl_coef: float = 0.05
    """First weight of the KL penalty."""
    kl_target: float = 6.0
    """KL to the SFT policy, in nats a caption, that the weight is steered towards."""
    kl_horizon: float = 5_000.0
    """Completions over which the weight follows."""
    kl_bound: float = 15.0
    """KL in nats a caption that no step may pass; the report says whether one did."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=1.5e-4, weight_decay=0.0, b2=0.95)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch", "microbatches", "updates_per_call", "seeds"):
            positive_int(name, getattr(self, name))
        for name in ("top_k", "min_length"):
            non_negative_int(name, getattr(self, name))
        for name in ("clip", "value_clip", "temperature", "top_p", "kl_target", "kl_horizon", "kl_bound"):
            positive(name, getattr(self, name), "0.2")
        for name in ("value_weight", "entropy_weight", "missing_end_penalty", "kl_coef"):
            non_negative(name, getattr(self, name))
        for name in ("gamma", "lam", "top_p"):
            fraction(name, getattr(self, name), "0.95")
        if self.dual_clip is not None:
            positive("dual_clip", self.dual_clip, "3")
            if self.dual_clip <= 1:  # else it would bound even the tokens whose ratio is 1
                raise UserError(f"dual_clip is {self.dual_clip}: give a number above 1, e.g. --dual-clip 3")
        self.choices.check_batch(self.batch)
        if self.kl_horizon < self.batch:  # a step could turn the weight negative
            raise UserError(f"--kl-horizon {self.kl_horizon} is below --batch {self.batch}: raise it")
        if self.steps % self.updates_per_call:
            raise UserError(
                f"--steps {self.steps} is no multiple of --updates-per-call {self.updates_per_call}: give one"
            )

    @property
    def choices(self) -> Algorithm:
        """The algorithm, with what the flags change of it."""
        if self.algorithm not in ALGORITHMS:
            raise UserError(f"algorithm is {self.algorithm!r}: give one of {', '.join(ALGORITHMS)}")
        flags = ("group", "epochs", "minibatches", "microbatches", "kl", "kl_in")
        given = {name: getattr(self, name) for name in flags if getattr(self, name) is not None}
        return dataclasses.replace(ALGORITHMS[self.algorithm], dual_clip=self.dual_clip is not None, **given)


@dataclasses.dataclass(frozen=True)
class DPOConfig(StageConfig):
    """Direct preference optimisation of the SFT policy on a preference file."""

    preferences: Path | None = None
    """A preference file in TRL's columns (parquet or JSONL); by default the one that `collect` wrote."""
    loss: DPOLossName = "sigmoid"
    beta: float = 0.1
    """Weight of the KL to the SFT policy: the higher, the nearer the policy stays."""
    label_smoothing: float = 0.0
    """Share of preferences taken to be wrong, of the sigmoid loss."""
    steps: int = 150
    batch: int = 64
    """Pairs in a step."""
    kl_bound: float = 15.0
    """KL in nats a caption to the SFT policy to end below; the report says whether it did."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-4, warmup_steps=10, weight_decay=0.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch"):
            positive_int(name, getattr(self, name))
        for name in ("beta", "kl_bound"):
            positive(name, getattr(self, name), "0.1")
        fraction("label_smoothing", self.label_smoothing, "0.05")
        if self.label_smoothing >= 0.5:
            raise UserError(
                f"label_smoothing is {self.label_smoothing}: from 0.5 on nothing is learned; "
                "give e.g. --label-smoothing 0.05"
            )
        if self.label_smoothing > 0 and self.loss != "sigmoid":
            raise UserError(f"label_smoothing has no place in the loss {self.loss!r}: leave it at 0")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(StageConfig):
    """Compares the SFT policy with the one after PPO on held-out pictures, and writes the report."""

    policy: AlgorithmName | Literal["dpo"] = "ppo"
    """What is compared with the SFT policy; a name other than ppo goes into the files' names."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of the run to take together."""
    samples: int = 4
    """Captions sampled for each picture."""
    gallery: int = 24
    """Pictures shown in the report."""

    def folder(self, stage: str) -> Path:
        """Folder of `stage`, "ppo" meaning `policy`; the evaluation is of all seeds and lies beside them."""
        if stage == "evaluate":
            return self.run / f"evaluate{self.suffix}"
        return super().folder(self.policy if stage == "ppo" else stage)

    @property
    def suffix(self) -> str:
        """What the files' names end with, so that several policies of one run can be evaluated."""
        return "" if self.policy == "ppo" else f"_{self.policy}"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "gallery"):
            positive_int(name, getattr(self, name))
        if not self.seeds:
            raise UserError("seeds is empty: give the seeds of the run to evaluate, e.g. --seeds 0 1 2")
        for seed in self.seeds:
            non_negative_int("seeds", seed)
