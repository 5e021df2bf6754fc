"""What the core is told of the errors that drivers raise."""

from typing import Any

import pymongo
import pytest
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from quaestor._core.checkpoint import Checkpoint, PassKey, Source
from quaestor._core.effects import AcquireLease, Command, EndSessions, ReadRecords, Record, Unknown
from quaestor._core.pass_effects import (
    ClaimCheckpoint,
    CountAll,
    CountMatching,
    CountSampled,
    FindHighest,
    IdentifyCollection,
    ReadBatch,
    ReadLag,
)
from quaestor._core.transaction import Ending
from quaestor._mongo import outcomes as faults

SOURCE = Source(None, "things", {}, None, "f")


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
    assert faults.answer(AcquireLease("run", ("a",), ()), error) == Unknown(error)
    with pytest.raises(DuplicateKeyError):
        faults.answer(ReadRecords(), error)


@pytest.mark.parametrize("command", [Record("a"), ReadRecords(), AcquireLease("run", ("a",), ())])
def test_refused(command: Command[Any]) -> None:
    """What the server refuses is for the caller."""
    error = OperationFailure("not authorized", 13)
    with pytest.raises(OperationFailure) as caught:
        faults.answer(command, error)
    assert caught.value is error


@pytest.mark.parametrize(
    "command", [IdentifyCollection(SOURCE), CountAll(SOURCE), CountMatching(SOURCE), CountSampled(SOURCE, 10)]
)
def test_good_to_know(command: Command[Any]) -> None:
    """What a pass can go without is None where the server refuses it; where the answer is lost, it is asked again."""
    assert faults.answer(command, OperationFailure("not authorized", 13)) is None
    lost = AutoReconnect("connection closed")
    assert faults.answer(command, lost) == Unknown(lost)
    with pytest.raises(InvalidOperation):
        faults.answer(command, InvalidOperation("client closed"))


@pytest.mark.parametrize("command", [FindHighest(SOURCE, ()), ReadBatch(SOURCE, Checkpoint(), 10)])
def test_pass_refused(command: Command[Any]) -> None:
    """What a pass cannot go without is for the caller where the server refuses it."""
    error = OperationFailure("unknown operator", 2)
    with pytest.raises(OperationFailure) as caught:
        faults.answer(command, error)
    assert caught.value is error


def test_claimed_by_a_later_run() -> None:
    """A checkpoint that is there, and was not found, is that of a later run."""
    claim = ClaimCheckpoint(PassKey("a", undo=False, fingerprint="f", number=0), "things", None, 1)
    assert faults.answer(claim, DuplicateKeyError("there", 11000)) is None


def test_lag_refused() -> None:
    """Where there are no replicas none is behind; where they may not be asked for it is said what that takes."""
    assert faults.answer(ReadLag(), OperationFailure("not running with --replSet", 76)) == 0.0
    error = OperationFailure("not authorized", 13)
    with pytest.raises(OperationFailure) as caught:
        faults.answer(ReadLag(), error)
    assert caught.value is error
    assert "clusterMonitor" in error.__notes__[0]


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
            faults.ending(labelled("UnknownTransactionCommitResult"))


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
    """What the driver's labels, and the server's codes, say of a transaction."""
    assert faults.ending(error) is ending


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OperationFailure("Cannot create indexes in a transaction", 263), "in a migration of its own"),
        (OperationFailure("writeConcern is not allowed within a transaction", 72), "with_options(write_concern="),
        (InvalidOperation("Only the client that created the bound session can"), "the database that it is given"),
    ],
)
def test_explained(error: PyMongoError, words: str) -> None:
    """What cannot be done in a transaction is the driver's error, with a note on what to do."""
    with pytest.raises(type(error)) as caught:
        faults.ending(error)
    assert caught.value is error
    assert words in error.__notes__[0]


def test_own_error_of_a_function() -> None:
    """A function's own command that fails in a transaction is for the caller, as it is."""
    error = DuplicateKeyError("there", 11000)
    with pytest.raises(DuplicateKeyError) as caught:
        faults.ending(error)
    assert caught.value is error
