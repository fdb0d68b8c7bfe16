"""What every reader of a public set is given, and what the sets have in common."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mmrlhf_jax.data.pictures import Pictures, need_columns
from mmrlhf_jax.data.preferences import RESERVED, Pair, PreferenceSet, join_pairs
from mmrlhf_jax.data.ratings import Levels, RatedAnswer, RatingSet, join_ratings
from mmrlhf_jax.data.records import FORMATS, NoJudgement, Row, read_rows
from mmrlhf_jax.errors import UserError

RecordT = TypeVar("RecordT")


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of a set, and the pictures met in them so far."""

    files: list[Path]
    pictures: Pictures
    on_bad: str

    def read(
        self, parse: Callable[[Row, str, Pictures], RecordT], columns: Collection[str], noun: str
    ) -> tuple[list[RecordT], list[str]]:
        """What `parse` makes of each usable record, and a message for each that was left out.

        Args:
          parse: is given a row that has all `columns`, where it stands, and the pictures.
        """

        def parse_row(row: Row, where: str) -> RecordT:
            need_columns(row, columns, where)
            return parse(row, where, self.pictures)

        return read_rows(
            self.files,
            parse_row,
            noun=noun,
            on_bad=self.on_bad,
            check=lambda names, where: need_columns(names, columns, where),
            endings=tuple(FORMATS),
        )

    def pairs(
        self, parse: Callable[[Row, str, Pictures], list[Pair]], columns: Collection[str]
    ) -> PreferenceSet:
        """A set of comparisons; each record gives one or several."""
        records, skipped = self.read(parse, columns, "preference pair")
        return join_pairs([pair for pairs in records for pair in pairs], self.pictures, skipped)

    def ratings(
        self,
        parse: Callable[[Row, str, Pictures], list[RatedAnswer]],
        columns: Collection[str],
        levels: Levels,
    ) -> RatingSet:
        """A set of ratings; each record gives one or several."""
        records, skipped = self.read(parse, columns, "rated answer")
        answers = [answer for answers in records for answer in answers]
        return join_ratings(answers, levels, self.pictures, skipped)


def rest(row: Row, used: Collection[str]) -> Row:
    """The further columns of a record, to be carried along; not those with a name that ours have."""
    return {name: value for name, value in row.items() if name not in {*used, *RESERVED}}


def first_of(row: Row, columns: Collection[str]) -> tuple[Any, str]:
    """The value of the first of `columns` that holds something, and its name; else None and the first."""
    present = [(row[name], name) for name in columns if row.get(name) not in (None, "", b"", [])]
    return present[0] if present else (None, next(iter(columns)))


def parse_list(value: Any, where: str, *, length: int | None = None) -> list[Any]:
    """A list; also one that a table holds as JSON.

    Raises:
      UserError: anything else, or (if given) another length.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):  # told below
            value = json.loads(value)
    if not isinstance(value, list) or not value or length not in (None, len(value)):
        wanted = "a list" if length is None else f"a list of {length}"
        raise UserError(f"{where}: {wanted} is needed, not {repr(value)[:60]}")
    return value


def parse_number(value: Any, where: str) -> float:
    """A finite number; also one that the file holds as text. Raises UserError for anything else."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if abs(number) == float("inf") or number != number:
        raise UserError(f"{where}: {repr(value)[:60]} is no number")
    return number


def fair_coin(*parts: Any) -> bool:
    """A coin that falls the same way for the same record, and either way for half of them."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()[0] % 2 == 0


def pair_pictures(
    sides: tuple[int, int], ranks: tuple[float, float], prompt: str, where: str, extras: Row
) -> Pair:
    """The comparison of two pictures that answer the same prompt.

    Args:
      sides: their numbers, in an order that does not tell who won.
      ranks: of each; the smaller is the better one. Equal ones are a tie, whose chosen side is drawn.

    Raises:
      NoJudgement: both are the same picture.
    """
    if sides[0] == sides[1]:
        raise NoJudgement(f"{where}: both sides are the same picture")
    tie = ranks[0] == ranks[1]
    first = fair_coin(prompt, *sides) if tie else ranks[0] < ranks[1]
    chosen, rejected = sides if first else sides[::-1]
    return Pair(chosen, prompt, "", "", extras | {"chosen_first": first}, rejected, tie or None)


def combinations(count: int) -> Iterator[tuple[int, int]]:
    """All (i, j) with i < j < count."""
    return ((i, j) for i in range(count) for j in range(i + 1, count))
