"""Export: trained networks of a run as folders of their own, with model cards.

    python experiments/export.py --run runs/my-run --part decoder policy --out exported

Leaves OUT/PART with config.json, model.safetensors, the tokenizer and README.md: in transformers' layout
where it has a place for the network (the decoder), else in this package's own; the card says why.
Takes a few seconds.
"""

from pathlib import Path

from mmrlhf_jax.runtime.cli import run_cli
from mmrlhf_jax.training.config.export import ExportConfig
from mmrlhf_jax.training.presets import PRESETS


def main(config: ExportConfig) -> None:
    from mmrlhf_jax.training.export import run

    run(config)


if __name__ == "__main__":
    run_cli(main, {name: ExportConfig(name, Path("runs") / name) for name in PRESETS}, description=__doc__)
