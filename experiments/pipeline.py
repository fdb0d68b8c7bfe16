"""The whole pipeline: pretrain, sft, collect, reward, ppo, evaluate, one after the other.

    python experiments/pipeline.py --preset quickstart
    python experiments/pipeline.py --preset full --run runs/full
    python experiments/pipeline.py --preset smoke --run runs/smoke
    python experiments/pipeline.py --run runs/mine --pictures my-pictures   (images/ and captions.csv)

Started again, it skips the stages that are done and goes on with the one that was interrupted.
Takes 10 minutes at quickstart size on two quiet CPU cores (AMD EPYC, no accelerator), three times that for
"full", which goes on where a quickstart in the same --run stopped.
"""

import dataclasses
from pathlib import Path

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import OnBad, SplitConfig
from mmrlhf_jax.training.presets import PRESETS, Stages


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """All stages, for one seed or several."""

    preset: str
    run: Path
    stages: Stages
    pictures: Path | None = None
    """Pictures with captions of your own instead of the bundled ones: a folder with images/ and
    captions.csv, a parquet file, or a JSONL beside its pictures."""
    image_size: int | None = None
    """Pixels of a picture's side."""
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    """How pictures of your own are parted."""
    on_bad: OnBad = "error"
    """What to do with a record of your own that cannot be used: stop, or leave it out and tell of it."""
    seeds: tuple[int, ...] = (0,)
    """Every seed goes through all stages; the report takes them together."""
    mesh: str = ""
    """Devices by axis, e.g. data=2,fsdp=4; by default one device."""
    dry_run: bool = False
    """Print shapes, parameter counts and memory of each stage; train nothing, write nothing."""


def main(config: PipelineConfig) -> None:
    from mmrlhf_jax.training.pipeline import run

    stages = config.stages.on_pictures(config.pictures, config.image_size, config.split, config.on_bad)
    run(stages.shared(run=config.run, dry_run=config.dry_run, mesh=config.mesh), config.seeds)


if __name__ == "__main__":
    presets = {
        name: PipelineConfig(name, Path("runs") / name, stages, seeds=(0, 1, 2) if name == "full" else (0,))
        for name, stages in PRESETS.items()
    }
    run_cli(main, presets, description=__doc__)
