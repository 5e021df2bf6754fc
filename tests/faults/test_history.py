"""Faults around the history: whatever befalls it, what has happened stays, and calls end as they would have."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from quaestor import Event, HistoryNotWritten, ImportResult, LeaseNotReleased
from tests.faults.applications import Application, Failing, State, effect, hold, state
from tests.faults.instance import Instance, Orders, Start, caller, migrated
from tests.faults.works import Work, left, once, prepared, stock
from tests.world import LONG_AGO
from tools.faults import LOST, fail_command

IMPORTED = ImportResult("mongrator", "mongrator_migrations", (), recorded=("a",))
A, FAILS, BACKFILL = Work("a"), Work("a", fails=True), Work("a", way="loop")


@dataclass(frozen=True)
class Case:
    """A call that writes to the history.

    Attributes:
        call: The method of the runner, and its arguments.
        prepare: What is done before.
        work: The migration.
        recorded: Whether that is recorded afterwards.
        again: What the same call returns once more, with a migration that doesn't fail.
    """

    call: Sequence[Any]
    prepare: Callable[[Orders, Any], object] = lambda *_: None
    work: Work = A
    recorded: bool = False
    again: object = ()


def _apply(orders: Orders, _: Any) -> None:
    migrated(orders)


def _apply_as_before(orders: Orders, db: Any) -> None:
    """Apply it as an earlier release does."""
    migrated(orders)
    db.app_migrations.update_many({}, {"$unset": {"checksum": ""}})


def _apply_elsewhere(_: Orders, db: Any) -> None:
    """Leave it as another tool has applied it."""
    db.mongrator_migrations.insert_one({"_id": "a", "direction": "up", "applied_at": LONG_AGO})


def _interrupt(orders: Orders, db: Any) -> None:
    """Leave a checkpoint of a backfill, whose collection is replaced, and the lease as a dead holder leaves it."""
    stock(db)
    held = replace(orders, works=[replace(BACKFILL, held=True)], calls=[("run",)], stopped_at=None)
    with Instance(held) as victim:
        victim.go()
        for _ in range(3):
            victim.until("stopped")
            victim.go()
        victim.until("stopped")
        victim.kill()
    assert db.app_migrations_progress.count_documents({}) == 1


CASES = {
    "failed": Case(("run",), work=FAILS, again=["a"]),
    "rolled_back": Case(("rollback", ["a"]), _apply, again=[]),
    "marked_applied": Case(("mark_applied", ["a"]), recorded=True, again=[]),
    "marked_pending": Case(("mark_pending", ["a"]), _apply, again=[]),
    "accepted": Case(("mark_accepted", ["a"]), _apply_as_before, recorded=True, again=[]),
    "imported": Case(("import_history", "mongrator"), _apply_elsewhere, recorded=True, again=IMPORTED),
    "restarted": Case(("restart_backfill", "a"), _interrupt, BACKFILL, again=[]),
    "unlocked": Case(("unlock",), lambda _, db: hold(db, seconds=600), again=None),
}
"""By what the history says of them."""


def test_killed(driver: str, uri: str, name: str) -> None:
    """Whoever is killed before, or after, it writes to the history has done what it would have said: the same call does
    nothing more, the next run ends in the right state, and the history has that entry once or not at all.
    """

    def killed_at(step: tuple[str, str]) -> str | None:
        """What was wrong, if anything was."""
        what, when = step
        try:
            _kill(what, when, Orders(driver=driver, uri=uri, database=f"{name}_{what}_{when}", works=[], lease_ttl=1))
        except Exception as error:  # noqa: BLE001 - all are tried before the test fails
            return f"{when} {what}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(4) as pool:  # each waits for a lease to end, most of the time
        found = pool.map(killed_at, [(what, when) for what in CASES for when in ("before", "after")])
        wrong = [report for report in found if report is not None]
    assert not wrong, "\n\n".join(wrong)


def _kill(what: str, when: str, orders: Orders) -> None:
    case = CASES[what]
    there = replace(orders, works=[case.work], calls=[case.call], stopped_at=f"{when} update history")
    with prepared(orders.uri, orders.database, [case.work]) as db:
        case.prepare(replace(there, stopped_at=None), db)
        with Instance(there) as victim:
            victim.go()
            victim.until("stopped")
            victim.kill()
        written = [what] if when == "after" else []
        assert [entry["what"] for entry in db.app_migrations_history.find()] == written
        assert left(db).records == ["a"] * case.recorded
        if what in {"failed", "unlocked"}:
            assert left(db).holder is None, "it is written when the lease is released"

        living = replace(there, works=[replace(case.work, fails=False)], stopped_at=None)
        assert caller(living, _ignore)() == case.again
        names = caller(replace(living, calls=[("run",)]), _ignore)()
        assert names == ([] if case.recorded or what == "failed" else ["a"])
        assert left(db).records == ["a"]
        assert [entry["what"] for entry in db.app_migrations_history.find()] == written
        status: Any = caller(replace(living, calls=[("status",)]), _ignore)()
        assert [one.last_failure for one in status.migrations] == [None]


def _ignore(_: Event) -> None:
    """An event hook."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_protecting(orders: Orders, work_db: Any, start: Start, when: str) -> None:
    """Killed while it protects a database, it has or it hasn't; the same again protects it, and runs are as before."""
    orders = replace(orders, calls=[("protect", "production")])
    victim = start(replace(orders, stopped_at=f"{when} update protection")).go()
    victim.until("stopped")
    victim.kill()

    read: Callable[[], Any] = caller(replace(orders, calls=[("read_protection",)]), _ignore)
    assert read() == ("production" if when == "after" else None)
    migrated(orders)
    caller(orders, _ignore)()
    assert read() == "production"
    assert left(work_db) == once(orders.works)


class Broken(Exception):
    """A user's own exception."""


def fails_once(app: Application, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Register `b`, which fails when it is called first, after something else has happened."""

    @app.migration("b")
    def b(db: Any) -> Generator[Any, Any, None]:
        yield from effect("b", db)
        if app.bodies.count("b") == 1:
            yield meanwhile
            raise Broken


def fail_at_once(app: Application) -> None:
    """Let a run fail, and check how that ends."""
    with pytest.raises(Broken) as caught:
        app.run()
    assert caught.value.__notes__ == ["quaestor: in migration 'b', 2 of 2"]


def test_refused(app: Application, db: Any, failing: Failing) -> None:
    """Every call ends as it would have if the server refuses what it writes to the history: one event for each."""
    app.leaves_effects("a")
    fails_once(app)

    with failing("note", times="alwaysOn", errorCode=8000) as struck:
        fail_at_once(app)
        assert app.call("rollback", ["a"]) == ["a"]
        assert app.call("mark_applied", ["a"]) == ["a"]
        db.app_migrations.update_many({}, {"$unset": {"checksum": ""}})
        assert app.call("mark_accepted", ["a"]) == ["a"]
        assert app.call("mark_pending", ["a"]) == ["a"]
        hold(db, seconds=600)
        assert app.unlock() is not None

    lost = [(event.what, event.name) for event in app.list_events(HistoryNotWritten)]
    happened = [("failed", "b"), ("rolled_back", "a"), ("marked_applied", "a"), ("accepted", "a")]
    assert lost == [*happened, ("marked_pending", "a"), ("unlocked", None)]
    assert struck.hits == len(lost)
    assert app.list_events(LeaseNotReleased) == []
    assert db.app_migrations_history.count_documents({}) == 0
    assert app.run() == ["a", "b"]
    assert state(db) == State(["a", "b"], ["a", "a", "b", "b", "undo a"])


@pytest.mark.parametrize(
    "fault", [LOST, {"blockConnection": True, "blockTimeMS": 4_000}], ids=["no answer", "late answer"]
)
def test_not_answered(app: Application, db: Any, failing: Failing, fault: dict[str, Any]) -> None:
    """A run and a rollback end as they would have if the server doesn't answer what they write to the history, or too
    late, and the lease is free. What is performed late is there once.
    """
    app.leaves_effects("a")
    fails_once(app)

    with failing("note", times="alwaysOn", **fault):
        fail_at_once(app)
        assert state(db).holder is None
        assert app.call("rollback", ["a"]) == ["a"]

    lost = app.list_events(HistoryNotWritten)
    assert [(event.what, event.name) for event in lost] == [("failed", "b"), ("rolled_back", "a")]
    assert all(isinstance(event.error, PyMongoError) for event in lost)
    assert app.list_events(LeaseNotReleased) == []
    assert app.run() == ["a", "b"]
    assert state(db) == State(["a", "b"], ["a", "a", "b", "b", "undo a"])
    written = [entry["what"] for entry in db.app_migrations_history.find()]
    assert len(written) == len(set(written))


def test_reply_lost(app: Application, db: Any, failing: Failing) -> None:
    """An entry whose reply is lost, or that isn't known to last, is there once, and not an event."""
    app.leaves_effects("a")
    fails_once(app)

    with failing("note", times=1, **LOST) as struck:
        fail_at_once(app)

    assert struck.hits == 1
    assert app.list_events(HistoryNotWritten) == []
    assert [entry["what"] for entry in db.app_migrations_history.find()] == ["failed"]


@pytest.mark.parametrize("driver", ["pymongo-async"])  # it takes as long as a release may
def test_server_away(app: Application, db: Any, uri: str) -> None:
    """If the server is away when a migration fails, its exception reaches the caller, and the events say what is left
    undone; nothing more is sent.
    """
    with ExitStack() as stack:

        def go_away() -> None:
            away = fail_command(uri, ["update", "killSessions"], appName="app", times="alwaysOn", **LOST)
            stack.enter_context(away)

        app.leaves_effects("a")
        fails_once(app, go_away)
        fail_at_once(app)

    (not_released,) = app.list_events(LeaseNotReleased)
    (not_written,) = app.list_events(HistoryNotWritten)
    assert (not_written.what, not_written.name, not_written.error) == ("failed", "b", not_released.error)
    assert app.unlock() is not None
    assert app.run() == ["b"]
    assert [entry["what"] for entry in db.app_migrations_history.find()] == ["unlocked"]
