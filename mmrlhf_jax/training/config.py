"""What each stage is asked to do. Free of jax, so that command lines are parsed in no time."""

import dataclasses
from pathlib import Path
from typing import Literal

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, FusionName
from mmrlhf_jax.config import (
    Bootstrap,
    EnsembleConfig,
    OptimizerConfig,
    PoolingConfig,
    Transfer,
    decay_rate,
    fraction,
    non_negative,
    non_negative_int,
    one_of,
    positive,
    positive_int,
)
from mmrlhf_jax.data.set_names import SetName
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.rl.algorithm import ALGORITHMS, Algorithm, AlgorithmName, DPOLossName, KLName, KLPlace
from mmrlhf_jax.training.loss_config import LossConfig


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
    """How training pictures are varied on the device (see `data/augment.py`); 0 leaves a way out."""

    shift: float = 4.0
    """Pixels by which a picture is moved at most."""
    zoom: float = 0.0
    """Share by which it is made larger or smaller at most."""
    crop: float = 0.0
    """Share of its sides that a window cut out of it loses at most."""
    flip: float = 0.0
    """Probability of a mirror image, where no text about it names a side or writing."""
    colour: float = 0.0
    """Share by which brightness, contrast and saturation change at most, where no text names a colour."""
    cutout: float = 0.0
    """Side of a square that is whitened, as a share of the picture's."""

    def __post_init__(self) -> None:
        non_negative("augment.shift", self.shift, "4")
        for name in ("zoom", "crop", "colour", "cutout"):
            decay_rate(f"augment.{name}", getattr(self, name), "0.2")
        fraction("augment.flip", self.flip, "0.5")


@dataclasses.dataclass(frozen=True)
class JudgementAugmentConfig(AugmentConfig):
    """How pictures and answers of judgements are varied on the device; 0 leaves a way out."""

    mix: float = 0.0
    """Share of the judgements of which picture and answers are joined with another's, where they fit."""
    word_dropout: float = 0.0
    """Probability with which each word of an answer is left out."""
    synonyms: float = 0.0
    """Probability with which a word is replaced by another that people use of the same pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        decay_rate("augment.word_dropout", self.word_dropout, "0.1")
        for name in ("mix", "synonyms"):
            fraction(f"augment.{name}", getattr(self, name), "0.2")


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
    keep_ties: bool = False
    """Write the ties too, marked in the column `tie`."""
    kinds: tuple[Literal["ratings", "labels", "clicks"], ...] = ()
    """Further files that the simulated raters leave about the feedback pictures, besides the comparisons."""

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
    """Judgements, as parquet or JSONL: comparisons in TRL's columns (by default those that `collect` wrote),
    ratings, thumbs or a click log; the columns say which. With --set a file, a folder or a repository on the
    hub (org/name)."""
    set: SetName | None = None
    """The public set whose columns the preferences have."""
    image_root: Path | None = None
    """The folder under which pictures lie that the preferences name by path; by default that of the file."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with a record that cannot be used: stop, or leave it out and tell of it."""
    allow_urls: bool = False
    """Fetch pictures that the preferences name by address, from public addresses only."""
    survey: bool = False
    """Print what there is to know of the preferences (ties, contradictions, lengths, ...); train nothing."""
    backbone: str = "clip"
    """The run's own "clip" or "policy" (the SFT policy with a head on its last token), or the folder or hub
    name of a pretrained CLIP, SigLIP or LLaVA."""
    fusion: FusionName = "attention"
    """How picture and text meet, over two towers."""
    fusion_width: int = 128
    steps: int = 60
    batch: int = 64
    """Pairs in a step."""
    augment: JudgementAugmentConfig = dataclasses.field(default_factory=JudgementAugmentConfig)
    transfer: Transfer = "full"
    """How far training reaches into the backbone; frozen: not at all, pictures are encoded once."""
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
        for name in ("fusion_width", "steps", "batch", "lora_rank"):
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
    ensemble: PoolingConfig = dataclasses.field(default_factory=PoolingConfig)
    terms: TermsConfig = dataclasses.field(default_factory=TermsConfig)
    whiten_terms: bool = False
    """Bring every term to variance 1 within each rollout before it is weighted (GDPO)."""
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
        if self.weights.text and self.terms.text_scorer is None:
            raise UserError(
                f"--weights.text is {self.weights.text}, but nothing scores texts: "
                "give --terms.text-scorer MODULE:FUNCTION"
            )
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


@dataclasses.dataclass(frozen=True)
class AnnotateConfig:
    """Has people judge a policy's own outputs, or a file's, on a page in the browser."""

    preset: str = "quickstart"
    """With --rounds: the sizes of the reward and PPO stages."""
    policy: Path = Path("runs/quickstart")
    """Folder of the run whose policy's answers are judged."""
    file: Path | None = None
    """A preference (parquet, jsonl), caption (csv) or prompt (jsonl) file to judge instead."""
    store: Path | None = None
    """The SQLite file of judgements; by default annotate/judgements.sqlite in the run, or beside the file."""
    kind: str = "compare"
    """What is asked: compare, rate, list or correct."""
    raters: int = 1
    """How many links are made."""
    overlap: float = 0.2
    """Share of the items that two raters judge, so that their agreement can be measured."""
    check_every: int = 20
    """Items between two attention checks; 0: none."""
    choose: str = "random"
    """Which item comes next: random, disagreement or information (of the --ensemble)."""
    ensemble: tuple[Path, ...] = ()
    """Folders of reward stages, e.g. runs/a/seed_0/reward runs/a/seed_1/reward."""
    seed: int = 0
    stages: tuple[str, ...] = ()
    """Stages of the run whose policies write answers, e.g. sft ppo; by default the last one that is there."""
    pictures: int = 200
    """Pictures that the policy writes about."""
    answers: int = 2
    """Answers of each policy to each picture."""
    temperature: float = 1.0
    """Of the sampling; higher gives more different answers."""
    host: str = "127.0.0.1"
    """Where the page is served; this machine alone can reach the default."""
    port: int = 8421
    """0: any that is free."""
    public_url: str = ""
    """How browsers reach the page where a TLS proxy stands before it, e.g. https://judge.example.org;
    feedback/serve.py has the lines for nginx."""
    open_to_network: bool = False
    """Allows a --host that other machines can reach."""
    export: Path | None = None
    """Write what was judged so far to this folder, and end."""
    pictures_beside: bool = False
    """The conversations of the export have their pictures in folders of their own."""
    import_judgements: Path | None = None
    """Add the judgements of an export, or of Label Studio's or Argilla's JSON, and end."""
    backup: Path | None = None
    """Copy the store to this file, also while it is being served, and end."""
    rounds: int = 0
    """Alternate so often: the policy writes, people judge, a reward model is trained, then PPO."""
    simulated: bool = False
    """Simulated raters judge instead of people; no page is opened."""
    dry_run: bool = False
    """Say what would be asked; write and serve nothing."""

    def __post_init__(self) -> None:
        for name in ("raters", "pictures", "answers"):
            positive_int(name, getattr(self, name))
        for name in ("seed", "check_every", "rounds"):
            non_negative_int(name, getattr(self, name))
        fraction("overlap", self.overlap, "0.2")
        positive("temperature", self.temperature, "1.0")
        if self.file is not None and (self.rounds or self.simulated):
            raise UserError("--rounds and --simulated need pictures whose names are known: leave --file out")
        if self.choose != "random" and not self.ensemble:
            raise UserError(f"--choose {self.choose} needs --ensemble with folders of reward stages")

    def store_path(self) -> Path:
        """Where the judgements are kept."""
        if self.store is not None:
            return self.store
        if self.file is not None:
            return self.file.with_name(f"{self.file.name}.judgements") / "judgements.sqlite"
        return self.policy / "annotate" / "judgements.sqlite"
