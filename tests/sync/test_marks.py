# Generated from tests/async/test_marks.py by tools/sync_tests.py
"""Correcting the records without running anything: to adopt a database, or to say that something is not done."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quaestor import (
    DependencyConflictError,
    Event,
    InvalidOptionError,
    LeaseTimeoutError,
    RecordConflictError,
    RecordsMarked,
    SyncRunner,
    UnknownMigrationError,
)
from tests.databases import drivers
from tests.functions import nowhere, recorded
from tests.operations import (
    BAD_NAMES,
    BREAKS,
    CHAIN,
    MARKS_APPLIED,
    MARKS_PENDING,
    Case,
    lock_of,
    records,
    registry,
)
from tools.commands import Commands


@pytest.mark.parametrize("case", MARKS_APPLIED, ids=str)
def test_mark_applied(db: Any, case: Case) -> None:
    """The names are recorded, dependencies first; no function is called, now or by the next run."""
    if case.recorded:
        db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = SyncRunner(registry(case.needs, "sync", calls), db, "app")

    assert runner.mark_applied(case.targets) == list(case.planned)

    assert calls == []
    assert recorded(db) == sorted({*case.recorded, *case.planned})
    assert set(runner.run()) == case.needs.keys() - {*case.recorded, *case.planned}


@pytest.mark.parametrize("case", MARKS_PENDING, ids=str)
def test_mark_pending(db: Any, case: Case) -> None:
    """The records of the names are removed, dependents first, also unknown ones; no rollback is called or needed."""
    if case.recorded:
        db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = SyncRunner(registry(case.needs, "sync", calls, irreversible=case.needs), db, "app")

    assert runner.mark_pending(case.targets) == list(case.planned)

    assert calls == []
    assert recorded(db) == sorted(set(case.recorded) - case.planned.keys())


def test_record(db: Any) -> None:
    """A mark writes the same record that a run writes."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    SyncRunner(registry(CHAIN, "sync", []), db, "app").mark_applied(["a"])

    (record,) = list(db.app_migrations.find())
    assert {key: record[key] for key in record if key != "appliedAt"} == {"_id": "a", "name": "a"}
    assert before <= record["appliedAt"].replace(tzinfo=UTC) <= datetime.now(UTC)


def test_conflicts(db: Any) -> None:
    """A mark that would leave an applied migration without a dependency is refused as a whole."""
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
    db.app_migrations.insert_many(records("a", "b"))

    with pytest.raises(DependencyConflictError, match="'d' needs 'c'") as caught:
        runner.mark_applied(["d", "a"])
    assert caught.value.conflicts == {"d": ["c"]}
    with pytest.raises(DependencyConflictError, match="'b' needs 'a'") as caught:
        runner.mark_pending(["a", "c"])
    assert caught.value.conflicts == {"b": ["a"]}

    assert recorded(db) == ["a", "b"]
    assert db.app_migrations_lock.count_documents({}) == 0


@pytest.mark.parametrize("found", BREAKS.values(), ids=[*BREAKS])
def test_records_of_all_kinds(db: Any, found: list[dict[str, Any]]) -> None:
    """Records of version 0.1 count, and all of them are removed when the migration is marked pending."""
    others = [{"_id": 7}, {"_id": 8, "name": 7}, *records("from tomorrow")]
    db.app_migrations.insert_many([*found, *others])
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app")

    assert runner.mark_applied(["a"]) == []
    assert runner.mark_pending(["a"]) == ["a"]
    assert [record["_id"] for record in db.app_migrations.find()] == [7, 8, "from tomorrow"]


def test_record_conflict(db: Any) -> None:
    """When the `_id` of a name belongs to another record, nothing is marked."""
    db.app_migrations.insert_one({"_id": "b", "name": "other"})

    with pytest.raises(RecordConflictError) as caught:
        SyncRunner(registry(CHAIN, "sync", []), db, "app").mark_applied(["a", "b"])
    assert caught.value.migrations == ["b"]
    assert recorded(db) == ["other"]


def test_unknown_names(db: Any) -> None:
    """Unregistered names can't be marked applied, and can be marked pending if they are recorded."""
    runner = SyncRunner(registry({"create_users": []}, "sync", []), db, "app")
    db.app_migrations.insert_many(records("create_orders"))

    with pytest.raises(UnknownMigrationError) as caught:
        runner.mark_pending(["create_users", "create_order", "zzz"])
    assert caught.value.suggestions == {"create_order": "create_orders", "zzz": None}
    with pytest.raises(UnknownMigrationError) as caught:
        runner.mark_applied(["create_orders"])
    assert caught.value.names == ["create_orders"]
    assert recorded(db) == ["create_orders"]


@pytest.mark.driver("pymongo")
def test_refused_before_the_first_command() -> None:
    """Unknown names to mark applied, and anything but a list of names, are refused before the first command."""
    with nowhere() as db:
        runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
        with pytest.raises(UnknownMigrationError, match="There is no migration 'x'"):
            runner.mark_applied(["a", "x"])
        for mark in (runner.mark_applied, runner.mark_pending):
            for names, words in [*BAD_NAMES, (None, "must be a list of names (str), not None")]:
                with pytest.raises(InvalidOptionError) as caught:
                    mark(names)
                assert f"names {words}" in str(caught.value)


def test_lease(db: Any) -> None:
    """A mark with something to do waits for the lease, and releases it."""
    held = lock_of()
    db.app_migrations_lock.insert_one(held)
    db.app_migrations.insert_many(records("a"))
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app", lease_timeout=0)

    for mark, names in ((runner.mark_applied, ["b"]), (runner.mark_pending, ["a"])):
        with pytest.raises(LeaseTimeoutError):
            mark(names)
    assert runner.mark_applied(["a"]) == runner.mark_pending(["b"]) == []
    assert recorded(db) == ["a"]
    assert list(db.app_migrations_lock.find()) == [held]

    runner.unlock()
    assert runner.mark_applied(["b"]) == ["b"]
    assert "owner" not in db.app_migrations_lock.find_one()


def test_events(db: Any) -> None:
    """A hook gets an event of the marks, and none of a migration."""
    told: list[Event] = []
    runner = SyncRunner(registry({"a": [], "b": ["a"]}, "sync", []), db, "app", on_event=told.append)
    db.app_migrations.insert_many(records("from tomorrow"))

    runner.mark_applied(["b", "a"])
    runner.mark_pending(["a", "b"])
    runner.mark_pending(["a"])

    where = (db.name, "app")
    assert told == [
        RecordsMarked(*where, ("a", "b"), applied=True),
        RecordsMarked(*where, ("b", "a"), applied=False),
        RecordsMarked(*where, (), applied=False),
    ]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """A mark is two reads, a lease, and for each a check and a record, with what is kept of its rollback removed before
    and of itself behind; transactional ones need no transaction.
    """
    runner = SyncRunner(registry(CHAIN, "sync", [], transaction=True), db, "app")
    before = ["find", "findAndModify", "find"]

    runner.mark_applied(["a", "b"])
    assert commands.names == [*before, *["delete", "update", "insert", "delete"] * 2, "update"]
    commands.sent.clear()
    runner.mark_pending(["a", "b"])
    assert commands.names == [*before, *["delete", "update", "delete", "delete"] * 2, "update"]

    assert recorded(db) == []
