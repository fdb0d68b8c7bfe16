"""The assistant in the rooms: what the command line offers, and presets. Free of jax."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.architecture import FusionName, TransformerConfig
from mmrlhf_jax.config import decay_rate, fraction, non_negative, one_of, positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config.environment import ActorCriticTraining, Algorithm, a2c_training
from mmrlhf_jax.training.config.reading import ReadingConfig
from mmrlhf_jax.training.config.stage import StageConfig
from mmrlhf_jax.training.config.trajectory import TrajectoryConfig

RewardName = Literal["true", "learned"]


_PPO = ActorCriticTraining(
    n_envs=64,
    n_steps=16,
    batch_size=128,
    n_epochs=3,
    learning_rate=1e-3,
    gamma=0.95,
    gae_lambda=0.3,  # with shaping every step tells at once whether it was right
    ent_coef=0.03,
    anneal=True,
)
_A2C = a2c_training(
    n_envs=128,
    n_steps=4,  # one gradient step a rollout: short ones give more of them
    learning_rate=1e-3,
    gamma=0.95,
    gae_lambda=0.3,
    ent_coef=0.06,
    normalize_advantage=True,
    use_rms_prop=False,
    anneal=True,
)
_TEACHING = TrajectoryConfig(
    rounds=6,
    pairs=6144,
    length=2,
    same_start=True,
    second="untrained",
    reward_steps=500,
    reward_batch=128,
    reward_learning_rate=5e-4,
    reward_weight_decay=0.1,
    updates=40,
    held_out=512,
    rater_noise=0.1,
    label_smoothing=0.1,
    offset=0.5,
)
_READING = ReadingConfig(steps=400)


@dataclasses.dataclass(frozen=True)
class AssistantConfig(StageConfig):
    """What the instructions ask for, how the policy reads them, and what it learns from.

    Rooms are drawn as they are needed, so that `max_pictures` bounds nothing here.
    """

    preset: str = "quick"
    run: Path = Path("runs/assistant")
    """Folder of the whole run."""
    seeds: int = 1
    """Policies trained side by side in one program, with keys of their own."""
    level: int = 1
    """1: go to a thing; 2: pick it up; 3: put it next to another one."""
    size: int = 5
    """Cells of a room's side."""
    things: int = 3
    """In a room."""
    divided: bool = False
    """A wall with a gap makes two rooms of it."""
    sight: int = 3
    """Cells that the picture shows each way from the agent in its middle; 0: the whole room."""
    reward: RewardName = "true"
    """true: what the rooms pay. learned: from comparisons of trajectories by a simulated rater."""
    shaping: float = 0.3
    """What the true reward pays for each step nearer to the end, and the rater looks at too; 0: nothing."""
    wrong_cost: float = 0.0
    """What a wrong choice costs, which ends the episode in any case; the rater minds it as well."""
    word_dropout: float = 0.5
    """Share of the training episodes whose instruction leaves out a colour or a kind, so that each word means
    something by itself, in combinations that training never shows too."""
    disguise: float = 1.0
    """Share of those in which things have any form where no kind is said, any colour where no colour is."""
    carrying: float = 0.0
    """Level 3: share of the training episodes that begin with the thing in hand, so that putting it down is
    learned from the start (a reverse curriculum, Florensa et al. 2017, arXiv:1707.05300)."""
    reading: ReadingConfig = dataclasses.field(default_factory=ReadingConfig)
    """What the encoders learn before: see `mmrlhf_jax.training.assistant.reading`."""
    algorithm: Algorithm = "ppo"
    fusion: FusionName = "cross_attention"
    """How picture and instruction meet."""
    width: int = 64
    """Of a cell's and a word's vector, and of the fused one."""
    hidden: int = 128
    """Of the one hidden layer of actor and critic each."""
    total_timesteps: int = 400_000
    """Steps of each policy, in whole calls."""
    updates_per_call: int = 10
    """Iterations that one compiled call does."""
    eval_every: int = 50
    """Iterations between two measurements of success."""
    eval_episodes: int = 256
    """Greedy episodes of each split in such a measurement."""
    episodes: int = 1024
    """Episodes of each split at the end."""
    films: int = 4
    """Episodes of each split whose pictures the report shows."""
    save_every: int = 100
    """Iterations between two checkpoints."""
    ppo: ActorCriticTraining = _PPO
    a2c: ActorCriticTraining = _A2C
    teaching: TrajectoryConfig = _TEACHING
    """With a learned reward: rounds of comparisons, and how the reward is learned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mesh:
            raise UserError(f"mesh is {self.mesh}, but assistants learn on one device: leave --mesh out")
        one_of(RewardName, self.reward, "reward")
        one_of(Algorithm, self.algorithm, "algorithm")
        non_negative("shaping", self.shaping, "0.3")
        non_negative("wrong_cost", self.wrong_cost, "0.5")
        decay_rate("word_dropout", self.word_dropout, "0.3")
        fraction("disguise", self.disguise, "0.5")
        fraction("carrying", self.carrying, "0.5")
        if self.carrying and self.level != 3:
            raise UserError(
                f"carrying is {self.carrying:g}, but nothing is carried at level {self.level}: give --level 3"
            )
        for name in ("seeds", "width", "hidden", "total_timesteps", "updates_per_call", "eval_every"):
            positive_int(name, getattr(self, name))
        for name in ("eval_episodes", "episodes", "films"):
            positive_int(name, getattr(self, name))
        for name in get_args(Algorithm):
            if getattr(self, name).algorithm != name:
                raise UserError(f"{name}.algorithm is not {name}: choose the algorithm with --algorithm")
        if not self.calls:
            raise UserError(
                f"total_timesteps is {self.total_timesteps}: give at least one call, "
                f"{self.updates_per_call * self.training.rollout} (updates_per_call x n_steps x n_envs)"
            )

    @property
    def training(self) -> ActorCriticTraining:
        """That of the algorithm."""
        return self.ppo if self.algorithm == "ppo" else self.a2c

    @property
    def architecture(self) -> ActorCriticConfig:
        """Of the policy, and of a learned reward."""
        return ActorCriticConfig(
            "MultiInputPolicy",
            actor=(self.hidden,),
            critic=(self.hidden,),
            activation="relu",
            picture="patches",
            tower=TransformerConfig(width=self.width, layers=1, heads=1, mlp_width=2 * self.width),
            fusion=self.fusion,
            fusion_width=self.width,
        )

    @property
    def per_call(self) -> int:
        """Iterations of a compiled call: with a learned reward a whole round."""
        return self.teaching.updates if self.reward == "learned" else self.updates_per_call

    @property
    def calls(self) -> int:
        """Compiled calls of the whole training."""
        if self.reward == "learned":
            return self.teaching.rounds
        return self.total_timesteps // (self.updates_per_call * self.training.rollout)

    @property
    def updates(self) -> int:
        """Iterations of the whole training."""
        return self.calls * self.per_call


_SMALL = dataclasses.replace(_PPO, n_envs=8, n_steps=4, batch_size=16, n_epochs=1)

PRESETS = {
    "quick": AssistantConfig(),
    "smoke": AssistantConfig(
        run=Path("runs/assistant_smoke"),
        size=3,
        things=2,
        sight=0,
        reading=ReadingConfig(steps=2, batch_size=8),
        fusion="film",
        width=8,
        hidden=8,
        total_timesteps=128,
        updates_per_call=2,
        eval_every=2,
        eval_episodes=16,
        episodes=16,
        films=1,
        log_every=1,
        save_every=2,
        ppo=_SMALL,
        a2c=dataclasses.replace(_A2C, n_envs=8, n_steps=4),
        teaching=dataclasses.replace(
            _TEACHING, rounds=2, pairs=8, length=3, reward_steps=2, reward_batch=4, updates=2, held_out=8
        ),
    ),
    "level2": AssistantConfig(
        run=Path("runs/assistant_level2"), level=2, reading=_READING, total_timesteps=400_000
    ),
    "level3": AssistantConfig(
        run=Path("runs/assistant_level3"),
        level=3,
        carrying=0.5,
        reading=ReadingConfig(steps=1000),
        total_timesteps=1_000_000,
    ),
    "a2c": AssistantConfig(
        run=Path("runs/assistant_a2c"),
        reading=_READING,
        algorithm="a2c",
        total_timesteps=1_000_000,
        updates_per_call=20,
        eval_every=100,
        save_every=500,
    ),
    "learned": AssistantConfig(
        run=Path("runs/assistant_learned"),
        reading=_READING,
        reward="learned",
        shaping=0.2,
        wrong_cost=2.0,
        save_every=40,  # a round's
    ),
}
