"""Collecting judgements, from simulated raters and from people."""

import dataclasses
from pathlib import Path
from typing import Literal

from mmrlhf_jax.config import fraction, non_negative_int, positive, positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config.stage import StageConfig


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
class AnnotateConfig:
    """Has people judge a policy's own outputs, or a file's, on a page in the browser."""

    preset: str = "quickstart"
    """With --rounds: the sizes of the reward and PPO stages."""
    policy: Path = Path("runs/quickstart")
    """Folder of the run whose policy's answers are judged."""
    file: Path | None = None
    """A preference, caption or prompt file (parquet, jsonl, csv, tsv) to judge instead; pictures without
    answers get them from the run's policy."""
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
    docs/annotation.md has the lines for nginx."""
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
