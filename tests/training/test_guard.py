"""The guard: what is not finite is not applied and ends the run in time; spikes are counted, and go on."""

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
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.training.guard import LEAST, WINDOW, Guarded, begin, first_term, guarded
from mmrlhf_jax.training.loop import Rescue, fit

NAN, INF = float("nan"), float("inf")
CONFIG = StageConfig(log_every=1, save_every=3, stop_after_skipped=3)


class State(NamedTuple):
    step: jax.Array
    x: jax.Array  # moves in every update


def plain_step(state: State, script_SxM: jax.Array):
    """An update whose metrics stand in a script: loss, reward, and whether a gradient was skipped."""
    loss, reward, skips = script_SxM[state.step]
    one = jnp.ones(())
    metrics = {
        "loss": (2 * loss, 2 * one),
        "objective/scores": (reward, one),
        "rewards/text/mean": (reward, one),
        "skipped_steps": (skips, one),
    }
    return State(state.step + 1, state.x * 1.5 + loss), metrics


update = jax.jit(guarded(plain_step, ("loss",)))


def script(*losses: float, reward: float = 1.0) -> jax.Array:
    return jnp.array([[loss, reward, 0.0] for loss in losses], jnp.float32)


def start() -> Guarded:
    return begin(State(jnp.zeros((), jnp.int32), jnp.ones(2)), ("loss",))


def play(rows: jax.Array, state: Guarded | None = None):
    """The states after each update, the first one in front, and their metrics."""
    states, metrics = [start() if state is None else state], []
    for _ in range(len(rows) - int(states[0].state.step)):
        state, row = update(states[-1], rows)
        states.append(state)
        metrics.append({name: float(total) / float(weight) for name, (total, weight) in row.items()})
    return states, metrics


@pytest.mark.parametrize("bad", [[NAN, 1, 0], [INF, 1, 0], [-INF, 1, 0], [2, NAN, 0], [2, INF, 0], [2, 1, 1]])
def test_loss_reward_or_gradient_that_is_not_finite_changes_nothing_but_the_step(bad):
    rows = jnp.array([[1, 1, 0], bad, [3, 1, 0]], jnp.float32)
    states, metrics = play(rows)
    np.testing.assert_array_equal(states[2].state.x, states[1].state.x)
    assert int(states[2].state.step) == 2
    np.testing.assert_array_equal(states[3].state.x, np.float32([1, 1]) * 1.5 * 1.5 + 1.0 * 1.5 + 3)
    assert [row["updates/skipped"] for row in metrics] == [0, 1, 1]
    assert [row["updates/in_a_row"] for row in metrics] == [0, 1, 0]
    assert np.isfinite(np.asarray(states[3].guard.losses_LxW)).all()


def test_skipped_updates_in_a_row_are_told_from_those_of_all_times():
    _, metrics = play(script(1, NAN, NAN, 1, NAN, 1))
    assert [row["updates/in_a_row"] for row in metrics] == [0, 1, 2, 0, 1, 0]
    assert [row["updates/skipped"] for row in metrics] == [0, 1, 2, 2, 3, 3]


def reference_spikes(losses: np.ndarray) -> list[int]:
    """Spikes so far, with numpy over the last WINDOW losses."""
    found, counts = 0, []
    for i, loss in enumerate(losses):
        before = losses[max(0, i - WINDOW) : i]
        if len(before) >= LEAST and loss > before.mean() + 6 * max(before.std(), 1e-3 * abs(before.mean())):
            found += 1
        counts.append(found)
    return counts


def test_spikes_are_those_of_numpy_over_the_last_losses():
    losses = np.random.default_rng(0).normal(2.0, 0.1, 3 * WINDOW)
    losses[[5, 100, 101, 150]] = 2.9, 4.0, 2.6, -5.0  # too early, a spike, none beside that one, low
    states, metrics = play(script(*losses))
    counts = [row["updates/spikes"] for row in metrics]
    assert counts == reference_spikes(losses)
    assert (counts[99], counts[100], counts[-1]) == (0.0, 1.0, 1.0)
    np.testing.assert_allclose(states[3].state.x, states[2].state.x * 1.5 + losses[2], rtol=1e-6)


def test_the_window_is_part_of_the_state():
    losses = np.random.default_rng(1).normal(2.0, 0.1, 40)
    losses[30] = 4.0
    rows = script(*losses)
    states, _ = play(rows)
    copied = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), states[20])
    again, _ = play(rows, copied)
    jax.tree.map(np.testing.assert_array_equal, again[-1], states[-1])
    assert int(states[-1].guard.spikes) == 1


def test_members_are_guarded_one_by_one():
    rows = jnp.stack([script(1, NAN, 2), script(1, 2, 2)])
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start())
    together = jax.jit(jax.vmap(guarded(plain_step, ("loss",))))
    for _ in range(3):
        both, metrics = together(both, rows)
    assert metrics["updates/skipped"][0].tolist() == [1.0, 0.0]
    for member in range(2):
        alone, _ = play(rows[member])
        np.testing.assert_array_equal(both.state.x[member], alone[-1].state.x)


@pytest.mark.parametrize(
    ("odd", "wanted"),
    [
        (("loss", "rewards/a/weighted", "rewards/text/mean", "objective/scores"), "rewards/text/mean"),
        (("val/ratio", "loss/policy_avg", "objective/kl"), "objective/kl"),
        (("val/ratio", "clip/loss"), "clip/loss"),
        ((), "gradient"),
    ],
)
def test_the_first_term_is_the_first_that_was_computed(odd, wanted):
    names = ("clip/loss", "loss", "loss/policy_avg", "objective/kl", "objective/scores", "rewards/a/weighted")
    every = (*names, "rewards/text/mean", "val/ratio", "empty")
    metrics = {name: (jnp.asarray(NAN if name in odd else 1.0), jnp.ones(())) for name in every}
    metrics["empty"] = (jnp.zeros(()), jnp.zeros(()))  # no mean, but nothing wrong
    assert first_term(metrics) == wanted


def run(path: Path, rows: jax.Array, config: StageConfig = CONFIG) -> Guarded:
    def batch(state: Guarded, step: int):
        return {"script": rows[step], "nested": {"x": state.state.x}}

    with StageFolder.open(path, config, resume=True) as folder:
        return fit(
            lambda state: update(state, rows),
            start(),
            config,
            folder,
            steps=len(rows),
            shown=("loss",),
            rescue=Rescue(batch, lambda: {"text": "ValueError: no"}),
        )


@pytest.mark.parametrize("first", [5, 6, 7])  # before, at and after a step that is saved
def test_too_many_in_a_row_end_the_run_on_the_last_good_state_and_keep_the_batch(tmp_path, first):
    rows = script(*range(1, 13)).at[first - 1 :, 1].set(NAN)
    with pytest.raises(UserError) as error:
        run(tmp_path / "toy", rows)
    told = str(error.value)
    assert f"3 updates in a row, from step {first} on, were not applied: rewards/text/mean" in told
    assert "(ValueError: no)" in told and len(told.splitlines()) == 2
    good, _ = play(rows[: first - 1])
    with np.load(tmp_path / "toy" / "failed" / f"step_{first:06d}.npz", allow_pickle=False) as batch:
        assert sorted(batch) == ["nested.x", "script"]
        np.testing.assert_array_equal(batch["script"], rows[first - 1])
        np.testing.assert_array_equal(batch["nested.x"], good[-1].state.x)
    with Checkpointer(tmp_path / "toy" / "checkpoints") as checkpointer:
        step, state = checkpointer.restore(start())
    assert f"saved as step {step}:" in told and first + 2 <= step <= first + 3
    np.testing.assert_array_equal(state.state.x, good[-1].state.x)
    written = read_metrics(tmp_path / "toy" / "metrics.jsonl")
    assert written[first - 1]["objective/scores"] is None
    assert written[first + 1]["updates/in_a_row"] == 3.0

    mended = rows.at[:, 1].set(1.0)  # going on with what is good now: as if those batches were not there
    again = run(tmp_path / "toy", mended)
    want, _ = play(mended, good[-1]._replace(state=good[-1].state._replace(step=jnp.int32(step))))
    np.testing.assert_array_equal(again.state.x, want[-1].state.x)


def test_fewer_in_a_row_do_not_end_it_and_a_resumed_run_has_as_many_attempts(tmp_path):
    rows = script(1, NAN, NAN, 2, NAN, NAN, 3)
    assert int(run(tmp_path / "toy", rows).guard.skipped) == 4
    endless = script(1, 2, *[NAN] * 20)
    for attempt in (1, 2):
        with pytest.raises(UserError, match=r"3 updates in a row.*loss was the first"):
            run(tmp_path / "endless", endless)
        with Checkpointer(tmp_path / "endless" / "checkpoints") as checkpointer:
            step, state = checkpointer.restore(start())
        assert int(state.guard.skipped) >= 3 * attempt and int(state.guard.in_a_row) == 0
        assert step <= 2 + 4 * attempt
