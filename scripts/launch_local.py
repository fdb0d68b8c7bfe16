"""Starts several processes of one experiment on this machine, which compute it together on one mesh.

    python scripts/launch_local.py 2 experiments/pipeline.py --preset smoke --mesh data=2
    python scripts/launch_local.py 2x4 experiments/ppo.py --run runs/quickstart --mesh data=4,tensor=2

2x4 are two processes with four devices each: of the machine's accelerators the next four, of a CPU four
pretended ones. Without, each process sees what there is, which suits one CPU device each. The exit status is
that of the first process that failed; the others are then stopped.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

PLACE, ADDRESS = "MMRLHF_JAX_PROCESS", "JAX_COORDINATOR_ADDRESS"  # see mmrlhf_jax/processes.py
GRACE = 30.0  # seconds between asking the others to stop and killing them


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("processes", help="how many, or PROCESSESxDEVICES, e.g. 2x4")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="an experiment and its flags")
    args = parser.parse_args()
    numbers = args.processes.split("x")
    if len(numbers) > 2 or not all(number.isdigit() and int(number) for number in numbers):
        parser.error(f"{args.processes}: give how many processes, e.g. 2, or with devices of each, e.g. 2x4")
    if not args.command:
        parser.error("give an experiment to start, e.g. experiments/pipeline.py --mesh data=2")
    raise SystemExit(launch(args.command, *map(int, numbers)))


def launch(command: Sequence[str], processes: int, devices: int | None = None) -> int:
    """Runs this Python with `command` in so many processes; the exit status of all of them together."""
    address = f"localhost:{_free_port()}"
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {PLACE: f"{index}/{processes}", ADDRESS: address} | _own_devices(index, devices),
            start_new_session=True,  # signals come through this process, once
        )
        for index in range(processes)
    ]

    def pass_on(number: int, _: Any) -> None:
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    while None in (statuses := [process.poll() for process in running]) and not any(statuses):
        time.sleep(0.05)
    failed = next(filter(None, statuses), 0)
    if failed:
        _stop(running)
    return failed if failed >= 0 else 128 - failed  # as a shell tells of a signal


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits a while for processes that end by themselves, as after a common error; then kills the rest."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(process.poll() is None for process in running):
        time.sleep(0.05)
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def _own_devices(index: int, devices: int | None) -> dict[str, str]:
    """What gives process `index` its own devices."""
    if devices is None:
        return {}
    ids = range(index * devices, (index + 1) * devices)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {"JAX_LOCAL_DEVICE_IDS": ",".join(map(str, ids)), "XLA_FLAGS": flags.strip()}


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


if __name__ == "__main__":
    main()
