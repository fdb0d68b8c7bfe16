"""Annotation: people judge the policy's own outputs, or a file's, on a page in the browser.

    python experiments/annotate.py --policy runs/quickstart --raters 3
    python experiments/annotate.py --policy runs/quickstart --export judged
    python experiments/annotate.py --file captions.csv --kind rate

Prints one link for each rater and one for the dashboard, and serves until Ctrl-C; the same command goes on.
--export FOLDER leaves preferences.parquet for experiments/reward.py --preferences, and all that was said.
"""

from pathlib import Path

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config import AnnotateConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: AnnotateConfig) -> None:
    from mmrlhf_jax.training.annotate import run

    run(config)


if __name__ == "__main__":
    run_cli(main, {name: AnnotateConfig(name, Path("runs") / name) for name in PRESETS}, description=__doc__)
