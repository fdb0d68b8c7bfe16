import logging
import os
import shutil
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.checkpoint import Checkpointer


def simple(value):
    return {"params": {"w": jnp.full((3, 4), value, jnp.float32)}, "step": jnp.int32(value)}


def everything():
    """A model's parameters, optimizer state, and the dtypes and odd values that a state may hold."""
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    _, params = nnx.split(model, nnx.Param)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    bits = np.random.default_rng(0).integers(0, 2**32, 64, dtype=np.uint32)  # NaN payloads and denormals too
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "bits": jnp.asarray(bits).view(jnp.float32),
        "bf16": jnp.arange(5, dtype=jnp.bfloat16),
        "flags": (jnp.array([True, False]), None),
        "empty": jnp.zeros((0, 3)),
        "host": np.arange(4, dtype=np.int64),
    }


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def abstract(state):
    return jax.eval_shape(lambda: state)


@pytest.fixture
def saved(tmp_path):
    """A folder with steps 1, 2 and 3."""
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, simple(step))
    return tmp_path


def restore(folder, target=None):
    with Checkpointer(folder) as checkpointer:
        return checkpointer.restore(abstract(simple(0)) if target is None else target)


def assert_falls_back(folder, caplog, expected, *words):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="mmrlhf_jax"):
        step, state = restore(folder)
    assert step == expected
    assert_same_bits(state, simple(expected))
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("mmrlhf_jax")]
    assert len(warnings) == 3 - expected
    for word in words:
        assert word in warnings[0]


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_every_bit_comes_back(tmp_path):
    state = everything()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(7, state)
    step, restored = restore(tmp_path, state)
    assert step == 7
    assert_same_bits(restored, state)
    assert isinstance(restored["host"], np.ndarray)
    assert isinstance(restored["bits"], jax.Array)
    assert isinstance(restored["params"], nnx.State)


def test_nothing_saved(tmp_path):
    assert restore(tmp_path / "new") is None


def test_the_abstract_state_may_be_shapes_alone(saved):
    step, state = restore(saved)
    assert step == 3
    assert_same_bits(state, simple(3))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


def test_the_newest_are_kept(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (10, 20, 100):
            checkpointer.save(step, simple(step))
        checkpointer.wait()
        assert checkpointer.steps == [20, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "100.manifest", "20", "20.manifest"]


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    state = {"w": jnp.arange(500_000, dtype=jnp.float32), "host": np.arange(500_000)}
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
        overwrite(state["w"]).block_until_ready()
        state["host"][:] = -1
    _, restored = restore(tmp_path, expected)
    assert_same_bits(restored, expected)


def test_the_best_step_is_kept_beside_the_newest(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: None, 4: float("nan"), 5: 0.3}
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        for step, score in scores.items():
            checkpointer.save(step, simple(step), score=score)
    with Checkpointer(tmp_path, keep=1) as checkpointer:  # the score outlives the process
        assert checkpointer.steps == [2, 5]
        checkpointer.save(6, simple(6), score=0.8)
        checkpointer.wait()
        assert checkpointer.steps == [2, 6]
        assert checkpointer.restore(simple(0))[0] == 6
        step, state = checkpointer.restore_best(abstract(simple(0)))
        assert step == 2
        assert_same_bits(state, simple(2))
        checkpointer.save(7, simple(7), score=0.9)  # of equals the newer one
        checkpointer.wait()
        assert checkpointer.steps == [7]


def test_a_damaged_best_step_gives_way_to_the_next(saved, caplog):
    with Checkpointer(saved, keep=3) as checkpointer:
        assert checkpointer.restore_best(simple(0)) is None  # none has a score
        for step, score in ((4, 0.9), (5, 0.5)):
            checkpointer.save(step, simple(step), score=score)
        checkpointer.wait()
        next(path for path in (saved / "4").rglob("*") if path.is_file()).write_bytes(b"x")
        with caplog.at_level(logging.WARNING, logger="mmrlhf_jax"):
            step, state = checkpointer.restore_best(simple(0))
    assert step == 5 and f"{saved}/4 is damaged" in caplog.text
    assert_same_bits(state, simple(5))


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    now = time.time()
    with Checkpointer(tmp_path) as checkpointer:
        for step, moved in enumerate((0, 1e8, -1e9, -2e9), start=1):
            monkeypatch.setattr(time, "time", lambda moved=moved: now + moved)
            checkpointer.save(step, simple(step))
            checkpointer.wait()
        assert checkpointer.steps == [3, 4]
    monkeypatch.undo()
    assert restore(tmp_path)[0] == 4


def test_a_save_that_times_out_is_told_and_the_step_before_stays(saved, monkeypatch):
    """As happens where the clock jumps in the middle of it: Orbax asks the clock, not how long it took."""

    def late():
        raise TimeoutError("Timed out after 600.0 seconds.")

    with Checkpointer(saved) as checkpointer:
        monkeypatch.setattr(checkpointer._manager, "wait_until_finished", late)
        with pytest.raises(
            UserError, match=r"step 4 could not be saved in .*the clock jumped, then --resume"
        ):
            checkpointer.save(4, simple(4))
            checkpointer.wait()
        monkeypatch.undo()
    assert restore(saved)[0] == 3


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 KiB, and how to mount it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0

    if os.geteuid() != 0 or not mount("size=400k"):
        pytest.skip("only root may mount a small disk")
    yield folder, mount
    subprocess.run(["umount", str(folder)], check=True, timeout=30)


def test_a_full_or_read_only_disk_is_told_and_the_step_before_stays(small_disk):
    disk, mount = small_disk
    # one array: of several, those still being written when the first fails complain to nobody, later
    noise = np.random.default_rng(0).integers(0, 255, 600_000, dtype=np.uint8)
    with Checkpointer(disk / "c") as checkpointer:
        checkpointer.save(1, simple(1))
        checkpointer.wait()
        with pytest.raises(
            UserError, match=r"step 2 could not be saved in .*No space left on device.*--resume"
        ):
            checkpointer.save(2, {"noise": noise})
            checkpointer.wait()
    assert restore(disk / "c")[0] == 1
    with Checkpointer(disk / "c") as checkpointer:  # what did not fit makes way for what does
        checkpointer.save(2, simple(2))
    assert restore(disk / "c")[0] == 2
    assert mount("remount,ro")
    with (
        pytest.raises(UserError, match=r"could not be saved in .*Read-only file system"),
        Checkpointer(disk / "c") as checkpointer,
    ):
        checkpointer.save(3, simple(3))
        checkpointer.wait()
    # threads of Orbax that wait for the folder would hold up the end of the process for minutes
    deadline = time.monotonic() + 20
    while waiting := [t.name for t in threading.enumerate() if type(t).__name__ == "_SignalingThread"]:
        assert time.monotonic() < deadline, waiting
        time.sleep(0.1)


def test_steps_must_rise(saved):
    with Checkpointer(saved) as checkpointer:
        for step in (2, 3):
            with pytest.raises(UserError, match=f"cannot save step {step}: .* already holds step 3"):
                checkpointer.save(step, simple(0))
        checkpointer.save(4, simple(4))
    assert restore(saved)[0] == 4


def test_a_refusal_by_orbax_is_told(saved, monkeypatch):
    with Checkpointer(saved) as checkpointer:
        monkeypatch.setattr(checkpointer._manager, "save", lambda *args, **kwargs: False)
        with pytest.raises(UserError, match="declined to save step 4"):
            checkpointer.save(4, simple(4))


def test_a_failure_in_the_background_is_raised_by_the_next_call(tmp_path, monkeypatch):
    with Checkpointer(tmp_path) as checkpointer:

        def full_disk(*args):
            raise OSError("No space left on device")

        monkeypatch.setattr(checkpointer, "_write_manifest", full_disk)
        checkpointer.save(1, simple(1))
        with pytest.raises(UserError, match=r"step 1 could not be saved in .*No space left on device"):
            checkpointer.wait()
        monkeypatch.setattr(checkpointer, "_write_manifest", lambda *args: 1 / 0)
        checkpointer.save(2, simple(2))
        with pytest.raises(ZeroDivisionError):  # a bug stays one
            checkpointer.wait()


def test_a_flipped_bit_in_any_file_is_found(saved, caplog):
    paths = [path for path in [*(saved / "3").rglob("*"), saved / "3.manifest"] if path.is_file()]
    assert len(paths) > 5
    for path in paths:
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1} if content else ():
            broken = bytearray(content)
            broken[position] ^= 1
            path.write_bytes(broken)
            assert_falls_back(saved, caplog, 2, f"{saved}/3 is damaged", path.name)
        path.write_bytes(content)
    assert restore(saved)[0] == 3


def test_a_truncated_or_missing_file_is_found(saved, caplog):
    path = max(
        (path for path in (saved / "3").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert_falls_back(saved, caplog, 2, path.name, "not as it was written")
    path.unlink()
    assert_falls_back(saved, caplog, 2, path.name, "is missing")


def test_a_step_without_manifest_is_not_trusted(saved, caplog):
    (saved / "3.manifest").unlink()
    (saved / "2.manifest").write_text("")
    assert_falls_back(saved, caplog, 1, "3.manifest is missing")


def test_a_killed_save_leaves_the_step_before(saved, caplog):
    # what a kill leaves: Orbax's temporary folder, or the step's folder with nothing in it
    shutil.copytree(saved / "3", saved / "4.orbax-checkpoint-tmp")
    (saved / "5").mkdir()
    before = files(saved)
    with caplog.at_level(logging.WARNING, logger="mmrlhf_jax"):
        assert restore(saved)[0] == 3
    assert f"{saved}/5 is damaged" in caplog.text
    assert files(saved) == before  # restoring deletes nothing


def test_no_good_step_is_an_error_and_deletes_nothing(saved):
    for step in (1, 2, 3):
        (saved / f"{step}.manifest").unlink()
    before = files(saved)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(steps 1, 2, 3\)"):
        restore(saved)
    assert files(saved) == before


def test_a_run_that_fell_back_saves_over_the_damaged_step(saved, caplog):
    (saved / "3.manifest").unlink()
    with Checkpointer(saved, keep=2) as checkpointer:
        assert checkpointer.restore(abstract(simple(0)))[0] == 2
        checkpointer.save(3, simple(33))
        checkpointer.wait()
        assert checkpointer.steps == [2, 3]
        assert (saved / "damaged_3_0" / "default").is_dir()  # set aside for a look
        step, state = checkpointer.restore(abstract(simple(0)))
    assert step == 3
    assert_same_bits(state, simple(33))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state["params"].update(w=jnp.zeros((3, 4), jnp.bfloat16)),
            r"params/w is float32\[3, 4\], wanted bfloat16\[3, 4\]",
        ),
        (
            lambda state: state["params"].update(w=jnp.zeros((4, 3))),
            r"params/w is float32\[3, 4\], wanted float32\[4, 3\]",
        ),
        (lambda state: state["params"].pop("w"), r"params/w is float32\[3, 4\], wanted absent"),
        (
            lambda state: state["params"].update(bias=jnp.zeros(4)),
            r"params/bias is absent, wanted float32\[4\]",
        ),
    ],
)
def test_another_model_is_refused_by_leaf(saved, change, message):
    target = simple(0)
    change(target)
    with pytest.raises(UserError, match=message):
        restore(saved, abstract(target))


def test_a_state_may_come_back_onto_other_devices(tmp_path):
    if jax.device_count() < 2:
        pytest.skip("one device only")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    state = {"w": jax.device_put(jnp.arange(8.0), split)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
    _, alone = restore(tmp_path, abstract({"w": jnp.zeros(8)}))
    assert_same_bits(alone, {"w": jnp.arange(8.0)})
    assert len(alone["w"].devices()) == 1
    _, again = restore(tmp_path, state)
    assert again["w"].sharding == split


def test_bfloat16_on_the_host(tmp_path):
    state = {"w": np.arange(6).astype(ml_dtypes.bfloat16)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
    assert_same_bits(restore(tmp_path, state)[1], state)
