"""What a server refuses because of somebody else's unique index, or of the Stable API: the driver's error, with a note.

An index on a field that quaestor's documents lack lets one document in. (What works with the Stable API in strict mode:
test_servers.py.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bson.binary import UUID_SUBTYPE, Binary
from pymongo.errors import DuplicateKeyError, OperationFailure

from quaestor import AsyncMigrationContext, AsyncRunner, Event, MigrationRegistry, SessionsNotEnded
from tests.databases import drivers, strict_options
from tests.functions import ab_async, notes_async, recorded_async
from tests.leases import DEAD

pytestmark = pytest.mark.anyio


@pytest.fixture(params=drivers("pymongo", "motor"))
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client_options(request: pytest.FixtureRequest, uri: str) -> dict[str, Any]:
    return strict_options(uri) if hasattr(request, "param") else {}


strict = pytest.mark.parametrize("client_options", ["strict"], indirect=True)


@contextmanager
def refused(db: Any, collection: str) -> Iterator[None]:
    with pytest.raises(DuplicateKeyError) as caught:
        yield
    note = f"quaestor: drop the unique index 'version_1' of {db.name}.{collection}, which isn't quaestor's."
    assert caught.value.__notes__[0] == note


@pytest.mark.parametrize("way", ["plain", "transaction", "mark"])
async def test_record(db: Any, registry: MigrationRegistry, way: str) -> None:
    """The function whose record can't be written isn't called again, and no lease is lost."""
    await db.app_migrations.create_index("version", unique=True)
    called: list[str] = []
    for name in ("a", "b"):
        registry.register(name, transaction=way == "transaction")(notes_async(called, name))
    runner = AsyncRunner(registry, db, "app")
    with refused(db, "app_migrations"):
        await (runner.mark_applied(["a", "b"]) if way == "mark" else runner.run())
    assert called == ([] if way == "mark" else ["a", "b"])
    assert await recorded_async(db) == ["a"]
    assert "owner" not in await db.app_migrations_lock.find_one()


async def test_lease(db: Any) -> None:
    """It isn't taken for a lease that somebody holds, which would be waited for."""
    await db.app_migrations_lock.create_index("version", unique=True)
    await db.app_migrations_lock.insert_one({"_id": "somebody else's"})
    with refused(db, "app_migrations_lock"):
        await ab_async().run(db, "app")
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

    with refused(db, "app_migrations_progress"):
        await registry.run(db, "app")
    assert await recorded_async(db) == []


@strict
async def test_sessions_of_a_dead_holder(db: Any) -> None:
    """They can't be ended, and an event says so; the run goes on."""
    events: list[Event] = []
    lsid = {"id": Binary(b"s" * 16, UUID_SUBTYPE), "uid": b"u" * 32}
    await db.app_migrations_lock.insert_one({**DEAD, "sessions": [lsid]})
    assert await ab_async().run(db, "app", on_event=events.append) == ["a", "b"]
    (refused,) = [event for event in events if isinstance(event, SessionsNotEnded)]
    assert "apiStrict" in str(refused.error)
    assert (await db.app_migrations_lock.find_one())["sessions"] == []


@strict
async def test_max_lag(db: Any, registry: MigrationRegistry) -> None:
    """It is refused before the first batch."""
    await db.things.insert_one({})

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for _ in context.batches(db.things, max_lag=1):
            pytest.fail("This is a batch.")

    with pytest.raises(OperationFailure) as caught:
        await registry.run(db, "app")
    assert "Stable API in strict mode" in caught.value.__notes__[0]
    assert await recorded_async(db) == []
