"""The benches run, at tiny sizes, and their arithmetic is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benches import side_by_side
from scripts.benches.learning import GOALS as LEARNING_GOALS
from scripts.benches.peer import Peer
from scripts.benches.side_by_side import Case, Row, check, measure

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """Time that passes only when work says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: self.now)

    def work(self, *seconds: float):
        """Work that takes so long in its first call, in its second, and so on."""
        queue = list(seconds)

        def run() -> None:
            self.now += queue.pop(0)

        return run


def test_medians_after_two_rounds_of_warming_up(monkeypatch):
    clock = Clock(monkeypatch)
    case = Case(
        "work", "pictures", 12, clock.work(90, 90, 2, 3, 9), clock.work(90, 90, 6, 5, 8), limit=16, flops=3e12
    )
    monkeypatch.setattr(side_by_side, "peak_flops", lambda: 4e12)
    row = measure(case, repetitions=3)
    assert row.ours_seconds == [2, 3, 9] and row.theirs_seconds == [6, 5, 8]
    assert (row.ours, row.theirs, row.ratio) == (4.0, 2.0, 2.0)
    assert row.share_of_limit == pytest.approx(0.25) and row.mfu == pytest.approx(1e12 / 4e12)


def test_sides_take_turns():
    order: list[str] = []
    measure(Case("work", "steps", 1, lambda: order.append("a"), lambda: order.append("b")), repetitions=2)
    assert "".join(order) == "abababab"


def test_without_a_peer():
    row = measure(Case("work", "steps", 1, lambda: None), repetitions=2)
    assert row.ours > 0 and (row.theirs, row.ratio, row.mfu, row.theirs_seconds) == (None, None, None, [])


def bench(name: str, folder: Path, environment: dict[str, str], *options: str) -> tuple[dict, str]:
    """What the bench of that name writes at its smallest size, and prints."""
    output = folder / f"{name}.json"
    small = ["--preset", "smoke", "--repetitions", "2", "--threads", "1", "--json", str(output)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/bench.py"), name, *small, *options],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text()), done.stdout


def test_a_peer_works_when_it_is_asked_to_and_says_what_it_is_made_of(tmp_path: Path):
    script = tmp_path / "peer.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "from benches.peer import taking_turns\n"
        f"turn = taking_turns('pytest'); log = open({str(tmp_path / 'log')!r}, 'a')\n"
        "print('what it prints does not disturb')\n"
        "for number in range(3):\n"
        "    turn(); log.write(str(number)); log.flush()\n"
    )
    with Peer(Path(sys.executable), str(script), []) as peer:
        assert peer.versions["pytest"] == pytest.__version__ and peer.versions["python"].startswith("3.")
        assert (tmp_path / "log").read_text() == ""
        peer()
        assert (tmp_path / "log").read_text() == "0"
        peer()
        with pytest.raises(RuntimeError, match="the peer ended"):
            peer()  # it has three pieces of work, and ends instead of saying so of the last


@pytest.mark.medium
def test_annotation(tmp_path: Path, user_environment: dict[str, str]):
    pytest.importorskip("uvicorn")
    found, printed = bench("annotation", tmp_path, user_environment)
    assert (found["judgements"], found["lost"], found["twice"]) == (60, 0, 0)
    assert 0 < found["milliseconds"]["judgement"]["p50"] <= found["milliseconds"]["judgement"]["p99"]
    assert "4 raters, 1 kills" in printed and "0 lost" in printed


@pytest.mark.medium
@pytest.mark.parametrize(
    "peers", [False, pytest.param(True, marks=pytest.mark.parity)], ids=["alone", "with peers"]
)
def test_encoders(tmp_path: Path, user_environment: dict[str, str], peers: bool):
    found, printed = bench("encoders", tmp_path, user_environment, *([] if peers else ["--no-peers"]))
    assert (found["threads"], found["dtype"], found["preset"]) == (1, "fp32", "smoke")
    assert found["versions"]["jax"] and found["machine"] and found["bandwidth_bytes_per_second"] > 1e8
    rows = {row["name"]: row for row in found["rows"]}
    units = [row["unit"] for row in found["rows"]]
    assert units == ["pictures", "texts", "steps", "tokens", "checkpoints"]
    for name, row in rows.items():
        assert row["ours"] > 0 and len(row["ours_seconds"]) == 2
        assert len(row["theirs_seconds"]) == (2 if peers else 0)
        assert (row["ratio"] is not None) == peers
        assert name in printed
    if peers:
        assert max(row["difference"] for row in found["rows"][:2]) < 1e-4, "both sides have the same weights"
    assert 0 < next(row for row in found["rows"] if row["unit"] == "tokens")["share_of_limit"] < 1


@pytest.mark.slow
def test_reward(tmp_path: Path, user_environment: dict[str, str]):
    found, printed = bench("reward", tmp_path, user_environment, "--no-peers")
    assert [row["unit"] for row in found["rows"]] == ["pairs", "steps"]
    assert found["rows"][0]["ratio"] is None and all(row["ratio"] > 0 for row in found["rows"][1:])
    assert set(found["compilations"].values()) == {1} and len(found["compilations"]) == 2
    assert "3 seeds at once" in printed


@pytest.mark.slow
def test_input(tmp_path: Path, user_environment: dict[str, str]):
    pytest.importorskip("grain", reason="the extra data is not installed")
    found, printed = bench("input", tmp_path, user_environment)
    assert [row["name"].split(",")[0] for row in found["rows"]] == ["pretrain", "sft"]
    assert all(row["ratio"] > 0 and row["goal"] == 0.95 for row in found["rows"])
    assert printed.count("of the time, goal under 5%") == 2


@pytest.mark.slow
def test_rlhf(tmp_path: Path, user_environment: dict[str, str]):
    found, printed = bench("rlhf", tmp_path, user_environment, "--no-peers", "--check")
    assert [row["unit"] for row in found["rows"]] == ["new tokens"] * 4
    assert all(row["ours"] > 0 and row["goal"] > 1 for row in found["rows"])
    assert len(found["memory"]) == 3 and "the compiled step takes" in printed
    trunk, separate = (found["memory"][name] for name in list(found["memory"])[:2])
    assert separate > trunk  # the critic's own layers, and Adam's moments of them


def test_a_ratio_too_far_below_its_goal_ends_with_status_1(capsys):
    def row(name: str, ratio: float | None, goal: float | None) -> Row:
        return Row(name, "steps", 1.0, 1.0, ratio, goal, None, None, None, None, [], [])

    met = [row("met", 2.0, 2.0), row("nearly", 1.81, 2.0), row("no goal", 0.1, None), row("alone", None, 2.0)]
    check(met)
    with pytest.raises(SystemExit) as ended:
        check([*met, row("missed", 1.79, 2.0)])
    assert ended.value.code == 1
    assert "missed: 1.79, goal 2.00" in capsys.readouterr().out


@pytest.mark.slow
def test_rl(tmp_path: Path, user_environment: dict[str, str]):
    found, _ = bench("rl", tmp_path, user_environment, "--no-peers")
    assert [row["unit"] for row in found["rows"]] == ["steps"] * 5
    assert all(row["ours"] > 0 for row in found["rows"])
    assert [row["theirs"] is not None for row in found["rows"]] == [False] * 4 + [True], (
        "seeds have themselves as peer"
    )


@pytest.mark.slow
def test_learning(tmp_path: Path, user_environment: dict[str, str]):
    found, printed = bench("learning", tmp_path, user_environment, "--no-peers")
    assert [row["name"] for row in found["rows"]] == list(LEARNING_GOALS)
    for row in found["rows"]:
        assert len(row["ours"]) == 1 and row["theirs"] == []
        assert row["steps"] == (4080 if row["name"] == "cartpole-a2c" else 4096), "whole rollouts"
        assert (row["ours"][0] > 0) == row["name"].startswith("cartpole")
        assert row["name"] in printed
