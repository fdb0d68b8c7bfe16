"""Taking trained networks out of a run."""

import dataclasses
from pathlib import Path
from typing import Literal

from mmrlhf_jax.config import non_negative_int
from mmrlhf_jax.errors import UserError

Part = Literal["clip", "decoder", "policy", "reward"]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Writes trained networks of a run to a folder, in transformers' layout where it has a place for them."""

    preset: str = "quickstart"
    run: Path = Path("runs/quickstart")
    """Folder of the whole run."""
    seed: int = 0
    part: tuple[Part, ...] = ("clip", "decoder", "policy", "reward")
    """Which networks; each gets a folder of its name."""
    stage: str = "ppo"
    """The stage whose policy is taken: sft, ppo, dpo or another algorithm's name."""
    out: Path = Path("exported")
    """Where the folders are made."""
    dry_run: bool = False
    """Say what would be written; write nothing."""

    def __post_init__(self) -> None:
        non_negative_int("seed", self.seed)
        if not self.part or len(set(self.part)) < len(self.part):
            raise UserError("part is empty or names one twice: give e.g. --part clip policy")
        if self.stage in ("", ".", "..") or Path(self.stage).name != self.stage:
            raise UserError(f"stage is {self.stage!r}: give the name of a stage of the run, e.g. --stage ppo")

    def folder(self, stage: str) -> Path:
        """Folder of `stage` in this run."""
        return self.run / f"seed_{self.seed}" / stage
