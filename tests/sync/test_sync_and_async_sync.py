"""One history of `def` and `async def` migrations, run from sync code."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from quaestor import (
    InvalidDatabaseError,
    InvalidOptionError,
    MigrationRegistry,
    SyncRunner,
    UnfinishedMigrationError,
)
from tests.databases import both_kinds, drivers, real_kinds
from tests.functions import (
    NOWHERE,
    is_free,
    nothing_async,
    nowhere,
    recorded,
)
from tests.unfinished import UNFINISHED


@both_kinds
def test_where_the_other_kind_runs(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """All `async def` migrations of a run share one event loop, in one thread that is not the caller's."""
    seen = []
    for name in ("a", "b"):

        @registry.register(name)
        async def note(db: Any) -> None:
            seen.append((asyncio.get_running_loop(), threading.current_thread()))

    registry.run_sync(db, "app", async_db=async_db)

    assert seen[0] == seen[1]
    loop, thread = seen[0]
    assert thread is not threading.current_thread()
    assert loop.is_closed()
    assert not thread.is_alive()


@both_kinds
def test_stop_iteration_of_the_other_kind(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """An `async def` function can't raise StopIteration: its caller gets the RuntimeError that Python makes of it."""
    stop = StopIteration("own")

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise stop

    with pytest.raises(RuntimeError) as caught:
        registry.run_sync(db, "app", async_db=async_db)
    assert caught.value.__cause__ is stop


@both_kinds
@pytest.mark.parametrize("kind", [ValueError, SystemExit, StopAsyncIteration, asyncio.CancelledError])
def test_failure_of_the_other_kind(
    db: Any, registry: MigrationRegistry, async_db: Any, kind: type[BaseException]
) -> None:
    """An exception of the other kind reaches the caller as it is."""
    error = kind("own")

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise error

    with pytest.raises(kind) as caught:
        registry.run_sync(db, "app", async_db=async_db)

    assert caught.value is error
    assert recorded(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_closed_client(db: Any, registry: MigrationRegistry, uri: str, name: str) -> None:
    """A client that cannot be used is the driver's error in the migration, and hides nothing of the migration's own."""

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise ValueError("own")

    client = AsyncMongoClient(uri)
    asyncio.run(client.close())
    with pytest.raises(ValueError, match="own"):
        registry.run_sync(db, "app", async_db=client[name])


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_client_of_another_loop(db: Any, registry: MigrationRegistry, uri: str, name: str) -> None:
    """A client that is at work in another event loop cannot be used, as its driver says, and is left alone."""

    @registry.register("a")
    async def works(db: Any) -> None:
        await db.users.insert_one({})

    async def application() -> None:
        async with AsyncMongoClient(uri) as client:
            await client.admin.command("ping")
            with pytest.raises(RuntimeError) as caught:
                await asyncio.to_thread(registry.run_sync, db, "app", async_db=client[name])
            assert "pymongo" in Path(caught.traceback[-1].path).parts
            await client.admin.command("ping")

    asyncio.run(application())


@both_kinds
def test_function_that_ends_its_loop(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """A function that cancels all tasks of its loop ends the loop; its own exception still reaches the caller."""

    @registry.register("a")
    async def fails(db: Any) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        registry.run_sync(db, "app", async_db=async_db)


@both_kinds
def test_no_event_loop(db: Any, registry: MigrationRegistry, async_db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no event loop can be had, the run says so instead of waiting for it."""

    def fails(*args: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("anyio.run", fails)
    registry.register("a")(nothing_async)

    with pytest.raises(OSError, match="too many open files"):
        registry.run_sync(db, "app", async_db=async_db)


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "db must be a database, not None: pass client['name']"),
        (lambda: NOWHERE, "db must be a database, not str: pass client['name']"),
        (dict, "db must be a database, not dict"),
        (lambda: MongoClient(NOWHERE, connect=False), "db is a client (MongoClient), not a database: pass client["),
        (lambda: AsyncMongoClient(NOWHERE)["app"], "db is an async database (AsyncDatabase): call `await reg"),
        (lambda: MongoClient(NOWHERE, connect=False)["app"]["users"], "db must be a database, not Collection"),
    ],
)
def test_not_a_database(make: Any, words: str) -> None:
    """Anything but a database of this kind is refused, and says what to do; a password is not repeated."""
    with pytest.raises(InvalidDatabaseError) as caught:
        MigrationRegistry().run_sync(make(), "app")
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NOWHERE, "async_db must be a database, not str"),
        (lambda: AsyncMongoClient(NOWHERE), "async_db is a client (AsyncMongoClient), not a database"),
        (lambda: MongoClient(NOWHERE, connect=False)["app"], "async_db must be an async database, not Database"),
        (lambda: AsyncMongoClient(NOWHERE)["other"], "the same database, but they are 'app' and 'other'"),
    ],
)
def test_not_the_other_database(make: Any, words: str) -> None:
    """The database for the other kind is checked like the first, and must be the same one."""
    with nowhere() as db, pytest.raises(InvalidDatabaseError) as caught:
        SyncRunner(MigrationRegistry(), db, "app", async_db=make())
    assert words in str(caught.value)


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_many_with_a_wrong_database(dbs: list[Any]) -> None:
    """An async database, and what gives no database of a name, are refused."""
    with pytest.raises(InvalidDatabaseError, match="db is an async database"):
        MigrationRegistry().run_many_sync([*dbs, AsyncMongoClient(NOWHERE)["app"]], "app")
    with pytest.raises(InvalidOptionError, match="async_db must be a function that returns a database by its name"):
        MigrationRegistry().run_many_sync(dbs, "app", async_db=7)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize(("function", "words"), UNFINISHED)
@real_kinds
def test_unfinished(db: Any, registry: MigrationRegistry, async_db: Any, function: Any, words: str) -> None:
    """An `async def` function that leaves its work undone is an error, not a record."""
    registry.register("a")(function)

    with pytest.raises(UnfinishedMigrationError, match=words):
        registry.run_sync(db, "app", async_db=async_db)
    assert recorded(db) == []
    assert is_free(db)


@real_kinds
def test_client_that_is_first_used(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """The tasks of PyMongo's client, which start with the first function that uses it, aren't left undone."""

    @registry.register("a")
    async def a(db: Any) -> None:
        await db.users.insert_one({})

    assert registry.run_sync(db, "app", async_db=async_db) == ["a"]
