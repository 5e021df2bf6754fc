"""A sync run that is interrupted by Ctrl-C, or by an exception that ends a generator."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quaestor import (
    Event,
    MigrationApplied,
    MigrationContext,
    MigrationFailed,
    MigrationRegistry,
    MigrationStarted,
    RunFinished,
    RunStarted,
)
from tests.databases import both_kinds, drivers
from tests.functions import ab, are_free, fill, is_free, number_of, recorded, recorded_in
from tests.meeting import Meeting, Moment, Told
from tests.processes import interrupted


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Return a function that sends Ctrl-C to this thread, even where the process ignores that signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.get_ident()
    try:
        yield lambda: signal.pthread_kill(thread, signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.driver("pymongo")
def test_ctrl_c(uri: str, name: str, kind: str) -> None:
    """SIGINT while a function runs: KeyboardInterrupt, the function has ended, what came before stays recorded."""
    ended = interrupted("sync", kind, uri, name)

    assert "KeyboardInterrupt" in ended.errors
    assert "quaestor: in migration 'b', 2 of 2" in ended.errors
    assert ended.lines == ["started", "function ended", "failed"]
    assert ended.records == ["a"]
    assert ended.released


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_generator_exit(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A function that raises GeneratorExit, as broken generators do, fails like any other and releases the lease."""

    @registry.register("a", transaction=transaction)
    def leaves(db: Any) -> None:
        db.users.insert_one({})
        raise GeneratorExit

    with pytest.raises(RuntimeError, match="raised GeneratorExit"):
        registry.run_sync(db, "app")
    assert recorded(db) == []
    assert is_free(db)


@both_kinds
def test_concurrent_migrations(db: Any, registry: MigrationRegistry, async_db: Any, async_dbs: Any) -> None:
    """An interruption cancels `async def` functions; in `def` functions backfills end after their batch, and the others
    come to their end and are recorded; nothing begins; the lease is free when it is raised.
    """
    meeting, cancelled = Meeting(3), Moment()
    told = Told()
    fill(db.things, 6)
    seen: list[int] = []
    fixed: list[bool] = []
    calls: list[bool] = []

    @registry.register("a")
    def goes_on(db: Any) -> None:
        meeting.wait()
        interrupt()
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
                cancelled.has_come()

    for name, depends_on in {"d": [], "e": ["a"]}.items():
        registry.register(name, depends_on)(lambda db: calls.append(bool(fixed)))

    with interruptible() as interrupt, pytest.raises(KeyboardInterrupt):
        registry.run_sync(db, "app", async_db=async_db, on_event=told, concurrency=3)

    assert recorded(db) == ["a"]
    assert db.effects.count_documents({}) == 1
    assert told.names(MigrationApplied) == ["a"]
    assert {"b", "c"} <= set(told.names(MigrationFailed))
    assert calls == []
    assert seen == [0, 1]
    assert is_free(db)

    fixed.append(True)
    assert registry.run_sync(db, "app", async_db=async_dbs(db.name), concurrency=3) == ["b", "c", "d", "e"]
    assert seen == [0, 1, 2, 3, 4, 5]
    assert calls == [True, True]


@both_kinds
def test_many(dbs: list[Any], registry: MigrationRegistry, async_dbs: Any) -> None:
    """An interruption lets a `def` function come to its end and a backfill to that of its batch, and cancels an
    `async def` one; no other migration and no other database begins; the leases are free when it is raised, and the
    next call does the rest.
    """
    meeting, cancelled = Meeting(3), Moment()
    told = Told()
    fixed: list[bool] = []
    seen: list[int] = []
    dbs[1].things.insert_many([{"_id": number} for number in range(4)])

    @registry.register("a")
    def goes_on(db: Any, context: MigrationContext) -> None:
        if number_of(db) == "00" and not fixed:
            meeting.wait()
            interrupt()
            cancelled.wait()
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
                cancelled.has_come()

    with interruptible() as interrupt, pytest.raises(KeyboardInterrupt):
        registry.run_many_sync(dbs, "app", async_db=async_dbs, on_event=told, concurrency=3)

    assert recorded_in(dbs) == [["a"], [], ["a"], [], []]
    assert seen == [0, 1]
    assert {event.database for event in told} == {one.name for one in dbs[:3]}
    assert are_free(dbs)
    fixed.append(True)
    results = registry.run_many_sync(dbs, "app", async_db=async_dbs, lease_timeout=0)
    assert [result.error for result in results] == [None] * 5
    assert recorded_in(dbs) == [["a", "b", "c"]] * 5
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", [RunStarted, MigrationStarted, MigrationApplied, RunFinished])
def test_many_at_an_event(dbs: list[Any], kind: type[Event], *, again: bool) -> None:
    """Whenever it is interrupted, and however often, the call ends when all that it began has: every lease is free, and
    what is told as applied is recorded. The next call does the rest.
    """
    with interruptible() as interrupt:
        interruptions = [interrupt] * (2 if again else 1)
        told = Told({kind: lambda: interruptions and interruptions.pop()()})
        with pytest.raises(KeyboardInterrupt):
            ab().run_many_sync(dbs, "app", on_event=told, concurrency=2)

    assert are_free(dbs)
    for one in dbs:
        applied = [event for event in told if isinstance(event, MigrationApplied) and event.database == one.name]
        assert [event.name for event in applied] == recorded(one)
    assert [result.error for result in ab().run_many_sync(dbs, "app", lease_timeout=0)] == [None] * 5
    assert recorded_in(dbs) == [["a", "b"]] * 5


def test_many_as_one_ends(dbs: list[Any], registry: MigrationRegistry) -> None:
    """Interrupted just when one database is done, where the next would begin: the other one is waited for."""
    started, interrupted, ended = Moment(), Moment(), []

    @registry.register("a")
    def takes_its_time(db: Any) -> None:
        if number_of(db) == "01":
            started.has_come()
            interrupted.wait()
            db.effects.insert_one({})
            ended.append(number_of(db))
        started.wait()

    def hook() -> None:
        interrupt()
        interrupted.has_come()

    with interruptible() as interrupt:
        told = Told({RunFinished: lambda: interrupted.has_come() if ended else hook()})
        with pytest.raises(KeyboardInterrupt):
            registry.run_many_sync(dbs, "app", on_event=told, concurrency=2)

    assert ended == ["01"]
    assert recorded(dbs[0]) == recorded(dbs[1]) == ["a"]
    assert are_free(dbs)
