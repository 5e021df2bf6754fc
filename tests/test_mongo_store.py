"""What the store on MongoDB makes of a driver's errors, command by command. No server is needed."""

from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, DuplicateKeyError, InvalidOperation, OperationFailure

from quaestor._core.checkpoint import Checkpoint, Throttle
from quaestor._core.lease import Author, Terms
from quaestor._core.store import HistoryFact, OutcomeUnknown, RecordEntry
from quaestor._hosts.threads import ThreadHost, run_to_completion
from quaestor._mongo.backfill_store import MongoBackfillStore
from quaestor._mongo.mongo_store import MongoStore, limit_command
from tests.world import lease

LOST = AutoReconnect("connection closed")
REFUSED = OperationFailure("not authorized", 13)
THERE = DuplicateKeyError("there", 11000)
CLOSED = InvalidOperation("client closed")


@pytest.fixture
def store() -> Iterator[MongoStore]:
    with MongoClient("mongodb://127.0.0.1:1", connect=False) as client:
        yield MongoStore(
            client.shop, "app", Terms(30.0, None, 300.0, "me"), Author("me"), host=ThreadHost(), emit=print
        )


COMMANDS = {
    "read_records": [],
    "find_recorded": [["a"]],
    "insert_records": [{"a": RecordEntry("run")}],
    "delete_records": [{"a": ()}],
    "read_checkpoints": [],
    "add_history": [HistoryFact("failed", "a")],
    "read_history": [None, None],
    "read_last_failures": [],
    "read_lease_and_clock": [],
    "read_lease": [],
    "read_clock": [],
    "acquire_lease": ["run", ("a",), (), None],
    "renew_lease": [lease()],
    "expire_lease": [],
    "release_lease": [()],
    "kill_sessions": [(b"s" * 48,)],
}
OPTIONAL = ["identify_collection", "estimate_count"]
NEEDED = {
    "find_highest": [()],
    "read_batch": [Checkpoint((1,)), Throttle()],
    "find_ids": [Checkpoint((1,)), Throttle()],
    "read_origin": [],
    "read_checkpoint": [1],
}


def send(store: Any, error: Exception, name: str, *arguments: Any, **options: Any) -> Any:
    """Send a command that the driver answers with an error, as the engine sends it: within a time limit."""

    async def fail(*_: object, **__: object) -> object:
        raise error

    driver = getattr(store, "_store", store).driver
    with pytest.MonkeyPatch.context() as patch, limit_command(10):
        for method in ("call", "write", "read_all"):
            patch.setattr(driver, method, fail)
        return run_to_completion(getattr(store, name)(*arguments, **options))


def open_backfill(store: MongoStore) -> MongoBackfillStore:
    arguments: dict[str, Any] = {"undo": False, "is_async": False, "filter": None, "projection": None, "name": None}
    return MongoBackfillStore(store, [], "m", collection=store.db.things, **arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_outcome_unknown(store: MongoStore, name: str) -> None:
    """A lost connection is an unknown outcome; after the caller's deadline it is the driver's error."""
    with pytest.raises(OutcomeUnknown) as caught:
        send(store, LOST, name, *COMMANDS[name])
    assert caught.value.error is LOST
    with pymongo.timeout(1e-9), pytest.raises(AutoReconnect):
        send(store, LOST, name, *COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_refused(store: MongoStore, name: str) -> None:
    """A refusal goes to the caller, but not that of killing the sessions of others, or of reading their failures."""
    if name == "kill_sessions":
        assert send(store, REFUSED, name, *COMMANDS[name]) is REFUSED
    elif name == "read_last_failures":
        assert send(store, REFUSED, name) == {}
    else:
        with pytest.raises(OperationFailure) as caught:
            send(store, REFUSED, name, *COMMANDS[name])
        assert caught.value is REFUSED
    with pytest.raises(InvalidOperation):
        send(store, CLOSED, name, *COMMANDS[name])


def test_duplicate(store: MongoStore) -> None:
    """An existing record is an answer, and so is a lease that somebody holds."""
    assert send(store, THERE, "insert_records", {"a": RecordEntry("run")}) is False
    assert send(store, THERE, "acquire_lease", *COMMANDS["acquire_lease"]) is None
    assert send(open_backfill(store), THERE, "claim_checkpoint", None, 1, force=False) is None


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_reads(store: MongoStore, name: str) -> None:
    """A read that a backfill can do without returns None if the server refuses it, and is repeated if it is lost."""
    backfill = open_backfill(store)
    assert send(backfill, REFUSED, name) is None
    with pytest.raises(OutcomeUnknown):
        send(backfill, LOST, name)
    with pytest.raises(OutcomeUnknown):
        send(backfill, OperationFailure("stepped down", 189), name)
    with pytest.raises(InvalidOperation):
        send(backfill, CLOSED, name)


@pytest.mark.parametrize("name", NEEDED)
def test_needed_reads(store: MongoStore, name: str) -> None:
    """A read that a backfill can't do without raises the refusal."""
    with pytest.raises(OperationFailure):
        send(open_backfill(store), REFUSED, name, *NEEDED[name])


def test_lag_refused(store: MongoStore) -> None:
    """A standalone server has no replicas. If the right to ask is missing, a note says which."""
    backfill = open_backfill(store)
    assert send(backfill, OperationFailure("not running with --replSet", 76), "read_lag") == 0.0
    with pytest.raises(OperationFailure) as caught:
        send(backfill, OperationFailure("not authorized", 13), "read_lag")
    assert "clusterMonitor" in caught.value.__notes__[0]
