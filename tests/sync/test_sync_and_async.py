# Generated from tests/async/test_sync_and_async.py by tools/sync_tests.py
"""One history of `def` and `async def` migrations."""

import functools
from typing import Any

import pytest

from quaestor import (
    AsyncMigrationContext,
    InvalidDatabaseError,
    InvalidOptionError,
    MigrationContext,
    MigrationRegistry,
    MissingDatabaseError,
    SyncRunner,
)
from tests.databases import both_kinds, drivers, real_kinds
from tests.functions import (
    Broken,
    effects,
    fill,
    notes,
    nothing,
    nothing_async,
    numbers,
    other_kind,
    other_nothing,
    recorded,
    recorded_in,
)
from tests.operations import registry as chain_of


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


@both_kinds
def test_one_history(db: Any, async_db: Any) -> None:
    """Functions of both kinds are applied in one order, each on the database of its kind."""
    calls: list[str] = []

    applied = mixed(calls).run_sync(db, "app", async_db=async_db)

    assert applied == calls == ["first", "second", "third", "fourth"]
    assert mixed(calls).run_sync(db, "app", async_db=async_db) == []


@real_kinds
def test_transactions(db: Any, async_db: Any) -> None:
    """Functions of both kinds can be transactions, each in a session of its own driver."""
    calls: list[str] = []

    assert mixed(calls, transaction=True).run_sync(db, "app", async_db=async_db) == calls
    assert calls == ["first", "second", "third", "fourth"]
    assert db.app_migrations_lock.find_one() == {"_id": "lease", "token": 1, "sessions": []}


@real_kinds
def test_failure_in_a_transaction(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """A function of the other kind that fails in its transaction leaves nothing."""

    def fails(db: Any) -> None:
        db.effects.insert_one({})
        raise LookupError

    async def fails_too(db: Any) -> None:
        await db.effects.insert_one({})
        raise LookupError

    registry.register("fails", transaction=True)(other_kind(fails, fails_too))

    with pytest.raises(LookupError):
        registry.run_sync(db, "app", async_db=async_db)
    assert db.effects.count_documents({}) == 0


@pytest.mark.parametrize("driver", drivers("pymongo"))  # Motor brings its own
def test_refused_without_the_database(db: Any, registry: MigrationRegistry) -> None:
    """With a pending migration of the other kind and no database for it, nothing is run, and there is no plan."""
    calls: list[str] = []
    registry.register("a")(notes(calls, "a"))
    for name in "bc":
        registry.register(name, ["a"])(other_nothing)
    runner = SyncRunner(registry, db, "app")

    for method in (runner.run, runner.plan):
        with pytest.raises(MissingDatabaseError) as caught:
            method()
        assert (caught.value.migrations, caught.value.argument) == (["b", "c"], "async_db")
    assert calls == []
    assert recorded(db) == []
    assert len(runner.plan(["a"])) == 1


def test_not_needed_once_applied(db: Any, registry: MigrationRegistry) -> None:
    """Migrations of the other kind that are applied need no database."""
    registry.register("old")(other_nothing)
    registry.register("new")(nothing)
    db.app_migrations.insert_one({"name": "old"})

    assert registry.run_sync(db, "app") == ["new"]


@both_kinds
def test_nothing_to_await(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """An `async def` in name only, whose decorator had nothing to await, is applied."""

    @functools.wraps(nothing_async)
    def skipped(db: Any) -> None: ...

    registry.register("a")(skipped)

    assert registry.migrations["a"].is_async
    assert registry.run_sync(db, "app", async_db=async_db) == ["a"]


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("transaction", [False, True])
def test_rollback_of_the_other_kind(db: Any, async_db: Any, driver: str, transaction: bool) -> None:
    """A rollback may be of the other kind than its migration; without a database for it nothing is undone."""
    migrations = chain_of({"a": [], "c": ["b"]}, "sync", [], transaction=transaction)
    migrations.register("b", ["a"], transaction=transaction)(nothing)

    def undo(db: Any) -> None:
        db.effects.insert_one({"_id": "undone"})

    async def undo_too(db: Any) -> None:
        await db.effects.insert_one({"_id": "undone"})

    migrations.register_rollback("b")(other_kind(undo, undo_too))

    migrations.run_sync(db, "app")
    if driver == "pymongo":  # Motor brings its own
        with pytest.raises(MissingDatabaseError) as caught:
            SyncRunner(migrations, db, "app").rollback(["a"])
        assert (caught.value.migrations, caught.value.argument) == (["b"], "async_db")
        assert recorded(db) == ["a", "b", "c"]

    runner = SyncRunner(migrations, db, "app", async_db=async_db)
    assert runner.rollback(["a"]) == ["c", "b", "a"]
    assert recorded(db) == []
    assert effects(db) == ["undone"]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_many_without_the_other_database(dbs: list[Any], registry: MigrationRegistry, async_dbs: Any) -> None:
    """Where there is no database for the other kind, or a wrong one, or to get it fails, that is the error of each
    database that needs it, and nothing has run there.
    """
    registry.register("a")(nothing)
    registry.register("b")(other_nothing)
    assert registry.run_many_sync(dbs[:1], "app", targets=["a"])[0].error is None
    error = Broken()

    def fails(name: str) -> Any:
        raise error

    missing = registry.run_many_sync(dbs, "app")
    failed = registry.run_many_sync(dbs, "app", async_db=fails)
    wrong = registry.run_many_sync(dbs, "app", async_db=lambda name: async_dbs("another"))

    assert [type(result.error) for result in missing] == [MissingDatabaseError] * 5
    assert [type(result.error) for result in wrong] == [InvalidDatabaseError] * 5
    assert [result.error for result in failed] == [error] * 5
    assert recorded_in(dbs) == [["a"], [], [], [], []]


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("transaction", [False, True])
def test_backfill_of_the_other_kind(db: Any, registry: MigrationRegistry, async_dbs: Any, *, transaction: bool) -> None:
    """A function of the other kind has backfills over its own driver's collections, which resume."""
    fill(db.things, 5)
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

    async def a_too(db: Any, context: AsyncMigrationContext) -> None:
        with pytest.raises(InvalidOptionError, match="collection must belong to an async driver"):
            context.batches(own_things)

        async def body(batch: list[dict[str, Any]]) -> None:
            calls.append(numbers(batch))
            await db.log.insert_one({"of": numbers(batch)})
            if len(calls) == 2:
                raise Broken

        await context.for_each_batch(db.things, body, size=2, transaction=transaction)
        calls.extend([[entry["of"][0] for entry in batch] async for batch in context.batches(db.log)])

    registry.register("a")(other_kind(a, a_too))

    with pytest.raises(Broken):
        registry.run_sync(db, "app", async_db=async_dbs and async_dbs(db.name))
    assert [left["done"] for left in db.app_migrations_progress.find()] == [2]
    # Run from sync code, an async client belongs to the event loop of one run.
    assert registry.run_sync(db, "app", async_db=async_dbs and async_dbs(db.name)) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4], [0, 2, 4] if transaction else [0, 2, 2, 4]]
    assert db.app_migrations_progress.count_documents({}) == 0
