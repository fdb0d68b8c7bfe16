"""Metrics of a run: one JSON line a step, the same for TensorBoard, and captioned pictures."""

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.processes import is_first
from mmrlhf_jax.runtime.events import cut_events
from mmrlhf_jax.runtime.grid import caption_grid

if TYPE_CHECKING:
    import numpy as np
    from tensorboardX import SummaryWriter


def finalize(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain numbers: a (sum, weight) pair becomes sum / weight, NaN for weight 0.

    Sums and weights of microbatches and devices add up exactly, which means do not.
    """
    return {name: _number(value) for name, value in metrics.items()}


def _number(value: Any) -> float:
    if isinstance(value, tuple):
        total, weight = float(value[0]), float(value[1])
        return total / weight if weight else math.nan
    return float(value)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, oldest first; a last line that was cut off is left out.

    Raises `UserError` for a missing file and for a damaged line elsewhere.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is not there: the stage has written no metrics yet")
    # what follows the last newline is empty, or was cut off by a crash
    *lines, _cut_off = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path} line {number} is not JSON: delete that line") from None
    return records


class MetricsWriter:
    """Writes metrics.jsonl, tensorboard/ and samples/ under `folder`; a context manager.

    A record is {"step": 3, "time": 12.5, "loss": 2.31}: `time` in seconds since the run started, resumes
    included, NaN and infinity as null. Of several processes the first one writes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "metrics.jsonl"
        self._file: TextIO | None = None
        self._tensorboard: SummaryWriter | None = None
        self._offset = 0.0
        self._start = time.monotonic()
        if not is_first():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._rewrite(read_metrics(self.path))

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Append the metrics of `step`: numbers, array scalars, (sum, weight) pairs; the numbers written."""
        numbers = finalize(metrics)
        if not is_first():
            return numbers
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        seconds = round(self._offset + time.monotonic() - self._start, 3)
        if self._file is None:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        self._file.write(json.dumps({"step": int(step), "time": seconds, **finite}) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if value is not None:
                self._summary().add_scalar(name, value, step)
        return numbers

    def images(self, step: int, tag: str, image_NxHxWxC: "np.ndarray", captions: Sequence[str]) -> Path:
        """Draw N pictures with their captions into TensorBoard and samples/; the path of the PNG.

        Pictures are uint8, or floating point in [0, 1], with 1, 3 or 4 channels.
        """
        import numpy as np

        path = self.folder / "samples" / f"{re.sub(r'[^0-9A-Za-z-]+', '_', tag)}_{step:06d}.png"
        if not is_first():
            return path
        grid = caption_grid(image_NxHxWxC, captions)
        path.parent.mkdir(exist_ok=True)
        grid.save(path)
        self._summary().add_image(tag, np.asarray(grid), step, dataformats="HWC")
        return path

    def truncate(self, step: int) -> None:
        """Forget everything after `step`: call it after a restore, so that no step is recorded twice.

        Lines, TensorBoard's events and pictures of later steps are removed.
        """
        self.close()
        if not is_first():
            return
        cut_events(self.folder / "tensorboard", step)
        for path in (self.folder / "samples").glob("*.png"):
            number = path.stem.rpartition("_")[2]
            if number.isdigit() and int(number) > step:
                path.unlink()
        if self.path.exists():
            self._rewrite([record for record in read_metrics(self.path) if record["step"] <= step])

    def close(self) -> None:
        """Flush and close the files."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _summary(self) -> "SummaryWriter":
        if self._tensorboard is None:
            from tensorboardX import SummaryWriter

            # a file is named after the second, in which a run that is resumed may begin twice
            suffix = f".{os.getpid()}.{time.monotonic_ns()}"
            self._tensorboard = SummaryWriter(str(self.folder / "tensorboard"), filename_suffix=suffix)
        return self._tensorboard

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        """Put `records` in the place of the file, and count time on from the last one."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        if text != self.path.read_text(encoding="utf-8", errors="replace"):
            temporary = self.path.with_name(".metrics.jsonl.tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path)
        self._offset = records[-1]["time"] if records else 0.0
        self._start = time.monotonic()
