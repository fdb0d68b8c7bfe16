"""The store: nothing acknowledged is lost, nothing is changed, nothing is there twice."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback import schema
from mmrlhf_jax.feedback import store as store_module
from mmrlhf_jax.feedback.store import Conflict, Lease, Store
from mmrlhf_jax.feedback.tasks import Item

PAIR = Item("compare", "what is it?", ("a cat", "a dog"))
A, B = {"choice": "a"}, {"choice": "b"}


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        opened.add_items([PAIR] * 5)
        opened.add_raters(["one", "two"])
        yield opened


def judge(store: Store, key: str, rater: int = 1, item: int = 1, answer=A, seconds: float = 1.0):
    lease = Lease(item, rater, (1, 0), "random", 0.0)
    store.lease(lease)
    return store.judge(key, rater, PAIR, lease, answer, seconds, time=100.0)


def test_what_goes_in_comes_out(store):
    extras = {"from": "ünïcode", "n": [1, None]}
    picture = store.add_media(b"bytes", "image/webp")
    item = Item("rate", "how?", ("so",), picture, wanted=2, priority=0.5, extras=extras)
    (number,) = store.add_items([item])
    assert store.items()[number] == item and list(store.items()) == [1, 2, 3, 4, 5, number]
    assert store.media(picture) == ("image/webp", b"bytes") and store.media("0" * 64) is None
    judge(store, "key-1", answer=B)
    (row,) = store.standing()
    assert row == (1, "key-1", 1, 1, B, (1, 0), "random", 1.0, 100.0)
    store.rename(2, "zwei")
    assert [tuple(rater) for rater in store.raters()] == [(1, "one"), (2, "zwei")]


def test_a_repeated_key_adds_nothing(store):
    first, again = judge(store, "key-1"), judge(store, "key-1", seconds=9.0)
    assert (first[1], again[1]) == (False, True) and first[0] == again[0]
    assert len(store.standing()) == 1
    for changed in ({"answer": B}, {"rater": 2}, {"item": 2}):
        with pytest.raises(Conflict, match="stands for another"):
            judge(store, "key-1", **changed)


def test_a_rater_judges_an_item_once(store):
    judge(store, "key-1")
    with pytest.raises(Conflict, match="judged already"):
        judge(store, "key-2", answer=B)
    judge(store, "key-3", rater=2)
    assert [row.key for row in store.standing()] == ["key-1", "key-3"]


def test_an_undo_is_a_new_row(store):
    judge(store, "key-1")
    row, repeated = store.undo("undo-1", 1, "key-1", 101.0)
    assert row.item == 1 and not repeated and store.standing() == []
    assert store.undo("undo-1", 1, "key-1", 102.0) == (row, True)
    assert store.keys() == ["key-1", "undo-1"]
    judge(store, "key-2", answer=B)
    assert [(r.key, r.answer) for r in store.standing()] == [("key-2", B)]
    # the page's late retry of what was undone must not bring it back
    assert judge(store, "key-1")[1] and len(store.standing()) == 1


def test_undos_that_make_no_sense(store):
    judge(store, "key-1")
    with pytest.raises(Conflict, match="no judgement 'key-9' of yours"):
        store.undo("undo-1", 1, "key-9", 0.0)
    with pytest.raises(Conflict, match="of yours"):
        store.undo("undo-1", 2, "key-1", 0.0)
    store.undo("undo-1", 1, "key-1", 0.0)
    with pytest.raises(Conflict, match="undone already"):
        store.undo("undo-2", 1, "key-1", 0.0)
    with pytest.raises(Conflict, match="stands for an undo"):
        store.undo("undo-3", 1, "undo-1", 0.0)
    with pytest.raises(Conflict, match="stands for an undo"):
        judge(store, "undo-1", item=2)


def test_the_database_itself_refuses_to_change_judgements(store):
    judge(store, "key-1")
    with sqlite3.connect(store.path) as other:
        for statement in ("UPDATE judgements SET answer = '{}'", "DELETE FROM judgements"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                other.execute(statement)
    other.close()


def test_an_error_takes_back_its_own_transaction_alone(store):
    with store.transaction():
        judge(store, "key-1")
        with pytest.raises(KeyError), store.transaction():
            judge(store, "key-2", item=2)
            raise KeyError
    with pytest.raises(KeyError), store.transaction():
        judge(store, "key-3", item=3)
        raise KeyError
    assert [row.key for row in store.standing()] == ["key-1"]


def test_it_is_durable_private_and_has_a_secret_of_its_own(store, tmp_path):
    pragmas = [store._rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]  # 2 is FULL
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    with Store(tmp_path / "other.sqlite") as other, Store(store.path) as again:
        assert again.secret == store.secret != other.secret and len(store.secret) == 32


def test_an_older_file_is_migrated_and_a_newer_one_refused(store, monkeypatch):
    judge(store, "key-1")
    store.close()
    further = (*schema.MIGRATIONS, ("ALTER TABLE items ADD COLUMN colour TEXT",))
    broken = (*schema.MIGRATIONS, ("ALTER TABLE items ADD COLUMN colour TEXT", "no SQL"))
    monkeypatch.setattr(store_module, "MIGRATIONS", broken)
    with pytest.raises(UserError, match="cannot be opened"):
        Store(store.path)
    monkeypatch.setattr(store_module, "MIGRATIONS", further)  # what the broken step did was taken back
    with Store(store.path) as opened:
        assert len(opened.standing()) == 1
        assert "colour" in [row[1] for row in opened._rows("PRAGMA table_info(items)")]
    monkeypatch.setattr(store_module, "MIGRATIONS", schema.MIGRATIONS)
    with pytest.raises(UserError, match="update the package"):
        Store(store.path)


def test_other_files_are_refused_and_stay_as_they_were(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database" * 100)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE theirs(x)")
    other.close()
    for path in (text, foreign, tmp_path):
        with pytest.raises(UserError, match=r"--store"):
            Store(path)
    assert text.read_text() == "not a database" * 100


def test_a_backup_while_it_is_written_to(store, tmp_path):
    stop = threading.Event()
    number = store.add_items([PAIR] * 300)[0]

    def write() -> None:
        for i in range(300):
            if stop.is_set():
                return
            judge(store, f"storm-{i}", item=number + i)

    writer = threading.Thread(target=write)
    writer.start()
    before = len(store.standing())
    store.backup(tmp_path / "copy.sqlite")
    stop.set()
    writer.join()
    with Store(tmp_path / "copy.sqlite") as copy:
        keys = copy.keys()
        assert copy._rows("PRAGMA integrity_check") == [("ok",)]
        assert keys == store.keys()[: len(keys)] and len(keys) >= before
    with pytest.raises(UserError, match="there already"):
        store.backup(tmp_path / "copy.sqlite")


STORM = """
import sys
from mmrlhf_jax.feedback.store import Lease, Store
from mmrlhf_jax.feedback.tasks import Item
store = Store(sys.argv[1])
start = len(store.keys())
items = store.add_items([Item("compare", "", ("a", "b"))] * 2000)
for i, number in enumerate(items, start=start):
    lease = Lease(number, 1, (0, 1), "random", 0.0)
    with store.transaction():
        store.lease(lease)
        store.judge(f"storm-{i:05d}", 1, Item("compare", "", ("a", "b")), lease, {"choice": "a"}, 1.0, 0.0)
    print(f"storm-{i:05d}", flush=True)
"""


def test_kill_in_the_middle_of_a_storm_loses_nothing(tmp_path, user_environment):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.add_raters(["one"])
    acknowledged: list[str] = []
    for lines in (7, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", STORM, str(path)], env=user_environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(lines)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().split()  # what it said before it died counts too
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        with Store(path) as store:
            stored = [row.key for row in store.standing()]
            assert len(set(stored)) == len(stored)
            assert stored[: len(acknowledged)] == acknowledged and len(stored) <= len(acknowledged) + 1
            acknowledged = stored


def test_the_folder_is_made(tmp_path: Path):
    Store(tmp_path / "a" / "b" / "store.sqlite").close()
    assert (tmp_path / "a" / "b" / "store.sqlite").is_file()
