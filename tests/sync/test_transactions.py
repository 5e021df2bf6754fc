# Generated from tests/async/test_transactions.py by tools/sync_tests.py
"""Migrations whose function and record are one transaction."""

import hashlib
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError, InvalidOperation, OperationFailure

from quaestor import (
    Event,
    MigrationContext,
    MigrationRegistry,
    MigrationRetried,
    RunFailed,
    TransactionFailedError,
    TransactionsUnsupportedError,
)
from tests.databases import drivers, opened
from tests.functions import Broken, notes, outside
from tests.leases import lock_document


def inserts(db: Any) -> None:
    """A migration that leaves a document."""
    db.users.insert_one({})


@pytest.fixture(params=drivers("pymongo"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers of servers that have transactions."""
    return str(request.param)


def test_committed_together(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """A function sees its own writes; others see them together with the record."""
    db.users.insert_one({"_id": 1})

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        db.users.insert_one({"_id": 2})
        db.users.update_many({}, {"$set": {"seen": True}})
        assert [user["seen"] for user in db.users.find()] == [True, True]
        assert outside(lambda: other.users.find_one({"_id": 2})) is None

    assert registry.run_sync(db, "app") == ["a"]
    assert [user["seen"] for user in other.users.find()] == [True, True]
    assert [record["_id"] for record in other.app_migrations.find()] == ["a"]


@pytest.mark.parametrize("failure", [Broken, KeyboardInterrupt])
def test_failure(db: Any, registry: MigrationRegistry, failure: type[BaseException]) -> None:
    """A function that fails leaves no writes and no locks, and the next run calls it again."""
    calls = []

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        db.users.insert_one({"_id": 1})
        calls.append("a")
        if len(calls) == 1:
            raise failure

    with pytest.raises(failure) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]
    assert db.users.count_documents({}) == 0
    assert db.app_migrations.count_documents({}) == 0

    assert registry.run_sync(db, "app", lease_timeout=0) == ["a"]
    assert db.users.count_documents({}) == 1


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_client_closed_in_a_transaction(db: Any, registry: MigrationRegistry, driver: str, uri: str, name: str) -> None:
    """The function's exception reaches the caller even if the transaction can't be aborted any more."""

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        db.users.insert_one({})
        db.client.close()
        raise Broken

    with opened(driver, uri, name) as another, pytest.raises(Broken):
        registry.run_sync(another, "app")
    db.client.admin.command("killAllSessions", [])  # that could not be done by the one who began it
    assert db.app_migrations.count_documents({}) == 0


def test_session_in_the_lock(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """The lock names the session of the transactions until the run ends, so that a successor can end it."""
    seen = []

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        seen.append(outside(lambda: other.app_migrations_lock.find_one()))

    registry.register("b", transaction=True)(a)
    registry.run_sync(db, "app")

    first, second = seen
    (session,) = first["sessions"]
    assert second == lock_document(first, migrations=["b"], renewed=second, sessions=[session])
    assert session["uid"] == hashlib.sha256(b"").digest()  # nobody has logged in
    assert session["id"].subtype == 4
    assert other.app_migrations_lock.find_one()["sessions"] == []


def test_conflict(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """A function with a write conflict is called again, and its writes are there once."""
    db.users.insert_one({"_id": 1, "count": 0})
    events: list[Event] = []
    calls = []

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        calls.append("a")
        if len(calls) == 2:
            outside(lambda: session.abort_transaction())  # the other one lets go
        db.users.update_one({"_id": 1}, {"$inc": {"count": 1}})

    with other.client.start_session() as session:
        session.start_transaction()
        other.users.update_one({"_id": 1}, {"$set": {"busy": True}}, session=session)
        assert registry.run_sync(db, "app", on_event=events.append) == ["a"]

    (retried,) = [event for event in events if isinstance(event, MigrationRetried)]
    assert (retried.name, retried.attempt) == ("a", 2)
    assert isinstance(retried.error, OperationFailure)
    assert db.users.find_one() == {"_id": 1, "count": 1}


@pytest.mark.parametrize("way", ["returns", "next operation", "handler", "batch"])
def test_caught_error(db: Any, registry: MigrationRegistry, way: str) -> None:
    """A failed operation ends a transaction. A function that catches its error and goes on is given up soon, with an
    error that says so. It names the error that was caught if the next operation is in its handler.
    """
    db.users.insert_one({"_id": 1})
    attempts = []

    def go_on(db: Any) -> None:
        attempts.append(way)
        try:
            db.users.insert_one({"_id": 1})
        except DuplicateKeyError:
            if way == "handler":
                db.users.insert_one({"_id": 2})
        if way == "next operation":
            db.users.insert_one({"_id": 2})

    if way == "batch":

        @registry.register("a")
        def in_batches(db: Any, context: MigrationContext) -> None:
            def body(batch: list[Any]) -> None:
                go_on(db)

            context.for_each_batch(db.users, body)

    else:
        registry.register("a", transaction=True)(go_on)

    with pytest.raises(TransactionFailedError, match="caught the error and continued") as caught:
        registry.run_sync(db, "app")
    assert caught.value.attempts == len(attempts) == 5
    assert ("DuplicateKeyError" if way == "handler" else "NoSuchTransaction") in caught.value.error
    assert isinstance(caught.value.__cause__, OperationFailure)
    assert db.users.count_documents({}) == 1
    assert db.app_migrations.count_documents({}) == 0


def test_refused_in_a_transaction(db: Any, registry: MigrationRegistry) -> None:
    """An operation that MongoDB doesn't allow in a transaction is its error, with a note on what to do."""
    db.users.insert_one({})

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        db.users.create_index("email")

    with pytest.raises(OperationFailure) as caught:
        registry.run_sync(db, "app")
    assert caught.value.code == 263
    assert "MongoDB does not allow this in a transaction" in caught.value.__notes__[0]
    assert str(RunFailed("shop", "app", "r1", caught.value)) == "Run failed in migration 'a', 1 of 1"
    assert db.app_migrations.count_documents({}) == 0


def test_another_client(db: Any, registry: MigrationRegistry, driver: str, uri: str, name: str) -> None:
    """Another client can't take part in the transaction: the driver's error, with a note on what to do."""

    with opened(driver, uri, name) as another:

        @registry.register("a", transaction=True)
        def a(db: Any) -> None:
            another.users.insert_one({})

        with pytest.raises(InvalidOperation) as caught:
            registry.run_sync(db, "app")
    assert "use the database that it is given" in caught.value.__notes__[0]


def test_recorded_by_another(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """When another instance commits the same migration first, this one leaves nothing and goes on."""
    calls = []

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        calls.append("a")
        db.users.insert_one({})
        outside(lambda: other.app_migrations.insert_one({"_id": "a", "name": "a"}))

    @registry.register("b", transaction=True)
    def b(db: Any) -> None:
        db.users.insert_one({"_id": "b"})

    assert registry.run_sync(db, "app") == ["a", "b"]
    assert calls == ["a"]
    assert list(db.users.find()) == [{"_id": "b"}]


def test_collections_and_indexes(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """A transaction can create collections and indexes."""

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        db.create_collection("orders")
        db.orders.create_index("number")

    assert registry.run_sync(db, "app") == ["a"]
    assert "number_1" in other.orders.index_information()


@pytest.mark.parametrize("driver", drivers("mongomock"))
def test_no_transactions(db: Any, registry: MigrationRegistry) -> None:
    """Without transactions on the server nothing runs, and the error names those that need them."""
    calls = []

    registry.register("a")(notes(calls, "a"))
    registry.register("b", transaction=True)(notes(calls, "b"))

    with pytest.raises(TransactionsUnsupportedError, match="transaction=True: b") as caught:
        registry.run_sync(db, "app")
    assert caught.value.migrations == ["b"]
    assert calls == []
    assert db.app_migrations_lock.find_one() is None
