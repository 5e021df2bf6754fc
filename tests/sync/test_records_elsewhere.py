# Generated from tests/async/test_records_elsewhere.py by tools/sync_tests.py
"""A run that finds no records says where there are some: under another prefix, or in a database of a similar name."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quaestor import Event, MigrationRegistry, OtherPrefixesFound, SimilarDatabaseFound, SyncRunner
from quaestor.events import level_of
from tests.databases import drivers
from tests.functions import nothing
from tools.commands import Commands

real = pytest.mark.parametrize("driver", drivers("pymongo"), indirect=True)


@pytest.fixture
def registry() -> MigrationRegistry:
    """One migration with a rollback."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    registry.register_rollback("a")(nothing)
    return registry


@pytest.fixture
def another(driver: str, db: Any) -> Iterator[Any]:
    """A database whose name lacks a letter of that of `db`."""
    database = db.client[db.name.replace("quaestor", "quaestr")]
    yield database
    if driver != "mongomock":
        database.client.drop_database(database.name)


def run(registry: MigrationRegistry, db: Any, prefix: str = "app") -> list[Event]:
    """Run the migrations, and return the first events: of the start, and what comes before it."""
    events: list[Event] = []
    registry.run_sync(db, prefix, on_event=events.append)
    return [event for event in events if isinstance(event, OtherPrefixesFound | SimilarDatabaseFound)]


def test_other_prefix(db: Any, registry: MigrationRegistry) -> None:
    """The first run names the other prefixes in its database. Another tool's collection is no sign of one."""
    db.schema_migrations.insert_one({"version": 1})
    assert run(registry, db) == []

    (event,) = run(registry, db, "shop")
    assert isinstance(event, OtherPrefixesFound)
    assert event.prefixes == ("app",)
    assert level_of(event) == "WARNING"
    assert "'shop'" in str(event)
    assert str(event).endswith(": app")
    assert run(registry, db, "shop") == []
    (event,) = run(registry, db, "blog")
    assert isinstance(event, OtherPrefixesFound)
    assert event.prefixes == ("app", "shop")


def test_similar_database(db: Any, registry: MigrationRegistry, another: Any) -> None:
    """A run that creates its database names one with a similar name, if that has records under the run's prefix."""
    another.things.insert_one({})
    registry.run_sync(another, "shop")

    (event,) = run(registry, db, "shop")
    assert isinstance(event, SimilarDatabaseFound)
    assert event.similar == another.name
    assert level_of(event) == "WARNING"
    assert [fact for fact in (repr(db.name), repr(another.name), "'shop'") if fact not in str(event)] == []
    assert run(registry, db, "shop") == []


def test_similar_database_without_records(db: Any, registry: MigrationRegistry, another: Any) -> None:
    """A database of a similar name that has no records under the prefix isn't named."""
    registry.run_sync(another, "shop")
    assert run(registry, db) == []


def test_existing_database(db: Any, registry: MigrationRegistry, another: Any) -> None:
    """No other database is named where the run's own exists."""
    registry.run_sync(another)
    db.things.insert_one({})
    assert run(registry, db) == []


def test_another_tenant(registry: MigrationRegistry, several: Callable[[int], list[Any]]) -> None:
    """Databases whose names differ in their numbers are those of tenants, which nobody has mistaken."""
    another, new = several(2)
    registry.run_sync(another)
    assert run(registry, new) == []


@real
def test_commands(db: Any, registry: MigrationRegistry, another: Any, commands: Commands) -> None:
    """Two commands more are sent at most, by a run that finds no records: no other operation looks elsewhere."""
    runner = SyncRunner(registry, db)
    runner.plan()
    runner.status()
    runner.rollback(["a"])
    assert set(commands.names) == {"find", "aggregate"}

    for wanted in (["listDatabases"], ["listDatabases", "listCollections"]):  # without and with the database
        commands.sent.clear()
        runner.run()
        assert commands.names[: len(wanted) + 2] == ["find", *wanted, "findAndModify"]
        runner.rollback(["a"])
    db.client.drop_database(db.name)
    registry.run_sync(another)
    commands.sent.clear()
    runner.run()
    assert commands.names[:4] == ["find", "listDatabases", "find", "findAndModify"]
