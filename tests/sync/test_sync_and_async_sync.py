"""One history of `def` and `async def` migrations, run from sync code."""

import asyncio
import functools
import threading
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from quaestor import (
    AsyncMigrationContext,
    InvalidDatabaseError,
    InvalidOptionError,
    MigrationContext,
    MigrationRegistry,
    MissingDatabaseError,
    SyncRunner,
)
from tests.databases import both_kinds, drivers, pairs
from tests.functions import (
    NOWHERE,
    Broken,
    effects,
    fill,
    nothing,
    nothing_async,
    nowhere,
    numbers,
    recorded,
    recorded_in,
)
from tests.operations import records
from tests.operations import registry as chain_of

real = pairs(("pymongo", "pymongo"), ("pymongo", "motor"))


def mixed(calls: list[str], *, transaction: bool = False) -> MigrationRegistry:
    """Four migrations in a chain, their kinds in turn."""
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


@both_kinds
def test_one_history(db: Any, async_db: Any) -> None:
    """Functions of both kinds are applied in one order, each on the database of its kind."""
    calls: list[str] = []

    applied = mixed(calls).run_sync(db, "app", async_db=async_db)

    assert applied == calls == ["first", "second", "third", "fourth"]
    assert mixed(calls).run_sync(db, "app") == []


@real
def test_transactions(db: Any, async_db: Any) -> None:
    """Functions of both kinds can be transactions, each in a session of its own driver."""
    calls: list[str] = []

    assert mixed(calls, transaction=True).run_sync(db, "app", async_db=async_db) == calls
    assert calls == ["first", "second", "third", "fourth"]
    assert db.app_migrations_lock.find_one() == {"_id": "lease", "token": 1, "sessions": [], "previous": None}


@real
def test_failure_in_a_transaction(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """A function of the other kind that fails in its transaction leaves nothing."""

    @registry.register("fails", transaction=True)
    async def fails(db: Any) -> None:
        await db.effects.insert_one({})
        raise LookupError

    with pytest.raises(LookupError):
        registry.run_sync(db, "app", async_db=async_db)
    assert db.effects.count_documents({}) == 0


def test_refused_without_the_database(db: Any) -> None:
    """With a pending migration of the other kind and no database for it, nothing at all is run."""
    calls: list[str] = []

    with pytest.raises(MissingDatabaseError) as caught:
        mixed(calls).run_sync(db, "app")

    assert (caught.value.migrations, caught.value.argument) == (["second", "fourth"], "async_db")
    assert calls == []
    assert recorded(db) == []


def test_not_needed_once_applied(db: Any, registry: MigrationRegistry) -> None:
    """Migrations of the other kind that are applied need no database."""
    registry.register("old")(nothing_async)
    registry.register("new")(nothing)
    db.app_migrations.insert_one({"name": "old"})

    assert registry.run_sync(db, "app") == ["new"]


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
def test_empty_iterator_of_the_other_kind(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """`anext()` of nothing in an `async def` migration is a failure like any other."""

    @registry.register("a")
    async def looks_for_one(db: Any) -> None:
        await anext(db.users.find())

    with pytest.raises(StopAsyncIteration) as caught:
        registry.run_sync(db, "app", async_db=async_db)
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


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


@both_kinds
def test_returns_too_early(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """An `async def` in name only, whose decorator had nothing to await, is applied."""

    @functools.wraps(nothing_async)
    def skipped(db: Any) -> None: ...

    registry.register("a")(skipped)

    assert registry.migrations["a"].colour == "async"
    assert registry.run_sync(db, "app", async_db=async_db) == ["a"]


@pytest.mark.parametrize("driver", drivers("pymongo", "mongomock"))
def test_plan_without_the_database(db: Any) -> None:
    """With a migration of the other kind and no database for it there is no plan, as there is no run."""
    migrations = MigrationRegistry()
    migrations.register("a")(nothing)
    migrations.register_rollback("a")(nothing_async)
    migrations.register("b")(nothing_async)
    runner = SyncRunner(migrations, db, "app")

    with pytest.raises(MissingDatabaseError) as caught:
        runner.plan()
    assert caught.value.migrations == ["b"]
    assert len(runner.plan(["a"])) == 1
    db.app_migrations.insert_many(records("a"))
    with pytest.raises(MissingDatabaseError) as caught:
        runner.plan_rollback(["a"])
    assert caught.value.migrations == ["a"]


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("transaction", [False, True])
def test_rollback_of_the_other_kind(db: Any, async_db: Any, transaction: bool) -> None:
    """A rollback may be of the other kind than its migration; without a database for it nothing is undone."""
    migrations = chain_of({"a": [], "c": ["b"]}, "sync", [], transaction=transaction)
    migrations.register("b", ["a"], transaction=transaction)(nothing)

    @migrations.register_rollback("b")
    async def undo(db: Any) -> None:
        await db.effects.insert_one({"_id": "undone"})

    migrations.run_sync(db, "app")
    with pytest.raises(MissingDatabaseError) as caught:
        SyncRunner(migrations, db, "app").rollback(["a"])
    assert (caught.value.migrations, caught.value.argument) == (["b"], "async_db")
    assert recorded(db) == ["a", "b", "c"]

    assert SyncRunner(migrations, db, "app", async_db=async_db).rollback(["a"]) == ["c", "b", "a"]
    assert recorded(db) == []
    assert effects(db) == ["undone"]


def test_rollback_needs_only_its_own_database(db: Any) -> None:
    """A migration of the other kind needs no database to be undone by a function of this one."""
    migrations = MigrationRegistry()
    migrations.register("a")(nothing_async)
    migrations.register_rollback("a")(nothing)
    db.app_migrations.insert_many(records("a"))

    assert SyncRunner(migrations, db, "app").rollback(["a"]) == ["a"]


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "db must be a database, not None: pass client['name']"),
        (lambda: NOWHERE, "db must be a database, not str: pass client['name']"),
        (dict, "db must be a database, not dict"),
        (lambda: MongoClient(NOWHERE, connect=False), "db is a client (MongoClient), not a database: pass client["),
        (lambda: AsyncMongoClient(NOWHERE)["app"], "db is an asynchronous database (AsyncDatabase): call `await reg"),
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
        (lambda: MongoClient(NOWHERE, connect=False)["app"], "async_db must be an asynchronous database, not Database"),
        (lambda: AsyncMongoClient(NOWHERE)["other"], "the same database, but they are 'app' and 'other'"),
    ],
)
def test_not_the_other_database(make: Any, words: str) -> None:
    """The database for the other kind is checked like the first, and must be the same one."""
    with nowhere() as db, pytest.raises(InvalidDatabaseError) as caught:
        SyncRunner(MigrationRegistry(), db, "app", async_db=make())
    assert words in str(caught.value)


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_many_without_the_other_database(dbs: list[Any], registry: MigrationRegistry, place: tuple[str, str]) -> None:
    """Where there is no database for the other kind, or a wrong one, or to get it fails, that is the error of each
    database that needs it, and nothing has run there.
    """
    registry.register("a")(nothing)
    registry.register("b")(nothing_async)
    assert registry.run_many_sync(dbs[:1], "app", targets=["a"])[0].error is None

    missing = registry.run_many_sync(dbs, "app")
    wrong = registry.run_many_sync(dbs, "app", async_db=lambda name: AsyncMongoClient(place[0])["another"])
    error = Broken()

    def fails(name: str) -> Any:
        raise error

    failed = registry.run_many_sync(dbs, "app", async_db=fails)

    assert [type(result.error) for result in missing] == [MissingDatabaseError] * 5
    assert [type(result.error) for result in wrong] == [InvalidDatabaseError] * 5
    assert [result.error for result in failed] == [error] * 5
    assert recorded_in(dbs) == [["a"], [], [], [], []]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_many_with_a_wrong_database(dbs: list[Any]) -> None:
    """An async database, and what gives no database of a name, are refused."""
    with pytest.raises(InvalidDatabaseError, match="db is an asynchronous database"):
        MigrationRegistry().run_many_sync([*dbs, AsyncMongoClient(NOWHERE)["app"]], "app")
    with pytest.raises(InvalidOptionError, match="async_db must be a function that gives the database of a name"):
        MigrationRegistry().run_many_sync(dbs, "app", async_db=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("transaction", [False, True])
def test_backfill_of_the_other_kind(
    db: Any, registry: MigrationRegistry, uri: str, name: str, *, transaction: bool
) -> None:
    """A function of the other kind has backfills over its own driver's collections, which resume."""
    fill(db.things, 5)
    calls: list[list[int]] = []
    sync_db = db

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        with pytest.raises(InvalidOptionError, match="collection must be an asynchronous driver's"):
            context.batches(sync_db.things)

        async def body(batch: list[dict[str, Any]]) -> None:
            calls.append(numbers(batch))
            await db.log.insert_one({"of": numbers(batch)})
            if len(calls) == 2:
                raise Broken

        await context.for_each_batch(db.things, body, size=2, transaction=transaction)
        calls.extend([[entry["of"][0] for entry in batch] async for batch in context.batches(db.log)])

    # The client belongs to the loop of the run that it is used in.
    with pytest.raises(Broken):
        registry.run_sync(db, "app", async_db=AsyncMongoClient(uri)[name])
    assert [left["done"] for left in list(db.app_migrations_progress.find())] == [2]
    assert registry.run_sync(db, "app", async_db=AsyncMongoClient(uri)[name]) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4], [0, 2, 4] if transaction else [0, 2, 2, 4]]
    assert list(db.app_migrations_progress.find()) == []


def test_backfill_over_an_async_collection(db: Any, registry: MigrationRegistry) -> None:
    """A `def` migration can't go over a collection of an async driver."""
    asynchronous: AsyncMongoClient[Any] = AsyncMongoClient(NOWHERE)

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        with pytest.raises(InvalidOptionError) as refused:
            context.batches(asynchronous.app.things)
        assert str(refused.value) == "collection must be a synchronous driver's, as db.users, not AsyncCollection."

    assert registry.run_sync(db, "app") == ["a"]
