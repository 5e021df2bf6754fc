"""Migrations for MongoDB: named functions that say what they depend on, for async and synchronous applications."""

from importlib import import_module
from typing import TYPE_CHECKING

from quaestor._core.definition import MigrationDefinition
from quaestor._core.plan import PlannedMigration
from quaestor._hosts.hooks import log_event
from quaestor.errors import (
    BatchesInTransactionError,
    CircularDependencyError,
    CollectionChangedError,
    DependencyConflictError,
    DuplicateMigrationError,
    InvalidDatabaseError,
    InvalidMigrationError,
    InvalidOptionError,
    InvalidPrefixError,
    IrreversibleMigrationError,
    LeaseLostError,
    LeaseTimeoutError,
    MissingDatabaseError,
    MissingDependencyError,
    QuaestorError,
    RecordConflictError,
    TransactionFailedError,
    TransactionsUnsupportedError,
    UnfinishedMigrationError,
    UnknownMigrationError,
    UnknownRecordsError,
)
from quaestor.events import (
    DatabaseFinished,
    Event,
    Hook,
    LeaseAwaited,
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationProgressed,
    MigrationRetried,
    MigrationRolledBack,
    MigrationStarted,
    PassChanged,
    PassStarted,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    ReplicasAwaited,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
)
from quaestor.registry import MigrationRegistry
from quaestor.status import Lease, MigrationStatus, PassStatus, Status

if TYPE_CHECKING:
    from quaestor._core.many import DatabaseResult
    from quaestor._hosts.asynchronous import AsyncRunner
    from quaestor._hosts.sync import SyncRunner
    from quaestor.context import AsyncMigrationContext, MigrationContext

__all__ = [
    "AsyncMigrationContext",
    "AsyncRunner",
    "BatchesInTransactionError",
    "CircularDependencyError",
    "CollectionChangedError",
    "DatabaseFinished",
    "DatabaseResult",
    "DependencyConflictError",
    "DuplicateMigrationError",
    "Event",
    "Hook",
    "InvalidDatabaseError",
    "InvalidMigrationError",
    "InvalidOptionError",
    "InvalidPrefixError",
    "IrreversibleMigrationError",
    "Lease",
    "LeaseAwaited",
    "LeaseLostError",
    "LeaseNotReleased",
    "LeaseTimeoutError",
    "MigrationApplied",
    "MigrationContext",
    "MigrationDefinition",
    "MigrationFailed",
    "MigrationProgressed",
    "MigrationRegistry",
    "MigrationRetried",
    "MigrationRolledBack",
    "MigrationStarted",
    "MigrationStatus",
    "MissingDatabaseError",
    "MissingDependencyError",
    "PassChanged",
    "PassStarted",
    "PassStatus",
    "PlannedMigration",
    "QuaestorError",
    "RecordConflictError",
    "RecordsIgnored",
    "RecordsMarked",
    "RecordsUnknown",
    "ReplicasAwaited",
    "RollbackFinished",
    "RollbackStarted",
    "RunFinished",
    "RunStarted",
    "SessionsNotEnded",
    "Status",
    "SyncRunner",
    "TransactionFailedError",
    "TransactionsUnsupportedError",
    "UnfinishedMigrationError",
    "UnknownMigrationError",
    "UnknownRecordsError",
    "log_event",
]

# Loaded when first asked for (PEP 562): the runners load a driver and anyio, the contexts much that only a run needs.
_LATE = {
    "AsyncMigrationContext": "quaestor.context",
    "AsyncRunner": "quaestor._hosts.asynchronous",
    "DatabaseResult": "quaestor._core.many",
    "MigrationContext": "quaestor.context",
    "SyncRunner": "quaestor._hosts.sync",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return __all__
