"""The outcome of a command, read from the driver's error. Pure: no I/O here."""

import re
from collections.abc import Mapping
from typing import Any

from pymongo import _csot  # private: nothing public says how much of a `pymongo.timeout` is left
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    EncryptionError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WriteError,
)

from quaestor._core.store import Ending, OutcomeUnknown
from quaestor._mongo.odms import find_advice
from quaestor._text import add_note, read_error
from quaestor.errors import OutageError

# Of the server's error codes, those that drivers retry: https://github.com/mongodb/specifications, "retryable writes".
_OUTCOME_UNKNOWN = frozenset(
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
_DUPLICATE_KEY = 11000
_REFUSED_IN_TRANSACTION = 263  # OperationNotSupportedInTransaction
_INVALID_OPTIONS = 72
_EXPIRED = {251, 290}  # NoSuchTransaction, TransactionExceededLifetimeLimitSeconds
_UNSUPPORTED = {301, 303, 304}  # Amazon DocumentDB's: retryable writes, operators, stages. MongoDB's mean other things.


def find_unknown_outcome(error: PyMongoError) -> OutcomeUnknown | None:
    """Make an `OutcomeUnknown` of an error that leaves the outcome of its command unknown."""
    if isinstance(error, ConnectionFailure):
        return OutcomeUnknown(error, no_server=isinstance(error, ServerSelectionTimeoutError))
    is_unknown = isinstance(error, WriteConcernError) or error.timeout or error.has_error_label("RetryableWriteError")
    if is_unknown or (isinstance(error, OperationFailure) and error.code in _OUTCOME_UNKNOWN):
        # If the server has answered, a majority is missing. The driver's own ExecutionTimeout has no codeName.
        has_answered = isinstance(error, ExecutionTimeout) and "codeName" in (error.details or {})
        return OutcomeUnknown(error, no_majority=has_answered or isinstance(error, WriteConcernError))
    return None


def explain_refusal(error: PyMongoError) -> None:
    """Add a note to the refusal of a feature that Amazon DocumentDB lacks."""
    if isinstance(error, OperationFailure) and error.code in _UNSUPPORTED and "not supported" in str(error):
        remedy = "add retryWrites=false to the URI" if "Retryable" in str(error) else "see docs/servers.md"
        add_note(error, f"the server doesn't have this: {remedy}.")


def check_id_is_taken(error: DuplicateKeyError, collection: Any) -> None:
    """Raise the error again, with a note, if it comes from another unique index than that of `_id`.

    If the server names neither the key nor the index, it is taken for the `_id`.
    """
    details = error.details or {}
    pattern, found = details.get("keyPattern"), re.search(r" index: (.+?) (?:collation|dup key)", str(error))
    key = ", ".join(pattern) if isinstance(pattern, dict) else ""
    index = found[1] if found else key
    if key != "_id" if key else index and not index.startswith("_id"):
        add_note(error, f"drop the unique index {index!r} of {collection.full_name}, which isn't quaestor's.")
        raise error


def find_cause(error: BulkWriteError) -> OperationFailure:
    """Find the error that a single write would have raised."""
    for field, kind in (("writeErrors", WriteError), ("writeConcernErrors", WriteConcernError)):
        if found := (error.details or {}).get(field):
            first = found[0]
            is_taken = first.get("code") == _DUPLICATE_KEY
            return (DuplicateKeyError if is_taken else kind)(first.get("errmsg", ""), first.get("code"), first)
    return error


def find_id(error: BaseException) -> tuple[object, ...]:
    """Find the `_id` of the document that a bulk write failed at, as the only item; empty if the error doesn't say."""
    if not isinstance(error, BulkWriteError) or not error.details.get("writeErrors"):
        return ()
    operation = error.details["writeErrors"][0].get("op", {})
    matching = operation.get("q", operation)  # of an update or a delete; otherwise it's an inserted document
    is_operator = isinstance(found := matching.get("_id"), Mapping) and any(key.startswith("$") for key in found)
    return (found,) if "_id" in matching and not is_operator else ()


def is_server_away(error: BaseException | None) -> bool:
    """Say whether a run ended because no server was found."""
    if isinstance(error, OutageError):
        return not error.no_majority
    return isinstance(error, ServerSelectionTimeoutError)


def find_ending(error: PyMongoError) -> Ending:
    """Find how a failed attempt at a transaction ended. Raises the error again if no retry helps."""
    if isinstance(error, OperationFailure) and error.code in _EXPIRED:
        return Ending.EXPIRED
    if (note := _explain(error)) is not None:
        add_note(error, note)
    if is_deadline_over():
        raise error
    if error.has_error_label("UnknownTransactionCommitResult"):
        return Ending.UNKNOWN
    # A connection that was opened while its server stepped down has no sessions, according to the driver. The next
    # attempt uses another one. A deployment without sessions was refused before the run.
    if isinstance(error, ConfigurationError) and "Sessions are not supported" in str(error):
        return Ending.ABORTED
    if error.has_error_label("TransientTransactionError"):
        return Ending.ABORTED
    raise error


def can_retry(error: Exception) -> bool:
    """Say whether to make another attempt at a transaction after this error of its function."""
    try:
        return isinstance(error, PyMongoError) and bool(find_ending(error))
    except PyMongoError:
        return False


def _explain(error: PyMongoError) -> str | None:
    """Say what to do about an operation that isn't possible in a transaction."""
    if find_advice(error) is not None:  # that is added instead
        return None
    message = str(error)
    code = error.code if isinstance(error, OperationFailure) else None
    if code == _REFUSED_IN_TRANSACTION:
        return (
            "MongoDB does not allow this in a transaction. Do it in a separate migration, registered without "
            "transaction=True, and order the two with depends_on."
        )
    if (code == _INVALID_OPTIONS and "writeConcern" in message) or "unacknowledged write concern" in message:
        return (
            "MongoDB allows no write concern for an operation in a transaction, and this collection has one. Use the "
            "function's own database without `write_concern=`, or, for another database or client.bulk_write, "
            "`write_concern=WriteConcern()`. The commit itself has majority concern."
        )
    if isinstance(error, EncryptionError) and "bound session" in message:
        return (
            "In a transaction, the driver can't fetch what automatic encryption needs (a data key, a schema, the "
            "answer of mongocryptd). Register the migration without transaction=True."
        )
    if isinstance(error, InvalidOperation) and "bound session" in message:
        return (
            "A function with transaction=True must use the database that it is given, because operations of another "
            "client can't be part of the transaction."
        )
    return None


def name_error(error: BaseException) -> str:
    """Return the class and code of a driver's error; for one in an `except` block, of the error caught there."""
    while isinstance(error.__context__, PyMongoError):
        error = error.__context__
    return str(read_error(error))


def time_left() -> float | None:
    """Return the time left until the caller's deadline (`pymongo.timeout`), in seconds. None: there is none."""
    return _csot.remaining()


def is_deadline_over() -> bool:
    """Say whether the caller's deadline has passed: then nothing is retried."""
    left = time_left()
    return left is not None and left <= 0
