"""One history of `def` and `async def` migrations."""

import functools
from typing import Any

import pytest

from quaestor import (
    AsyncMigrationContext,
    AsyncRunner,
    InvalidDatabaseError,
    InvalidOptionError,
    MigrationContext,
    MigrationRegistry,
    MissingDatabaseError,
)
from tests.databases import both_kinds_async, drivers, real_kinds_async
from tests.functions import (
    Broken,
    effects_async,
    fill_async,
    notes_async,
    nothing_async,
    numbers,
    other_kind_async,
    other_nothing_async,
    recorded_async,
    recorded_in_async,
)
from tests.operations import registry as chain_of

pytestmark = pytest.mark.anyio


def mixed(calls: list[str], *, transaction: bool = False) -> MigrationRegistry:  # stays async
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


@both_kinds_async
async def test_one_history(db: Any, sync_db: Any) -> None:
    """Functions of both kinds are applied in one order, each on the database of its kind."""
    calls: list[str] = []

    applied = await mixed(calls).run(db, "app", sync_db=sync_db)

    assert applied == calls == ["first", "second", "third", "fourth"]
    assert await mixed(calls).run(db, "app", sync_db=sync_db) == []


@real_kinds_async
async def test_transactions(db: Any, sync_db: Any) -> None:
    """Functions of both kinds can be transactions, each in a session of its own driver."""
    calls: list[str] = []

    assert await mixed(calls, transaction=True).run(db, "app", sync_db=sync_db) == calls
    assert calls == ["first", "second", "third", "fourth"]
    assert await db.app_migrations_lock.find_one() == {"_id": "lease", "token": 1, "sessions": []}


@real_kinds_async
async def test_failure_in_a_transaction(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A function of the other kind that fails in its transaction leaves nothing."""

    def fails(db: Any) -> None:
        db.effects.insert_one({})
        raise LookupError

    async def fails_too(db: Any) -> None:  # stays async
        await db.effects.insert_one({})
        raise LookupError

    registry.register("fails", transaction=True)(other_kind_async(fails, fails_too))

    with pytest.raises(LookupError):
        await registry.run(db, "app", sync_db=sync_db)
    assert await db.effects.count_documents({}) == 0


@pytest.mark.parametrize("driver", drivers("pymongo"))  # Motor brings its own
async def test_refused_without_the_database(db: Any, registry: MigrationRegistry) -> None:
    """With a pending migration of the other kind and no database for it, nothing is run, and there is no plan."""
    calls: list[str] = []
    registry.register("a")(notes_async(calls, "a"))
    for name in "bc":
        registry.register(name, ["a"])(other_nothing_async)
    runner = AsyncRunner(registry, db, "app")

    for method in (runner.run, runner.plan):
        with pytest.raises(MissingDatabaseError) as caught:
            await method()
        assert (caught.value.migrations, caught.value.argument) == (["b", "c"], "sync_db")
    assert calls == []
    assert await recorded_async(db) == []
    assert len(await runner.plan(["a"])) == 1


async def test_not_needed_once_applied(db: Any, registry: MigrationRegistry) -> None:
    """Migrations of the other kind that are applied need no database."""
    registry.register("old")(other_nothing_async)
    registry.register("new")(nothing_async)
    await db.app_migrations.insert_one({"name": "old"})

    assert await registry.run(db, "app") == ["new"]


@both_kinds_async
async def test_nothing_to_await(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """An `async def` in name only, whose decorator had nothing to await, is applied."""

    @functools.wraps(nothing_async)  # stays async
    def skipped(db: Any) -> None: ...

    registry.register("a")(skipped)

    assert registry.migrations["a"].is_async
    assert await registry.run(db, "app", sync_db=sync_db) == ["a"]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
@pytest.mark.parametrize("transaction", [False, True])
async def test_rollback_of_the_other_kind(db: Any, sync_db: Any, driver: str, transaction: bool) -> None:
    """A rollback may be of the other kind than its migration; without a database for it nothing is undone."""
    migrations = chain_of({"a": [], "c": ["b"]}, "async", [], transaction=transaction)
    migrations.register("b", ["a"], transaction=transaction)(nothing_async)

    def undo(db: Any) -> None:
        db.effects.insert_one({"_id": "undone"})

    async def undo_too(db: Any) -> None:  # stays async
        await db.effects.insert_one({"_id": "undone"})

    migrations.register_rollback("b")(other_kind_async(undo, undo_too))

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


@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_many_without_the_other_database(dbs: list[Any], registry: MigrationRegistry, sync_dbs: Any) -> None:
    """Where there is no database for the other kind, or a wrong one, or to get it fails, that is the error of each
    database that needs it, and nothing has run there.
    """
    registry.register("a")(nothing_async)
    registry.register("b")(other_nothing_async)
    assert (await registry.run_many(dbs[:1], "app", targets=["a"]))[0].error is None
    error = Broken()

    def fails(name: str) -> Any:
        raise error

    missing = await registry.run_many(dbs, "app")
    failed = await registry.run_many(dbs, "app", sync_db=fails)
    wrong = await registry.run_many(dbs, "app", sync_db=lambda name: sync_dbs("another"))

    assert [type(result.error) for result in missing] == [MissingDatabaseError] * 5
    assert [type(result.error) for result in wrong] == [InvalidDatabaseError] * 5
    assert [result.error for result in failed] == [error] * 5
    assert await recorded_in_async(dbs) == [["a"], [], [], [], []]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
@pytest.mark.parametrize("transaction", [False, True])
async def test_backfill_of_the_other_kind(
    db: Any, registry: MigrationRegistry, sync_dbs: Any, *, transaction: bool
) -> None:
    """A function of the other kind has backfills over its own driver's collections, which resume."""
    await fill_async(db.things, 5)
    calls: list[list[int]] = []
    own_things = db.things

    def a(db: Any, context: MigrationContext) -> None:
        with pytest.raises(InvalidOptionError, match="collection must belong to a sync driver"):
            context.batches(own_things)

        def body(batch: list[dict[str, Any]]) -> None:
            calls.append(numbers(batch))
            db.log.insert_one({"of": numbers(batch)})
            if len(calls) == 2:
                raise Broken

        context.for_each_batch(db.things, body, size=2, transaction=transaction)
        calls.extend([[entry["of"][0] for entry in batch] for batch in context.batches(db.log)])

    async def a_too(db: Any, context: AsyncMigrationContext) -> None:  # stays async
        with pytest.raises(InvalidOptionError, match="collection must belong to an async driver"):
            context.batches(own_things)

        async def body(batch: list[dict[str, Any]]) -> None:
            calls.append(numbers(batch))
            await db.log.insert_one({"of": numbers(batch)})
            if len(calls) == 2:
                raise Broken

        await context.for_each_batch(db.things, body, size=2, transaction=transaction)
        calls.extend([[entry["of"][0] for entry in batch] async for batch in context.batches(db.log)])

    registry.register("a")(other_kind_async(a, a_too))

    with pytest.raises(Broken):
        await registry.run(db, "app", sync_db=sync_dbs and sync_dbs(db.name))
    assert [left["done"] async for left in db.app_migrations_progress.find()] == [2]
    # Run from sync code, an async client belongs to the event loop of one run.
    assert await registry.run(db, "app", sync_db=sync_dbs and sync_dbs(db.name)) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4], [0, 2, 4] if transaction else [0, 2, 2, 4]]
    assert await db.app_migrations_progress.count_documents({}) == 0
