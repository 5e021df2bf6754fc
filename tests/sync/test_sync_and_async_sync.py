"""One history over `def` and `async def` migrations, run from synchronous code."""

import asyncio
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from quaestor import MigrationRegistry, MissingDatabaseError
from tests.databases import drivers
from tests.functions import nothing, nothing_async


@pytest.fixture(params=drivers("pymongo", "motor", "mongomock"))
def other(request: pytest.FixtureRequest) -> str:
    """The driver of the other colour."""
    return str(request.param)


@pytest.fixture
def driver(other: str) -> str:
    """The driver of the same family."""
    return "mongomock" if other == "mongomock" else "pymongo"


@pytest.fixture
def other_db(db: Any, other: str, place: tuple[str, str]) -> Iterator[Any]:
    """The same database, of the other colour."""
    uri, name = place
    if other == "mongomock":
        import mongomock_motor

        yield mongomock_motor.AsyncMongoMockClient(mock_mongo_client=db.client)[name]
    elif other == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient

        client = AsyncIOMotorClient(uri)
        yield client[name]
        client.close()
    else:
        yield AsyncMongoClient(uri)[name]


def mixed(calls: list[str], *, transaction: bool = False) -> MigrationRegistry:
    """Four migrations in a chain, their colours in turn."""
    registry = MigrationRegistry()

    @registry.register("first", transaction=transaction)
    def first(db: Any) -> None:
        db.effects.insert_one({"_id": "first"})
        calls.append("first")

    @registry.register("second", depends_on=["first"], transaction=transaction)
    async def second(db: Any) -> None:
        assert await db.effects.find_one({"_id": "first"})
        await db.effects.insert_one({"_id": "second"})
        calls.append("second")

    @registry.register("third", depends_on=["second"], transaction=transaction)
    def third(db: Any) -> None:
        assert db.effects.find_one({"_id": "second"})
        calls.append("third")

    @registry.register("fourth", depends_on=["third"], transaction=transaction)
    async def fourth(db: Any) -> None:
        assert await db.effects.count_documents({}) == 2
        calls.append("fourth")

    return registry


def test_one_history(db: Any, other_db: Any) -> None:
    """Functions of both colours are applied in one order, each on the database of its colour."""
    calls: list[str] = []

    applied = mixed(calls).run_sync(db, "app", async_db=other_db)

    assert applied == calls == ["first", "second", "third", "fourth"]
    assert mixed(calls).run_sync(db, "app") == []


@pytest.mark.parametrize("other", drivers("pymongo", "motor"))
def test_transactions(db: Any, other_db: Any) -> None:
    """Functions of both colours can be transactions, each in a session of its own driver."""
    calls: list[str] = []

    assert mixed(calls, transaction=True).run_sync(db, "app", async_db=other_db) == calls
    assert calls == ["first", "second", "third", "fourth"]
    assert db.app_migrations_lock.find_one() == {"_id": "lease", "token": 1, "sessions": [], "previous": None}


@pytest.mark.parametrize("other", drivers("pymongo", "motor"))
def test_failure_in_a_transaction(db: Any, other_db: Any) -> None:
    """A function of the other colour that fails in its transaction leaves nothing."""
    registry = MigrationRegistry()

    @registry.register("fails", transaction=True)
    async def fails(db: Any) -> None:
        await db.effects.insert_one({})
        raise LookupError

    with pytest.raises(LookupError):
        registry.run_sync(db, "app", async_db=other_db)
    assert db.effects.count_documents({}) == 0


def test_refused_without_the_database(db: Any) -> None:
    """With a pending migration of the other colour and no database for it, nothing at all is run."""
    calls: list[str] = []

    with pytest.raises(MissingDatabaseError) as caught:
        mixed(calls).run_sync(db, "app")

    assert (caught.value.migrations, caught.value.argument) == (["second", "fourth"], "async_db")
    assert calls == []
    assert list(db.app_migrations.find()) == []


def test_not_needed_once_applied(db: Any) -> None:
    """Migrations of the other colour that are applied need no database."""
    registry = MigrationRegistry()
    registry.register("old")(nothing_async)
    registry.register("new")(nothing)
    db.app_migrations.insert_one({"name": "old"})

    assert registry.run_sync(db, "app") == ["new"]


def test_where_the_other_colour_runs(db: Any, other_db: Any) -> None:
    """All `async def` migrations of a run share one event loop, in one thread that is not the caller's."""
    registry = MigrationRegistry()
    seen = []
    for name in ("a", "b"):

        @registry.register(name)
        async def note(db: Any) -> None:
            seen.append((asyncio.get_running_loop(), threading.current_thread()))

    registry.run_sync(db, "app", async_db=other_db)

    assert seen[0] == seen[1]
    loop, thread = seen[0]
    assert thread is not threading.current_thread()
    assert loop.is_closed()
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", [ValueError, SystemExit, StopAsyncIteration, asyncio.CancelledError])
def test_failure_of_the_other_colour(db: Any, other_db: Any, kind: type[BaseException]) -> None:
    """An exception of the other colour reaches the caller as it is."""
    registry = MigrationRegistry()
    error = kind("own")

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise error

    with pytest.raises(kind) as caught:
        registry.run_sync(db, "app", async_db=other_db)

    assert caught.value is error
    assert list(db.app_migrations.find()) == []


@pytest.mark.parametrize("other", drivers("pymongo"))
def test_closed_client(db: Any, uri: str, name: str) -> None:
    """A client that cannot be used is the driver's error in the migration, and hides nothing of the migration's own."""
    registry = MigrationRegistry()

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise ValueError("own")

    client = AsyncMongoClient(uri)
    asyncio.run(client.close())
    with pytest.raises(ValueError, match="own"):
        registry.run_sync(db, "app", async_db=client[name])


@pytest.mark.parametrize("other", drivers("pymongo"))
def test_client_of_another_loop(db: Any, uri: str, name: str) -> None:
    """A client that is at work in another event loop cannot be used, as its driver says, and is left alone."""
    registry = MigrationRegistry()

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


def test_empty_iterator_of_the_other_colour(db: Any, other_db: Any) -> None:
    """`anext()` of nothing in an `async def` migration is a failure like any other."""
    registry = MigrationRegistry()

    @registry.register("a")
    async def looks_for_one(db: Any) -> None:
        await anext(db.users.find())

    with pytest.raises(StopAsyncIteration) as caught:
        registry.run_sync(db, "app", async_db=other_db)
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


def test_function_that_ends_its_loop(db: Any, other_db: Any) -> None:
    """A function that cancels all tasks of its loop ends the loop; its own exception still reaches the caller."""
    registry = MigrationRegistry()

    @registry.register("a")
    async def fails(db: Any) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        registry.run_sync(db, "app", async_db=other_db)


def test_no_event_loop(db: Any, other_db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no event loop can be had, the run says so instead of waiting for it."""

    def fails(*args: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("anyio.run", fails)
    registry = MigrationRegistry()
    registry.register("a")(nothing_async)

    with pytest.raises(OSError, match="too many open files"):
        registry.run_sync(db, "app", async_db=other_db)


def test_returns_too_early(db: Any, other_db: Any) -> None:
    """An `async def` in name only, whose decorator had nothing to await, is applied."""
    registry = MigrationRegistry()

    @functools.wraps(nothing_async)
    def skipped(db: Any) -> None: ...

    registry.register("a")(skipped)

    assert registry.migrations["a"].colour == "async"
    assert registry.run_sync(db, "app", async_db=other_db) == ["a"]
