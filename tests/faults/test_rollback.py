"""Faults in the middle of a rollback: each migration is undone once, and what is undone is recorded no more.

What befalls its commands is in test_commands.py and test_transactions.py, killed processes are in test_killed.py.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from quaestor import LeaseLostError, MigrationFailed, MigrationRolledBack, RollbackFinished
from tests.faults.applications import Application, State, application, effect, state
from tests.faults.instance import Orders, Start, caller, migrated
from tests.faults.works import IN_TRANSACTION, LAST, NAMES, PLAIN, WORKS, Left, Work, left, once, undone

BACKWARDS = NAMES[::-1]
RUN, ROLLBACK = ("run",), ("rollback", NAMES)


class Broken(Exception):
    """A user's own exception."""


@pytest.mark.parametrize("transaction", [False, True])
def test_fails_half_way(app: Application, db: Any, *, transaction: bool) -> None:
    """Those undone before a failure are recorded no more, all others still are; the next one goes on from there."""
    app.leaves_effects("a", "c")
    app.migration("b", transaction=transaction)(lambda db: effect("b", db))

    @app.rollback_of("b")
    def fails_once(db: Any) -> Generator[Any, Any, None]:
        yield from effect("undo b", db)
        if app.bodies.count("undo b") == 1:
            raise Broken

    assert app.run() == NAMES
    with pytest.raises(Broken) as caught:
        app.call("rollback", NAMES)

    assert caught.value.__notes__ == ["quaestor: while rolling back migration 'b', 2 of 3"]
    assert [(event.name, event.undo) for event in app.list_events(MigrationFailed)] == [("b", True)]
    half = [] if transaction else ["undo b"]
    assert state(db) == State(["a", "b"], [*NAMES, *half, "undo c"])
    assert app.call("rollback", NAMES) == ["b", "a"]
    assert state(db) == State([], [*NAMES, "undo a", *half, "undo b", "undo c"])
    assert [event.name for event in app.list_events(MigrationRolledBack)] == BACKWARDS
    assert [event.rolled_back for event in app.list_events(RollbackFinished)] == [("b", "a")]


@pytest.mark.parametrize("transaction", [False, True])
def test_unlocked(app: Application, db: Any, driver: str, uri: str, name: str, *, transaction: bool) -> None:
    """Whoever's lease was freed in a rollback undoes nothing more; the next rollback does the rest, and once in all
    what is a transaction.
    """
    other = application(driver, uri, name, appname="other")
    app.leaves_effects("a")
    app.migration("b", transaction=transaction)(lambda db: effect("b", db))

    @app.rollback_of("b")
    def is_unlocked(db: Any) -> Generator[Any, Any, None]:
        yield from effect("undo b", db)
        if app.bodies.count("undo b") == 1:
            yield other.unlock

    assert app.run() == ["a", "b"]
    with pytest.raises(LeaseLostError):
        app.call("rollback", ["a", "b"])

    if transaction:  # it may commit, once and whole, where nobody else came
        assert state(db) == State(["a"], ["a", "b", "undo b"])
        assert app.call("rollback", ["a", "b"]) == ["a"]
        assert state(db) == State([], ["a", "b", "undo a", "undo b"])
    else:
        assert state(db) == State(["a", "b"], ["a", "b", "undo b"])
        assert app.call("rollback", ["a", "b"]) == ["b", "a"]
        assert state(db) == State([], ["a", "b", "undo a", "undo b", "undo b"])


_TWICE = dict.fromkeys(NAMES, 2)
APPLIED_AGAIN = replace(undone(WORKS), records=NAMES, begun=_TWICE, ended=_TWICE)


@pytest.mark.parametrize(
    ("first", "held", "second", "names", "expected"),
    [
        pytest.param(ROLLBACK, "a", ROLLBACK, [], undone(WORKS), id="rollback and rollback"),
        pytest.param(RUN, "c", ROLLBACK, BACKWARDS, undone(WORKS), id="run and rollback"),
        pytest.param(ROLLBACK, "a", RUN, NAMES, APPLIED_AGAIN, id="rollback and run"),
        pytest.param(
            *(RUN, "c", ("mark_pending", ["a"]), ["a"], replace(once(WORKS), records=["b", "c"])), id="run and mark"
        ),
        pytest.param(
            *(ROLLBACK, "a", ("mark_applied", ["b"]), ["b"], replace(undone(WORKS), records=["b"])),
            id="rollback and mark",
        ),
    ],
)
def test_two_at_once(
    orders: Orders,
    work_db: Any,
    start: Start,
    first: Sequence[Any],
    held: str,
    second: Sequence[Any],
    names: list[str],
    expected: Left,
) -> None:
    """Of two at once that run, roll back or mark, one waits for the other, and does then what is left to do."""
    if first is ROLLBACK:
        migrated(orders)
    works = [replace(work, held=work.name == held) for work in WORKS]
    holder = start(replace(orders, works=works, calls=[first])).go()
    holder.until("stopped")
    waiter = start(replace(orders, calls=[second])).go()
    assert waiter.until("LeaseAwaited")["holder"] == holder.process.pid
    holder.go()

    assert holder.outcome()["names"] == (NAMES if first is RUN else BACKWARDS)
    assert waiter.outcome()["names"] == names
    assert left(work_db) == expected


@pytest.mark.parametrize(
    ("work", "where"),
    [
        pytest.param(LAST, "after update work", id="in a function"),
        pytest.param(LAST, "before delete records", id="before the record goes"),
        pytest.param(IN_TRANSACTION, "before delete records", id="before the record goes, in a transaction"),
        pytest.param(IN_TRANSACTION, "before commitTransaction", id="before the commit"),
    ],
)
def test_frozen(orders: Orders, work_db: Any, start: Start, work: Work, where: str) -> None:
    """A holder that was frozen past its lease, while another undid the same and applied it again, undoes nothing more
    when it wakes: the new records stay. Its plain function comes to its end; of a transaction nothing is left.
    """
    orders = replace(orders, works=[PLAIN, work], lease_ttl=1, calls=[("rollback", [PLAIN.name, work.name])])
    migrated(orders)
    frozen = start(replace(orders, stopped_at=where)).go()
    frozen.until("stopped")
    frozen.freeze()
    caller(replace(orders, calls=[*orders.calls, RUN]), lambda _: None)()
    records = list(work_db.app_migrations.find())

    frozen.go()
    frozen.thaw()
    outcome = frozen.outcome()

    assert outcome["type"] == "LeaseLostError"
    assert list(work_db.app_migrations.find()) == records
    state = left(work_db)
    assert state.records == [PLAIN.name, work.name]
    times = 1 if work.transaction else 2
    assert (state.undo_begun[work.name], state.undo_ended[work.name]) == (times, times)
    assert (state.undo_begun[PLAIN.name], state.undo_ended[PLAIN.name]) == (1, 1)
    assert state.holder is None
