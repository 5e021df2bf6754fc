"""What a driver's error says about the command, or the transaction, that it ended."""

import contextlib
from types import SimpleNamespace
from typing import Any

import pymongo
import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    EncryptionError,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from quaestor._core.store import Ending
from quaestor._mongo.outcomes import (
    check_id_is_taken,
    explain_refusal,
    find_cause,
    find_ending,
    find_unknown_outcome,
    is_deadline_over,
    name_error,
)


def labelled(*labels: str, code: int | None = None) -> PyMongoError:
    return OperationFailure("failed", code, {"errorLabels": list(labels)})


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("connection closed"),
        WTimeoutError("waiting for replication timed out", 64),
        labelled("RetryableWriteError"),
        *(OperationFailure("failed", code) for code in (50, 91, 189, 10107, 11600)),
    ],
)
def test_unknown_outcome(error: PyMongoError) -> None:
    """After a lost connection, a missing majority, or a stepdown, the outcome is unknown."""
    unknown = find_unknown_outcome(error)
    assert unknown is not None
    assert (unknown.error, unknown.no_server) == (error, False)


def bulk_error(**details: Any) -> BulkWriteError:
    return BulkWriteError({"writeErrors": [], "writeConcernErrors": []} | details)


def test_several_writes() -> None:
    """The error of several writes in one command is classified as that of one is."""
    taken = {"code": 11000, "errmsg": "E11000", "keyPattern": {"_id": 1}}
    lost = {"code": 64, "errmsg": "waiting for replication timed out"}
    down = {"code": 11600, "errmsg": "shutting down"}
    cause = find_cause(bulk_error(writeErrors=[taken], writeConcernErrors=[lost]))
    assert isinstance(cause, DuplicateKeyError)
    assert cause.details == taken
    cause = find_cause(bulk_error(writeConcernErrors=[lost]))
    unknown = find_unknown_outcome(cause)
    assert unknown is not None
    assert unknown.no_majority
    assert find_unknown_outcome(find_cause(bulk_error(writeErrors=[down]))) is not None
    assert find_unknown_outcome(find_cause(bulk_error(writeErrors=[{"code": 121, "errmsg": "invalid"}]))) is None
    assert find_cause(error := bulk_error()) is error


def test_no_server() -> None:
    """If no server was found, that is said, because nothing was sent."""
    unknown = find_unknown_outcome(ServerSelectionTimeoutError("nobody"))
    assert unknown is not None
    assert unknown.no_server


@pytest.mark.parametrize(
    ("error", "no_majority"),
    [
        (WTimeoutError("waiting for replication timed out", 64), True),
        (WriteConcernError("operation was interrupted", 11602), True),
        (ExecutionTimeout("operation exceeded time limit", 50, {"ok": 0, "codeName": "MaxTimeMSExpired"}), True),
        (ExecutionTimeout("the driver's own deadline", 50, {"ok": 0, "code": 50}), False),
        (NetworkTimeout("timed out"), False),
        (AutoReconnect("connection closed"), False),
        (ServerSelectionTimeoutError("nobody"), False),
    ],
)
def test_no_majority(error: PyMongoError, no_majority: bool) -> None:
    """If the server has answered, and a majority hasn't confirmed it in time, that is said."""
    unknown = find_unknown_outcome(error)
    assert unknown is not None
    assert unknown.no_majority is no_majority


@pytest.mark.parametrize(
    "error",
    [
        OperationFailure("not authorized", 13),
        DuplicateKeyError("there", 11000),
        InvalidOperation("client closed"),
        ConfigurationError("no"),
    ],
)
def test_known_outcome(error: PyMongoError) -> None:
    """A command that the server refused has a known outcome."""
    assert find_unknown_outcome(error) is None


@pytest.mark.parametrize(
    ("message", "code", "remedy"),
    [
        ("Retryable writes are not supported", 301, "add retryWrites=false to the URI"),
        ("Feature not supported: $not", 303, "see docs/servers.md"),
        ("a data corruption was detected", 301, None),  # MongoDB's
    ],
)
def test_explain_refusal(message: str, code: int, remedy: str | None) -> None:
    """What Amazon DocumentDB doesn't have is refused by codes that mean something else on MongoDB."""
    explain_refusal(error := OperationFailure(message, code))
    assert getattr(error, "__notes__", []) == [f"quaestor: the server doesn't have this: {remedy}."] * bool(remedy)


@pytest.mark.parametrize(
    ("message", "details", "index"),
    [
        ("collection: x.y index: _id_ dup key: {}", {"keyPattern": {"_id": 1}}, None),
        ("collection: x.y dup key: {}", {"keyPattern": {"_id": -1}}, None),
        ("collection: x.y index: _id_ dup key: {}", None, None),
        ("index: _id dup key: {}", {"keyPattern": "odd"}, None),
        ("collection: x.y index: a b_1 dup key: {}", {"keyPattern": {"a b": 1}}, "a b_1"),
        ("collection: x.y index: a_1 collation: {} dup key: {}", None, "a_1"),
        ("E11000 Duplicate Key Error", {"keyPattern": {"_id": 1, "a": 1}}, "_id, a"),
    ],
)
def test_id_is_taken(message: str, details: dict[str, Any] | None, index: str | None) -> None:
    """A duplicate key that isn't an `_id` is the driver's error; a server that names none is believed to mean that."""
    error = DuplicateKeyError(message, 11000, details)
    with contextlib.nullcontext() if index is None else pytest.raises(DuplicateKeyError):
        check_id_is_taken(error, SimpleNamespace(full_name="x.y"))
    notes = [f"quaestor: drop the unique index {index!r} of x.y, which isn't quaestor's."]
    assert getattr(error, "__notes__", []) == notes * bool(index)


def test_deadline_of_the_caller() -> None:
    """Once the caller's deadline is over, no transaction is repeated."""
    assert not is_deadline_over()
    with pymongo.timeout(10):
        assert not is_deadline_over()
    with pymongo.timeout(1e-9):
        assert is_deadline_over()
        with pytest.raises(OperationFailure):
            find_ending(labelled("UnknownTransactionCommitResult"))


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (labelled("TransientTransactionError", code=112), Ending.ABORTED),
        (labelled("TransientTransactionError", code=251), Ending.EXPIRED),
        (OperationFailure("exceeded transactionLifetimeLimitSeconds", 290), Ending.EXPIRED),
        (labelled("UnknownTransactionCommitResult", code=64), Ending.UNKNOWN),
        (ConfigurationError("Sessions are not supported by this MongoDB deployment"), Ending.ABORTED),
    ],
)
def test_ending(error: PyMongoError, ending: Ending) -> None:
    """The driver's labels and the server's codes say how a transaction ended."""
    assert find_ending(error) is ending


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OperationFailure("Cannot create indexes in a transaction", 263), "in a separate migration"),
        (OperationFailure("writeConcern is not allowed within a transaction", 72), "without `write_concern=`"),
        (ConfigurationError("Explicit sessions are incompatible with unacknowledged write concern"), "without `write_"),
        (EncryptionError(InvalidOperation("Only the client that created the bound session")), "automatic encryption"),
        (InvalidOperation("Only the client that created the bound session can"), "the database that it is given"),
        (DuplicateKeyError("there", 11000), ""),
    ],
)
def test_explained(error: PyMongoError, words: str) -> None:
    """An operation that a transaction can't have is the driver's error with a note; any other error has none."""
    with pytest.raises(type(error)) as caught:
        find_ending(error)
    assert caught.value is error
    assert words in getattr(error, "__notes__", [""])[0]
    assert hasattr(error, "__notes__") is bool(words)


def test_error_name() -> None:
    """An error is named by class and code, without its message, which may hold values; or the one caught before it."""
    conflict = OperationFailure("{ssn: 1}", 112, {"codeName": "WriteConflict"})
    assert name_error(conflict) == "OperationFailure 112 (WriteConflict)"
    assert name_error(AutoReconnect("{ssn: 1}")) == "AutoReconnect"
    conflict.__context__ = DuplicateKeyError("dup key: {ssn: 1}", 11000, {"keyValue": {"ssn": 1}})
    assert name_error(conflict) == "DuplicateKeyError 11000 (DuplicateKey)"
