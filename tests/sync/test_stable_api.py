# Generated from tests/async/test_stable_api.py by tools/sync_tests.py
"""A client with the Stable API in strict mode: all features but `max_lag`, without the commands that it refuses."""

from typing import Any

import pytest
from bson.binary import UUID_SUBTYPE, Binary
from pymongo.errors import OperationFailure
from pymongo.server_api import ServerApi

from quaestor import (
    Event,
    MigrationContext,
    MigrationRegistry,
    SessionsNotEnded,
    SyncRunner,
)
from tests.databases import drivers
from tests.functions import recorded
from tests.leases import DEAD


@pytest.fixture(params=drivers("pymongo"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers of servers."""
    return str(request.param)


@pytest.fixture
def client_options() -> dict[str, Any]:
    return {"server_api": ServerApi("1", strict=True)}


def test_all_features(db: Any, registry: MigrationRegistry, dbs: list[Any]) -> None:
    """Plain functions, transactions, backfills of both kinds, rollback, marks, plan, status and many databases."""

    @registry.register("a")
    def a(db: Any) -> None:
        db.things.insert_many([{"_id": key, "count": 0} for key in (1, 2, "a")])

    @registry.register("b", ["a"], transaction=True)
    def b(db: Any) -> None:
        db.things.insert_one({"_id": "b", "count": 0})

    @registry.register("c", ["b"])
    def c(db: Any, context: MigrationContext) -> None:
        for batch in context.batches(db.things, {"count": 0}, size=2):
            db.things.update_many({"_id": {"$in": [thing["_id"] for thing in batch]}}, {"$inc": {"count": 1}})

    @registry.register("d", ["c"])
    def d(db: Any, context: MigrationContext) -> None:
        def body(batch: list[Any]) -> None:
            db.things.update_many({"_id": {"$in": [thing["_id"] for thing in batch]}}, {"$inc": {"count": 1}})

        context.for_each_batch(db.things, body, size=2)

    @registry.register_rollback("d")
    def undo(db: Any) -> None:
        db.things.delete_one({"_id": "b"})

    runner = SyncRunner(registry, db, "app")
    assert [one.name for one in runner.plan()] == ["a", "b", "c", "d"]
    assert runner.run() == ["a", "b", "c", "d"]
    assert [thing["count"] for thing in db.things.find()] == [2, 2, 2, 2]
    assert runner.rollback(["d"]) == ["d"]
    assert runner.mark_applied(["d"]) == ["d"]
    assert runner.status().names("applied") == ["a", "b", "c", "d"]
    assert runner.unlock() is None
    assert [result.error for result in registry.run_many_sync(dbs, "app")] == [None] * len(dbs)


def test_sessions_of_a_dead_holder(db: Any, registry: MigrationRegistry) -> None:
    """They can't be ended, and an event says so; the run goes on."""
    events: list[Event] = []
    lsid = {"id": Binary(b"s" * 16, UUID_SUBTYPE), "uid": b"u" * 32}
    db.app_migrations_lock.insert_one({**DEAD, "sessions": [lsid]})

    @registry.register("a")
    def a(db: Any) -> None: ...

    assert registry.run_sync(db, "app", on_event=events.append) == ["a"]
    (refused,) = [event for event in events if isinstance(event, SessionsNotEnded)]
    assert "apiStrict" in str(refused.error)
    assert db.app_migrations_lock.find_one()["sessions"] == []


def test_max_lag(db: Any, registry: MigrationRegistry) -> None:
    """It is refused before the first batch, with a note that says why."""
    db.things.insert_one({})

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.things, max_lag=1):
            pytest.fail("This is a batch.")

    with pytest.raises(OperationFailure) as caught:
        registry.run_sync(db, "app")
    assert "Stable API in strict mode" in caught.value.__notes__[0]
    assert recorded(db) == []
