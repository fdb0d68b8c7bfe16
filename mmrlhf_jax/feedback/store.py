"""The store of judgements: one SQLite file that loses nothing and changes no judgement.

Write-ahead log and `synchronous=FULL`: what a transaction committed is on the disk. Judgements are only ever
added, which triggers of the database enforce; an undo is a row that points to the one it undoes. Every row
has an idempotency key, so that a repeated request adds nothing. The file is readable by its owner alone: it
holds the secret that links are made of.
"""

import contextlib
import dataclasses
import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.schema import MIGRATIONS
from mmrlhf_jax.feedback.tasks import Item, check_answer

BUSY_SECONDS = 30.0  # how long a write waits for another process's
CHECKPOINT_PAGES = 8000  # of the log, 32 MB; copying it into the file holds up whoever writes then
CACHE_KIB = 32_000


class Conflict(UserError):
    """A judgement or an undo that contradicts what the store holds; nothing was written."""


class Rater(NamedTuple):
    """A rater: all that is kept of a person is a name of their choice."""

    id: int
    name: str


class Lease(NamedTuple):
    """An item in one rater's hands.

    Attributes:
      item: id of the item.
      rater: id of the rater.
      shown: the numbers of the item's answers in the order in which this rater sees them.
      strategy: how the item was chosen, see `assign`; "check" for an attention check.
      until: when others may get it, seconds since 1970.
    """

    item: int
    rater: int
    shown: tuple[int, ...]
    strategy: str
    until: float


class Judged(NamedTuple):
    """One judgement as it was stored.

    Attributes:
      id: number of the row; later ones are higher.
      key: idempotency key.
      rater: id of the rater.
      item: id of the item.
      answer: see `tasks`.
      shown: the order of the item's answers on the page, from the lease.
      strategy: how the item was chosen, from the lease.
      seconds: what the rater spent on it, as the page measured.
      time: when it was stored, seconds since 1970.
    """

    id: int
    key: str
    rater: int
    item: int
    answer: dict[str, Any]
    shown: tuple[int, ...]
    strategy: str
    seconds: float
    time: float


class Store:
    """The open file. Methods may be called from any thread; those that write are transactions of their own
    unless one is open. `name` tells the store from every other, its own copies excepted.

    Raises:
      UserError: the file is no store, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            self._db = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
                self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                self._migrate()
                self.name: str = self._rows("SELECT value FROM secrets WHERE name = 'store'")[0][0].hex()
                on_failure.pop_all()
        except (sqlite3.DatabaseError, OSError) as error:
            raise UserError(
                f"{self.path} cannot be opened as a store of judgements ({error}); give another --store"
            ) from error

    def _migrate(self) -> None:
        """Brings an older file to the newest schema, all steps or none."""
        with self.transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise UserError(
                    f"{self.path} has schema {version}, newer than {len(MIGRATIONS)}: update the package"
                )
            if version == 0 and self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise UserError(f"{self.path} is a database of something else; give another --store")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            if version == 0:
                self._db.execute("INSERT INTO secrets VALUES ('links', ?)", (secrets.token_bytes(32),))

    @contextlib.contextmanager
    def reader(self) -> Iterator["Store"]:
        """The same file on a connection of its own, which can only read: long reading holds up no writing."""
        other = object.__new__(Store)
        other.path, other.name, other._lock, other._depth = self.path, self.name, threading.RLock(), 0
        other._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            other._db.execute("PRAGMA query_only = ON")
            yield other
        finally:
            other._db.close()

    def close(self) -> None:
        """Closes the file; what was committed needs no closing to be safe."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside is on the disk when it ends, or nothing is. Inside another one, an error
        takes back only what the inner one wrote.
        """
        with self._lock:
            outer = self._depth == 0
            self._db.execute("BEGIN IMMEDIATE" if outer else f"SAVEPOINT level_{self._depth}")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if outer:
                    self._db.execute("ROLLBACK")
                else:
                    self._db.execute(f"ROLLBACK TO level_{self._depth}")
                    self._db.execute(f"RELEASE level_{self._depth}")
                raise
            self._depth -= 1
            try:
                self._db.execute("COMMIT" if outer else f"RELEASE level_{self._depth}")
            except sqlite3.Error:  # e.g. a full disk
                if self._db.in_transaction and outer:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @property
    def secret(self) -> bytes:
        """32 random bytes, made with the file, that links and tokens are derived from."""
        return self._rows("SELECT value FROM secrets WHERE name = 'links'")[0][0]

    def inherit(self, other: "Store") -> None:
        """Takes over the raters of another store and the secret of their links, where it has no raters yet.

        The links that people were given then open this store.
        """
        secret, names = other.secret, [rater.name for rater in other.raters()]
        with self.transaction():
            if not self.raters():
                self._db.execute("UPDATE secrets SET value = ? WHERE name = 'links'", (secret,))
                self.add_raters(names)

    def add_media(self, data: bytes, kind: str) -> str:
        """Keeps a picture or sound; `kind` is its media type. Returns its id, the same for the same bytes."""
        name = hashlib.sha256(data).hexdigest()
        with self.transaction():
            self._db.execute("INSERT OR IGNORE INTO media VALUES (?, ?, ?)", (name, kind, data))
        return name

    def media(self, name: str) -> tuple[str, bytes] | None:
        """(media type, bytes) of a picture or sound, None where there is none of that id."""
        rows = self._rows("SELECT type, data FROM media WHERE id = ?", (name,))
        return rows[0] if rows else None

    def add_items(self, items: Sequence[Item]) -> list[int]:
        """Adds items; their ids."""
        with self.transaction():
            return [
                self._insert(
                    "INSERT INTO items"
                    "(kind, prompt, answers, picture, sound, expected, wanted, priority, extras)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        item.kind,
                        item.prompt,
                        json.dumps(item.answers),
                        item.picture,
                        item.sound,
                        item.expected,
                        item.wanted,
                        item.priority,
                        json.dumps(item.extras),
                    ),
                )
                for item in items
            ]

    def items(self) -> dict[int, Item]:
        """All items by id, in the order in which they were added."""
        names = [field.name for field in dataclasses.fields(Item)]
        found = {}
        for number, *values in self._rows(f"SELECT id, {', '.join(names)} FROM items ORDER BY id"):
            fields = dict(zip(names, values, strict=True))
            fields["answers"] = tuple(json.loads(fields["answers"]))
            fields["extras"] = json.loads(fields["extras"])
            found[number] = Item(**fields)
        return found

    def add_raters(self, names: Sequence[str]) -> list[int]:
        """Adds raters; their ids."""
        with self.transaction():
            return [self._insert("INSERT INTO raters(name) VALUES (?)", (name,)) for name in names]

    def raters(self) -> list[Rater]:
        """All raters, in the order in which they were added."""
        return [Rater(*row) for row in self._rows("SELECT id, name FROM raters ORDER BY id")]

    def rename(self, rater: int, name: str) -> None:
        """Gives a rater the name of their choice."""
        with self.transaction():
            self._db.execute("UPDATE raters SET name = ? WHERE id = ?", (name, rater))

    def lease(self, *leases: Lease) -> None:
        """Puts items into raters' hands, or holds them for longer."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO leases(item, rater, shown, strategy, until) VALUES (?, ?, ?, ?, ?)",
                [(one.item, one.rater, json.dumps(one.shown), one.strategy, one.until) for one in leases],
            )

    def leases(self) -> list[Lease]:
        """Every lease ever given, those that ended included."""
        rows = self._rows("SELECT item, rater, shown, strategy, until FROM leases")
        return [
            Lease(i, r, tuple(json.loads(shown)), strategy, until) for i, r, shown, strategy, until in rows
        ]

    def judge(
        self,
        key: str,
        rater: int,
        item: Item,
        lease: Lease,
        answer: dict[str, Any],
        seconds: float,
        time: float,
    ) -> tuple[Judged, bool]:
        """Stores a judgement of the leased item.

        Returns:
          The judgement, and whether it was there already: the same key again adds nothing.

        Raises:
          UserError: the answer does not fit to the item.
          Conflict: the key was used for something else, or the rater has judged this item.
        """
        answer = check_answer(item, answer)
        with self.transaction():
            row = self._by_key(key)
            if row is not None:
                if (row.rater, row.item, row.answer) != (rater, lease.item, answer):
                    raise Conflict(f"the key {key!r} stands for another judgement")
                return row, True
            if self._rows("SELECT 1 FROM standing WHERE rater = ? AND item = ?", (rater, lease.item)):
                raise Conflict(f"item {lease.item} is judged already; undo that first")
            what = (key, rater, lease.item, json.dumps(answer), json.dumps(lease.shown), lease.strategy)
            number = self._insert(
                "INSERT INTO judgements(key, rater, item, answer, shown, strategy, seconds, time)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*what, seconds, time),
            )
            shown, strategy = lease.shown, lease.strategy
            return Judged(number, key, rater, lease.item, answer, shown, strategy, seconds, time), False

    def undo(self, key: str, rater: int, undone: str, time: float) -> tuple[Judged, bool]:
        """Takes a rater's own judgement back by adding a row; `undone` is its key.

        Returns:
          The judgement that no longer stands, and whether it was undone already by the same key.

        Raises:
          Conflict: there is no such judgement of this rater, it is undone already, or the key was used.
        """
        with self.transaction():
            used = self._rows("SELECT undoes FROM judgements WHERE key = ?", (key,))
            row = self._by_key(undone)
            if row is None or row.rater != rater:
                raise Conflict(f"there is no judgement {undone!r} of yours to undo")
            if used and used[0][0] == row.id:
                return row, True
            if used or self._rows("SELECT 1 FROM judgements WHERE undoes = ?", (row.id,)):
                raise Conflict(f"the judgement {undone!r} is undone already, or the key {key!r} is used")
            self._insert(
                "INSERT INTO judgements(key, rater, item, answer, shown, strategy, seconds, time, undoes)"
                " VALUES (?, ?, ?, 'null', '[]', '', 0, ?, ?)",
                (key, rater, row.item, time, row.id),
            )
            return row, False

    def standing(self) -> list[Judged]:
        """The judgements that were not undone, oldest first."""
        return self._judged("SELECT {} FROM standing ORDER BY id")

    def keys(self) -> list[str]:
        """The keys of all rows, undos included, in the order in which they were stored."""
        return [key for (key,) in self._rows("SELECT key FROM judgements ORDER BY id")]

    def backup(self, path: str | Path) -> None:
        """Copies the whole store to a new file while it is in use.

        Raises:
          UserError: there is such a file already, or it cannot be written.
        """
        target = Path(path)
        if target.exists():
            raise UserError(f"{target} is there already; give a new path for the backup")
        try:
            target.touch(mode=0o600)
            with contextlib.closing(sqlite3.connect(target)) as copy, self._lock:
                self._db.backup(copy)
        except (sqlite3.DatabaseError, OSError) as error:
            raise UserError(f"the backup {target} cannot be written ({error})") from error

    def _insert(self, statement: str, values: Sequence[Any]) -> int:
        number = self._db.execute(statement, values).lastrowid
        assert number is not None
        return number

    def _by_key(self, key: str) -> Judged | None:
        if not self._rows("SELECT 1 FROM judgements WHERE key = ?", (key,)):
            return None
        rows = self._judged("SELECT {} FROM judgements WHERE key = ? AND undoes IS NULL", (key,))
        if not rows:
            raise Conflict(f"the key {key!r} stands for an undo")
        return rows[0]

    def _judged(self, query: str, values: Sequence[Any] = ()) -> list[Judged]:
        return [
            Judged(number, key, rater, item, json.loads(answer), tuple(json.loads(shown)), *rest)
            for number, key, rater, item, answer, shown, *rest in self._rows(
                query.format(", ".join(Judged._fields)), values
            )
        ]
