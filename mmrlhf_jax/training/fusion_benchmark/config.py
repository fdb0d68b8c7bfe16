"""What the benchmark of fusions is asked to do. Free of jax."""

import dataclasses
from pathlib import Path
from typing import get_args

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.config import OptimizerConfig, decay_rate, positive, positive_int
from mmrlhf_jax.errors import UserError

SYNTHETIC_TASKS = ("additive", "redundant", "synergy", "conflict", "missing", "shift")
PICTURE_TASKS = ("emoji", "preference")
METHODS: tuple[FusionName, ...] = get_args(FusionName)


@dataclasses.dataclass(frozen=True)
class TrialConfig:
    """How one method is trained and measured on one task: the same for all, so that they can be compared."""

    seeds: int = 10
    """Trained side by side in one program; each has its own data on the synthetic tasks."""
    steps: int = 600
    batch: int = 64
    width: int = 32
    """Of the fused vector."""
    train_rows: int = 2048
    """Examples to learn from, at most."""
    test_rows: int = 1024
    """Examples to measure on, at most."""
    max_pictures: int = 1_000_000
    """Use at most so many pictures of each split."""
    modality_dropout: float = 0.2
    """How often training leaves a modality out, so that its absence means something."""
    learning_rate: float = 3e-3
    """Of Adam, after a short warm-up."""
    noise: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    """Noise on one modality in the robustness curves, in standard deviations of its features."""

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch", "width", "train_rows", "test_rows", "max_pictures"):
            positive_int(f"trial.{name}", getattr(self, name))
        positive("trial.learning_rate", self.learning_rate)
        decay_rate("trial.modality_dropout", self.modality_dropout, "0.2")
        if not self.noise or min(self.noise) < 0:
            raise UserError(f"noise is {self.noise}: give numbers, 0 or above, e.g. --trial.noise 0 1 2")

    @property
    def optimizer(self) -> OptimizerConfig:
        """Adam without decay of the weights."""
        return OptimizerConfig(self.learning_rate, warmup_steps=30, weight_decay=0.0)


@dataclasses.dataclass(frozen=True)
class FusionBenchmarkConfig:
    """Every method on every task. What RUN holds already is not done again."""

    preset: str = "quick"
    run: Path = Path("runs/fusion_benchmark")
    """Folder of the results; a method and a task that it has are skipped."""
    methods: tuple[FusionName, ...] = METHODS
    tasks: tuple[str, ...] = (*SYNTHETIC_TASKS, *PICTURE_TASKS)
    pictures_run: Path | None = None
    """A run of the pipeline whose CLIP gives the features of pictures and names, and whose collect stage the
    comparisons; by default plain components, and a small set made by simulated raters."""
    trial: TrialConfig = dataclasses.field(default_factory=TrialConfig)
    dry_run: bool = False
    """Print what there is to do; train nothing, write nothing."""

    def __post_init__(self) -> None:
        for name, known in (("methods", METHODS), ("tasks", (*SYNTHETIC_TASKS, *PICTURE_TASKS))):
            chosen = getattr(self, name)
            odd = [item for item in chosen if item not in known]
            if odd or not chosen:
                shown = f"has {odd[0]!r}" if odd else "is empty"
                raise UserError(f"{name} {shown}: choose from {', '.join(known)}")


# Sizes by name. All methods and tasks are in each; "smoke" is too short to learn.
PRESETS = {
    "quick": FusionBenchmarkConfig(),
    "smoke": FusionBenchmarkConfig(
        run=Path("runs/fusion_benchmark_smoke"),
        methods=("concat_linear", "weighted_sum"),
        tasks=("synergy", "conflict", "missing", "preference"),
        trial=TrialConfig(
            seeds=2, steps=20, batch=32, width=16, train_rows=128, test_rows=128, max_pictures=128
        ),
    ),
    "full": FusionBenchmarkConfig(
        run=Path("runs/fusion_benchmark_full"),
        trial=TrialConfig(seeds=20, steps=3000, batch=256, width=64, train_rows=8192, test_rows=4096),
    ),
}
