"""Backfills whose batches several workers share, and batches that are advanced in the wrong place."""

import asyncio
from typing import Any

import pytest

from quaestor import AsyncMigrationContext, AsyncRunner, InvalidOptionError, MigrationRegistry
from tests.functions import Broken, fill_async, nothing_async, numbers
from tests.meeting import Meeting, start_async

pytestmark = pytest.mark.anyio

Batch = list[dict[str, Any]]


def share_async(registry: MigrationRegistry, function: Any, **options: Any) -> None:
    """Register a migration `a` that shares the batches of `things` between workers."""

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            await function(db, batch)

        await context.for_each_batch(db.things, body, transaction=False, **options)


async def test_workers(db: Any, registry: MigrationRegistry) -> None:
    """So many batches are in progress at the same time. Each document comes once, and no checkpoint is left."""
    await fill_async(db.things, 20)
    meeting = Meeting(3)

    async def meet(db: Any, batch: Batch) -> None:
        if batch[0]["_id"] < 6:
            await meeting.wait_async()
        await db.seen.insert_many(batch)

    share_async(registry, meet, size=2, workers=3)
    assert await registry.run(db, "app") == ["a"]
    assert sorted(numbers([one async for one in db.seen.find()])) == list(range(20))
    assert await db.app_migrations_progress.count_documents({}) == 0


async def test_failure(db: Any, registry: MigrationRegistry) -> None:
    """If a body fails, those in progress end, and the next run resumes at the first gap. The error names its batch."""
    await fill_async(db.things, 20)
    meeting, failing = Meeting(3), [2]
    seen: list[Any] = []

    async def meet(db: Any, batch: Batch) -> None:
        if failing and batch[0]["_id"] < 6:
            await meeting.wait_async()
        if batch[0]["_id"] in failing:
            raise Broken
        seen.extend(numbers(batch))

    share_async(registry, meet, size=2, workers=3)
    with pytest.raises(Broken) as caught:
        await registry.run(db, "app")
    assert caught.value.__notes__ == [
        "quaestor: at the `_id`s from 2 to 3 of the backfill 'things'",
        "quaestor: in migration 'a', 1 of 1",
    ]
    assert set(seen) >= {0, 1, 4, 5}
    (status,) = (await AsyncRunner(registry, db, "app").status()).migrations
    assert [one.done for one in status.backfills] == [2]

    failing.clear()
    seen.clear()
    assert await registry.run(db, "app") == ["a"]
    assert sorted(seen) == list(range(2, 20))


async def test_interruption(db: Any, registry: MigrationRegistry) -> None:
    """An interruption that a body raises is raised; the next run resumes."""
    await fill_async(db.things, 6)
    interruptions: list[BaseException] = [asyncio.CancelledError()]
    seen: list[Any] = []

    async def interrupt(db: Any, batch: Batch) -> None:
        if interruptions and batch[0]["_id"] == 4:
            raise interruptions.pop()
        seen.extend(numbers(batch))

    share_async(registry, interrupt, size=2, workers=2)
    with pytest.raises(asyncio.CancelledError):
        await registry.run(db, "app")
    assert await registry.run(db, "app") == ["a"]
    assert sorted(set(seen)) == list(range(6))


async def test_bad_workers(db: Any, registry: MigrationRegistry) -> None:
    """Workers can't share a transaction, and are a number from 1 to 100."""
    refused = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        for options in ({"workers": 2}, {"workers": 0, "transaction": False}, {"workers": True, "transaction": False}):
            with pytest.raises(InvalidOptionError, match="workers") as caught:
                await context.for_each_batch(db.things, nothing_async, **options)
            refused.append(str(caught.value))

    await registry.run(db, "app")
    assert "transaction=False" in refused[0]
    assert refused[1] == "workers must be a whole number, from 1 to 100, not 0."
    assert len(refused) == 3


async def test_advanced_elsewhere(db: Any, registry: MigrationRegistry) -> None:
    """Another thread or task than the one that began can't ask for the next batch; the error shows the right form."""
    await fill_async(db.things, 6)
    seen = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        batches = context.batches(db.things, size=2)
        seen.append(numbers(await anext(batches)))
        with pytest.raises(InvalidOptionError, match=r"context\.for_each_batch\(.*, transaction=False, workers=8\)"):
            await start_async(lambda: advance(batches)).result_async()
        raise Broken

    async def advance(batches: Any) -> Any:
        return await anext(batches)

    with pytest.raises(Broken):
        await registry.run(db, "app")
    assert seen == [[0, 1]]
    (left,) = [one async for one in db.app_migrations_progress.find()]
    assert left["done"] == 0
