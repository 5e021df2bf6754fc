"""An async run that is interrupted by cancellation, a time-out or Ctrl-C."""

import asyncio
import contextlib
import gc
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import pymongo
import pytest

from quaestor import (
    AsyncMigrationContext,
    Event,
    MigrationApplied,
    MigrationContext,
    MigrationFailed,
    MigrationRegistry,
    MigrationStarted,
    RunFailed,
    RunFinished,
    RunStarted,
)
from quaestor._hosts.loop import LoopHost
from tests.databases import drivers, in_transactions
from tests.functions import (
    ab_async,
    are_free_async,
    fill_async,
    is_free_async,
    nothing_async,
    number_of,
    numbers,
    recorded_async,
    recorded_in_async,
)
from tests.meeting import Events, Moment
from tests.processes import interrupted

pytestmark = pytest.mark.anyio


async def test_before_a_function_starts() -> None:
    """An interruption just before a concurrent function starts: it doesn't start, and Python doesn't warn."""
    host, started, finished, stopped = LoopHost(), [], [], []

    async def function() -> None:
        started.append(True)

    async def supervisor(workers: Any) -> None:
        workers.start(lambda: host.call(function, is_async=True))
        await asyncio.sleep(0)  # the worker has asked for the function
        workers.interrupt(asyncio.CancelledError())
        finished.append(await workers.next_finished())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(asyncio.CancelledError):
            await host.supervise(supervisor, lambda: stopped.append(True))
        gc.collect()

    assert (started, stopped) == ([], [True])
    assert [type(error) for error in finished] == [asyncio.CancelledError]
    assert not caught


async def test_shielded_as_the_loop_ends() -> None:
    """The end of an event loop cancels every task, also those of a shielded step: it is done all the same."""
    started, done = asyncio.Event(), []

    async def step() -> None:
        started.set()
        await asyncio.sleep(0.01)
        done.append(True)

    before = asyncio.all_tasks()
    running = asyncio.ensure_future(LoopHost().shield(step, 30))
    await started.wait()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert done == [True]


async def test_cancelled(db: Any, registry: MigrationRegistry) -> None:
    """Cancellation reaches the function, has events and a note, and leaves earlier records."""
    started = asyncio.Event()
    events: list[Event] = []
    registry.register("a")(nothing_async)

    @registry.register("b")
    async def waits(db: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(registry.run(db, "app", on_event=events.append))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running

    assert [type(event) for event in events[-2:]] == [MigrationFailed, RunFailed]
    assert caught.value.__notes__ == ["quaestor: in migration 'b', 2 of 2"]
    assert await recorded_async(db) == ["a"]


async def test_timeout(db: Any, registry: MigrationRegistry) -> None:
    """A time-out around a run is a TimeoutError for the caller, and the run can be repeated."""
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
async def test_function_ends_before_the_run(db: Any, registry: MigrationRegistry, sync_db: Any, *, again: bool) -> None:
    """A cancelled run ends only when the function in the worker thread has, however often it is cancelled. What the
    function raises is the cause of the cancellation's exception.
    """
    started, released = threading.Event(), threading.Event()
    steps = []

    @registry.register("a")
    def works(db: Any) -> None:
        started.set()
        assert released.wait(timeout=30)
        steps.append("function")
        raise ValueError("half-written")

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
    with pytest.raises(asyncio.CancelledError) as caught:
        await running

    assert isinstance(caught.value.__cause__, ValueError)
    assert steps == ["function", "failed"]
    assert await recorded_async(db) == []


async def test_cancel_scope_waits_for_the_function(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """The same with anyio's cancellation, which is repeated until it is heeded."""
    started, released, ended = threading.Event(), threading.Event(), []

    @registry.register("a")
    def works(db: Any) -> None:
        started.set()
        assert released.wait(timeout=30)
        ended.append("function")

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: registry.run(db, "app", sync_db=sync_db))
        await anyio.to_thread.run_sync(started.wait)
        group.cancel_scope.cancel()
        asyncio.get_running_loop().call_later(0.01, released.set)

    assert ended == ["function"]


@pytest.mark.driver("mongomock")
def test_end_of_the_loop(registry: MigrationRegistry) -> None:
    """The end of an event loop cancels all its tasks; a run among them still waits for its function."""
    from mongomock_motor import AsyncMongoMockClient

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
async def test_cancelled_twice(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """Cancelled again while its transaction is aborted: it is aborted all the same, and blocks nothing."""
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


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", [None, RunStarted, MigrationStarted, MigrationApplied, RunFinished])
async def test_many_at_an_event(dbs: list[Any], kind: type[Event] | None, *, again: bool) -> None:
    """Whenever it is cancelled (None: before anything is sent), and however often, the call ends when its runs have,
    and starts no other database: every lease is free, and what its events say is recorded. The next call does the rest.
    """
    interruptions = [lambda: running.cancel()] * (2 if again else 1)
    events = Events({} if kind is None else {kind: lambda: interruptions and interruptions.pop()()})
    running = asyncio.ensure_future(ab_async().run_many(dbs, "app", on_event=events, concurrency=2))
    if kind is None:
        for interrupt in interruptions:
            await asyncio.sleep(0)
            interrupt()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert await are_free_async(dbs)
    assert {event.database for event in events} <= {one.name for one in dbs[:2]}
    for one in dbs:
        applied = [event for event in events if isinstance(event, MigrationApplied) and event.database == one.name]
        # What was being recorded when it was cancelled may be recorded.
        assert [event.name for event in applied] == (await recorded_async(one))[: len(applied)]
    assert [result.error for result in await ab_async().run_many(dbs, "app", lease_timeout=0)] == [None] * 5
    assert await recorded_in_async(dbs) == [["a", "b"]] * 5


@pytest.mark.parametrize("steps", range(5))
async def test_many_as_one_ends(dbs: list[Any], registry: MigrationRegistry, steps: int) -> None:
    """Cancelled just when one database is done, about where the next starts: the other one is waited for, and so is the
    next if it has started; no further one starts.
    """
    started, ended = Moment(), []

    @registry.register("a")
    async def cleans_up(db: Any) -> None:
        if number_of(db) != "01":
            await started.wait_async()
            return
        try:
            started.has_come()
            await asyncio.Event().wait()
        finally:
            for _ in range(50):  # cleaning up needs the loop for some time
                await asyncio.sleep(0)
            ended.append(number_of(db))

    def cancel(steps: int) -> None:
        if steps == 0:
            running.cancel()
        else:  # so many steps of the loop later
            asyncio.get_running_loop().call_soon(cancel, steps - 1)

    events = Events({RunFinished: lambda: cancel(steps)})
    running = asyncio.ensure_future(registry.run_many(dbs, "app", on_event=events, concurrency=2))
    with pytest.raises(asyncio.CancelledError):
        await running

    assert ended == ["01"]
    assert {event.database for event in events} <= {one.name for one in dbs[:3]}
    applied = {event.database for event in events if isinstance(event, MigrationApplied)}
    assert await recorded_in_async(dbs) == [["a"] if one.name in applied else [] for one in dbs]
    assert applied >= {dbs[0].name}
    assert await are_free_async(dbs)


@in_transactions("pymongo", "motor")
async def test_backfill(db: Any, registry: MigrationRegistry, sync_db: Any, *, transaction: bool) -> None:
    """Cancellation ends a `def` function with a backfill, which can't be stopped, after its batch. The next run resumes
    there. (In an `async def` function it is raised in the body, like the failures of a body.)
    """
    await fill_async(db.things, 6)
    calls: list[list[int]] = []
    started, released = threading.Event(), threading.Event()

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: list[dict[str, Any]]) -> None:
            calls.append(numbers(batch))
            if calls == [[0, 1], [2, 3]]:
                started.set()
                assert released.wait(timeout=30)

        context.for_each_batch(db.things, body, size=2, transaction=transaction)

    running = asyncio.ensure_future(registry.run(db, "app", sync_db=sync_db))
    await anyio.to_thread.run_sync(started.wait)
    running.cancel()
    asyncio.get_running_loop().call_soon(released.set)
    with pytest.raises(asyncio.CancelledError) as caught:
        await running

    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]
    assert await recorded_async(db) == []
    assert await registry.run(db, "app", sync_db=sync_db, lease_timeout=0) == ["a"]
    assert calls == [[0, 1], [2, 3], [4, 5]]


async def test_cancelled_bodies(db: Any, registry: MigrationRegistry) -> None:
    """A cancelled run cancels all bodies in progress; nothing of them is saved, and they come again."""
    await fill_async(db.things, 6)
    started: asyncio.Queue[list[Any]] = asyncio.Queue()
    ended: list[Any] = []
    fixed: list[bool] = []

    async def hang(batch: list[dict[str, Any]]) -> None:
        await started.put(numbers(batch))
        try:
            await asyncio.sleep(0 if fixed else 30)
        finally:
            ended.extend(numbers(batch))

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        await context.for_each_batch(db.things, hang, size=2, transaction=False, workers=2)

    running = asyncio.ensure_future(registry.run(db, "app"))
    assert [await started.get(), await started.get()] == [[0, 1], [2, 3]]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(ended) == [0, 1, 2, 3]
    fixed.append(True)
    assert await registry.run(db, "app") == ["a"]
    assert sorted(ended[4:]) == list(range(6))


async def test_cancelled_workers(db: Any, registry: MigrationRegistry) -> None:
    """If somebody cancels the tasks of a shared backfill, but not the migration's, it isn't taken for finished."""
    await fill_async(db.things, 20)
    meeting, interrupts = asyncio.Barrier(3), [True]
    seen: set[int] = set()

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        others = asyncio.all_tasks()

        async def body(batch: list[Any]) -> None:
            if interrupts:
                with contextlib.suppress(asyncio.CancelledError):
                    await meeting.wait()
                    for task in asyncio.all_tasks() - others:
                        task.cancel()
                    await asyncio.Event().wait()
            seen.update(numbers(batch))

        await context.for_each_batch(db.things, body, size=2, transaction=False, workers=3)

    with pytest.raises(asyncio.CancelledError):
        await registry.run(db, "app")
    assert await recorded_async(db) == []
    interrupts.clear()
    assert await registry.run(db, "app") == ["a"]
    assert seen == set(range(20))
