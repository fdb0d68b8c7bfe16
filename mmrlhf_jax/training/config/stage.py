"""What every stage is told."""

import dataclasses
from pathlib import Path

from mmrlhf_jax.config import non_negative_int, positive_int


def arm(stage: str, without_picture: bool) -> str:
    """The name of a stage's folder; one that goes by the words alone has its own."""
    return f"{stage}_without_picture" if without_picture else stage


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
