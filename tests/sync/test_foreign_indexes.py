# Generated from tests/async/test_foreign_indexes.py by tools/sync_tests.py
"""Somebody else's unique index on quaestor's collections: the driver's error as it is, with a note on the index.

An index on a field that quaestor's documents lack lets one document in.
"""

from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError

from quaestor import MigrationContext, MigrationRegistry, SyncRunner
from tests.databases import drivers
from tests.functions import ab, recorded


@pytest.fixture(params=drivers("pymongo"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers of servers; mongomock doesn't say which index is in the way."""
    return str(request.param)


def check_note(error: DuplicateKeyError, collection: Any) -> None:
    """Check that a note says which index of which collection is in the way."""
    name = f"{collection.database.name}.{collection.name}"
    assert error.__notes__[0].startswith(f"quaestor: the unique index 'version_1' of {name} isn't quaestor's")


@pytest.mark.parametrize("transaction", [False, True])
def test_record(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """The function whose record can't be written isn't called again, and no lease is lost."""
    db.app_migrations.create_index("version", unique=True)
    called: list[str] = []

    @registry.register("a", transaction=transaction)
    def a(db: Any) -> None:
        called.append("a")

    @registry.register("b", transaction=transaction)
    def b(db: Any) -> None:
        called.append("b")

    with pytest.raises(DuplicateKeyError) as caught:
        registry.run_sync(db, "app")
    check_note(caught.value, db.app_migrations)
    assert called == ["a", "b"]
    assert recorded(db) == ["a"]
    assert "owner" not in db.app_migrations_lock.find_one()


def test_mark(db: Any) -> None:
    db.app_migrations.create_index("version", unique=True)
    with pytest.raises(DuplicateKeyError) as caught:
        SyncRunner(ab(), db, "app").mark_applied(["a", "b"])
    check_note(caught.value, db.app_migrations)
    assert recorded(db) == ["a"]


def test_lease(db: Any) -> None:
    """It isn't taken for a lease that somebody holds, which would be waited for."""
    db.app_migrations_lock.create_index("version", unique=True)
    db.app_migrations_lock.insert_one({"_id": "somebody else's"})
    with pytest.raises(DuplicateKeyError) as caught:
        ab().run_sync(db, "app")
    check_note(caught.value, db.app_migrations_lock)
    assert recorded(db) == []


def test_checkpoint(db: Any, registry: MigrationRegistry) -> None:
    """It isn't taken for the checkpoint of a later run."""
    db.app_migrations_progress.create_index("version", unique=True)
    db.things.insert_one({})

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.things):
            for _ in context.batches(db.things, name="another"):
                pass

    with pytest.raises(DuplicateKeyError) as caught:
        registry.run_sync(db, "app")
    check_note(caught.value, db.app_migrations_progress)
    assert recorded(db) == []
