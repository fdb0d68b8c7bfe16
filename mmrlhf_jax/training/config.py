"""What each stage is asked to do. Free of jax, so that command lines are parsed in no time."""

import dataclasses
from pathlib import Path

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
    reference_accuracy: float = 0.0
    """CLIP similarity of the caption with the picture and with its name: shows the policy the names."""
    considerate_wording: float = 0.0
    """Minus the number of words on a list of insults."""
    length: float = 0.0
    """Minus the tokens outside of the target range, `terms.shortest` to `terms.longest`."""
    repetition: float = 0.0
    """Minus the share of repeated pairs of tokens."""
    text: float = 0.0
    """The function that `terms.text_scorer` names."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            non_negative(f"weights.{field.name}", getattr(self, field.name), "0.5")


@dataclasses.dataclass(frozen=True)
class TermsConfig:
    """What some terms of the composite reward go by."""

    shortest: int = 2
    """Tokens of a caption, end token included, below which the length term counts."""
    longest: int = 12
    """Tokens above which it counts; 95 % of the bundled names are no longer."""
    text_scorer: str | None = None
    """MODULE:FUNCTION, a Python function from a list of captions to a number each; see docs/rewards.md."""

    def __post_init__(self) -> None:
        for name in ("shortest", "longest"):
            positive_int(f"terms.{name}", getattr(self, name), "8")
        if self.shortest > self.longest:
            raise UserError(
                f"--terms.shortest {self.shortest} is above --terms.longest {self.longest}: "
                "no caption has such a length"
            )


@dataclasses.dataclass(frozen=True)
class PPOConfig(StageConfig):
    """Proximal policy optimisation with a critic, on the composite reward, near the SFT policy."""

    steps: int = 100
    batch: int = 256
    """Pictures, hence completions, in a rollout."""
    epochs: int = 2
    """Passes over each rollout."""
    minibatches: int = 2
    """Gradient steps in a pass."""
    weights: RewardWeights = dataclasses.field(default_factory=RewardWeights)
    terms: TermsConfig = dataclasses.field(default_factory=TermsConfig)
    whiten_terms: bool = False
    """Bring every term to variance 1 within each rollout before it is weighted (GDPO)."""
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    entropy_weight: float = 0.0
    gamma: float = 1.0
    lam: float = 0.95
    temperature: float = 1.0
    missing_end_penalty: float = 1.0
    """Taken off the score of a caption that was cut before its end."""
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
        for name in ("steps", "batch", "epochs", "minibatches"):
            positive_int(name, getattr(self, name))
        for name in ("clip", "value_clip", "temperature", "kl_target", "kl_horizon", "kl_bound"):
            positive(name, getattr(self, name), "0.2")
        for name in ("value_weight", "entropy_weight", "missing_end_penalty", "kl_coef"):
            non_negative(name, getattr(self, name))
        for name in ("gamma", "lam"):
            fraction(name, getattr(self, name), "0.95")
        if self.weights.text and self.terms.text_scorer is None:
            raise UserError(
                f"--weights.text is {self.weights.text}, but nothing scores texts: "
                "give --terms.text-scorer MODULE:FUNCTION"
            )
        if self.batch % self.minibatches:
            raise UserError(
                f"--batch {self.batch} cannot be cut into {self.minibatches} --minibatches: give a multiple"
            )
        if self.kl_horizon < self.batch:  # a step could turn the weight negative
            raise UserError(f"--kl-horizon {self.kl_horizon} is below --batch {self.batch}: raise it")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(StageConfig):
    """Compares the SFT policy with the one after PPO on held-out pictures, and writes the report."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of the run to take together."""
    samples: int = 4
    """Captions sampled for each picture."""
    gallery: int = 24
    """Pictures shown in the report."""

    def folder(self, stage: str) -> Path:
        """Folder of `stage`; the evaluation itself is of all seeds and lies beside them."""
        return self.run / stage if stage == "evaluate" else super().folder(stage)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "gallery"):
            positive_int(name, getattr(self, name))
        if not self.seeds:
            raise UserError("seeds is empty: give the seeds of the run to evaluate, e.g. --seeds 0 1 2")
        for seed in self.seeds:
            non_negative_int("seeds", seed)
