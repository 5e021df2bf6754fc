"""What the core is told of the errors that drivers raise."""

from typing import Any

import pymongo
import pytest
from pymongo.errors import (
    AutoReconnect,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from quaestor.core.effects import AcquireLease, Command, EndSessions, ReadRecords, Record, Unknown
from quaestor.core.transaction import Ending
from quaestor.runners import faults


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
def test_unknown(error: PyMongoError) -> None:
    """A lost connection, a missing majority, a server that steps down or ends: the outcome is not known."""
    assert faults.answer(Record("a"), error) == Unknown(error)


def test_no_server() -> None:
    """That no server was found is told apart: nothing was sent."""
    error = ServerSelectionTimeoutError("nobody")
    assert faults.answer(ReadRecords(), error) == Unknown(error, away=True)


def test_duplicate() -> None:
    """A record that is there is an answer; a lock that two make at once is asked for again; all else is raised."""
    error = DuplicateKeyError("there", 11000)
    assert faults.answer(Record("a"), error) is False
    assert faults.answer(AcquireLease("run", "a", ()), error) == Unknown(error)
    with pytest.raises(DuplicateKeyError):
        faults.answer(ReadRecords(), error)


@pytest.mark.parametrize("command", [Record("a"), ReadRecords(), AcquireLease("run", "a", ())])
def test_refused(command: Command[Any]) -> None:
    """What the server refuses is for the caller."""
    error = OperationFailure("not authorized", 13)
    with pytest.raises(OperationFailure) as caught:
        faults.answer(command, error)
    assert caught.value is error


def test_sessions_refused() -> None:
    """That the sessions of others may not be ended is no failure of the run."""
    error = OperationFailure("not authorized", 13)
    assert faults.answer(EndSessions((b"s",)), error) is error
    with pytest.raises(InvalidOperation):
        faults.answer(EndSessions((b"s",)), InvalidOperation("client closed"))


def test_deadline_of_the_caller() -> None:
    """When it is over nothing is sent again, in a transaction or outside."""
    with pymongo.timeout(1e-9):
        with pytest.raises(AutoReconnect):
            faults.answer(Record("a"), AutoReconnect("connection closed"))
        with pytest.raises(OperationFailure):
            faults.attempt(labelled("UnknownTransactionCommitResult"), 0.5)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (labelled("TransientTransactionError", code=112), Ending.ABORTED),
        (labelled("TransientTransactionError", code=251), Ending.EXPIRED),
        (OperationFailure("exceeded transactionLifetimeLimitSeconds", 290), Ending.EXPIRED),
        (labelled("UnknownTransactionCommitResult", code=64), Ending.UNKNOWN),
    ],
)
def test_attempt(error: PyMongoError, ending: Ending) -> None:
    """What the driver's labels, and the server's codes, say of a transaction."""
    attempt = faults.attempt(error, 0.5)
    assert (attempt.ending, attempt.seconds, attempt.error) == (ending, 0.5, error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OperationFailure("Cannot create indexes in a transaction", 263), "in a migration of its own"),
        (InvalidOperation("Only the client that created the bound session can"), "the database that it is given"),
    ],
)
def test_explained(error: PyMongoError, words: str) -> None:
    """What cannot be done in a transaction is the driver's error, with a note on what to do."""
    with pytest.raises(type(error)) as caught:
        faults.attempt(error, 0.5)
    assert caught.value is error
    assert words in error.__notes__[0]


def test_own_error_of_a_function() -> None:
    """A function's own command that fails in a transaction is for the caller, as it is."""
    error = DuplicateKeyError("there", 11000)
    with pytest.raises(DuplicateKeyError) as caught:
        faults.attempt(error, 0.5)
    assert caught.value is error
