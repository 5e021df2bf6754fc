"""Correcting the records without running anything: to adopt a database, or to say that something is not done."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    DependencyConflictError,
    Event,
    InvalidOptionError,
    LeaseTimeoutError,
    RecordConflictError,
    RecordsMarked,
    UnknownMigrationError,
)
from tests.databases import drivers
from tests.functions import nowhere_async, recorded_async
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

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", MARKS_APPLIED, ids=str)
async def test_mark_applied(db: Any, case: Case) -> None:
    """The names are recorded, dependencies first; no function is called, now or by the next run."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = AsyncRunner(registry(case.needs, "async", calls), db, "app")

    assert await runner.mark_applied(case.targets) == list(case.planned)

    assert calls == []
    assert await recorded_async(db) == sorted({*case.recorded, *case.planned})
    assert set(await runner.run()) == case.needs.keys() - {*case.recorded, *case.planned}


@pytest.mark.parametrize("case", MARKS_PENDING, ids=str)
async def test_mark_pending(db: Any, case: Case) -> None:
    """The records of the names are removed, dependents first, also unknown ones; no rollback is called or needed."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = AsyncRunner(registry(case.needs, "async", calls, irreversible=case.needs), db, "app")

    assert await runner.mark_pending(case.targets) == list(case.planned)

    assert calls == []
    assert await recorded_async(db) == sorted(set(case.recorded) - case.planned.keys())


async def test_record(db: Any) -> None:
    """A mark writes the same record that a run writes."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    await AsyncRunner(registry(CHAIN, "async", []), db, "app").mark_applied(["a"])

    (record,) = [one async for one in db.app_migrations.find()]
    assert {key: record[key] for key in record if key != "appliedAt"} == {"_id": "a", "name": "a"}
    assert before <= record["appliedAt"].replace(tzinfo=UTC) <= datetime.now(UTC)


async def test_conflicts(db: Any) -> None:
    """A mark that would leave an applied migration without a dependency is refused as a whole."""
    runner = AsyncRunner(registry(CHAIN, "async", []), db, "app")
    await db.app_migrations.insert_many(records("a", "b"))

    with pytest.raises(DependencyConflictError, match="'d' needs 'c'") as caught:
        await runner.mark_applied(["d", "a"])
    assert caught.value.conflicts == {"d": ["c"]}
    with pytest.raises(DependencyConflictError, match="'b' needs 'a'") as caught:
        await runner.mark_pending(["a", "c"])
    assert caught.value.conflicts == {"b": ["a"]}

    assert await recorded_async(db) == ["a", "b"]
    assert await db.app_migrations_lock.count_documents({}) == 0


@pytest.mark.parametrize("found", BREAKS.values(), ids=[*BREAKS])
async def test_records_of_all_kinds(db: Any, found: list[dict[str, Any]]) -> None:
    """Records of version 0.1 count, and all of them are removed when the migration is marked pending."""
    others = [{"_id": 7}, {"_id": 8, "name": 7}, *records("from tomorrow")]
    await db.app_migrations.insert_many([*found, *others])
    runner = AsyncRunner(registry({"a": []}, "async", []), db, "app")

    assert await runner.mark_applied(["a"]) == []
    assert await runner.mark_pending(["a"]) == ["a"]
    assert [record["_id"] async for record in db.app_migrations.find()] == [7, 8, "from tomorrow"]


async def test_record_conflict(db: Any) -> None:
    """When the `_id` of a name belongs to another record, nothing is marked."""
    await db.app_migrations.insert_one({"_id": "b", "name": "other"})

    with pytest.raises(RecordConflictError) as caught:
        await AsyncRunner(registry(CHAIN, "async", []), db, "app").mark_applied(["a", "b"])
    assert caught.value.migrations == ["b"]
    assert await recorded_async(db) == ["other"]


async def test_unknown_names(db: Any) -> None:
    """Unregistered names can't be marked applied, and can be marked pending if they are recorded."""
    runner = AsyncRunner(registry({"create_users": []}, "async", []), db, "app")
    await db.app_migrations.insert_many(records("create_orders"))

    with pytest.raises(UnknownMigrationError) as caught:
        await runner.mark_pending(["create_users", "create_order", "zzz"])
    assert caught.value.suggestions == {"create_order": "create_orders", "zzz": None}
    with pytest.raises(UnknownMigrationError) as caught:
        await runner.mark_applied(["create_orders"])
    assert caught.value.names == ["create_orders"]
    assert await recorded_async(db) == ["create_orders"]


@pytest.mark.driver("pymongo")
async def test_refused_before_the_first_command() -> None:
    """Unknown names to mark applied, and anything but a list of names, are refused before the first command."""
    async with nowhere_async() as db:
        runner = AsyncRunner(registry(CHAIN, "async", []), db, "app")
        with pytest.raises(UnknownMigrationError, match="There is no migration 'x'"):
            await runner.mark_applied(["a", "x"])
        for mark in (runner.mark_applied, runner.mark_pending):
            for names, words in [*BAD_NAMES, (None, "must be a list of names (str), not None")]:
                with pytest.raises(InvalidOptionError) as caught:
                    await mark(names)
                assert f"names {words}" in str(caught.value)


async def test_lease(db: Any) -> None:
    """A mark with something to do waits for the lease, and releases it."""
    held = lock_of()
    await db.app_migrations_lock.insert_one(held)
    await db.app_migrations.insert_many(records("a"))
    runner = AsyncRunner(registry(CHAIN, "async", []), db, "app", lease_timeout=0)

    for mark, names in ((runner.mark_applied, ["b"]), (runner.mark_pending, ["a"])):
        with pytest.raises(LeaseTimeoutError):
            await mark(names)
    assert await runner.mark_applied(["a"]) == await runner.mark_pending(["b"]) == []
    assert await recorded_async(db) == ["a"]
    assert [one async for one in db.app_migrations_lock.find()] == [held]

    await runner.unlock()
    assert await runner.mark_applied(["b"]) == ["b"]
    assert "owner" not in await db.app_migrations_lock.find_one()


async def test_events(db: Any) -> None:
    """A hook gets an event of the marks, and none of a migration."""
    told: list[Event] = []
    runner = AsyncRunner(registry({"a": [], "b": ["a"]}, "async", []), db, "app", on_event=told.append)
    await db.app_migrations.insert_many(records("from tomorrow"))

    await runner.mark_applied(["b", "a"])
    await runner.mark_pending(["a", "b"])
    await runner.mark_pending(["a"])

    where = (db.name, "app")
    assert told == [
        RecordsMarked(*where, ("a", "b"), applied=True),
        RecordsMarked(*where, ("b", "a"), applied=False),
        RecordsMarked(*where, (), applied=False),
    ]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_commands(db: Any, commands: Commands) -> None:
    """A mark is two reads, a lease, and for each a check and a record, with what is kept of its rollback removed before
    and of itself behind; transactional ones need no transaction.
    """
    runner = AsyncRunner(registry(CHAIN, "async", [], transaction=True), db, "app")
    before = ["find", "findAndModify", "find"]

    await runner.mark_applied(["a", "b"])
    assert commands.names == [*before, *["delete", "update", "insert", "delete"] * 2, "update"]
    commands.sent.clear()
    await runner.mark_pending(["a", "b"])
    assert commands.names == [*before, *["delete", "update", "delete", "delete"] * 2, "update"]

    assert await recorded_async(db) == []
