"""What every stage is told."""

import dataclasses
from pathlib import Path
from typing import Literal

from mmrlhf_jax.config import fraction, non_negative_int, one_of, positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.mesh_axes import FrozenName, parse_mesh

OnBad = Literal["error", "skip"]


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """How a set of pictures of one's own is parted: by each picture's bytes, so that none ever moves."""

    feedback: float = 0.25
    """Share of the pictures that the policy writes about and is judged on."""
    held_out: float = 0.15
    """Share of those that nothing is trained on."""

    def __post_init__(self) -> None:
        for name in ("feedback", "held_out"):
            fraction(f"split.{name}", getattr(self, name), "0.2")
        if self.feedback + self.held_out >= 1:
            raise UserError(
                f"split.feedback and split.held_out are {self.feedback} and {self.held_out}: together they "
                "must leave pictures to train on, e.g. --split.feedback 0.25 --split.held-out 0.15"
            )


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
    pictures: Path | None = None
    """Pictures with captions of your own: a folder with images/ and captions.csv (columns image,caption), a
    parquet file, or a JSONL beside its pictures. By default those that the run was pretrained on, and for
    pretraining itself the bundled ones."""
    on_bad: OnBad = "error"
    """What to do with a record of your own that cannot be used: stop, or leave it out and tell of it."""
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
    mesh: str = ""
    """Devices by axis, e.g. data=2,fsdp=4,tensor=1: data and fsdp share the rows of a batch, fsdp and tensor
    the parameters. By default one device."""
    mesh_frozen: FrozenName = "sharded"
    """Networks that a stage reads and never changes: cut over the mesh like those it trains, or whole on
    every device, which takes more memory and talks less."""

    def __post_init__(self) -> None:
        non_negative_int("seed", self.seed)
        one_of(OnBad, self.on_bad, "on_bad")
        one_of(FrozenName, self.mesh_frozen, "mesh_frozen")
        for name in ("max_pictures", "log_every", "save_every", "stop_after_skipped"):
            positive_int(name, getattr(self, name))
        if self.mesh:
            parse_mesh(self.mesh)
        if self.keep_best and not self.keep_best.startswith(("max:", "min:")):
            raise UserError(f"keep_best is {self.keep_best!r}: give max:NAME or min:NAME of a metric")

    def folder(self, stage: str) -> Path:
        """Folder of `stage` in this run."""
        return self.run / f"seed_{self.seed}" / stage
