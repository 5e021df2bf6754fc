# Generated from tests/async/test_refusals.py by tools/sync_tests.py
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

from quaestor import (
    Event,
    MigrationContext,
    MigrationRegistry,
    SessionsNotEnded,
    SyncRunner,
)
from tests.databases import drivers, strict_options
from tests.functions import ab, notes, recorded
from tests.leases import DEAD


@pytest.fixture(params=drivers("pymongo"))
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
def test_record(db: Any, registry: MigrationRegistry, way: str) -> None:
    """The function whose record can't be written isn't called again, and no lease is lost."""
    db.app_migrations.create_index("version", unique=True)
    called: list[str] = []
    for name in ("a", "b"):
        registry.register(name, transaction=way == "transaction")(notes(called, name))
    runner = SyncRunner(registry, db, "app")
    with refused(db, "app_migrations"):
        (runner.mark_applied(["a", "b"]) if way == "mark" else runner.run())
    assert called == ([] if way == "mark" else ["a", "b"])
    assert recorded(db) == ["a"]
    assert "owner" not in db.app_migrations_lock.find_one()


def test_lease(db: Any) -> None:
    """It isn't taken for a lease that somebody holds, which would be waited for."""
    db.app_migrations_lock.create_index("version", unique=True)
    db.app_migrations_lock.insert_one({"_id": "somebody else's"})
    with refused(db, "app_migrations_lock"):
        ab().run_sync(db, "app")
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

    with refused(db, "app_migrations_progress"):
        registry.run_sync(db, "app")
    assert recorded(db) == []


@strict
def test_sessions_of_a_dead_holder(db: Any) -> None:
    """They can't be ended, and an event says so; the run goes on."""
    events: list[Event] = []
    lsid = {"id": Binary(b"s" * 16, UUID_SUBTYPE), "uid": b"u" * 32}
    db.app_migrations_lock.insert_one({**DEAD, "sessions": [lsid]})
    assert ab().run_sync(db, "app", on_event=events.append) == ["a", "b"]
    (refused,) = [event for event in events if isinstance(event, SessionsNotEnded)]
    assert "apiStrict" in str(refused.error)
    assert db.app_migrations_lock.find_one()["sessions"] == []


@strict
def test_max_lag(db: Any, registry: MigrationRegistry) -> None:
    """It is refused before the first batch."""
    db.things.insert_one({})

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.things, max_lag=1):
            pytest.fail("This is a batch.")

    with pytest.raises(OperationFailure) as caught:
        registry.run_sync(db, "app")
    assert "Stable API in strict mode" in caught.value.__notes__[0]
    assert recorded(db) == []
