"""Reinforcement learning of the policy, and learning it from preferences directly."""

import dataclasses
from pathlib import Path

from mmrlhf_jax.config import (
    OptimizerConfig,
    PoolingConfig,
    fraction,
    non_negative,
    non_negative_int,
    one_of,
    positive,
    positive_int,
)
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.mesh_axes import row_shares
from mmrlhf_jax.rl.algorithm import ALGORITHMS, Algorithm, AlgorithmName, DPOLossName, KLName, KLPlace
from mmrlhf_jax.training.config.adapt import AdaptName, CriticName, LoraConfig
from mmrlhf_jax.training.config.stage import StageConfig
from mmrlhf_jax.training.config.sweep import Setting, SweepConfig, with_rates
from mmrlhf_jax.training.config.watch import WatchConfig


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
    without_picture: bool = False
    """Policy and reward model go by the words alone; the folders' names then end with _without_picture."""
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
    stream: bool = False
    """Keep what the towers see of pictures of your own on disk and read it step by step, for sets larger than
    memory (extra `data`)."""
    workers: int = 4
    """Threads that read ahead, with stream."""
    seeds: int = 1
    """Policies trained together, each with randomness of its own; the first is that of a single run."""
    sweep: SweepConfig = dataclasses.field(default_factory=SweepConfig)
    adapt: AdaptName = "full"
    """What of the policy is trained: its whole decoder, low-rank adapters of it, or its output weights."""
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    critic: CriticName = "trunk"
    """A value head on the policy's own layers, or a network of its own that starts as the SFT policy."""
    critic_learning_rate: float | None = None
    """Of a separate critic; by default that of the policy."""
    watch_every: int = 0
    """Steps between two looks at held-out pictures, by the reward and by the gold rubric; 0: none."""
    watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
    stop_on_alarm: bool = False
    """End the run at the first alarm of the watch."""
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
        for name in ("steps", "batch", "microbatches", "updates_per_call", "seeds", "workers"):
            positive_int(name, getattr(self, name))
        if self.stream and (self.members > 1 or self.updates_per_call > 1):
            raise UserError(
                "--stream reads a batch for each step of one policy: leave --sweep out, --seeds and "
                "--updates-per-call at 1"
            )
        for name in ("top_k", "min_length", "watch_every"):
            non_negative_int(name, getattr(self, name))
        one_of(AdaptName, self.adapt, "adapt")
        one_of(CriticName, self.critic, "critic")
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
        self.choices.check_batch(self.batch, shares=row_shares(self.mesh))
        if self.kl_horizon < self.batch:  # a step could turn the weight negative
            raise UserError(f"--kl-horizon {self.kl_horizon} is below --batch {self.batch}: raise it")
        if self.steps % self.updates_per_call:
            raise UserError(
                f"--steps {self.steps} is no multiple of --updates-per-call {self.updates_per_call}: give one"
            )
        if self.critic == "separate" and not self.choices.critic:
            learners = [name for name, choices in ALGORITHMS.items() if choices.critic]
            raise UserError(
                f"--critic separate has no place in {self.algorithm}, which learns no values: "
                f"choose --algorithm {' or '.join(learners)}, or leave --critic out"
            )
        if self.critic_learning_rate is not None:
            positive("critic_learning_rate", self.critic_learning_rate, "1e-4")
        if self.critic == "trunk" and (self.critic_learning_rate or self.sweep.critic_learning_rate):
            raise UserError("critic_learning_rate is that of a separate critic: add --critic separate")
        if self.stop_on_alarm and not self.watch_every:
            raise UserError("--stop-on-alarm without a watch: add e.g. --watch-every 10")
        if self.stop_on_alarm and self.members > 1:
            raise UserError("--stop-on-alarm ends a run of a single policy: leave --seeds and --sweep out")
        _ = self.variants  # whose values must be possible too

    @property
    def variants(self) -> "list[PPOConfig]":
        """The config of each setting of the sweep; without one the config itself."""
        if self.sweep == SweepConfig():
            return [self]
        return [with_rates(self, setting) for setting in self.sweep.settings]

    @property
    def members(self) -> int:
        """Policies trained together: every seed of every setting of the sweep."""
        return len(self.sweep.settings) * self.seeds

    @property
    def settings(self) -> list[Setting]:
        """The swept rates of each member, in order."""
        return [setting for setting in self.sweep.settings for _ in range(self.seeds)]

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
    adapt: AdaptName = "full"
    """What of the policy is trained: its whole decoder, low-rank adapters of it, or its output weights."""
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    kl_bound: float = 15.0
    """KL in nats a caption to the SFT policy to end below; the report says whether it did."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-4, warmup_steps=10, weight_decay=0.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch"):
            positive_int(name, getattr(self, name))
        one_of(AdaptName, self.adapt, "adapt")
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
