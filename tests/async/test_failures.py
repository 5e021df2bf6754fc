"""A migration that fails, is interrupted, or returns before its work is done."""

import asyncio
import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from quaestor import MigrationRegistry, RecordConflictError, UnfinishedMigrationError
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

    with pytest.raises(type(error)) as caught:
        await registry.run(db, "app")

    assert caught.value is error
    assert traceback.extract_tb(error.__traceback__)[-1].name == "raises_it"
    assert isinstance(error, Frozen) or error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert await recorded_async(db) == ["a"]


async def test_own_runtime_error(db: Any, registry: MigrationRegistry) -> None:
    """A function's own RuntimeError stays one, even if it reads like the one that Python makes of a StopIteration."""
    error = RuntimeError("coroutine raised StopIteration")

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise error from StopAsyncIteration()

    with pytest.raises(RuntimeError) as caught:
        await registry.run(db, "app")
    assert caught.value is error


async def test_generator_returned(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A function that returns a generator has done nothing: an error, not a record."""
    registry.register("a")(lambda db: (user for user in ()))

    with pytest.raises(UnfinishedMigrationError, match="'a' returned a generator"):
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
