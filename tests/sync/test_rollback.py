# Generated from tests/async/test_rollback.py by tools/sync_tests.py
"""Undoing migrations: which ones, in which order, what is left, and what a failure leaves."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient

from quaestor import (
    Event,
    InvalidOptionError,
    IrreversibleMigrationError,
    LeaseAwaited,
    LeaseLostError,
    LeaseTimeoutError,
    MigrationFailed,
    MigrationRegistry,
    MigrationRolledBack,
    MigrationStarted,
    RecordsUnknown,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    SyncRunner,
    TransactionsUnsupportedError,
    UnknownMigrationError,
    log_event,
)
from tests.databases import drivers
from tests.functions import (
    Broken,
    effects,
    notes,
    nothing,
    nowhere,
    recorded,
)
from tests.meeting import Moment, Told, start
from tests.operations import BAD_NAMES, BREAKS, CHAIN, DIAMOND, ROLLBACKS, Case, lock_of, records, registry
from tools.commands import Commands


@pytest.mark.parametrize("case", ROLLBACKS, ids=str)
def test_rollback(db: Any, case: Case) -> None:
    """The targets and all applied migrations that need them are rolled back, dependents first."""
    if case.recorded:
        db.app_migrations.insert_many(records(*case.recorded))
        db.effects.insert_many([{"_id": name} for name in case.recorded])
    calls: list[str] = []

    runner = SyncRunner(registry(case.needs, "sync", calls), db, "app")

    assert runner.rollback(case.targets) == list(case.planned)

    assert calls == [f"undo {name}" for name in case.planned]
    assert recorded(db) == effects(db) == sorted(set(case.recorded) - case.planned.keys())


def test_rollback_then_reapply(db: Any) -> None:
    """A migration that was rolled back is pending: a run applies it again, a rollback undoes it again."""
    runner = SyncRunner(registry(DIAMOND, "sync", []), db, "app")

    for _ in range(2):
        assert runner.run() == ["aside", "top", "left", "right", "end"]
        assert runner.rollback(DIAMOND) == ["end", "right", "left", "top", "aside"]
        assert runner.rollback(DIAMOND) == []
        assert recorded(db) == effects(db) == []
    assert db.app_migrations_lock.find_one() == {"_id": "lease", "token": 4, "sessions": [], "previous": None}


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize(
    ("transaction", "each", "once"),
    [
        (False, ["update", "delete"], ["update"]),
        (True, ["delete", "commitTransaction", "update"], []),
    ],
)
def test_commands(db: Any, commands: Commands, transaction: bool, each: list[str], once: list[str]) -> None:
    """A rollback costs as much as a run: two reads and a lease, and per migration a check and a removed record."""
    migrations = MigrationRegistry()
    for number in range(5):
        migrations.register(str(number), transaction=transaction)(nothing)
        migrations.register_rollback(str(number))(nothing)
    migrations.run_sync(db, "app")
    commands.sent.clear()

    SyncRunner(migrations, db, "app").rollback(migrations.migrations)

    session = ["connectionStatus"] if transaction else []
    assert commands.names == ["find", *session, "findAndModify", "find", *each * 5, *once]
    deletes = [command for command in commands.sent if "delete" in command]
    assert {command["delete"] for command in deletes} == {"app_migrations"}
    if not transaction:
        assert {command["writeConcern"]["w"] for command in deletes} == {"majority"}


def test_events(db: Any) -> None:
    """A hook gets every event of a rollback, in order; there is one event of unknown records."""
    told: list[Event] = []
    runner = SyncRunner(registry({"a": [], "b": ["a"]}, "sync", []), db, "app", on_event=told.append)
    runner.run()
    db.app_migrations.insert_many(records("from tomorrow"))
    told.clear()

    runner.rollback(["a"])

    where = (db.name, "app")
    seconds = [event.seconds for event in told if isinstance(event, MigrationRolledBack)]
    assert told == [
        RecordsUnknown(*where, ("from tomorrow",)),
        RollbackStarted(*where, ("b", "a")),
        MigrationStarted(*where, "b", 1, 2, undo=True),
        MigrationRolledBack(*where, "b", 1, 2, seconds[0], undo=True),
        MigrationStarted(*where, "a", 2, 2, undo=True),
        MigrationRolledBack(*where, "a", 2, 2, seconds[1], undo=True),
        RollbackFinished(*where, ("b", "a")),
    ]
    assert all(0 <= one < 60 for one in seconds)


def test_log(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that migrations are being undone, and not that they are applied."""
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app", on_event=log_event)
    runner.run()
    caplog.clear()

    with caplog.at_level(logging.INFO, "quaestor"):
        runner.rollback(["a"])
        runner.rollback(["a"])

    where = f"[{db.name}/app]"
    assert caplog.messages[:2] == [f"{where} 1 migration to roll back: a", f"{where} Rolling back 'a' (1 of 1)"]
    assert caplog.messages[2].startswith(f"{where} Rolled back 'a' (1 of 1) in ")
    assert caplog.messages[3:] == [f"{where} Rolled back 1 migration", f"{where} Nothing to roll back: not applied."]


def test_irreversible(db: Any) -> None:
    """The error names all applied migrations without a rollback; nothing has run."""
    calls: list[str] = []
    migrations = registry(CHAIN, "sync", calls, irreversible=["a", "c", "d"])
    db.app_migrations.insert_many(records("a", "b", "c"))

    with pytest.raises(IrreversibleMigrationError, match="No rollback is registered for c, a") as caught:
        SyncRunner(migrations, db, "app").rollback(["b", "a"])

    assert caught.value.names == ["c", "a"]
    assert calls == []
    assert recorded(db) == ["a", "b", "c"]
    assert db.app_migrations_lock.count_documents({}) == 0


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_irreversible_under_the_lease(db: Any, uri: str, name: str) -> None:
    """Migrations that are applied while a rollback waits count: if one is irreversible, nothing is undone."""
    calls: list[str] = []
    db.app_migrations_lock.insert_one(lock_of())
    db.app_migrations.insert_many(records("a"))

    def on_event(event: Event) -> None:
        if isinstance(event, LeaseAwaited):
            with MongoClient(uri) as client:
                client[name].app_migrations.insert_many(records("b"))
                client[name].app_migrations_lock.delete_one({})

    migrations = registry(CHAIN, "sync", calls, irreversible=["b"])
    with pytest.raises(IrreversibleMigrationError) as caught:
        SyncRunner(migrations, db, "app", on_event=on_event).rollback(["a"])

    assert caught.value.names == ["b"]
    assert calls == []
    assert recorded(db) == ["a", "b"]
    assert "owner" not in db.app_migrations_lock.find_one()


def test_failure(db: Any) -> None:
    """A rollback that fails has removed exactly the records of what it undid, and can be repeated."""
    calls: list[str] = []
    told: list[Event] = []
    registry(CHAIN, "sync", calls).run_sync(db, "app")
    failing = SyncRunner(registry(CHAIN, "sync", calls, fails="undo b"), db, "app", on_event=told.append)

    with pytest.raises(Broken) as caught:
        failing.rollback(["a"])

    assert caught.value.__notes__ == ["quaestor: while rolling back migration 'b', 3 of 4"]
    assert told[-2:] == [
        MigrationFailed(db.name, "app", "b", 3, 4, caught.value, undo=True),
        RunFailed(db.name, "app", caught.value, work="rollback"),
    ]
    assert recorded(db) == ["a", "b"]
    assert effects(db) == ["a"]  # what the function did before it failed is done
    assert "owner" not in db.app_migrations_lock.find_one()
    assert SyncRunner(registry(CHAIN, "sync", calls), db, "app").rollback(["a"]) == ["b", "a"]


@pytest.mark.parametrize("found", BREAKS.values(), ids=[*BREAKS])
def test_records_of_all_kinds(db: Any, found: list[dict[str, Any]]) -> None:
    """All records of the migration are removed, those of version 0.1 included; all others stay."""
    others = [{"_id": 7}, {"_id": 8, "name": 7}, *records("from tomorrow")]
    db.app_migrations.insert_many([*found, *others])
    calls: list[str] = []

    assert SyncRunner(registry({"a": []}, "sync", calls), db, "app").rollback(["a"]) == ["a"]

    assert calls == ["undo a"]
    assert [record["_id"] for record in db.app_migrations.find()] == [7, 8, "from tomorrow"]


@pytest.mark.driver("pymongo")
def test_refused_before_the_first_command() -> None:
    """Unknown names and anything but a list of names are refused before the first command."""
    with nowhere() as db:
        runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
        with pytest.raises(UnknownMigrationError, match="There is no migration 'x'"):
            runner.rollback(["a", "x"])
        for names, words in [*BAD_NAMES, (None, "must be a list of names (str), not None")]:
            with pytest.raises(InvalidOptionError) as caught:
                runner.rollback(names)
            assert f"targets {words}" in str(caught.value)


def test_lease(db: Any) -> None:
    """A rollback acquires the lease, which names the operation, or waits for it until the timeout."""
    migrations = MigrationRegistry()
    seen = []
    migrations.register("a")(nothing)

    @migrations.register_rollback("a")
    def looks(db: Any) -> None:
        seen.append(db.app_migrations_lock.find_one())

    db.app_migrations.insert_many(records("a"))
    runner = SyncRunner(migrations, db, "app", lease_timeout=0)

    db.app_migrations_lock.insert_one(lock_of())
    with pytest.raises(LeaseTimeoutError):
        runner.rollback(["a"])
    assert (seen, recorded(db)) == ([], ["a"])

    db.app_migrations_lock.delete_many({})
    runner.rollback(["a"])
    assert (seen[0]["work"], seen[0]["migrations"]) == ("rollback", ["a"])


def test_waits_for_a_run(db: Any) -> None:
    """A rollback that waits for a run undoes what is recorded once it has the lease."""
    calls: list[str] = []
    migrations = registry({"a": [], "c": ["b"]}, "sync", calls)
    db.app_migrations.insert_many(records("a"))
    waiting, started = Moment(), []
    waits = SyncRunner(migrations, db, "app", on_event=Told({LeaseAwaited: waiting.has_come}))

    @migrations.register("b")
    def starts_a_rollback(db: Any) -> None:
        started.append(start(lambda: waits.rollback(["a", "b"])))
        waiting.wait()

    migrations.register_rollback("b")(notes(calls, "undo b"))

    assert migrations.run_sync(db, "app") == ["b", "c"]
    assert started[0].result() == ["c", "b", "a"]
    assert calls == ["c", "undo c", "undo b", "undo a"]


def take(db: Any) -> None:
    """Another instance acquires the lease."""
    db.app_migrations_lock.replace_one({"_id": "lease"}, lock_of())


def unlock(db: Any) -> None:
    """Somebody unlocks it."""
    lease = SyncRunner(MigrationRegistry(), db, "app").unlock()
    assert lease is not None
    assert (lease.work, lease.migrations) == ("rollback", ("b",))


@pytest.mark.parametrize("lose", [take, unlock])
def test_lost_lease(db: Any, lose: Callable[[Any], None]) -> None:
    """When the lease is lost during a rollback, the record stays and nothing else is undone."""
    calls: list[str] = []
    migrations = registry({"a": []}, "sync", calls)
    migrations.register("b", ["a"])(nothing)
    migrations.register_rollback("b")(lose)
    db.app_migrations.insert_many(records("a", "b"))

    with pytest.raises(LeaseLostError) as caught:
        SyncRunner(migrations, db, "app").rollback(["a"])

    assert caught.value.migration == "b"
    assert calls == []
    assert recorded(db) == ["a", "b"]


@pytest.mark.parametrize("driver", drivers("mongomock"))
def test_no_transactions(db: Any) -> None:
    """Without transactions on the server nothing is undone, and the error names those that need them."""
    calls: list[str] = []
    migrations = registry({"a": []}, "sync", calls)
    migrations.register("b", ["a"], transaction=True)(nothing)
    migrations.register_rollback("b")(nothing)
    db.app_migrations.insert_many(records("a", "b"))

    with pytest.raises(TransactionsUnsupportedError) as caught:
        SyncRunner(migrations, db, "app").rollback(["a"])
    assert caught.value.migrations == ["b"]
    assert calls == []
