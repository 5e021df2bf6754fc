"""Applying a part of what is pending, and what is said of records that the code does not know."""

import logging
from typing import Any

import pytest
from pymongo import MongoClient

from quaestor import (
    AsyncRunner,
    Event,
    InvalidOptionError,
    LeaseAwaited,
    MigrationRegistry,
    RecordsUnknown,
    RunFinished,
    RunStarted,
    UnknownMigrationError,
    UnknownRecordsError,
    log_event,
)
from tests.databases import drivers
from tests.functions import nothing_async, nowhere_async
from tests.operations import BAD_NAMES, CHAIN, TARGETS, Case, lock_of, records, registry

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", TARGETS, ids=str)
async def test_targets(db: Any, case: Case) -> None:
    """A run applies only the targets and their dependencies; the next run without targets does the rest."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = AsyncRunner(registry(case.needs, "async", calls), db, "app")

    assert await runner.run(case.targets) == list(case.planned)
    assert calls == list(case.planned)
    assert {record["name"] async for record in db.app_migrations.find()} == {*case.recorded, *case.planned}

    assert set(await runner.run()) == case.needs.keys() - {*case.recorded, *case.planned}


async def test_targets_by_the_registry(db: Any) -> None:
    """The registry's method takes targets too; the events have only that part."""
    told: list[Event] = []
    migrations = registry(CHAIN, "async", [])

    assert await migrations.run(db, "app", targets=iter(["b"]), on_event=told.append) == ["a", "b"]

    assert told[0] == RunStarted(db.name, "app", ("a", "b"))
    assert told[-1] == RunFinished(db.name, "app", ("a", "b"))


async def test_log_of_nothing_to_do(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """When only the targets are applied the log doesn't say that everything is."""
    await db.app_migrations.insert_many(records("a"))

    with caplog.at_level(logging.INFO, "quaestor"):
        assert await registry(CHAIN, "async", []).run(db, "app", targets=["a"]) == []

    assert "nothing to apply" in caplog.text
    assert "all" not in caplog.text


@pytest.mark.driver("pymongo")
async def test_unknown_target() -> None:
    """Unregistered names are refused before the first command, each with the closest registered name."""
    migrations = registry({"create_users": [], "create_orders": []}, "async", [])

    async with nowhere_async() as db:
        with pytest.raises(UnknownMigrationError) as caught:
            await AsyncRunner(migrations, db, "app").run(["create_user", "create_orders", "zzz"])

    assert caught.value.suggestions == {"create_user": "create_users", "zzz": None}
    assert "There is no migration 'create_user'. Did you mean 'create_users'?" in str(caught.value)


@pytest.mark.parametrize("driver", drivers("mongomock"))
@pytest.mark.parametrize(("targets", "words"), BAD_NAMES)
async def test_bad_targets(db: Any, targets: Any, words: str) -> None:
    """Targets are a list of names."""
    with pytest.raises(InvalidOptionError) as caught:
        await registry(CHAIN, "async", []).run(db, "app", targets=targets)
    assert f"targets {words}" in str(caught.value)


async def test_unknown_records(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown records are one event and one warning with their names, and the run goes on."""
    await db.app_migrations.insert_many(records("z", "from tomorrow"))
    told: list[Event] = []

    def on_event(event: Event) -> None:
        told.append(event)
        log_event(event)

    assert await registry({"a": []}, "async", []).run(db, "app", on_event=on_event) == ["a"]

    assert [event for event in told if isinstance(event, RecordsUnknown)] == [
        RecordsUnknown(db.name, "app", ("from tomorrow", "z"))
    ]
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith(": from tomorrow, z")


async def test_unknown_records_with_nothing_to_do(db: Any) -> None:
    """A run with nothing to do has this event too, and a run without unknown records has not."""
    told: list[Event] = []
    migrations = MigrationRegistry()

    await migrations.run(db, "app", on_event=told.append)
    assert [type(event) for event in told] == [RunStarted, RunFinished]
    await db.app_migrations.insert_many(records("z"))
    await migrations.run(db, "app", on_event=told.append)
    assert [type(event) for event in told[2:]] == [RecordsUnknown, RunStarted, RunFinished]


@pytest.mark.parametrize("targets", [None, ["a"]])
async def test_strict(db: Any, targets: list[str] | None) -> None:
    """A strict run refuses unknown records before it acquires the lease."""
    calls: list[str] = []
    migrations = registry({"a": []}, "async", calls)
    await db.app_migrations.insert_many(records("z", "from tomorrow"))

    with pytest.raises(UnknownRecordsError, match="from tomorrow, z") as caught:
        await migrations.run(db, "app", targets=targets, strict=True)
    assert caught.value.names == ["from tomorrow", "z"]
    assert calls == []
    assert await db.app_migrations_lock.count_documents({}) == 0

    migrations.register("z")(nothing_async)
    migrations.register("from tomorrow")(nothing_async)
    assert await migrations.run(db, "app", targets=targets, strict=True) == ["a"]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_strict_under_the_lease(db: Any, uri: str, name: str) -> None:
    """A strict run refuses records that were written while it waited, and releases the lease."""
    calls: list[str] = []
    await db.app_migrations_lock.insert_one(lock_of())

    def on_event(event: Event) -> None:
        if isinstance(event, LeaseAwaited):
            with MongoClient(uri) as client:
                client[name].app_migrations.insert_many(records("z"))
                client[name].app_migrations_lock.delete_one({})

    with pytest.raises(UnknownRecordsError):
        await registry({"a": []}, "async", calls).run(db, "app", strict=True, on_event=on_event)
    assert calls == []
    assert "owner" not in await db.app_migrations_lock.find_one()
