"""One history of `async def` and `def` migrations, run from an event loop."""

import asyncio
import gc
import threading
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from quaestor import (
    AsyncRunner,
    InvalidDatabaseError,
    InvalidOptionError,
    MigrationRegistry,
    UnfinishedMigrationError,
)
from tests.databases import drivers
from tests.functions import (
    NOWHERE,
    nothing_async,
    recorded_async,
)

pytestmark = pytest.mark.anyio


async def test_where_the_other_kind_runs(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A `def` migration runs in a worker thread, and the event loop stays free meanwhile."""
    started, loop_is_free = threading.Event(), threading.Event()
    seen = []

    @registry.register("a")
    def waits_for_the_loop(db: Any) -> None:
        started.set()
        assert loop_is_free.wait(timeout=30)
        seen.append(threading.current_thread())

    running = asyncio.ensure_future(registry.run(db, "app", sync_db=sync_db))
    await asyncio.to_thread(started.wait)
    loop_is_free.set()

    assert await running == ["a"]
    assert seen != [threading.current_thread()]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
async def test_failure_of_the_other_kind(
    db: Any, registry: MigrationRegistry, sync_db: Any, kind: type[BaseException]
) -> None:
    """An exception of the other kind reaches the caller as it is."""
    error = kind("own")

    @registry.register("a")
    def fails(db: Any) -> None:
        raise error

    with pytest.raises(kind) as caught:
        await registry.run(db, "app", sync_db=sync_db)

    assert caught.value is error
    assert await recorded_async(db) == []


async def test_empty_iterator_of_the_other_kind(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A StopIteration cannot leave a coroutine: Python makes a RuntimeError of it, which shows it as its cause."""

    @registry.register("a")
    def looks_for_one(db: Any) -> None:
        next(db.users.find())

    with pytest.raises(RuntimeError) as caught:
        await registry.run(db, "app", sync_db=sync_db)
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


async def test_forgotten_await(db: Any, registry: MigrationRegistry) -> None:
    """An `async def` that returns what it should have awaited has done nothing either."""

    @registry.register("a")
    async def forgets(db: Any) -> Any:
        return nothing_async(db)

    with pytest.raises(UnfinishedMigrationError, match=r"'a' returned an awaitable \(coroutine\)"):
        await registry.run(db, "app")
    gc.collect()
    assert await recorded_async(db) == []


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "db must be a database, not None: pass client['name']"),
        (lambda: NOWHERE, "db must be a database, not str: pass client['name']"),
        (dict, "db must be a database, not dict"),
        (lambda: AsyncMongoClient(NOWHERE), "db is a client (AsyncMongoClient), not a database: pass client["),
        (lambda: MongoClient(NOWHERE, connect=False)["app"], "db is a synchronous database (Database): call `registry"),
        (lambda: AsyncMongoClient(NOWHERE)["app"]["users"], "db must be a database, not AsyncCollection"),
    ],
)
async def test_not_a_database(make: Any, words: str) -> None:
    """Anything but a database of this kind is refused, and says what to do; a password is not repeated."""
    with pytest.raises(InvalidDatabaseError) as caught:
        await MigrationRegistry().run(make(), "app")
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NOWHERE, "sync_db must be a database, not str"),
        (lambda: MongoClient(NOWHERE, connect=False), "sync_db is a client (MongoClient), not a database"),
        (lambda: AsyncMongoClient(NOWHERE)["app"], "sync_db must be a synchronous database, not AsyncDatabase"),
        (lambda: MongoClient(NOWHERE, connect=False)["other"], "the same database, but they are 'app' and 'other'"),
    ],
)
async def test_not_the_other_database(make: Any, words: str) -> None:
    """The database for the other kind is checked like the first, and must be the same one."""
    db = AsyncMongoClient(NOWHERE)["app"]
    with pytest.raises(InvalidDatabaseError) as caught:
        AsyncRunner(MigrationRegistry(), db, "app", sync_db=make())
    assert words in str(caught.value)


@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_many_with_a_wrong_database(dbs: list[Any]) -> None:
    """A sync database, and what gives no database of a name, are refused."""
    with pytest.raises(InvalidDatabaseError, match="db is a synchronous database"):
        await MigrationRegistry().run_many([*dbs, MongoClient(NOWHERE, connect=False)["app"]], "app")
    with pytest.raises(InvalidOptionError, match="sync_db must be a function that returns the database of a name"):
        await MigrationRegistry().run_many(dbs, "app", sync_db=7)  # type: ignore[arg-type]
