"""What a step of PPO would take on many devices: memory, talk between them, time. Needs none of them.

    python scripts/plan.py --model llava-1.5-7b --mesh data=8,fsdp=8
    python scripts/plan.py --model llava-1.5-7b --mesh fsdp=8 --batch 16 --adapt lora
    python scripts/plan.py --model llava-1b --mesh data=4,fsdp=2 --json plan.json

The real step is lowered from shapes and compiled for that many pretended devices of this machine's CPU;
nothing of the model is ever made. Takes some minutes and gigabytes for a model of 7 billion parameters.
What is read from the program of a CPU is an estimate for other chips: temporary arrays are those of its
compiler, which fuses less than those of accelerators and computes products of bfloat16 in float32. Seconds
are a sum of arithmetic, memory and talk by data-sheet rates, not a measurement.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.cli import USER_ERROR, parse_config
from mmrlhf_jax.training.config.plan import PlanConfig

PRESETS = {
    "llava-1.5-7b": PlanConfig(),
    "smoke": PlanConfig(
        model="tiny", mesh="data=2,fsdp=2", batch=8, prompt_length=4, max_length=6, remat=False
    ),
}


def main() -> None:
    config = parse_config(PRESETS, description=__doc__)
    os.environ["JAX_PLATFORMS"] = "cpu"
    pretended = f"--xla_force_host_platform_device_count={config.devices}"
    # The CPU's own passes over single instructions change no array's size and take most of the time. Its
    # schedule for many cores would gather all parameters at once, which accelerators do not.
    own = "--xla_backend_optimization_level=0 --xla_cpu_enable_concurrency_optimized_scheduler=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {pretended} {own}"

    from rich.console import Console
    from rich.table import Table

    from mmrlhf_jax.files import as_plain, write_text
    from mmrlhf_jax.runtime.platform import versions
    from mmrlhf_jax.training.plan import CHIPS, make_plan

    plan = make_plan(config)
    console = Console()
    table = Table(title=f"{config.model} on {config.mesh}: one of {config.devices} devices")
    table.caption = "the key-value cache is among what is temporary"
    for column in ("what", "GiB"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, size in plan.bytes.items():
        table.add_row(name, f"{size / 2**30:.3f}")
    table.add_row("whole step", f"{plan.total / 2**30:.3f}", style="bold")
    console.print(table)
    table = Table("talk", "times", "GiB", title=f"{plan.flops / 1e12:.2f} TFLOP in products of matrices")
    for kind, count, size in plan.collectives:
        table.add_row(kind, str(count), f"{size / 2**30:.3f}")
    console.print(table)
    table = Table("chip", "fits", "seconds a step", "completions/s")
    for chip in CHIPS:
        seconds = plan.seconds(chip, config.utilisation)
        fits = "yes" if plan.total < chip.memory else "no"
        table.add_row(chip.name, fits, f"{seconds:.2f}", f"{config.batch / seconds:.1f}")
    console.print(table)
    if plan.unknown_loops > 1:
        console.print(f"{plan.unknown_loops} loops of unknown length, each counted as that of sampling")
    if config.json:
        estimates = {chip.name: plan.seconds(chip, config.utilisation) for chip in CHIPS}
        facts = {"config": as_plain(config), "plan": as_plain(plan._asdict()), "seconds": estimates}
        write_text(Path(config.json), json.dumps(facts | {"versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
