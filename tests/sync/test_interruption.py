# Generated from tests/async/test_interruption.py by tools/sync_tests.py
"""A run with `def` and `async def` functions that is interrupted."""

import asyncio
import contextlib
from typing import Any

import pytest

from quaestor import MigrationApplied, MigrationContext, MigrationFailed, MigrationRegistry
from quaestor._hosts.calls import current_cancellation
from tests.databases import both_kinds
from tests.functions import (
    are_free,
    fill,
    is_free,
    number_of,
    recorded,
    recorded_in,
)
from tests.interruption import (
    interruption,
    recorded_when_interrupted,
)
from tests.meeting import Events, Meeting, Moment


@both_kinds
def test_concurrent_migrations(db: Any, registry: MigrationRegistry, async_db: Any, async_dbs: Any) -> None:
    """An interruption cancels `async def` functions; in `def` functions backfills end after their batch, and the others
    finish and are recorded; nothing starts; the lease is free when it is raised.
    """
    meeting, cancelled, events, running = Meeting(3), Moment(), Events(), interruption()
    fill(db.things, 6)
    seen: list[int] = []
    fixed: list[bool] = []
    calls: list[bool] = []

    @registry.register("a")
    def goes_on(db: Any) -> None:
        meeting.wait()
        running.interrupt()
        cancelled.wait()
        db.effects.insert_one({})

    @registry.register("b")
    def backfills(db: Any, context: MigrationContext) -> None:
        for batch in context.batches(db.things, size=2):
            seen.extend(document["_id"] for document in batch)
            if not fixed:
                meeting.wait()
                cancelled.wait()

    @registry.register("c")
    async def is_cancelled(db: Any) -> None:
        if not fixed:
            try:
                await meeting.wait_async()
                await asyncio.Event().wait()
            finally:
                for _ in range(5):  # the loop cancels the others meanwhile
                    await asyncio.sleep(0)
                cancelled.has_come()

    for name, depends_on in {"d": [], "e": ["a"]}.items():

        @registry.register(name, depends_on)
        def is_called(db: Any) -> None:
            calls.append(bool(fixed))

    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: registry.run_sync(db, "app", async_db=async_db, on_event=events, concurrency=3))

    assert recorded(db) == ["a"]
    assert db.effects.count_documents({}) == 1
    assert events.names(MigrationApplied) == ["a"]
    assert {"b", "c"} <= set(events.names(MigrationFailed))
    assert calls == []
    assert seen == [0, 1]
    assert is_free(db)

    fixed.append(True)
    assert registry.run_sync(db, "app", async_db=async_dbs and async_dbs(db.name), concurrency=3) == [
        "b",
        "c",
        "d",
        "e",
    ]
    assert seen == [0, 1, 2, 3, 4, 5]
    assert calls == [True, True]


@both_kinds
@pytest.mark.parametrize("concurrency", [1, 2])
def test_shared_batches(db: Any, registry: MigrationRegistry, async_db: Any, concurrency: int) -> None:
    """An interruption reaches the workers of a backfill: no batch starts, those in progress end, and are saved."""
    fill(db.things, 8)
    meeting, running = Meeting(2), interruption()
    seen: list[int] = []
    fixed: list[bool] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: list[dict[str, Any]]) -> None:
            if not fixed:
                meeting.wait()
                if batch[0]["_id"] == 0:
                    running.interrupt()
                with contextlib.suppress(BaseException):  # whatever interrupts
                    current_cancellation.get().sleep(30)
                assert current_cancellation.get().is_set()
            seen.extend(document["_id"] for document in batch)

        context.for_each_batch(db.things, body, size=2, transaction=False, workers=2)

    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: registry.run_sync(db, "app", async_db=async_db, concurrency=concurrency))
    assert sorted(seen) == [0, 1, 2, 3]
    (left,) = list(db.app_migrations_progress.find())
    assert left["done"] == 4
    assert is_free(db)

    fixed.append(True)
    assert registry.run_sync(db, "app", async_db=async_db, concurrency=concurrency) == ["a"]
    assert sorted(seen) == list(range(8))


@both_kinds
def test_many(dbs: list[Any], registry: MigrationRegistry, async_dbs: Any) -> None:
    """An interruption lets a `def` function come to its end and a backfill to that of its batch, and cancels an
    `async def` one; no other migration and no other database starts; the leases are free when it is raised, and the
    next call does the rest.
    """
    meeting, cancelled, events, running = Meeting(3), Moment(), Events(), interruption()
    fixed: list[bool] = []
    seen: list[int] = []
    dbs[1].things.insert_many([{"_id": number} for number in range(4)])

    @registry.register("a")
    def goes_on(db: Any, context: MigrationContext) -> None:
        if number_of(db) == "00" and not fixed:
            meeting.wait()
            running.interrupt()
            cancelled.wait()
            db.effects.insert_one({})
            return
        for batch in context.batches(db.things, size=2):
            seen.extend(document["_id"] for document in batch)
            if not fixed:
                meeting.wait()
                cancelled.wait()

    @registry.register("b", depends_on=["c"])
    def is_next(db: Any) -> None:
        """Nothing."""

    @registry.register("c")
    async def is_cancelled(db: Any) -> None:
        if number_of(db) == "02" and not fixed:
            try:  # the cancellation may come while it still waits for the others
                await meeting.wait_async()
                await asyncio.Event().wait()
            finally:
                for _ in range(5):  # the loop cancels the others meanwhile
                    await asyncio.sleep(0)
                cancelled.has_come()

    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: registry.run_many_sync(dbs, "app", async_db=async_dbs, on_event=events, concurrency=3))

    assert recorded_in(dbs) == [recorded_when_interrupted, [], ["a"], [], []]
    assert dbs[0].effects.count_documents({}) == 1
    assert seen == [0, 1]
    assert {event.database for event in events} == {one.name for one in dbs[:3]}
    assert are_free(dbs)
    fixed.append(True)
    results = registry.run_many_sync(dbs, "app", async_db=async_dbs, lease_timeout=0)
    assert [result.error for result in results] == [None] * 5
    assert recorded_in(dbs) == [["a", "b", "c"]] * 5
    assert seen == [0, 1, 2, 3]
