# Generated from tests/async/test_failures.py by tools/sync_tests.py
"""A migration that fails, is interrupted, or returns before its work is done."""

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
    Event,
    MigrationContext,
    MigrationFailed,
    MigrationRegistry,
    RecordConflictError,
    UnfinishedMigrationError,
)
from tests.databases import drivers, opened
from tests.functions import NOWHERE, Broken, notes, nothing, nothing_async, recorded


@dataclass(frozen=True)
class Frozen(Exception):
    """A user's own exception that takes no note."""

    code: int


@pytest.mark.parametrize("make", [Broken, lambda: Frozen(7), SystemExit, KeyboardInterrupt, StopIteration])
def test_exception_as_it_is(db: Any, registry: MigrationRegistry, make: Callable[[], BaseException]) -> None:
    """The caller gets the very exception with its traceback, and a note if it takes one; earlier records stay."""
    error = make()
    registry.register("a")(nothing)
    registry.register("c")(nothing)

    @registry.register("b")
    def raises_it(db: Any) -> None:
        raise error

    events: list[Event] = []
    with pytest.raises(type(error)) as caught:
        registry.run_sync(db, "app", on_event=events.append)

    assert caught.value is error
    (failed,) = [str(event) for event in events if isinstance(event, MigrationFailed)]
    interrupted = isinstance(error, KeyboardInterrupt)
    assert failed.startswith("Interrupted while applying" if interrupted else "Failed to apply 'b' (2 of 3): ")
    assert traceback.extract_tb(error.__traceback__)[-1].name == "raises_it"
    assert isinstance(error, Frozen) or error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert recorded(db) == ["a"]


@pytest.mark.parametrize("driver", drivers("mongomock"))
def test_signal_handler_that_exits(db: Any, registry: MigrationRegistry) -> None:
    """A SystemExit that the handler of a signal raises, whatever it is by then, is an interruption."""
    seen: list[str] = []

    def end(*args: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        sys.exit(143)

    @registry.register("a")
    def a(db: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    with pytest.raises(SystemExit):
        registry.run_sync(db, "app", on_event=lambda event: seen.append(str(event)))
    assert seen[-2:] == ["Interrupted while applying 'a' (1 of 1)", "Run interrupted"]


BODIES: dict[str, Callable[[Any], Any]] = {
    "No operations to execute": lambda db: db.users.bulk_write([]),
    "documents must be a non-empty list": lambda db: db.users.insert_many([]),
}


@pytest.mark.parametrize("driver", drivers("pymongo"), indirect=True)
@pytest.mark.parametrize("message", BODIES)
@pytest.mark.parametrize("mode", ["plain", "transaction", "batches", "batches in transactions"])
def test_nothing_to_write(db: Any, registry: MigrationRegistry, message: str, mode: str) -> None:
    """The driver's error for an empty list names the migration, wherever it was raised."""
    db.old.insert_one({})

    def write(*_: Any) -> None:
        BODIES[message](db)

    def call(_: Any) -> None:
        write()

    def backfill(_: Any, context: MigrationContext) -> None:
        context.for_each_batch(db.old, write, transaction=mode == "batches in transactions")

    registry.register("a", transaction=mode == "transaction")(backfill if "batches" in mode else call)
    with pytest.raises((InvalidOperation, TypeError), match=message) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__[-1] == "quaestor: in migration 'a', 1 of 1"
    assert recorded(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo"), indirect=True)
def test_no_document_in_the_log(db: Any, registry: MigrationRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """The log of a failed bulk write says how many errors it has, once; the error itself is as it was."""
    writes = [InsertOne({"_id": 1, "ssn": f"ssn-{number}"}) for number in range(300)]

    @registry.register("a")
    def fails(db: Any) -> None:
        db.users.bulk_write(writes, ordered=False)

    with pytest.raises(BulkWriteError) as caught, caplog.at_level(logging.DEBUG, "quaestor"):
        registry.run_sync(db, "app")
    registry.run_many_sync([db], "app")

    assert "ssn-7" in str(caught.value)
    assert "ssn-" not in caplog.text
    assert caplog.text.count("299 write errors, the first: E11000") == 1
    assert caplog.text.count("300 write errors, the first: E11000") == 1
    assert "BulkWriteError 11000 (DuplicateKey)" in caplog.text


def test_own_runtime_error(db: Any, registry: MigrationRegistry) -> None:
    """A function's own RuntimeError stays one, even if it reads like the one that Python makes of a StopIteration."""
    error = RuntimeError("coroutine raised StopIteration")

    @registry.register("a")
    def fails(db: Any) -> None:
        raise error from StopIteration()

    with pytest.raises(RuntimeError) as caught:
        registry.run_sync(db, "app")
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
def test_lazy_result(db: Any, registry: MigrationRegistry, make: Any, words: str, async_db: Any) -> None:
    """A function that returns something lazy has done nothing: an error, not a record."""
    registry.register("a")(make)

    with pytest.raises(UnfinishedMigrationError, match=f"'a' returned {words}, so"):
        registry.run_sync(db, "app", async_db=async_db)
    assert recorded(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_cursor_returned(db: Any, registry: MigrationRegistry) -> None:
    """A cursor that has sent its command is done; one that hasn't has done nothing."""
    cursors: list[Any] = [db.users.find(), db.users.find()]

    @registry.register("a")
    def a(db: Any) -> Any:
        if len(cursors) == 1:
            assert next(cursors[0], None) is None
        return cursors.pop()

    with pytest.raises(UnfinishedMigrationError, match=r"an iterator that nothing has read \(\w*Cursor\)"):
        registry.run_sync(db, "app")
    assert registry.run_sync(db, "app") == ["a"]


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_forgotten_await_of_a_helper(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """A `def` function that calls an `async def` one of the user's has done nothing."""

    @registry.register("a")
    def a(db: Any) -> None:
        nothing_async(db)

    with pytest.raises(UnfinishedMigrationError, match="'a' returned without awaiting 'nothing"):
        registry.run_sync(db, "app", async_db=async_db)
    assert recorded(db) == []


def test_awaitable_returned(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """A `def` that returns a coroutine has done nothing: an error, no record, and no warning of Python's."""
    registry.register("a")(lambda db: nothing_async(db))

    with pytest.raises(UnfinishedMigrationError, match=r"'a' returned an awaitable \(coroutine\)"):
        registry.run_sync(db, "app", async_db=async_db)
    gc.collect()
    assert recorded(db) == []


def test_record_that_cannot_be_written(db: Any, registry: MigrationRegistry) -> None:
    """A foreign document with the `_id` of a pending migration is an error before anything runs."""
    db.app_migrations.insert_one({"_id": "b", "name": "something else"})
    calls = []

    registry.register("a")(notes(calls, "a"))
    registry.register("b")(nothing)

    with pytest.raises(RecordConflictError) as caught:
        registry.run_sync(db, "app")
    assert caught.value.migrations == ["b"]
    assert calls == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_error_of_the_driver(db: Any, registry: MigrationRegistry) -> None:
    """The driver's error in a migration reaches the caller unchanged."""

    @registry.register("a")
    def breaks(db: Any) -> None:
        db.command("no such command")

    with pytest.raises(OperationFailure) as caught:
        registry.run_sync(db, "app")
    assert caught.value.code == 59


# PyMongo leaves a socket to the garbage collector when its client is closed while it tries to connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_server_away(registry: MigrationRegistry, driver: str) -> None:
    """Without a server the driver's own error is raised after its own timeout."""
    registry.register("a")(nothing)

    options = {"serverSelectionTimeoutMS": 50}
    with opened(driver, NOWHERE, "shop", **options) as db, pytest.raises(ServerSelectionTimeoutError) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__ == [
        "quaestor: while reading the records of 'app' in the database 'shop'; nothing has run"
    ]
    gc.collect()
