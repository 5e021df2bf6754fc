"""A migration that fails, is interrupted, or returns before its work is done."""

import asyncio
import gc
import itertools
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo import InsertOne
from pymongo.errors import BulkWriteError, InvalidOperation, OperationFailure, ServerSelectionTimeoutError

from quaestor import (
    AsyncMigrationContext,
    Event,
    MigrationFailed,
    MigrationRegistry,
    RecordConflictError,
    UnfinishedMigrationError,
)
from tests.databases import drivers, opened_async
from tests.functions import NOWHERE, Broken, notes_async, nothing_async, recorded_async

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Frozen(Exception):
    """A user's own exception that takes no note."""

    code: int


@pytest.mark.parametrize("make", [Broken, lambda: Frozen(7), SystemExit, asyncio.CancelledError, StopAsyncIteration])
async def test_exception_as_it_is(db: Any, registry: MigrationRegistry, make: Callable[[], BaseException]) -> None:
    """The caller gets the very exception with its traceback, and a note if it takes one; earlier records stay."""
    error = make()
    registry.register("a")(nothing_async)
    registry.register("c")(nothing_async)

    @registry.register("b")
    async def raises_it(db: Any) -> None:
        raise error

    events: list[Event] = []
    with pytest.raises(type(error)) as caught:
        await registry.run(db, "app", on_event=events.append)

    assert caught.value is error
    (failed,) = [str(event) for event in events if isinstance(event, MigrationFailed)]
    interrupted = isinstance(error, asyncio.CancelledError)
    assert failed.startswith("Interrupted while applying" if interrupted else "Failed to apply 'b' (2 of 3): ")
    assert traceback.extract_tb(error.__traceback__)[-1].name == "raises_it"
    assert isinstance(error, Frozen) or error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert await recorded_async(db) == ["a"]


@pytest.mark.parametrize("driver", drivers("mongomock"))
async def test_signal_handler_that_exits(db: Any, registry: MigrationRegistry) -> None:
    """A SystemExit that the handler of a signal raises, whatever it is by then, is an interruption."""
    seen: list[str] = []

    def end(*args: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        sys.exit(143)

    @registry.register("a")
    async def a(db: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    with pytest.raises(SystemExit):
        await registry.run(db, "app", on_event=lambda event: seen.append(str(event)))
    assert seen[-2:] == ["Interrupted while applying 'a' (1 of 1)", "Run interrupted"]


BODIES: dict[str, Callable[[Any], Any]] = {
    "No operations to execute": lambda db: db.users.bulk_write([]),
    "documents must be a non-empty list": lambda db: db.users.insert_many([]),
}


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"), indirect=True)
@pytest.mark.parametrize("message", BODIES)
@pytest.mark.parametrize("mode", ["plain", "transaction", "batches", "batches in transactions"])
async def test_nothing_to_write(db: Any, registry: MigrationRegistry, message: str, mode: str) -> None:
    """The driver's error for an empty list names the migration, wherever it was raised."""
    await db.old.insert_one({})

    async def write(*_: Any) -> None:
        await BODIES[message](db)

    async def call(_: Any) -> None:
        await write()

    async def backfill(_: Any, context: AsyncMigrationContext) -> None:
        await context.for_each_batch(db.old, write, transaction=mode == "batches in transactions")

    registry.register("a", transaction=mode == "transaction")(backfill if "batches" in mode else call)
    with pytest.raises((InvalidOperation, TypeError), match=message) as caught:
        await registry.run(db, "app")
    assert caught.value.__notes__[-1] == "quaestor: in migration 'a', 1 of 1"
    assert await recorded_async(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"), indirect=True)
async def test_no_document_in_the_log(db: Any, registry: MigrationRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """The log of a failed bulk write says how many errors it has, once; the error itself is as it was."""
    writes = [InsertOne({"_id": 1, "ssn": f"ssn-{number}"}) for number in range(300)]

    @registry.register("a")
    async def fails(db: Any) -> None:
        await db.users.bulk_write(writes, ordered=False)

    with pytest.raises(BulkWriteError) as caught, caplog.at_level(logging.DEBUG, "quaestor"):
        await registry.run(db, "app")
    await registry.run_many([db], "app")

    assert "ssn-7" in str(caught.value)
    assert "ssn-" not in caplog.text
    assert caplog.text.count("299 write errors, the first: E11000") == 1
    assert caplog.text.count("300 write errors, the first: E11000") == 1
    assert "BulkWriteError 11000 (DuplicateKey)" in caplog.text


async def test_own_runtime_error(db: Any, registry: MigrationRegistry) -> None:
    """A function's own RuntimeError stays one, even if it reads like the one that Python makes of a StopIteration."""
    error = RuntimeError("coroutine raised StopIteration")

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise error from StopAsyncIteration()

    with pytest.raises(RuntimeError) as caught:
        await registry.run(db, "app")
    assert caught.value is error


class Compiled(Iterator[None]):
    """A generator as mypyc makes it: of a class of its own."""

    def __next__(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda db: (user for user in ()), "a generator"),
        (lambda db: [map(print, "a"), None], r"an iterator that nothing has read \(map\) in a list"),
        (lambda db: filter(print, "a"), r"an iterator that nothing has read \(filter\)"),
        (lambda db: itertools.starmap(print, ["a"]), r"an iterator that nothing has read \(starmap\)"),
        (lambda db: Compiled(), r"an iterator that nothing has read \(Compiled\)"),
    ],
)
async def test_lazy_result(db: Any, registry: MigrationRegistry, make: Any, words: str, sync_db: Any) -> None:
    """A function that returns something lazy has done nothing: an error, not a record."""
    registry.register("a")(make)

    with pytest.raises(UnfinishedMigrationError, match=f"'a' returned {words}, so"):
        await registry.run(db, "app", sync_db=sync_db)
    assert await recorded_async(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_cursor_returned(db: Any, registry: MigrationRegistry) -> None:
    """A cursor that has sent its command is done; one that hasn't has done nothing."""
    cursors: list[Any] = [db.users.find(), db.users.find()]

    @registry.register("a")
    async def a(db: Any) -> Any:
        if len(cursors) == 1:
            assert await anext(cursors[0], None) is None
        return cursors.pop()

    with pytest.raises(UnfinishedMigrationError, match=r"an iterator that nothing has read \(\w*Cursor\)"):
        await registry.run(db, "app")
    assert await registry.run(db, "app") == ["a"]


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
async def test_forgotten_await_of_a_helper(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A `def` function that calls an `async def` one of the user's has done nothing."""

    @registry.register("a")
    def a(db: Any) -> None:
        nothing_async(db)  # stays async

    with pytest.raises(UnfinishedMigrationError, match="'a' returned without awaiting 'nothing"):
        await registry.run(db, "app", sync_db=sync_db)
    assert await recorded_async(db) == []


async def test_awaitable_returned(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A `def` that returns a coroutine has done nothing: an error, no record, and no warning of Python's."""
    registry.register("a")(lambda db: nothing_async(db))  # stays async

    with pytest.raises(UnfinishedMigrationError, match=r"'a' returned an awaitable \(coroutine\)"):
        await registry.run(db, "app", sync_db=sync_db)
    gc.collect()
    assert await recorded_async(db) == []


async def test_record_that_cannot_be_written(db: Any, registry: MigrationRegistry) -> None:
    """A foreign document with the `_id` of a pending migration is an error before anything runs."""
    await db.app_migrations.insert_one({"_id": "b", "name": "something else"})
    calls = []

    registry.register("a")(notes_async(calls, "a"))
    registry.register("b")(nothing_async)

    with pytest.raises(RecordConflictError) as caught:
        await registry.run(db, "app")
    assert caught.value.migrations == ["b"]
    assert calls == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_error_of_the_driver(db: Any, registry: MigrationRegistry) -> None:
    """The driver's error in a migration reaches the caller unchanged."""

    @registry.register("a")
    async def breaks(db: Any) -> None:
        await db.command("no such command")

    with pytest.raises(OperationFailure) as caught:
        await registry.run(db, "app")
    assert caught.value.code == 59


# PyMongo leaves a socket to the garbage collector when its client is closed while it tries to connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_server_away(registry: MigrationRegistry, driver: str) -> None:
    """Without a server the driver's own error is raised after its own timeout."""
    registry.register("a")(nothing_async)

    options = {"serverSelectionTimeoutMS": 50}
    async with opened_async(driver, NOWHERE, "shop", **options) as db:
        with pytest.raises(ServerSelectionTimeoutError) as caught:
            await registry.run(db, "app")
    assert caught.value.__notes__ == [
        "quaestor: while reading the records of 'app' in the database 'shop'; nothing has run"
    ]
    gc.collect()
