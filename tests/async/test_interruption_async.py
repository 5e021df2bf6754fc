"""An async run that is interrupted by cancellation, a time-out or Ctrl-C."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pymongo
import pytest

from quaestor import Event, MigrationFailed, MigrationRegistry
from tests.databases import drivers
from tests.functions import is_free_async, nothing_async, recorded_async
from tests.processes import interrupted

pytestmark = pytest.mark.anyio


async def test_cancelled(db: Any) -> None:
    """Cancellation reaches the function, is told and noted, and leaves no record but of what came before."""
    registry = MigrationRegistry()
    started = asyncio.Event()
    told: list[Event] = []
    registry.register("a")(nothing_async)

    @registry.register("b")
    async def waits(db: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(registry.run(db, "app", on_event=told.append))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running

    assert isinstance(told[-1], MigrationFailed)
    assert caught.value.__notes__ == ["quaestor: in migration 'b', 2 of 2"]
    assert await recorded_async(db) == ["a"]


async def test_timeout(db: Any) -> None:
    """A time-out around a run is a TimeoutError for the caller, and the run can be repeated."""
    registry = MigrationRegistry()
    interruptions: list[Callable[[], None]] = []

    @registry.register("a")
    async def waits(db: Any) -> None:
        if interruptions:
            interruptions.pop()()
            await asyncio.Event().wait()

    timeout = asyncio.timeout(None)
    interruptions.append(lambda: timeout.reschedule(0))
    with pytest.raises(TimeoutError):
        async with timeout:
            await registry.run(db, "app")
    with anyio.CancelScope() as scope:
        interruptions.append(scope.cancel)
        await registry.run(db, "app", lease_timeout=0)  # the lease is free again at once
    assert scope.cancelled_caught

    assert await registry.run(db, "app", lease_timeout=0) == ["a"]


@pytest.mark.parametrize("again", [False, True])
async def test_function_ends_before_the_run(db: Any, sync_db: Any, *, again: bool) -> None:
    """A cancelled run ends only when the function in the worker thread has, however often it is cancelled."""
    registry = MigrationRegistry()
    started, released = threading.Event(), threading.Event()
    steps = []

    @registry.register("a")
    def works(db: Any) -> None:
        started.set()
        assert released.wait(timeout=30)
        steps.append("function")

    def hook(event: Event) -> None:
        if isinstance(event, MigrationFailed):
            steps.append("failed")

    running = asyncio.ensure_future(registry.run(db, "app", sync_db=sync_db, on_event=hook))
    await anyio.to_thread.run_sync(started.wait)
    for _ in range(2 if again else 1):
        running.cancel()
        await asyncio.wait([running], timeout=0.01)
        assert steps == []
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert steps == ["function", "failed"]
    assert await recorded_async(db) == []


async def test_cancel_scope_waits_for_the_function(db: Any, sync_db: Any) -> None:
    """The same with anyio's cancellation, which is repeated until it is heeded, and a function that fails."""
    registry = MigrationRegistry()
    started, released = threading.Event(), threading.Event()
    ended = []

    @registry.register("a")
    def works(db: Any) -> None:
        started.set()
        assert released.wait(timeout=30)
        ended.append("function")
        raise ValueError("too late")

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: registry.run(db, "app", sync_db=sync_db))
        await anyio.to_thread.run_sync(started.wait)
        group.cancel_scope.cancel()
        asyncio.get_running_loop().call_later(0.01, released.set)

    assert ended == ["function"]


async def test_failure_of_a_cancelled_function(db: Any, sync_db: Any) -> None:
    """What a function raises after its run was cancelled is the cause of the cancellation's exception."""
    registry = MigrationRegistry()
    started, released = threading.Event(), threading.Event()

    @registry.register("a")
    def fails(db: Any) -> None:
        started.set()
        assert released.wait(timeout=30)
        raise ValueError("half-written")

    running = asyncio.ensure_future(registry.run(db, "app", sync_db=sync_db))
    await asyncio.to_thread(started.wait)
    running.cancel()
    asyncio.get_running_loop().call_soon(released.set)
    with pytest.raises(asyncio.CancelledError) as caught:
        await running

    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.driver("mongomock")
def test_end_of_the_loop() -> None:
    """The end of an event loop cancels all its tasks; a run among them still waits for its function."""
    from mongomock_motor import AsyncMongoMockClient

    registry = MigrationRegistry()
    started = asyncio.Event()
    steps = []

    async def application() -> None:
        loop = asyncio.get_running_loop()

        @registry.register("a")
        def works(db: Any) -> None:
            loop.call_soon_threadsafe(started.set)
            while not running.cancelling():
                time.sleep(0.01)
            steps.append("function")

        def hook(event: Event) -> None:
            if isinstance(event, MigrationFailed):
                steps.append("failed")

        running = asyncio.ensure_future(registry.run(AsyncMongoMockClient()["app"], "app", on_event=hook))
        await started.wait()

    asyncio.run(application())
    assert steps == ["function", "failed"]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_cancelled_twice(db: Any, other: Any) -> None:
    """Cancelled again while its transaction is aborted: it is aborted all the same, and blocks nothing."""
    registry = MigrationRegistry()
    started = asyncio.Event()
    await db.users.insert_one({"_id": 1})

    @registry.register("a", transaction=True)
    async def a(db: Any) -> None:
        await db.users.update_one({"_id": 1}, {"$set": {"seen": True}})
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().call_soon(running.cancel)

    running = asyncio.ensure_future(registry.run(db, "app"))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    with pymongo.timeout(10):
        await other.users.update_one({"_id": 1}, {"$set": {"free": True}})
    assert await other.users.find_one() == {"_id": 1, "free": True}
    assert await is_free_async(other)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.driver("pymongo")
async def test_ctrl_c(uri: str, name: str, kind: str) -> None:
    """SIGINT while a function runs: KeyboardInterrupt, the function has ended, what came before stays recorded."""
    ended = await anyio.to_thread.run_sync(interrupted, "async", kind, uri, name)

    assert "KeyboardInterrupt" in ended.errors
    assert "quaestor: in migration 'b', 2 of 2" in ended.errors
    assert ended.lines == ["started", "function ended", "failed"]
    assert ended.records == ["a"]
    assert ended.released
