import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.metrics import MetricsWriter, finalize, read_metrics


def events(folder):
    """All TensorBoard events of a folder, read from the record format: length, crc, bytes, crc."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def scalars(folder):
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


def test_finalize_divides_pairs_and_leaves_numbers():
    numbers = finalize(
        {"loss": (jnp.float32(6.0), jnp.int32(4)), "lr": 0.25, "norm": np.float64(2), "empty": (0.0, 0.0)}
    )
    assert (numbers["loss"], numbers["lr"], numbers["norm"]) == (1.5, 0.25, 2.0)
    assert math.isnan(numbers["empty"])
    assert all(type(value) is float for value in numbers.values())


def test_records_are_on_disk_at_once(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        returned = writer.write(1, {"loss": (jnp.float32(3.0), 2), "bad": float("nan"), "worse": -math.inf})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        record = json.loads(lines[0], parse_constant=pytest.fail)  # no NaN, which JSON does not know
        assert record.pop("time") >= 0
        assert record == {"step": 1, "loss": 1.5, "bad": None, "worse": None}
        assert returned["loss"] == 1.5 and math.isnan(returned["bad"])
        writer.write(2, {"loss": 1.0})
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert scalars(tmp_path) == [(1, "loss", 1.5), (2, "loss", 1.0)]


def test_truncate_forgets_later_steps_and_goes_on(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": float(step)})
    times = [record["time"] for record in read_metrics(writer.path)]
    with writer.path.open("a") as file:
        file.write('{"step": 40, "lo')  # the write that a crash cut off
    assert len(read_metrics(writer.path)) == 3
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(20)
        writer.write(30, {"loss": -1.0})
    records = read_metrics(writer.path)
    assert [(record["step"], record["loss"]) for record in records] == [(10, 10.0), (20, 20.0), (30, -1.0)]
    assert records[-1]["time"] >= times[1]  # time goes on from the last step kept
    written = [(event.step, event.summary.value[0].simple_value) for event in events(tmp_path) if event.step]
    assert sorted(written) == [(10, 10.0), (20, 20.0), (30, -1.0)]


def test_truncate_cuts_events_and_pictures_of_several_starts(tmp_path):
    for first in (1, 4):
        with MetricsWriter(tmp_path) as writer:
            for step in range(first, first + 3):
                writer.write(step, {"loss": step})
            writer.images(first + 2, "held out", np.zeros((1, 8, 8, 3), np.uint8), ["a"])
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert len(files) == 2
    files[1].write_bytes(files[1].read_bytes()[:-3])  # the write that a crash cut off
    (tmp_path / "samples" / "mine.png").write_bytes(b"")
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(4)
    assert [event.step for event in events(tmp_path) if event.step] == [1, 2, 3, 3, 4]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "held_out_000003.png",
        "mine.png",
    ]
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(3)  # a file without any step left goes
    assert sorted((tmp_path / "tensorboard").iterdir()) == files[:1]


def test_a_cut_last_line_does_not_spoil_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 5.0, "loss": 2.0}\n{"step": 2, "ti')
    with MetricsWriter(tmp_path) as writer:
        writer.write(2, {"loss": 1.0})
    records = read_metrics(writer.path)
    assert [record["step"] for record in records] == [1, 2]
    assert records[1]["time"] >= 5.0


def test_truncate_to_nothing(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(0)
        writer.write(1, {"loss": 1.0})
        writer.truncate(0)
    assert read_metrics(writer.path) == []


def test_damage_elsewhere_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(UserError, match="is not there"):
        read_metrics(path)
    path.write_text('{"step": 1}\nxx\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_metrics(path)


def test_pictures_go_to_samples_and_tensorboard(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        path = writer.images(7, "samples/held-out", np.zeros((2, 8, 8, 3), np.float32), ["a", "b"])
    assert path == tmp_path / "samples" / "samples_held-out_000007.png"
    with Image.open(path) as picture:
        size = picture.size
    assert size[0] == 280 and 160 < size[1] < 240
    [value] = [value for event in events(tmp_path) for value in event.summary.value]
    assert value.tag == "samples/held-out"
    assert (value.image.width, value.image.height) == size
