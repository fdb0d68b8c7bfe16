"""TensorBoard's event files, cut back to a step.

A file is a sequence of records: length (8 bytes), its checksum (4), the event, its checksum (4).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from mmrlhf_jax.files import write_bytes

_AROUND = 16  # bytes of a record that are not its event


def cut_events(folder: Path, step: int) -> None:
    """Leaves out of the event files in `folder` what is later than `step`, and a last record that was cut.

    A file of which nothing is left but its header goes.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        records = list(_records(data))
        kept = [(record, number) for record, number in records if number <= step]
        if not any(number > 0 for _, number in kept):
            path.unlink()
        elif sum(len(record) for record, _ in kept) < len(data):
            write_bytes(path, b"".join(record for record, _ in kept))


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(the whole record, its event's step), as far as records are whole."""
    from tensorboardX.proto.event_pb2 import Event

    position = 0
    while position + _AROUND <= len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        end = position + _AROUND + length
        if end > len(data):
            return
        yield data[position:end], Event.FromString(data[position + 12 : end - 4]).step
        position = end
