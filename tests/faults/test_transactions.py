"""Faults in migrations with transaction=True: the effect of the body and its record are there once, or neither is."""

from collections.abc import Generator
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from quaestor import MigrationFailed, MigrationRetried, TransactionFailedError
from quaestor._core import transaction
from tests.faults.applications import Application, State, effect, state, transactions_live
from tools.faults import LOST, WTIMEOUT, fail_command

# The answer to a repeated commit, from a server that has forgotten the transaction.
PERFORMED_AND_FORGOTTEN: dict[str, Any] = {
    "writeConcernError": {"code": 251, "errmsg": "no such transaction"},
    "errorLabels": ["TransientTransactionError"],
}


@pytest.mark.parametrize(
    ("fault", "times", "bodies"),
    [
        pytest.param(LOST, 1, 1, id="lost"),
        pytest.param(LOST, 2, 1, id="lost twice"),
        pytest.param(LOST, 3, 1, id="lost three times"),
        pytest.param({"errorCode": 64}, 2, 1, id="WriteConcernFailed"),
        pytest.param(WTIMEOUT, 2, 1, id="wtimeout"),
        pytest.param({"writeConcernError": {"code": 91, "errmsg": "going"}}, 2, 1, id="performed, ShutdownInProgress"),
        pytest.param(PERFORMED_AND_FORGOTTEN, 1, 1, id="performed, NoSuchTransaction"),
        pytest.param({"errorCode": 91}, 1, 1, id="ShutdownInProgress"),
        pytest.param({"errorCode": 91}, 2, 1, id="ShutdownInProgress twice"),
        pytest.param({"errorCode": 251}, 1, 2, id="NoSuchTransaction"),
        pytest.param({"errorCode": 251}, 2, 3, id="NoSuchTransaction twice"),
    ],
)
def test_commit(app: Application, db: Any, uri: str, fault: dict[str, Any], times: int, bodies: int) -> None:
    """A commit that fails is sent again, or the body is called again where nothing of it is there: one effect."""
    app.leaves_effects("a", "b", transaction=True)

    with fail_command(uri, ["commitTransaction"], times=times, appName="app", **fault) as struck:
        assert app.run() == ["a", "b"]

    assert struck.hits == times
    assert app.bodies == ["a"] * bodies + ["b"]
    assert [event.attempt for event in app.list_events(MigrationRetried)] == list(range(2, bodies + 1))
    assert state(db) == State(["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    ("fault", "times", "bodies"),
    [
        pytest.param(LOST, 3, 1, id="lost three times"),
        pytest.param(WTIMEOUT, 2, 1, id="wtimeout"),
        pytest.param(PERFORMED_AND_FORGOTTEN, 1, 1, id="performed, NoSuchTransaction"),
        pytest.param({"errorCode": 91}, 1, 1, id="ShutdownInProgress"),
        pytest.param({"errorCode": 251}, 2, 3, id="NoSuchTransaction twice"),
    ],
)
def test_commit_of_a_rollback(
    app: Application, db: Any, uri: str, fault: dict[str, Any], times: int, bodies: int
) -> None:
    """Likewise where it is undone: once."""
    app.leaves_effects("a", "b", transaction=True)
    assert app.run() == ["a", "b"]
    app.bodies.clear()

    with fail_command(uri, ["commitTransaction"], times=times, appName="app", **fault) as struck:
        assert app.call("rollback", ["a", "b"]) == ["b", "a"]

    assert struck.hits == times
    calls = app.bodies.count("undo b")
    # This one does not wait for a majority, and until there is one the record is read as it was before.
    assert calls == bodies or (fault is PERFORMED_AND_FORGOTTEN and calls > bodies)
    assert app.bodies == ["undo b"] * calls + ["undo a"]
    retried = [(event.attempt, event.undo) for event in app.list_events(MigrationRetried)]
    assert retried == [(attempt, True) for attempt in range(2, calls + 1)]
    assert state(db) == State([], ["a", "b", "undo a", "undo b"])


@pytest.mark.parametrize("collection", ["effects", "app_migrations"])
@pytest.mark.parametrize(
    ("fault", "times"),
    [
        pytest.param(LOST, 1, id="lost"),
        pytest.param(LOST, 2, id="lost twice"),
        pytest.param({"errorCode": 112}, 2, id="WriteConflict"),
        pytest.param({"errorCode": 251}, 2, id="NoSuchTransaction"),
    ],
)
def test_inside(
    app: Application, db: Any, uri: str, name: str, fault: dict[str, Any], times: int, collection: str
) -> None:
    """An operation inside that fails, the record's insert among them: the body is called again, for one effect."""
    app.leaves_effects("a", "b", transaction=True)

    namespace = f"{name}.{collection}"
    with fail_command(uri, ["insert"], times=times, namespace=namespace, appName="app", **fault) as struck:
        assert app.run() == ["a", "b"]

    assert struck.hits == times
    assert app.bodies == ["a"] * (times + 1) + ["b"]
    assert [event.attempt for event in app.list_events(MigrationRetried)] == list(range(2, times + 2))
    assert state(db) == State(["a", "b"], ["a", "b"])


@pytest.mark.parametrize(("verb", "collection"), [("insert", "effects"), ("delete", "app_migrations")])
@pytest.mark.parametrize("fault", [LOST, {"errorCode": 112}], ids=["lost", "WriteConflict"])
def test_inside_a_rollback(
    app: Application, db: Any, uri: str, name: str, fault: dict[str, Any], verb: str, collection: str
) -> None:
    """Likewise where it is undone, the removal of the record included."""
    app.leaves_effects("a", "b", transaction=True)
    assert app.run() == ["a", "b"]
    app.bodies.clear()

    namespace = f"{name}.{collection}"
    with fail_command(uri, [verb], times=2, namespace=namespace, appName="app", **fault) as struck:
        assert app.call("rollback", ["a", "b"]) == ["b", "a"]

    assert struck.hits == 2
    assert app.bodies == ["undo b"] * 3 + ["undo a"]
    assert state(db) == State([], ["a", "b", "undo a", "undo b"])


def test_conflict(app: Application, db: Any) -> None:
    """A body that meets somebody else's transaction on the same documents is called again, until that has ended."""
    db.stock.insert_one({"_id": "apples", "count": 1})

    @app.migration("a", transaction=True)
    def counts(db: Any) -> Generator[Any, Any, None]:
        yield db.stock.update_one({"_id": "apples"}, {"$inc": {"count": 10}})
        yield from effect("a", db)

    with db.client.start_session() as session:
        session.start_transaction()
        db.stock.update_one({"_id": "apples"}, {"$inc": {"count": 100}}, session=session)
        app.when[MigrationRetried] = lambda event: session.in_transaction and session.commit_transaction()
        assert app.run() == ["a"]

    assert app.list_events(MigrationRetried)[0].error.code == 112
    assert app.bodies == ["a", "a"]
    assert db.stock.find_one() == {"_id": "apples", "count": 111}
    assert state(db) == State(["a"], ["a"])


REFUSED = {
    "create_index": lambda db: db.users.create_index("email"),
    "drop": lambda db: db.users.drop(),
    "rename": lambda db: db.users.rename("people"),
    "collMod": lambda db: db.command("collMod", "users", validator={}),
}


@pytest.mark.parametrize("operation", REFUSED)
def test_refused(app: Application, db: Any, operation: str) -> None:
    """What MongoDB does not allow in a transaction is an error of the user's, with a note; nothing of it is there."""
    db.users.insert_one({"name": "Ada"})

    @app.migration("a", transaction=True)
    def asks_too_much(db: Any) -> Generator[Any, Any, None]:
        yield from effect("a", db)
        yield REFUSED[operation](db)

    with pytest.raises(OperationFailure) as caught:
        app.run()

    assert caught.value.code == 263
    note, place = caught.value.__notes__
    assert "MongoDB does not allow this in a transaction" in note
    assert "without transaction=True" in note
    assert place == "quaestor: in migration 'a', 1 of 1"
    assert app.bodies == ["a"]
    assert state(db) == State([], [])
    assert db.users.index_information().keys() == {"_id_"}


def test_too_long(app: Application, db: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is longer than the server lets a transaction live is given up, with an error that says why."""
    monkeypatch.setattr(transaction, "LONGEST_TRANSACTION", 2.0)

    @app.migration("a", transaction=True)
    def goes_on_until_it_is_ended(db: Any) -> Generator[Any, Any, None]:
        yield from effect("a", db)
        while True:
            yield db.effects.find_one()

    with (
        transactions_live(uri, 1),
        pytest.raises(TransactionFailedError, match="transactionLifetimeLimitSeconds") as caught,
    ):
        app.run()

    assert caught.value.expired
    assert (caught.value.name, caught.value.attempts) == ("a", len(app.bodies))
    assert caught.value.seconds >= 2
    assert isinstance(caught.value.__cause__, OperationFailure)
    assert app.list_events(MigrationFailed)[0].error is caught.value
    assert state(db) == State([], [])


def test_given_up(app: Application, db: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is aborted again and again is given up, with an error that carries the driver's."""
    monkeypatch.setattr(transaction, "MOST_ATTEMPTS", 3)
    app.leaves_effects("a", transaction=True)

    with (
        fail_command(uri, ["insert"], times="alwaysOn", errorCode=112, appName="app") as struck,
        pytest.raises(TransactionFailedError, match="aborted 3 times") as caught,
    ):
        app.run()

    assert struck.hits == 3
    assert not caught.value.expired
    assert isinstance(caught.value.__cause__, OperationFailure)
    assert caught.value.__cause__.code == 112
    assert "OperationFailure 112 (WriteConflict)" in str(caught.value)
    assert state(db) == State([], [])
    assert app.run() == ["a"]
