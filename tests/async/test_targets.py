"""Applying a part of what is pending, and events of unknown records."""

import logging
from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    DependencyConflictError,
    Event,
    RecordsUnknown,
    RunFinished,
    RunStarted,
    UnknownRecordsError,
    log_event,
)
from tests.functions import nothing_async
from tests.operations import CHAIN, TARGETS, Case, records, registry

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", TARGETS, ids=str)
async def test_targets(db: Any, case: Case) -> None:
    """A run applies only the targets and their dependencies, as the plan says; the next one does the rest."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = AsyncRunner(registry(case.needs, "async", calls), db, "app")

    plan = await runner.plan(case.targets)
    assert calls == []
    assert await runner.run(case.targets) == list(case.planned)

    assert [(planned.name, planned.reason, planned.undo) for planned in plan] == [
        (name, reason, False) for name, reason in case.planned.items()
    ]
    assert [planned.asked_for for planned in plan] == [reason == "asked for" for reason in case.planned.values()]
    assert calls == list(case.planned)
    assert {record["name"] async for record in db.app_migrations.find()} == {*case.recorded, *case.planned}
    assert set(await runner.run()) == case.needs.keys() - {*case.recorded, *case.planned}


async def test_targets_by_the_registry(db: Any) -> None:
    """The registry's method takes targets too; the events have only that part."""
    events: list[Event] = []
    migrations = registry(CHAIN, "async", [])

    assert await migrations.run(db, "app", targets=iter(["b"]), on_event=events.append) == ["a", "b"]

    assert events[0] == RunStarted(db.name, "app", events[0].run, ("a", "b"))
    assert events[-1] == RunFinished(db.name, "app", events[0].run, ("a", "b"))


async def test_unknown_records(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown records are one event and one warning with their names, and the run goes on."""
    await db.app_migrations.insert_many(records("z", "from tomorrow"))
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        log_event(event)

    assert await registry({"a": []}, "async", []).run(db, "app", on_event=on_event) == ["a"]

    assert [event for event in events if isinstance(event, RecordsUnknown)] == [
        RecordsUnknown(db.name, "app", events[0].run, ("from tomorrow", "z"))
    ]
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith(": from tomorrow, z")


async def test_pending_dependencies(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An applied migration with a pending dependency is one warning; a strict run refuses it, and so does its plan."""
    calls: list[str] = []
    migrations = registry({"a": [], "b": ["a"]}, "async", calls)
    await db.app_migrations.insert_many(records("b"))
    for method in (AsyncRunner(migrations, db, "app").run, AsyncRunner(migrations, db, "app").plan):
        with pytest.raises(DependencyConflictError, match="'b' needs 'a'"):
            await method(strict=True)
    assert calls == []
    caplog.clear()

    assert await migrations.run(db, "app") == ["a"]

    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "pending dependencies" in warning
    assert warning.endswith(": 'b' needs 'a'")
    assert await migrations.run(db, "app", strict=True) == []


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
