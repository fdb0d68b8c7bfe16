"""The desk: works of many raters in one transaction, and a disk that refuses."""

import asyncio
import sqlite3

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.commits import GroupCommit
from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.store import Conflict, Store
from mmrlhf_jax.feedback.tasks import Item

A = {"choice": "a"}


@pytest.fixture
def desk(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        store.add_raters(["one", "two"])
        store.add_items([Item("compare", "", ("x", "y")) for _ in range(6)])
        yield Desk(store, lambda items: Assigner(items, check_every=0))


def commits(store: Store) -> list[str]:
    """Every COMMIT from now on."""
    found: list[str] = []
    store._db.set_trace_callback(lambda statement: found.append(statement) if statement == "COMMIT" else None)
    return found


def test_one_turn_of_the_loop_is_one_write_and_one_error_is_its_own(desk):
    mine, theirs = desk.give(1, 2), desk.give(2, 1)
    seen, group = commits(desk.store), GroupCommit(desk)

    async def storm():
        return await asyncio.gather(
            group.do(lambda: desk.judge("key-1", 1, mine[0].lease.item, A, 1.0)),
            group.do(lambda: desk.judge("key-2", 1, theirs[0].lease.item, A, 1.0)),  # not in their hands
            group.do(lambda: desk.judge("key-3", 1, mine[1].lease.item, {"choice": "z"}, 1.0)),
            group.do(lambda: desk.judge("key-4", 2, theirs[0].lease.item, A, 1.0)),
            return_exceptions=True,
        )

    first, conflict, wrong, last = asyncio.run(storm())
    assert first[0].key == "key-1" and last[0].key == "key-4"
    assert isinstance(conflict, Conflict) and isinstance(wrong, UserError)
    assert [row.key for row in desk.store.standing()] == ["key-1", "key-4"] and len(seen) == 1
    assert desk.progress(1) == (1, 4) and desk.progress(2) == (1, 3)


def test_a_disk_that_refuses_leaves_nothing_and_the_desk_knows_it(desk, monkeypatch):
    (given,) = desk.give(1, 1)

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(desk.store, "_insert", full)
        (outcome,) = desk.together([lambda: desk.judge("key-1", 1, given.lease.item, A, 1.0)])
    assert isinstance(outcome.error, sqlite3.OperationalError)
    assert desk.store.standing() == [] and desk.progress(1) == (0, 6)
    with monkeypatch.context() as patched:  # what was written is lost as the transaction ends
        patched.setattr(desk.store, "rename", lambda *_: desk.store._db.execute("ROLLBACK"))
        works = [
            lambda: desk.judge("key-2", 1, given.lease.item, A, 1.0),
            lambda: desk.rename(1, "lost"),
        ]
        outcomes = desk.together(works)
    assert all(isinstance(error, sqlite3.Error) for _, error in outcomes)
    assert desk.store.standing() == [] and desk.names[1] == "one"
    assert desk.judge("key-2", 1, given.lease.item, A, 1.0)[1] is False


def test_nothing_is_left_where_all_skipped_what_nobody_judged(desk):
    assert not desk.nothing_left()
    for number, given in enumerate(desk.give(1, 6)):
        answer = {"choice": "skip"} if number == 0 else A
        desk.judge(f"key-{number}", 1, given.lease.item, answer, 1.0)
    assert desk.progress(1).left == 0 and not desk.nothing_left()  # what was skipped waits for the other one
    (last,) = desk.give(2, 6)
    desk.judge("key-last", 2, last.lease.item, {"choice": "skip"}, 1.0)
    assert desk.nothing_left()


def test_the_dashboards_connection_reads_and_cannot_write(desk):
    with desk.store.reader() as reading:
        before = reading.standing()
        (given,) = desk.give(1, 1)
        desk.judge("key-1", 1, given.lease.item, A, 1.0)
        assert before == [] and len(reading.standing()) == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reading.rename(1, "x")
