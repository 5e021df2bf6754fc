# Generated from tests/async/test_servers.py by tools/sync_tests.py
"""What works on every server, on MongoDB and on those that imitate it: `nox -s servers` runs these tests on each.

Collections that a transaction writes to are made before it: not every server makes one in a transaction.
"""

from typing import Any

import pytest

from quaestor import (
    LeaseLostError,
    LeaseTimeoutError,
    MigrationContext,
    MigrationRegistry,
    SyncRunner,
)
from tests.databases import drivers, strict_options
from tests.functions import (
    Broken,
    effects,
    outside,
    recorded,
    recorded_in,
)
from tests.killed import killed
from tests.leases import HELD

IDS = [*range(7), "a", "b", 2.5, None]


@pytest.fixture(params=drivers("pymongo"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers of servers."""
    return str(request.param)


@pytest.fixture(params=["", "strict"])
def client_options(request: pytest.FixtureRequest, uri: str) -> dict[str, Any]:
    """A client as it is, and one with the Stable API in strict mode."""
    return strict_options(uri) if request.param else {}


def add(registry: MigrationRegistry, name: str, *depends_on: str, transaction: bool = False) -> None:
    """Register a migration that leaves a document, and its rollback."""

    @registry.register(name, depends_on, transaction=transaction)
    def function(db: Any) -> None:
        db.effects.insert_one({"_id": name})

    @registry.register_rollback(name)
    def undo(db: Any) -> None:
        db.effects.delete_one({"_id": name})


def test_run(db: Any, registry: MigrationRegistry) -> None:
    """What is pending is applied in order, and recorded; the next run has nothing to do."""
    add(registry, "b", "a")
    add(registry, "a")

    assert registry.run_sync(db, "app") == ["a", "b"]
    assert registry.run_sync(db, "app") == []
    assert effects(db) == recorded(db) == ["a", "b"]


def test_second_executor(db: Any, registry: MigrationRegistry) -> None:
    """While a migration runs no other instance gets the lease."""
    other = MigrationRegistry()
    add(other, "b")

    @registry.register("a")
    def a(db: Any) -> None:
        with pytest.raises(LeaseTimeoutError):
            SyncRunner(other, db, "app", lease_timeout=0.3).run()

    assert registry.run_sync(db, "app") == ["a"]
    assert SyncRunner(other, db, "app").run() == ["b"]


def test_renewed(db: Any, registry: MigrationRegistry) -> None:
    """A migration may take longer than `lease_ttl`: the lease is renewed meanwhile, and nobody else acquires it."""
    other = MigrationRegistry()
    add(other, "b")

    @registry.register("a")
    def a(db: Any) -> None:
        while db.app_migrations_lock.find_one()["beat"] < 4:  # not every server has change streams
            pass
        with pytest.raises(LeaseTimeoutError):
            SyncRunner(other, db, "app", lease_timeout=0).run()

    assert registry.run_sync(db, "app", lease_ttl=1) == ["a"]


def test_lease_lost(db: Any, registry: MigrationRegistry) -> None:
    """A run that another instance has replaced records nothing."""

    @registry.register("a")
    def a(db: Any) -> None:
        db.app_migrations_lock.update_one({"_id": "lease"}, {"$set": {"owner": "another"}, "$inc": {"token": 1}})

    with pytest.raises(LeaseLostError):
        registry.run_sync(db, "app")
    assert recorded(db) == []


def test_token(db: Any, registry: MigrationRegistry) -> None:
    """The token rises with each acquisition."""
    tokens = []
    for name in ("a", "b"):
        add(registry, name)
        registry.run_sync(db, "app")
        lease = db.app_migrations_lock.find_one("lease")
        assert "owner" not in lease
        tokens.append(lease["token"])
    assert tokens == [1, 2]


def test_take_over(driver: str, db: Any, place: tuple[str, str], registry: MigrationRegistry) -> None:
    """An instance that was killed is replaced, and what it had in progress runs again."""
    killed(driver, ("run", "b", "in the function"), *place)
    for name in ("a", "b", "c"):
        add(registry, name)
    status = SyncRunner(registry, db, "app").status()
    assert [one.name for one in status.migrations if one.interrupted] == ["b"]
    assert registry.run_sync(db, "app") == ["b", "c"]


def test_unlock(db: Any, registry: MigrationRegistry) -> None:
    """`status` shows who has the lease, and `unlock` releases it."""
    add(registry, "a")
    db.app_migrations_lock.insert_one(dict(HELD))
    runner = SyncRunner(registry, db, "app", lease_timeout=0)
    lease = runner.status().lease
    assert lease is not None
    with pytest.raises(LeaseTimeoutError):
        runner.run()
    assert runner.unlock() == lease
    assert runner.run() == ["a"]


def test_rollback_and_marks(db: Any, registry: MigrationRegistry) -> None:
    add(registry, "a")
    add(registry, "b", "a")
    runner = SyncRunner(registry, db, "app")
    runner.run()
    assert runner.rollback(["a"]) == ["b", "a"]
    assert effects(db) == recorded(db) == []
    assert runner.mark_applied(["a"]) == ["a"]
    assert runner.mark_pending(["a"]) == ["a"]
    assert [one.name for one in runner.plan()] == ["a", "b"]


@pytest.mark.parametrize("matching", [None, {"kind": 0}], ids=["all", "filter"])
def test_backfill(db: Any, registry: MigrationRegistry, matching: dict[str, Any] | None) -> None:
    """A backfill sees each document once, of all types of `_id`, and resumes after a failure."""
    db.things.insert_many([{"_id": key, "kind": number % 2} for number, key in enumerate(IDS)])
    seen: list[Any] = []
    batches: list[int] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for batch in context.batches(db.things, matching, size=2):
            batches.append(len(batch))
            if len(batches) == 3:
                raise Broken
            seen.extend(document["_id"] for document in batch)

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    status = SyncRunner(registry, db, "app").status()
    assert status.migrations[0].backfills[0].done == len(seen)
    assert registry.run_sync(db, "app") == ["a"]

    expected = [key for number, key in enumerate(IDS) if matching is None or number % 2 == 0]
    assert sorted(map(str, seen)) == sorted(map(str, expected))
    assert db.app_migrations_progress.count_documents({}) == 0


def test_transaction(db: Any, other: Any, registry: MigrationRegistry) -> None:
    """A migration and its record are committed together; of a failure nothing is left."""
    other.effects.insert_one({"_id": "before"})
    attempts: list[int] = []
    add(registry, "a", "b", transaction=True)

    @registry.register("b", transaction=True)
    def b(db: Any) -> None:
        attempts.append(1)
        db.effects.insert_one({"_id": "b"})
        assert outside(lambda: other.effects.find_one("b")) is None
        if len(attempts) == 1:
            raise Broken

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    assert effects(other) == ["before"]
    assert registry.run_sync(db, "app") == ["b", "a"]
    assert effects(other) == ["a", "b", "before"]
    assert recorded(other) == ["a", "b"]
    assert SyncRunner(registry, db, "app").rollback(["a"]) == ["a"]
    assert effects(other) == ["b", "before"]


def test_backfill_in_transactions(db: Any, other: Any, registry: MigrationRegistry) -> None:
    """A batch and its checkpoint are committed together."""
    other.things.insert_many([{"_id": key, "count": 0} for key in IDS])
    calls: list[int] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: list[Any]) -> None:
            calls.append(1)
            for document in batch:
                db.things.update_one({"_id": document["_id"]}, {"$inc": {"count": 1}})
            if len(calls) == 2:
                raise Broken

        context.for_each_batch(db.things, body, size=2)

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    assert registry.run_sync(db, "app") == ["a"]
    assert {document["count"] for document in other.things.find()} == {1}


def test_many(registry: MigrationRegistry, dbs: list[Any]) -> None:
    """Several databases, side by side."""
    add(registry, "a")
    registry.run_many_sync(dbs, "app", concurrency=3)
    assert recorded_in(dbs) == [["a"]] * 5
