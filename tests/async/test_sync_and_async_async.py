"""One history over `def` and `async def` migrations, run from an event loop."""

import asyncio
import functools
import threading
from typing import Any

import pytest

from quaestor import MigrationRegistry, MissingDatabaseError
from tests.databases import drivers
from tests.functions import nothing, nothing_async

pytestmark = pytest.mark.anyio


@pytest.fixture
def other_db(sync_db: Any) -> Any:
    """The same database, of the other colour; None where the driver brings it."""
    return sync_db


def mixed(calls: list[str], *, transaction: bool = False) -> MigrationRegistry:
    """Four migrations in a chain, their colours in turn."""
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


async def test_one_history(db: Any, other_db: Any) -> None:
    """Functions of both colours are applied in one order, each on the database of its colour."""
    calls: list[str] = []

    applied = await mixed(calls).run(db, "app", sync_db=other_db)

    assert applied == calls == ["first", "second", "third", "fourth"]
    assert await mixed(calls).run(db, "app", sync_db=other_db) == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_transactions(db: Any, other_db: Any) -> None:
    """Functions of both colours can be transactions, each in a session of its own driver."""
    calls: list[str] = []

    assert await mixed(calls, transaction=True).run(db, "app", sync_db=other_db) == calls
    assert calls == ["first", "second", "third", "fourth"]
    assert await db.app_migrations_lock.find_one() == {"_id": "lease", "token": 1, "sessions": [], "previous": None}


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_failure_in_a_transaction(db: Any, other_db: Any) -> None:
    """A function of the other colour that fails in its transaction leaves nothing."""
    registry = MigrationRegistry()

    @registry.register("fails", transaction=True)
    def fails(db: Any) -> None:
        db.effects.insert_one({})
        raise LookupError

    with pytest.raises(LookupError):
        await registry.run(db, "app", sync_db=other_db)
    assert await db.effects.count_documents({}) == 0


@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_refused_without_the_database(db: Any) -> None:
    """With a pending migration of the other colour and no database for it, nothing at all is run."""
    calls: list[str] = []

    with pytest.raises(MissingDatabaseError) as caught:
        await mixed(calls).run(db, "app")

    assert (caught.value.migrations, caught.value.argument) == (["second", "fourth"], "sync_db")
    assert calls == []
    assert await db.app_migrations.count_documents({}) == 0


async def test_not_needed_once_applied(db: Any) -> None:
    """Migrations of the other colour that are applied need no database."""
    registry = MigrationRegistry()
    registry.register("old")(nothing)
    registry.register("new")(nothing_async)
    await db.app_migrations.insert_one({"name": "old"})

    assert await registry.run(db, "app") == ["new"]


async def test_where_the_other_colour_runs(db: Any, other_db: Any) -> None:
    """A `def` migration runs in a worker thread, and the event loop stays free meanwhile."""
    registry = MigrationRegistry()
    begun, loop_is_free = threading.Event(), threading.Event()
    seen = []

    @registry.register("a")
    def waits_for_the_loop(db: Any) -> None:
        begun.set()
        assert loop_is_free.wait(timeout=30)
        seen.append(threading.current_thread())

    running = asyncio.ensure_future(registry.run(db, "app", sync_db=other_db))
    await asyncio.to_thread(begun.wait)
    loop_is_free.set()

    assert await running == ["a"]
    assert seen != [threading.current_thread()]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
async def test_failure_of_the_other_colour(db: Any, other_db: Any, kind: type[BaseException]) -> None:
    """An exception of the other colour reaches the caller as it is."""
    registry = MigrationRegistry()
    error = kind("own")

    @registry.register("a")
    def fails(db: Any) -> None:
        raise error

    with pytest.raises(kind) as caught:
        await registry.run(db, "app", sync_db=other_db)

    assert caught.value is error
    assert await db.app_migrations.count_documents({}) == 0


async def test_empty_iterator_of_the_other_colour(db: Any, other_db: Any) -> None:
    """A StopIteration cannot leave a coroutine: Python makes a RuntimeError of it, which shows it as its cause."""
    registry = MigrationRegistry()

    @registry.register("a")
    def looks_for_one(db: Any) -> None:
        next(db.users.find())

    with pytest.raises(RuntimeError) as caught:
        await registry.run(db, "app", sync_db=other_db)
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


async def test_returns_too_early(db: Any) -> None:
    """An `async def` in name only, whose decorator had nothing to await, is applied."""
    registry = MigrationRegistry()

    @functools.wraps(nothing_async)
    def skipped(db: Any) -> None: ...

    registry.register("a")(skipped)

    assert registry.migrations["a"].colour == "async"
    assert await registry.run(db, "app") == ["a"]
