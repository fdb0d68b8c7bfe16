"""Soak of what a run must survive: kill -9 at random moments, and damage to its checkpoints.

    python scripts/soak.py --run runs/smoke --kills 50 --corruptions 200

Needs the folder of a finished smoke run (`python experiments/pipeline.py --preset smoke --run runs/smoke`),
whose first stages it copies. Trains PPO once undisturbed and once killed and resumed: both must leave equal
weights, metrics and result, bit for bit. Then damages the checkpoints in many ways, of which none may be
restored silently. Prints a table, writes OUT/soak.json; exit status 1 if anything was not as it must be.
A kill takes about as long as PPO needs to start, 10 to 20 s on one CPU core.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEFORE = ("pretrain", "sft", "collect", "reward")
STEPS_A_KILL = 8  # so that there is always something left to be killed in
KINDS = ("flipped bit", "cut off", "emptied", "missing", "overwritten", "lengthened")
Leaves = dict[str, Any]


def ppo(run: Path, steps: int, *flags: str) -> subprocess.Popen[bytes]:
    """Starts PPO of smoke size in a run folder; what it prints goes to RUN/log.txt."""
    command = [sys.executable, "experiments/ppo.py", "--preset", "smoke", "--run", str(run)]
    command += ["--steps", str(steps), "--save-every", "2", "--log-every", "1", *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with open(run / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def finish(run: Path, steps: int, *flags: str) -> float:
    """PPO to its end; the seconds that it took."""
    start = time.monotonic()
    if ppo(run, steps, *flags).wait():
        raise SystemExit(f"PPO failed: see {run / 'log.txt'}")
    return time.monotonic() - start


def saved(run: Path) -> int:
    """The last step whose checkpoint is whole."""
    manifests = (run / "seed_0/ppo/checkpoints").glob("*.manifest")
    return max((int(path.stem) for path in manifests if path.stem.isdigit()), default=0)


def kill_often(run: Path, steps: int, kills: int, generator: random.Random) -> list[dict[str, Any]]:
    """Starts PPO `kills` times and kills it: half of them at any moment, half soon after a new checkpoint."""
    done = []
    start_seconds = 20.0
    for number in range(kills):
        before, begun = saved(run), time.monotonic()
        process = ppo(run, steps, "--resume")
        if generator.random() < 0.5:
            how, until = "any moment", begun + generator.uniform(0.0, 1.5 * start_seconds)
        else:
            how, until = "new checkpoint", begun + 600.0
        while process.poll() is None and time.monotonic() < until:
            if saved(run) > before:
                start_seconds = min(start_seconds, time.monotonic() - begun)
                until = min(until, time.monotonic() + generator.uniform(0.0, 0.5))
                before = steps
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        status = process.wait()
        done.append({"how": how, "status": status, "seconds": time.monotonic() - begun, "saved": saved(run)})
        print(f"kill {number + 1}/{kills} ({how}): status {status}, step {saved(run)} is saved", flush=True)
    return done


def differences(alone: Path, troubled: Path) -> list[str]:
    """What of weights, metrics and result the two runs do not have in common."""
    odd = []
    for path in sorted((alone / "model").rglob("*")):
        other = troubled / path.relative_to(alone)
        if path.is_file() and (not other.is_file() or path.read_bytes() != other.read_bytes()):
            odd.append(str(path.relative_to(alone)))
    for name, ignored in (("metrics.jsonl", {"time"}), ("result.json", {"wall_seconds", "peak_rss_mb"})):
        if records(alone / name, ignored) != records(troubled / name, ignored):
            odd.append(name)
    return odd


def records(path: Path, ignored: set[str]) -> list[dict[str, Any]]:
    """The JSON objects of a file, without what depends on the clock."""
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in row.items() if name not in ignored} for row in rows]


def described(checkpoints: Path, step: int) -> Leaves:
    """The abstract state of a step, as its manifest has it."""
    import jax
    import jax.numpy as jnp

    body = (checkpoints / f"{step}.manifest").read_text(encoding="utf-8").partition("\n")[2]
    leaves = json.loads(body)["leaves"]
    return {
        name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for name, (dtype, shape) in leaves.items()
    }


def damage(path: Path, kind: str, generator: random.Random) -> None:
    """Harms a file in one way."""
    data = bytearray(path.read_bytes())
    place = generator.randrange(len(data))
    match kind:
        case "flipped bit":
            data[place] ^= 1 << generator.randrange(8)
        case "cut off":
            del data[place:]
        case "emptied":
            data.clear()
        case "overwritten":
            data[place : place + 16] = bytes(byte ^ 0xA5 for byte in data[place : place + 16])
        case "lengthened":
            data += b"\0"
        case "missing":
            path.unlink()
            return
    path.write_bytes(data)


def corrupt(checkpoints: Path, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """Damages the newest step `count` times, each time alone, and restores."""
    import numpy as np

    from mmrlhf_jax.runtime.checkpoint import Checkpointer

    first, last = sorted(int(path.stem) for path in checkpoints.glob("*.manifest"))[-2:]
    abstract = described(checkpoints, last)

    def restore() -> tuple[int, Leaves]:
        with Checkpointer(checkpoints) as checkpointer:
            step, state = checkpointer.restore(abstract) or (0, {})
        return step, {name: np.asarray(leaf).tobytes() for name, leaf in state.items()}

    files = [path for path in (checkpoints / str(last)).rglob("*") if path.is_file() and path.stat().st_size]
    files.append(checkpoints / f"{last}.manifest")
    hidden = checkpoints.with_name("hidden")
    for part in (str(last), f"{last}.manifest"):  # what the step before holds, to compare with
        shutil.move(checkpoints / part, hidden.with_name(f"hidden_{part}"))
    good = restore()
    for part in (str(last), f"{last}.manifest"):
        shutil.move(hidden.with_name(f"hidden_{part}"), checkpoints / part)
    done = []
    for number in range(count):
        path, kind = generator.choice(files), KINDS[number % len(KINDS)]
        content = path.read_bytes()
        damage(path, kind, generator)
        restored = restore()
        fate = "detected" if restored == good else "silent" if restored[0] == last else "wrong"
        done.append(
            {"kind": kind, "file": str(path.relative_to(checkpoints)), "fate": fate, "step": restored[0]}
        )
        path.write_bytes(content)
    assert restore()[0] == last and good[0] == first
    return done


def soak(run: Path, out: Path, kills: int, corruptions: int, seed: int) -> dict[str, Any]:
    """Does it all in the folder `out`, which must not be there; what soak.json holds."""
    generator = random.Random(seed)
    steps = 2 * (STEPS_A_KILL * max(kills, 1) // 2) + 4
    for name in ("alone", "troubled"):
        for stage in BEFORE:
            shutil.copytree(run / "seed_0" / stage, out / name / "seed_0" / stage)
    seconds = finish(out / "alone", steps)
    killed = kill_often(out / "troubled", steps, kills, generator)
    finish(out / "troubled", steps, "--resume")
    odd = differences(out / "alone/seed_0/ppo", out / "troubled/seed_0/ppo")
    shutil.copytree(out / "troubled/seed_0/ppo/checkpoints", out / "damaged")
    corrupted = corrupt(out / "damaged", corruptions, generator)
    fates = Counter(one["fate"] for one in corrupted)
    return {
        "steps": steps,
        "seconds_undisturbed": seconds,
        "kills": killed,
        "differences": odd,
        "corruptions": corrupted,
        "passed": not odd and fates["detected"] == corruptions,
    }


def table(result: dict[str, Any]) -> str:
    """What was done and what came of it."""
    rows = [("what", "how often", "outcome")]
    for how, count in sorted(Counter(kill["how"] for kill in result["kills"]).items()):
        hit = sum(kill["status"] == -signal.SIGKILL for kill in result["kills"] if kill["how"] == how)
        rows.append((f"kill -9, {how}", str(count), f"{hit} killed while running"))
    same = "bit-equal to the undisturbed run" if not result["differences"] else str(result["differences"])
    rows.append(("end state", "1", same))
    for kind in KINDS:
        fates = Counter(one["fate"] for one in result["corruptions"] if one["kind"] == kind)
        if fates:
            told = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
            rows.append((f"file {kind}", str(sum(fates.values())), told))
    return "\n".join(f"{what:26} {count:>9}  {outcome}" for what, count, outcome in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 if all was as it must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/smoke"), help="a finished smoke run")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="a folder that is not there yet")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--corruptions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    if flags.kills < 0 or flags.corruptions < 0:
        parser.error("give numbers of 0 and above")
    if flags.out.exists():
        parser.error(f"{flags.out} is there already: choose another --out")
    missing = [stage for stage in BEFORE if not (flags.run / "seed_0" / stage / "result.json").is_file()]
    if missing:
        parser.error(
            f"{flags.run} has no finished {missing[0]}: run experiments/pipeline.py --preset smoke first"
        )
    result = soak(flags.run, flags.out.resolve(), flags.kills, flags.corruptions, flags.seed)
    (flags.out / "soak.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
