"""What all sets of judgements share: N pictures, and rows that point to them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

PICTURES = "images_NxHxWxC"


class Rows:
    """Base of the frozen dataclasses whose fields have one value a row, apart from those named in WHOLE."""

    WHOLE: ClassVar[tuple[str, ...]] = (PICTURES, "skipped")

    def take(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The rows at `indices`, in that order; all pictures stay, so that picture numbers mean the same."""
        rows = np.asarray(indices, dtype=np.int64)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        taken = {name: _pick(value, rows) for name, value in fields.items() if name not in self.WHOLE}
        return dataclasses.replace(self, **taken)  # type: ignore[type-var]


def _pick(values: Any, rows: np.ndarray) -> Any:
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {name: _pick(column, rows) for name, column in values.items()}
    return values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]


def check_rows(count: int, noun: str, columns: Mapping[str, Any], taken: set[str]) -> None:
    """Raises ValueError unless each column (None: absent) has `count` values, none a name in `taken`."""
    for name, values in columns.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{count} {noun}s but {len(values)} values of {name}")
    clash = set(columns) & taken
    if clash:
        raise ValueError(f"extras may not be called {', '.join(sorted(clash))}")
