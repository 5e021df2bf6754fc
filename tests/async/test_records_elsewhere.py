"""A run that finds no records says where there are some: under another prefix, or in a database of a similar name."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from quaestor import AsyncRunner, Event, MigrationRegistry, OtherPrefixesFound, SimilarDatabaseFound
from quaestor.events import level_of
from tests.databases import drivers
from tests.functions import nothing_async
from tools.commands import Commands

pytestmark = pytest.mark.anyio

real = pytest.mark.parametrize("driver", drivers("pymongo", "motor"), indirect=True)


@pytest.fixture
def registry() -> MigrationRegistry:
    """One migration with a rollback."""
    registry = MigrationRegistry()
    registry.register("a")(nothing_async)
    registry.register_rollback("a")(nothing_async)
    return registry


@pytest.fixture
async def another(driver: str, db: Any) -> AsyncIterator[Any]:
    """A database whose name lacks a letter of that of `db`."""
    database = db.client[db.name.replace("quaestor", "quaestr")]
    yield database
    if driver != "mongomock":
        await database.client.drop_database(database.name)


async def run(registry: MigrationRegistry, db: Any, prefix: str = "app") -> list[Event]:
    """Run the migrations, and return the first events: of the start, and what comes before it."""
    events: list[Event] = []
    await registry.run(db, prefix, on_event=events.append)
    return [event for event in events if isinstance(event, OtherPrefixesFound | SimilarDatabaseFound)]


async def test_other_prefix(db: Any, registry: MigrationRegistry) -> None:
    """The first run names the other prefixes in its database. Another tool's collection is no sign of one."""
    await db.schema_migrations.insert_one({"version": 1})
    assert await run(registry, db) == []

    (event,) = await run(registry, db, "shop")
    assert isinstance(event, OtherPrefixesFound)
    assert event.prefixes == ("app",)
    assert level_of(event) == "WARNING"
    assert "'shop'" in str(event)
    assert str(event).endswith(": app")
    assert await run(registry, db, "shop") == []
    (event,) = await run(registry, db, "blog")
    assert isinstance(event, OtherPrefixesFound)
    assert event.prefixes == ("app", "shop")


async def test_similar_database(db: Any, registry: MigrationRegistry, another: Any) -> None:
    """A run that creates its database names one with a similar name, if that has records under the run's prefix."""
    await another.things.insert_one({})
    await registry.run(another, "shop")

    (event,) = await run(registry, db, "shop")
    assert isinstance(event, SimilarDatabaseFound)
    assert event.similar == another.name
    assert level_of(event) == "WARNING"
    assert [fact for fact in (repr(db.name), repr(another.name), "'shop'") if fact not in str(event)] == []
    assert await run(registry, db, "shop") == []


async def test_similar_database_without_records(db: Any, registry: MigrationRegistry, another: Any) -> None:
    """A database of a similar name that has no records under the prefix isn't named."""
    await registry.run(another, "shop")
    assert await run(registry, db) == []


async def test_existing_database(db: Any, registry: MigrationRegistry, another: Any) -> None:
    """No other database is named where the run's own exists."""
    await registry.run(another)
    await db.things.insert_one({})
    assert await run(registry, db) == []


async def test_another_tenant(registry: MigrationRegistry, several: Callable[[int], list[Any]]) -> None:
    """Databases whose names differ in their numbers are those of tenants, which nobody has mistaken."""
    another, new = several(2)
    await registry.run(another)
    assert await run(registry, new) == []


@real
async def test_commands(db: Any, registry: MigrationRegistry, another: Any, commands: Commands) -> None:
    """Two commands more are sent at most, by a run that finds no records: no other operation looks elsewhere."""
    runner = AsyncRunner(registry, db)
    await runner.plan()
    await runner.status()
    await runner.rollback(["a"])
    assert set(commands.names) == {"find", "aggregate"}

    for wanted in (["listDatabases"], ["listDatabases", "listCollections"]):  # without and with the database
        commands.sent.clear()
        await runner.run()
        assert commands.names[: len(wanted) + 2] == ["find", *wanted, "findAndModify"]
        await runner.rollback(["a"])
    await db.client.drop_database(db.name)
    await registry.run(another)
    commands.sent.clear()
    await runner.run()
    assert commands.names[:4] == ["find", "listDatabases", "find", "findAndModify"]
