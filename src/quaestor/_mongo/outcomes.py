"""What an error of the driver says about the command that it ended. Pure: no I/O here."""

from typing import Any

from pymongo import _csot  # private: the driver has no other word for what is left of a `pymongo.timeout`
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from quaestor._core.effects import AcquireLease, Command, EndSessions, Record, Unknown
from quaestor._core.pass_effects import (
    ClaimCheckpoint,
    CountAll,
    CountMatching,
    CountSampled,
    IdentifyCollection,
    ReadLag,
)
from quaestor._core.transaction import Ending

# Of the server's error codes, those that drivers retry: https://github.com/mongodb/specifications, "retryable writes".
_UNSETTLED = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        50,  # MaxTimeMSExpired
        64,  # WriteConcernFailed
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        112,  # WriteConflict
        134,  # ReadConcernMajorityNotAvailableYet
        189,  # PrimarySteppedDown
        262,  # ExceededTimeLimit
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
_REFUSED_IN_TRANSACTION = 263  # OperationNotSupportedInTransaction
_INVALID_OPTIONS = 72
_NO_REPLICATION = 76  # NoReplicationEnabled
_EXPIRED = {251, 290}  # NoSuchTransaction, TransactionExceededLifetimeLimitSeconds


def _unknown(error: PyMongoError) -> Unknown | None:
    """The error as an answer, if it leaves the outcome of its command unknown."""
    if isinstance(error, ConnectionFailure):
        return Unknown(error, away=isinstance(error, ServerSelectionTimeoutError))
    if isinstance(error, WriteConcernError) or error.timeout or error.has_error_label("RetryableWriteError"):
        return Unknown(error)
    if isinstance(error, OperationFailure) and error.code in _UNSETTLED:
        return Unknown(error)
    return None


def answer(command: Command[Any], error: PyMongoError) -> object:  # noqa: C901, PLR0911 - it is one table
    """What the core is told of a command that ended so. What says nothing about its outcome is raised again."""
    match command:
        case Record() if isinstance(error, DuplicateKeyError):
            return False
        case AcquireLease() if isinstance(error, DuplicateKeyError):  # two at once have made the document
            return Unknown(error)
        case ClaimCheckpoint() if isinstance(error, DuplicateKeyError):  # there is one, with a higher token
            return None
        case ReadLag() if isinstance(error, OperationFailure):
            if error.code == _NO_REPLICATION:
                return 0.0
            error.add_note(
                "quaestor: max_lag asks the primary, by `replSetGetStatus`, how far the others are. The role "
                "clusterMonitor has the right to that; a mongos cannot be asked."
            )
    if _deadline_is_over():
        raise error
    if (unknown := _unknown(error)) is not None:
        return unknown
    if isinstance(error, OperationFailure):
        match command:
            case EndSessions():
                return error
            case IdentifyCollection() | CountAll() | CountMatching() | CountSampled():  # good to know, and no more
                return None
    raise error


def ending(error: PyMongoError) -> Ending:
    """What the core is told of an attempt at a transaction that ended so. What is for the caller is raised again."""
    if isinstance(error, OperationFailure):
        if error.code in _EXPIRED:
            return Ending.EXPIRED
        if error.code == _REFUSED_IN_TRANSACTION:
            error.add_note(
                "quaestor: MongoDB does not allow this in a transaction. Do it in a migration of its own, registered "
                "without transaction=True, and order the two by depends_on."
            )
        if error.code == _INVALID_OPTIONS and "writeConcern" in str(error):
            error.add_note(
                "quaestor: MongoDB allows no write concern for an operation in a transaction, and this collection has "
                "one. Use `db.with_options(write_concern=WriteConcern())`; the commit itself has majority concern."
            )
    if isinstance(error, InvalidOperation) and "bound session" in str(error):
        error.add_note(
            "quaestor: a function with transaction=True must use the database that it is given, and no other client, "
            "whose operations could not be part of the transaction."
        )
    if _deadline_is_over():
        raise error
    if error.has_error_label("UnknownTransactionCommitResult"):
        return Ending.UNKNOWN
    # A connection that was made while its server stepped down, and was neither primary nor secondary, is held by the
    # driver to have no sessions. It is another one next time; a deployment without them was refused before the run.
    if isinstance(error, ConfigurationError) and "Sessions are not supported" in str(error):
        return Ending.ABORTED
    if error.has_error_label("TransientTransactionError"):
        return Ending.ABORTED
    raise error


def _deadline_is_over() -> bool:
    """Whether there is a deadline of the caller (`pymongo.timeout`) and it is over: nothing is sent again then."""
    left = _csot.remaining()
    return left is not None and left <= 0
