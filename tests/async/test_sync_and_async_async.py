"""One history of `async def` and `def` migrations, run from an event loop."""

import asyncio
import functools
import gc
import threading
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from quaestor import (
    AsyncMigrationContext,
    AsyncRunner,
    InvalidDatabaseError,
    InvalidOptionError,
    MigrationContext,
    MigrationRegistry,
    MissingDatabaseError,
    UnfinishedMigrationError,
)
from tests.databases import drivers
from tests.functions import (
    NOWHERE,
    Broken,
    effects_async,
    fill_async,
    nothing,
    nothing_async,
    numbers,
    recorded_async,
    recorded_in_async,
)
from tests.operations import records
from tests.operations import registry as chain_of

pytestmark = pytest.mark.anyio


def mixed(calls: list[str], *, transaction: bool = False) -> MigrationRegistry:
    """Four migrations in a chain, their kinds in turn."""
    registry = MigrationRegistry()

    @registry.register("first", transaction=transaction)
    async def first(db: Any) -> None:
        await db.effects.insert_one({"_id": "first"})
        calls.append("first")

    @registry.register("second", depends_on=["first"], transaction=transaction)
    def second(db: Any) -> None:
        assert db.effects.find_one({"_id": "first"})
        db.effects.insert_one({"_id": "second"})
        calls.append("second")

    @registry.register("third", depends_on=["second"], transaction=transaction)
    async def third(db: Any) -> None:
        assert await db.effects.find_one({"_id": "second"})
        calls.append("third")

    @registry.register("fourth", depends_on=["third"], transaction=transaction)
    def fourth(db: Any) -> None:
        assert db.effects.count_documents({}) == 2
        calls.append("fourth")

    return registry


async def test_one_history(db: Any, sync_db: Any) -> None:
    """Functions of both kinds are applied in one order, each on the database of its kind."""
    calls: list[str] = []

    applied = await mixed(calls).run(db, "app", sync_db=sync_db)

    assert applied == calls == ["first", "second", "third", "fourth"]
    assert await mixed(calls).run(db, "app", sync_db=sync_db) == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_transactions(db: Any, sync_db: Any) -> None:
    """Functions of both kinds can be transactions, each in a session of its own driver."""
    calls: list[str] = []

    assert await mixed(calls, transaction=True).run(db, "app", sync_db=sync_db) == calls
    assert calls == ["first", "second", "third", "fourth"]
    assert await db.app_migrations_lock.find_one() == {"_id": "lease", "token": 1, "sessions": [], "previous": None}


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_failure_in_a_transaction(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A function of the other kind that fails in its transaction leaves nothing."""

    @registry.register("fails", transaction=True)
    def fails(db: Any) -> None:
        db.effects.insert_one({})
        raise LookupError

    with pytest.raises(LookupError):
        await registry.run(db, "app", sync_db=sync_db)
    assert await db.effects.count_documents({}) == 0


@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_refused_without_the_database(db: Any) -> None:
    """With a pending migration of the other kind and no database for it, nothing at all is run."""
    calls: list[str] = []

    with pytest.raises(MissingDatabaseError) as caught:
        await mixed(calls).run(db, "app")

    assert (caught.value.migrations, caught.value.argument) == (["second", "fourth"], "sync_db")
    assert calls == []
    assert await recorded_async(db) == []


async def test_not_needed_once_applied(db: Any, registry: MigrationRegistry) -> None:
    """Migrations of the other kind that are applied need no database."""
    registry.register("old")(nothing)
    registry.register("new")(nothing_async)
    await db.app_migrations.insert_one({"name": "old"})

    assert await registry.run(db, "app") == ["new"]


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

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await registry.run(db, "app", sync_db=sync_db)
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


async def test_returns_too_early(db: Any, registry: MigrationRegistry) -> None:
    """An `async def` in name only, whose decorator had nothing to await, is applied."""

    @functools.wraps(nothing_async)
    def skipped(db: Any) -> None: ...

    registry.register("a")(skipped)

    assert registry.migrations["a"].colour == "async"
    assert await registry.run(db, "app") == ["a"]


async def test_forgotten_await(db: Any, registry: MigrationRegistry) -> None:
    """An `async def` that returns what it should have awaited has done nothing either."""

    @registry.register("a")
    async def forgets(db: Any) -> Any:
        return nothing_async(db)

    with pytest.raises(UnfinishedMigrationError, match=r"'a' returned an awaitable \(coroutine\)"):
        await registry.run(db, "app")
    gc.collect()
    assert await recorded_async(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo"))  # Motor brings its own
async def test_plan_without_the_database(db: Any) -> None:
    """With a migration of the other kind and no database for it there is no plan, as there is no run."""
    migrations = MigrationRegistry()
    migrations.register("a")(nothing_async)
    migrations.register_rollback("a")(nothing)
    migrations.register("b")(nothing)
    runner = AsyncRunner(migrations, db, "app")

    with pytest.raises(MissingDatabaseError) as caught:
        await runner.plan()
    assert caught.value.migrations == ["b"]
    assert len(await runner.plan(["a"])) == 1
    await db.app_migrations.insert_many(records("a"))
    with pytest.raises(MissingDatabaseError) as caught:
        await runner.plan_rollback(["a"])
    assert caught.value.migrations == ["a"]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
@pytest.mark.parametrize("transaction", [False, True])
async def test_rollback_of_the_other_kind(db: Any, sync_db: Any, driver: str, transaction: bool) -> None:
    """A rollback may be of the other kind than its migration; without a database for it nothing is undone."""
    migrations = chain_of({"a": [], "c": ["b"]}, "async", [], transaction=transaction)
    migrations.register("b", ["a"], transaction=transaction)(nothing_async)

    @migrations.register_rollback("b")
    def undo(db: Any) -> None:
        db.effects.insert_one({"_id": "undone"})

    await migrations.run(db, "app")
    if driver == "pymongo":  # Motor brings its own
        with pytest.raises(MissingDatabaseError) as caught:
            await AsyncRunner(migrations, db, "app").rollback(["a"])
        assert (caught.value.migrations, caught.value.argument) == (["b"], "sync_db")
        assert await recorded_async(db) == ["a", "b", "c"]

    runner = AsyncRunner(migrations, db, "app", sync_db=sync_db)
    assert await runner.rollback(["a"]) == ["c", "b", "a"]
    assert await recorded_async(db) == []
    assert await effects_async(db) == ["undone"]


async def test_rollback_needs_only_its_own_database(db: Any) -> None:
    """A migration of the other kind needs no database to be undone by a function of this one."""
    migrations = MigrationRegistry()
    migrations.register("a")(nothing)
    migrations.register_rollback("a")(nothing_async)
    await db.app_migrations.insert_many(records("a"))

    assert await AsyncRunner(migrations, db, "app").rollback(["a"]) == ["a"]


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
async def test_many_without_the_other_database(
    dbs: list[Any], registry: MigrationRegistry, place: tuple[str, str]
) -> None:
    """Where there is no database for the other kind, or a wrong one, or to get it fails, that is the error of each
    database that needs it, and nothing has run there.
    """
    registry.register("a")(nothing_async)
    registry.register("b")(nothing)
    assert (await registry.run_many(dbs[:1], "app", targets=["a"]))[0].error is None
    error = Broken()

    def fails(name: str) -> Any:
        raise error

    missing = await registry.run_many(dbs, "app")
    failed = await registry.run_many(dbs, "app", sync_db=fails)
    with MongoClient[dict[str, Any]](place[0]) as client:
        wrong = await registry.run_many(dbs, "app", sync_db=lambda name: client["another"])

    assert [type(result.error) for result in missing] == [MissingDatabaseError] * 5
    assert [type(result.error) for result in wrong] == [InvalidDatabaseError] * 5
    assert [result.error for result in failed] == [error] * 5
    assert await recorded_in_async(dbs) == [["a"], [], [], [], []]


@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_many_with_a_wrong_database(dbs: list[Any]) -> None:
    """A sync database, and what gives no database of a name, are refused."""
    with pytest.raises(InvalidDatabaseError, match="db is a synchronous database"):
        await MigrationRegistry().run_many([*dbs, MongoClient(NOWHERE, connect=False)["app"]], "app")
    with pytest.raises(InvalidOptionError, match="sync_db must be a function that gives the database of a name"):
        await MigrationRegistry().run_many(dbs, "app", sync_db=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
@pytest.mark.parametrize("transaction", [False, True])
async def test_backfill_of_the_other_kind(
    db: Any, registry: MigrationRegistry, uri: str, name: str, *, transaction: bool
) -> None:
    """A function of the other kind has backfills over its own driver's collections, which resume."""
    await fill_async(db.things, 5)
    calls: list[list[int]] = []
    async_db = db

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        with pytest.raises(InvalidOptionError, match="collection must be a synchronous driver's"):
            context.batches(async_db.things)

        def body(batch: list[dict[str, Any]]) -> None:
            calls.append(numbers(batch))
            db.log.insert_one({"of": numbers(batch)})
            if len(calls) == 2:
                raise Broken

        context.for_each_batch(db.things, body, size=2, transaction=transaction)
        calls.extend([[entry["of"][0] for entry in batch] for batch in context.batches(db.log)])

    with MongoClient(uri) as client:
        with pytest.raises(Broken):
            await registry.run(db, "app", sync_db=client[name])
        assert [left["done"] async for left in db.app_migrations_progress.find()] == [2]
        assert await registry.run(db, "app", sync_db=client[name]) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4], [0, 2, 4] if transaction else [0, 2, 2, 4]]
    assert await db.app_migrations_progress.count_documents({}) == 0


async def test_backfill_over_a_sync_collection(db: Any, registry: MigrationRegistry) -> None:
    """An `async def` migration can't go over a collection of a sync driver."""
    synchronous: MongoClient[Any] = MongoClient(NOWHERE, connect=False)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        with pytest.raises(InvalidOptionError) as refused:
            context.batches(synchronous.app.things)
        assert str(refused.value) == "collection must be an asynchronous driver's, as db.users, not Collection."

    assert await registry.run(db, "app") == ["a"]
