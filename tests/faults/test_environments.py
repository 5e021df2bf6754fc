"""Servers, mocks and clients of all kinds: a run, waiting, giving up, taking over and unlocking are the same on all."""

import contextlib
import time
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, TypeAlias

import mongomock
import mongomock_motor
import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from quaestor import LeaseAwaited, LeaseNotReleased, LeaseTimeoutError, TransactionsUnsupportedError
from tests.faults.applications import DRIVERS, Application, State, application, effect, hold, release, state
from tools.mongod import standalone

Place: TypeAlias = tuple[Application, Any]
"""An application, and its database as the test looks at it."""

CLIENTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "retryWrites=False": {"retryWrites": False},
    "w=0": {"w": 0},
    "secondaryPreferred": {"readPreference": "secondaryPreferred"},
    "timeoutMS": {"timeoutMS": 5_000},
    "one connection": {"maxPoolSize": 1},
}
"""Options of a user's client."""


@pytest.fixture(scope="module")
def lonely() -> Iterator[str]:
    """The URI of a standalone server."""
    with standalone() as uri:
        yield uri


@pytest.fixture
def place(request: pytest.FixtureRequest, name: str, kind: str) -> Iterator[Place]:
    """A new place of this kind."""
    where, _, which = kind.partition(", ")
    if where == "mongomock":
        database = mongomock.MongoClient()[name]
        yield Application("sync", partial(contextlib.nullcontext, database)), database
    elif where == "mongomock-motor":
        database = mongomock_motor.AsyncMongoMockClient()[name]
        yield Application("async", partial(contextlib.nullcontext, database)), database.delegate
    else:
        uri = request.getfixturevalue("lonely" if where == "standalone" else "uri")
        driver, options = (which, {}) if where == "standalone" else (where, CLIENTS[which])
        with MongoClient(uri) as client:
            yield application(driver, uri, name, **options), client[name]
            client.drop_database(name)


WITHOUT_TRANSACTIONS = [*(f"standalone, {driver}" for driver in DRIVERS), "mongomock", "mongomock-motor"]
WITH_TRANSACTIONS = [f"{driver}, {options}" for driver in DRIVERS for options in CLIENTS]
ACKNOWLEDGED = [kind for kind in WITH_TRANSACTIONS if not kind.endswith("w=0")]

with_every_client = pytest.mark.parametrize("kind", WITHOUT_TRANSACTIONS + WITH_TRANSACTIONS)
everywhere = pytest.mark.parametrize("kind", [*WITHOUT_TRANSACTIONS, *(f"{driver}, as it is" for driver in DRIVERS)])


@with_every_client
def test_run(place: Place) -> None:
    """What is pending is applied, and only once."""
    app, db = place
    app.leaves_effects("a", "b")

    assert app.run() == ["a", "b"]
    assert app.run() == []

    assert app.bodies == ["a", "b"]
    assert state(db) == State(["a", "b"], ["a", "b"])


@everywhere
def test_corrections(place: Place) -> None:
    """What is applied is undone, once; records are corrected; a status tells what is there then."""
    app, db = place
    app.leaves_effects("a", "b")
    assert app.run() == ["a", "b"]

    assert app.call("rollback", ["a", "b"]) == ["b", "a"]
    assert app.call("mark_applied", ["a", "b"]) == ["a", "b"]
    assert app.call("mark_pending", ["a"]) == ["a"]

    assert app.bodies == ["a", "b", "undo b", "undo a"]
    assert state(db) == State(["b"], ["a", "b", "undo a", "undo b"])
    status = app.call("status")
    assert (status.names("applied"), status.names("pending"), status.lease) == (["b"], ["a"], None)


@everywhere
def test_wait(place: Place) -> None:
    """A run waits for the holder of the lease, and goes on when that one has released it."""
    app, db = place
    app.leaves_effects("a")
    hold(db, seconds=60)
    app.when[LeaseAwaited] = lambda _: release(db)

    assert app.run() == ["a"]

    (waited,) = app.list_events(LeaseAwaited)
    assert (waited.holder.host, waited.holder.pid) == ("elsewhere", 4321)
    assert state(db) == State(["a"], ["a"])


@everywhere
def test_give_up(place: Place) -> None:
    """A run with a lease_timeout gives up then, with the holder; nothing has run."""
    app, db = place
    app.leaves_effects("a")
    hold(db, seconds=60)

    with pytest.raises(LeaseTimeoutError) as caught:
        app.run(lease_timeout=0.2)

    assert caught.value.holder.owner == "somebody"
    assert caught.value.seconds >= 0.2
    assert state(db) == State([], [], "somebody")


@with_every_client
def test_take_over(place: Place) -> None:
    """A lease that was never released is taken over when nobody renews it; the token rises."""
    app, db = place
    app.leaves_effects("a")
    hold(db, seconds=0.3)

    assert app.run() == ["a"]

    assert len(app.list_events(LeaseAwaited)) == 1
    assert state(db) == State(["a"], ["a"])
    assert db.app_migrations_lock.find_one()["token"] == 8


@everywhere
def test_unlock(place: Place) -> None:
    """An unlock frees the lease, whoever holds it, and returns the holder. Then there is none to free."""
    app, db = place
    hold(db, seconds=60)
    app.leaves_effects("a")

    freed = app.unlock()

    assert freed is not None
    assert freed.owner == "somebody"
    assert app.unlock() is None
    assert app.run(lease_timeout=0) == ["a"]
    assert state(db) == State(["a"], ["a"])


@pytest.mark.parametrize("kind", WITHOUT_TRANSACTIONS)
def test_no_transactions(place: Place) -> None:
    """Where there are no transactions, migrations that need them are refused before anything has run."""
    app, db = place
    app.leaves_effects("a", "b")
    app.leaves_effects("c", "d", transaction=True)

    with pytest.raises(TransactionsUnsupportedError) as caught:
        app.run()

    assert caught.value.migrations == ["c", "d"]
    assert app.bodies == []
    assert state(db) == State([], [])


@pytest.mark.parametrize("kind", ACKNOWLEDGED)
def test_transaction(place: Place) -> None:
    """A migration and its record are one transaction, whatever the client's own defaults are."""
    app, db = place

    class Broken(Exception):
        pass

    @app.migration("a", transaction=True)
    def fails_once(observed: Any) -> Generator[Any, Any, None]:
        yield from effect("a", observed)
        assert (yield observed.effects.find_one())["migration"] == "a"
        if len(app.bodies) == 1:
            raise Broken

    with pytest.raises(Broken):
        app.run()
    assert state(db) == State([], [])
    assert app.run() == ["a"]
    assert state(db) == State(["a"], ["a"])


@pytest.mark.parametrize("driver", DRIVERS)
def test_transaction_of_a_client_that_awaits_nothing(driver: str, uri: str, name: str, db: Any) -> None:
    """With w=0 a function that is a transaction is one all the same, and acknowledged."""
    app = application(driver, uri, name, w=0)
    app.leaves_effects("a", transaction=True)

    assert app.run() == ["a"]
    assert state(db) == State(["a"], ["a"])


@pytest.mark.alone
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("goes_on", [False, True], ids=["in a command", "between two commands"])
def test_deadline_of_the_caller(app: Application, db: Any, *, goes_on: bool, transaction: bool) -> None:
    """A deadline around the run that passes in a body: the driver's time-out for the caller; the lease is released, and
    no transaction is left open, which would block what it touched.
    """
    db.effects.insert_one({"_id": 1, "migration": "x"})

    @app.migration("a", transaction=transaction)
    def outlasts_the_deadline(observed: Any) -> Generator[Any, Any, None]:
        if len(app.bodies) == 1:
            yield observed.effects.update_one({"_id": 1}, {"$set": {"migration": "y"}})
        while len(app.bodies) == 1:
            try:
                yield observed.effects.find_one()
            except PyMongoError:
                if not goes_on:
                    raise
                return
        yield from effect("a", observed)

    began = time.monotonic()
    with pytest.raises(PyMongoError) as caught, pymongo.timeout(0.5):
        app.run(lease_ttl=8.0)

    assert caught.value.timeout
    assert time.monotonic() - began < 4
    assert app.list_events(LeaseNotReleased) == []
    with pymongo.timeout(5):
        db.effects.delete_one({"_id": 1})
    assert state(db) == State([], [])
    assert app.run(lease_timeout=0) == ["a"]
    assert state(db) == State(["a"], ["a"])
