# Generated from tests/async/test_rollback.py by tools/sync_tests.py
"""Undoing migrations: which ones, in which order, what is left, and what a failure leaves."""

import logging
from typing import Any

import pytest

from quaestor import (
    Event,
    MigrationFailed,
    MigrationRegistry,
    RunFailed,
    SyncRunner,
    log_event,
)
from tests.databases import drivers
from tests.functions import (
    Broken,
    effects,
    nothing,
    recorded,
)
from tests.operations import BREAKS, CHAIN, DIAMOND, ROLLBACKS, Case, records, registry
from tools.commands import Commands


@pytest.mark.parametrize("case", ROLLBACKS, ids=str)
def test_rollback(db: Any, case: Case) -> None:
    """The targets and all applied migrations that need them are rolled back, dependents first, as the plan says."""
    if case.recorded:
        db.app_migrations.insert_many(records(*case.recorded))
        db.effects.insert_many([{"_id": name} for name in case.recorded])
    calls: list[str] = []
    runner = SyncRunner(registry(case.needs, "sync", calls), db, "app")

    plan = runner.plan_rollback(case.targets)
    assert calls == []
    assert runner.rollback(case.targets) == list(case.planned)

    assert [(planned.name, planned.reason, planned.undo) for planned in plan] == [
        (name, reason, True) for name, reason in case.planned.items()
    ]
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
    assert db.app_migrations_lock.find_one() == {"_id": "lease", "token": 4, "sessions": []}


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize(
    ("transaction", "each", "once"),
    [
        (False, ["update", "delete", "update"], ["update"]),
        (True, ["delete", "commitTransaction", "update", "update"], []),
    ],
)
def test_commands(db: Any, commands: Commands, transaction: bool, each: list[str], once: list[str]) -> None:
    """A rollback costs what a run does, and an entry of the history for each migration."""
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


def test_failure(db: Any) -> None:
    """A rollback that fails has removed exactly the records of what it undid, and can be repeated."""
    calls: list[str] = []
    events: list[Event] = []
    registry(CHAIN, "sync", calls).run_sync(db, "app")
    failing = SyncRunner(registry(CHAIN, "sync", calls, fails="undo b"), db, "app", on_event=events.append)

    with pytest.raises(Broken) as caught:
        failing.rollback(["a"])

    assert caught.value.__notes__ == ["quaestor: while rolling back migration 'b', 3 of 4"]
    assert events[-2:] == [
        MigrationFailed(db.name, "app", events[0].run, "b", 3, 4, caught.value, undo=True),
        RunFailed(db.name, "app", events[0].run, caught.value, work="rollback"),
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
