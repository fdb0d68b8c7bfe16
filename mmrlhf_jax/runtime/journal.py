"""Records of a run by step, one JSON object a line, that a resumed run goes on with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrlhf_jax.files import write_text
from mmrlhf_jax.processes import by_first, of_first
from mmrlhf_jax.runtime.metrics import read_metrics


class Journal:
    """The records in the file `path`, oldest first; each has a "step". Numbers come back bit for bit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, last: int) -> list[dict[str, Any]]:
        """The records up to step `last`. Raises `UserError` for a damaged line that is not the last."""
        return of_first(lambda: self._read(last))

    def _read(self, last: int) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [record for record in read_metrics(self.path) if record["step"] <= last]

    @by_first
    def add(self, step: int, record: Mapping[str, Any]) -> None:
        """Puts the record of `step` behind those of earlier steps, and forgets what was noted from it on."""
        records = [*self._read(step - 1), {"step": step, **record}]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(each) + "\n" for each in records))
