"""Comparing policies."""

import dataclasses
from pathlib import Path
from typing import Literal

from mmrlhf_jax.config import non_negative_int, positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.rl.algorithm import AlgorithmName
from mmrlhf_jax.training.config.stage import StageConfig


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
            several = "_seeds_" + "_".join(map(str, self.seeds)) if len(self.seeds) > 1 else ""
            return self.run / f"evaluate{self.suffix}{several}"
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
