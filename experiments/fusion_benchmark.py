"""Which fusion of picture and text is worth its cost, on tasks whose answers are known.

    python experiments/fusion_benchmark.py --preset quick
    python experiments/fusion_benchmark.py --preset smoke
    python experiments/fusion_benchmark.py --methods concat attention gated --tasks synergy conflict

Reads nothing, or with --pictures-run the CLIP and the comparisons of a run of the pipeline. Leaves
RUN/{results.json,results.md,report.html}; started again it does only what RUN/trials does not hold.
"""

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.fusion_benchmark.config import PRESETS, FusionBenchmarkConfig


def main(config: FusionBenchmarkConfig) -> None:
    from mmrlhf_jax.training.fusion_benchmark.run import run

    run(config)


if __name__ == "__main__":
    run_cli(main, PRESETS, description=__doc__)
