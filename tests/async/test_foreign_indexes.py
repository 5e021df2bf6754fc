"""Somebody else's unique index on quaestor's collections: the driver's error as it is, with a note on the index.

An index on a field that quaestor's documents lack lets one document in.
"""

from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError

from quaestor import AsyncMigrationContext, AsyncRunner, MigrationRegistry
from tests.databases import drivers
from tests.functions import ab_async, recorded_async

pytestmark = pytest.mark.anyio


@pytest.fixture(params=drivers("pymongo", "motor"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers of servers; mongomock doesn't say which index is in the way."""
    return str(request.param)


def check_note(error: DuplicateKeyError, collection: Any) -> None:
    """Check that a note says which index of which collection is in the way."""
    name = f"{collection.database.name}.{collection.name}"
    assert error.__notes__[0].startswith(f"quaestor: the unique index 'version_1' of {name} isn't quaestor's")


@pytest.mark.parametrize("transaction", [False, True])
async def test_record(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """The function whose record can't be written isn't called again, and no lease is lost."""
    await db.app_migrations.create_index("version", unique=True)
    called: list[str] = []

    @registry.register("a", transaction=transaction)
    async def a(db: Any) -> None:
        called.append("a")

    @registry.register("b", transaction=transaction)
    async def b(db: Any) -> None:
        called.append("b")

    with pytest.raises(DuplicateKeyError) as caught:
        await registry.run(db, "app")
    check_note(caught.value, db.app_migrations)
    assert called == ["a", "b"]
    assert await recorded_async(db) == ["a"]
    assert "owner" not in await db.app_migrations_lock.find_one()


async def test_mark(db: Any) -> None:
    await db.app_migrations.create_index("version", unique=True)
    with pytest.raises(DuplicateKeyError) as caught:
        await AsyncRunner(ab_async(), db, "app").mark_applied(["a", "b"])
    check_note(caught.value, db.app_migrations)
    assert await recorded_async(db) == ["a"]


async def test_lease(db: Any) -> None:
    """It isn't taken for a lease that somebody holds, which would be waited for."""
    await db.app_migrations_lock.create_index("version", unique=True)
    await db.app_migrations_lock.insert_one({"_id": "somebody else's"})
    with pytest.raises(DuplicateKeyError) as caught:
        await ab_async().run(db, "app")
    check_note(caught.value, db.app_migrations_lock)
    assert await recorded_async(db) == []


async def test_checkpoint(db: Any, registry: MigrationRegistry) -> None:
    """It isn't taken for the checkpoint of a later run."""
    await db.app_migrations_progress.create_index("version", unique=True)
    await db.things.insert_one({})

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for _ in context.batches(db.things):
            async for _ in context.batches(db.things, name="another"):
                pass

    with pytest.raises(DuplicateKeyError) as caught:
        await registry.run(db, "app")
    check_note(caught.value, db.app_migrations_progress)
    assert await recorded_async(db) == []
