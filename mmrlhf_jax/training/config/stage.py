"""What every stage is told."""

import dataclasses
from pathlib import Path

from mmrlhf_jax.config import non_negative_int, positive_int
from mmrlhf_jax.errors import UserError


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
    keep_best: str = ""
    """Keep the checkpoint where a metric was best too: max:NAME or min:NAME, e.g. min:combinations/loss."""
    stop_after_skipped: int = 10
    """End the training after so many updates in a row that were not applied, as something was not finite."""

    def __post_init__(self) -> None:
        non_negative_int("seed", self.seed)
        for name in ("max_pictures", "log_every", "save_every", "stop_after_skipped"):
            positive_int(name, getattr(self, name))
        if self.keep_best and not self.keep_best.startswith(("max:", "min:")):
            raise UserError(f"keep_best is {self.keep_best!r}: give max:NAME or min:NAME of a metric")

    def folder(self, stage: str) -> Path:
        """Folder of `stage` in this run."""
        return self.run / f"seed_{self.seed}" / stage
