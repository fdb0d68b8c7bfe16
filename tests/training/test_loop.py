"""The host loop: what it writes, when it saves, and that a resumed run is the uninterrupted one."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.checkpoint import Checkpointer
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.runtime.signals import INTERRUPTED
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.training.loop import Evaluation, describe, fit

KEY = jax.random.key(0)
CONFIG = StageConfig(log_every=1, save_every=3)


class State(NamedTuple):
    step: jax.Array
    params: dict[str, jax.Array]


class Killed(Exception):
    """Stands for the end of the process."""


def start() -> State:
    """Chaotic numbers: one wrong bit, or one step too many, and the end is another."""
    return State(
        jnp.zeros((), jnp.int32), {"x": jnp.linspace(0.1, 0.9, 5), "half": jnp.ones(2, jnp.bfloat16)}
    )


@jax.jit
def update(state: State):
    noise = jax.random.uniform(jax.random.fold_in(KEY, state.step), (5,), maxval=1e-3)
    x = 3.9 * state.params["x"] * (1 - state.params["x"]) * 0.99 + noise
    return State(state.step + 1, {**state.params, "x": x}), {"x": (jnp.sum(x), jnp.asarray(5.0))}


def evaluate(state: State):
    return {"held_out/x": (jnp.max(state.params["x"]), jnp.ones(()))}


def run(path: Path, steps: int, *, step=update, config: StageConfig = CONFIG, **options) -> State:
    """The loop in a folder of its own, as a stage calls it; always resuming."""
    with StageFolder.open(path, config, resume=True) as folder:
        return fit(step, start(), config, folder, steps=steps, shown=("x",), **options)


def dying(last: int):
    """`update` in a process that ends in step `last`."""

    def step(state: State):
        if int(state.step) + 1 == last:
            raise Killed
        return update(state)

    return step


def test_finish_says_what_is_written_and_may_end_the_run(tmp_path):
    def finish(numbers: dict[str, float]) -> dict[str, float]:
        if numbers["x"] < 0:
            raise UserError("x is negative")
        return {"x": numbers["x"], "twice": 2 * numbers["x"]}

    run(tmp_path / "toy", 2, finish=finish)
    for row in records(tmp_path / "toy"):
        assert row.keys() == {"step", "x", "twice"} and row["twice"] == pytest.approx(2 * row["x"])

    def negative(state: State):
        state, metrics = update(state)
        return state, {"x": (-metrics["x"][0], metrics["x"][1])}

    with pytest.raises(UserError, match="x is negative"):
        run(tmp_path / "bad", 9, step=negative, finish=finish)
    assert not (tmp_path / "bad" / "metrics.jsonl").exists() or not records(tmp_path / "bad")


def records(path: Path) -> list[dict]:
    """The lines of metrics, without their times."""
    return [
        {name: value for name, value in json.loads(line).items() if name != "time"}
        for line in (path / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """A run of 10 steps without interruption."""
    path = tmp_path_factory.mktemp("whole") / "toy"
    return path, run(path, 10, evaluation=Evaluation(evaluate, 4))


def test_every_step_is_done_and_written_once(whole):
    path, state = whole
    assert int(state.step) == 10
    rows = records(path)
    assert [row["step"] for row in rows if "x" in row] == list(range(1, 11))
    assert [row["step"] for row in rows if "held_out/x" in row] == [4, 8, 10]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)


def test_an_evaluation_may_end_the_run_and_ends_a_resumed_one_too(tmp_path: Path):
    """The last step is logged and saved though neither was due, and nothing is done after it."""
    calm = StageConfig(log_every=7, save_every=7)
    measured: list[int] = []

    def measure(state: State):
        measured.append(int(state.step))
        return evaluate(state)

    ending = Evaluation(measure, 2, first=True, halted=lambda step: step >= 4)
    state = run(tmp_path / "toy", 10, config=calm, evaluation=ending)
    assert int(state.step) == 4 and measured == [0, 2, 4]
    rows = records(tmp_path / "toy")
    assert [row["step"] for row in rows if "held_out/x" in row] == [0, 2, 4]
    assert [row["step"] for row in rows if "x" in row] == [4]
    again = run(tmp_path / "toy", 10, step=dying(5), config=calm, evaluation=ending)
    assert int(again.step) == 4 and measured == [0, 2, 4] and records(tmp_path / "toy") == rows


def test_a_first_evaluation_is_written_once_though_the_run_died_before_it_saved(tmp_path: Path):
    options = {"evaluation": Evaluation(evaluate, 5, first=True)}
    with pytest.raises(Killed):
        run(tmp_path / "toy", 4, step=dying(2), **options)
    run(tmp_path / "toy", 4, **options)
    rows = records(tmp_path / "toy")
    assert [row["step"] for row in rows if "held_out/x" in row] == [0, 4]


def test_metrics_stand_beside_their_own_step(whole):
    state = start()
    for row in (row for row in records(whole[0]) if "x" in row):
        state, metrics = update(state)
        assert int(state.step) == row["step"]
        assert row["x"] == pytest.approx(float(metrics["x"][0]) / 5.0)


@pytest.mark.parametrize("last", [1, 3, 4, 5, 7, 10])
def test_a_run_that_died_and_went_on_is_the_uninterrupted_one(whole, tmp_path: Path, last: int):
    path, state = whole
    options = {"evaluation": Evaluation(evaluate, 4)}
    with pytest.raises(Killed):
        run(tmp_path / "toy", 10, step=dying(last), **options)
    again = run(tmp_path / "toy", 10, **options)
    for want, got in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert want.dtype == got.dtype
        np.testing.assert_array_equal(np.asarray(want), np.asarray(got))
    assert records(tmp_path / "toy") == records(path)


def test_the_metrics_of_a_saved_step_are_on_disk_before_its_checkpoint(tmp_path: Path, monkeypatch):
    """Else a run that dies right after saving would never write them."""
    seen = []
    save = Checkpointer.save

    def note(self, step, state, **options):
        seen.append((step, records(tmp_path / "toy")[-1]["step"]))
        save(self, step, state, **options)

    monkeypatch.setattr(Checkpointer, "save", note)
    run(tmp_path / "toy", 7)
    assert seen == [(3, 3), (6, 6), (7, 7)]


def test_it_saves_at_intervals_and_at_the_end_and_keeps_the_last(whole):
    with Checkpointer(whole[0] / "checkpoints") as checkpointer:
        assert checkpointer.steps == [9, 10]


def test_the_best_step_of_a_metric_is_kept_and_goes_on_over_a_restart(whole, tmp_path: Path):
    config = dataclasses.replace(CONFIG, save_every=1, keep_best="min:held_out/x")
    options = {"evaluation": Evaluation(evaluate), "config": config}
    run(tmp_path / "toy", 5, **options)
    run(tmp_path / "toy", 10, **options)
    rows = [row for row in records(tmp_path / "toy") if "held_out/x" in row]
    best = min(rows, key=lambda row: row["held_out/x"])["step"]
    with Checkpointer(tmp_path / "toy" / "checkpoints") as checkpointer:
        assert checkpointer.steps == sorted({best, 9, 10})
        assert checkpointer.restore_best(start())[0] == best
    with pytest.raises(UserError, match=r"--keep-best max:y: there is no such metric; choose from x"):
        run(tmp_path / "other", 4, config=dataclasses.replace(CONFIG, keep_best="max:y"))


def test_a_finished_run_is_not_run_again(whole):
    path, state = whole

    def never(state: State):
        raise Killed

    again = run(path, 10, step=never)
    np.testing.assert_array_equal(again.params["x"], state.params["x"])


def test_only_every_so_many_steps_and_the_last_are_logged(tmp_path: Path):
    run(tmp_path / "toy", 7, config=dataclasses.replace(CONFIG, log_every=3))
    assert [row["step"] for row in records(tmp_path / "toy")] == [3, 6, 7]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_ends_with_its_status(whole, tmp_path: Path, capfd, number):
    _, state = whole

    def interrupted(state: State):
        if int(state.step) + 1 == 5:
            os.kill(os.getpid(), number)
        return update(state)

    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "toy", 10, step=interrupted)
    assert stop.value.code == INTERRUPTED == 75
    assert "step 5 and saved; add --resume" in capfd.readouterr().out
    assert [row["step"] for row in read_metrics(tmp_path / "toy" / "metrics.jsonl")] == [1, 2, 3, 4, 5]

    first = []

    def watched(state: State):
        first.append(int(state.step))
        return update(state)

    again = run(tmp_path / "toy", 10, step=watched)
    assert first[0] == 5
    np.testing.assert_array_equal(again.params["x"], state.params["x"])


def test_a_state_of_another_shape_is_refused(whole):
    def other() -> State:
        return State(jnp.zeros((), jnp.int32), {"x": jnp.zeros(6), "half": jnp.ones(2, jnp.bfloat16)})

    path, _ = whole
    with (
        StageFolder.open(path, CONFIG, resume=True) as folder,
        pytest.raises(UserError, match=r"params/x is float32\[5\], wanted float32\[6\]"),
    ):
        fit(update, other(), CONFIG, folder, steps=10, shown=("x",))


def test_metrics_are_read_one_step_late(tmp_path: Path):
    """The host starts step t before it waits for the numbers of t - 1."""
    events = []

    class Number:
        def __init__(self, step: int):
            self.step = step

        def __float__(self) -> float:
            events.append(("read", self.step))
            return 1.0

    def step(state: State):
        state = state._replace(step=state.step + 1)
        events.append(("start", int(state.step)))
        return state, {"x": Number(int(state.step))}

    run(tmp_path / "toy", 3, step=step, config=dataclasses.replace(CONFIG, save_every=100))
    assert events == [("start", 1), ("start", 2), ("read", 1), ("start", 3), ("read", 2), ("read", 3)]


def test_several_steps_in_one_call_are_recorded_one_by_one(whole, tmp_path: Path):
    @jax.jit
    def three(state: State):
        return jax.lax.scan(lambda state, _: update(state), state, None, length=3)

    options = {"step": three, "steps_per_call": 3}
    run(tmp_path / "toy", 6, **options)
    state = run(tmp_path / "toy", 9, **options)  # goes on from the checkpoint of step 6
    assert int(state.step) == 9
    wanted = [row for row in records(whole[0]) if "x" in row and row["step"] <= 9]
    got = records(tmp_path / "toy")
    assert [row["step"] for row in got] == [row["step"] for row in wanted]
    for row, want in zip(got, wanted, strict=True):
        assert row["x"] == pytest.approx(want["x"], rel=1e-5)


def test_members_have_curves_of_their_own_and_the_run_their_mean(tmp_path: Path):
    def stacked(scale: jax.Array) -> State:
        return start()._replace(params={**start().params, "x": scale * start().params["x"]})

    scales = jnp.array([1.0, 0.5])
    options = {"step": jax.jit(jax.vmap(update)), "members": 2}
    with StageFolder.open(tmp_path / "toy", CONFIG, resume=True) as folder:
        fit(options["step"], jax.vmap(stacked)(scales), CONFIG, folder, steps=4, shown=("x",), members=2)
    each = [records(tmp_path / "toy" / "members" / str(member)) for member in range(2)]
    for member, scale in enumerate(scales):
        state = stacked(scale)
        for row in each[member]:
            state, metrics = update(state)
            assert row["step"] == int(state.step)
            assert row["x"] == pytest.approx(float(metrics["x"][0]) / 5.0, rel=1e-4)
    assert each[0] != each[1]
    for row, one, other in zip(records(tmp_path / "toy"), *each, strict=True):
        assert row["x"] == pytest.approx((one["x"] + other["x"]) / 2, rel=1e-6)


def test_describe_counts_from_shapes_alone(capsys):
    state = jax.eval_shape(start)
    describe(
        "toy", {"head": {"kernel": jax.ShapeDtypeStruct((300, 4), jnp.float32)}}, update, {"state": state}
    )
    printed = capsys.readouterr().out
    assert "toy: 1,200 trainable parameters" in printed and "head: 1,200" in printed
    assert "params.x: float32[5]" in printed and "MiB" in printed
