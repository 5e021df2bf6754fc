"""Migrations for MongoDB: named functions with dependencies, for sync and async applications."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quaestor._core.definition import MigrationDefinition
    from quaestor._hosts.calls import log_event
    from quaestor.context import AsyncMigrationContext, MigrationContext
    from quaestor.databases import AsyncCollection, AsyncDatabase, SyncCollection, SyncDatabase
    from quaestor.errors import (
        BackfillChangedError,
        BatchesInTransactionError,
        CircularDependencyError,
        CollectionChangedError,
        DatabaseSkippedError,
        DependencyConflictError,
        DuplicateBackfillError,
        DuplicateMigrationError,
        GraphError,
        InterruptedMigrationError,
        InvalidDatabaseError,
        InvalidGuardError,
        InvalidMigrationError,
        InvalidOptionError,
        InvalidPrefixError,
        IrreversibleMigrationError,
        LeaseError,
        LeaseLostError,
        LeaseTimeoutError,
        MigrationDelayedError,
        MigrationReplacedError,
        MissingDatabaseError,
        MissingDependencyError,
        NoMigrationsError,
        OutageError,
        PartlyReplacedError,
        PlanChangedError,
        PreconditionFailedError,
        PrimaryRequiredError,
        QuaestorError,
        RecordConflictError,
        ServerUnsupportedError,
        TransactionError,
        TransactionFailedError,
        TransactionsUnsupportedError,
        UnfinishedMigrationError,
        UnknownMigrationError,
        UnknownRecordsError,
        VerificationFailedError,
    )
    from quaestor.events import (
        BackfillReset,
        BackfillRestarted,
        BackfillStarted,
        ChangesAccepted,
        CollectionMissing,
        DatabaseFinished,
        DependenciesPending,
        Event,
        HistoryNotWritten,
        Hook,
        LeaseAwaited,
        LeaseNotReleased,
        MajorityAwaited,
        MigrationApplied,
        MigrationEvent,
        MigrationFailed,
        MigrationProgressed,
        MigrationRetried,
        MigrationRolledBack,
        MigrationStarted,
        MigrationsWaiting,
        OtherPrefixesFound,
        PrimaryChanged,
        RecordsIgnored,
        RecordsMarked,
        RecordsUnknown,
        RegistryEmpty,
        ReplacementRecorded,
        ReplicasAwaited,
        RollbackFinished,
        RollbackStarted,
        RunEvent,
        RunFailed,
        RunFinished,
        RunStarted,
        ServerAwaited,
        SessionsNotEnded,
        SimilarDatabaseFound,
    )
    from quaestor.registry import MigrationRegistry
    from quaestor.runners import AsyncRunner, SyncRunner
    from quaestor.status import (
        BackfillStatus,
        DatabaseResult,
        HistoryEntry,
        Lease,
        MigrationRecord,
        MigrationStatus,
        OrderConflict,
        PinnedPlan,
        PlannedMigration,
        RecordedError,
        Status,
    )

__all__ = [
    "AsyncCollection",
    "AsyncDatabase",
    "AsyncMigrationContext",
    "AsyncRunner",
    "BackfillChangedError",
    "BackfillReset",
    "BackfillRestarted",
    "BackfillStarted",
    "BackfillStatus",
    "BatchesInTransactionError",
    "ChangesAccepted",
    "CircularDependencyError",
    "CollectionChangedError",
    "CollectionMissing",
    "DatabaseFinished",
    "DatabaseResult",
    "DatabaseSkippedError",
    "DependenciesPending",
    "DependencyConflictError",
    "DuplicateBackfillError",
    "DuplicateMigrationError",
    "Event",
    "GraphError",
    "HistoryEntry",
    "HistoryNotWritten",
    "Hook",
    "InterruptedMigrationError",
    "InvalidDatabaseError",
    "InvalidGuardError",
    "InvalidMigrationError",
    "InvalidOptionError",
    "InvalidPrefixError",
    "IrreversibleMigrationError",
    "Lease",
    "LeaseAwaited",
    "LeaseError",
    "LeaseLostError",
    "LeaseNotReleased",
    "LeaseTimeoutError",
    "MajorityAwaited",
    "MigrationApplied",
    "MigrationContext",
    "MigrationDefinition",
    "MigrationDelayedError",
    "MigrationEvent",
    "MigrationFailed",
    "MigrationProgressed",
    "MigrationRecord",
    "MigrationRegistry",
    "MigrationReplacedError",
    "MigrationRetried",
    "MigrationRolledBack",
    "MigrationStarted",
    "MigrationStatus",
    "MigrationsWaiting",
    "MissingDatabaseError",
    "MissingDependencyError",
    "NoMigrationsError",
    "OrderConflict",
    "OtherPrefixesFound",
    "OutageError",
    "PartlyReplacedError",
    "PinnedPlan",
    "PlanChangedError",
    "PlannedMigration",
    "PreconditionFailedError",
    "PrimaryChanged",
    "PrimaryRequiredError",
    "QuaestorError",
    "RecordConflictError",
    "RecordedError",
    "RecordsIgnored",
    "RecordsMarked",
    "RecordsUnknown",
    "RegistryEmpty",
    "ReplacementRecorded",
    "ReplicasAwaited",
    "RollbackFinished",
    "RollbackStarted",
    "RunEvent",
    "RunFailed",
    "RunFinished",
    "RunStarted",
    "ServerAwaited",
    "ServerUnsupportedError",
    "SessionsNotEnded",
    "SimilarDatabaseFound",
    "Status",
    "SyncCollection",
    "SyncDatabase",
    "SyncRunner",
    "TransactionError",
    "TransactionFailedError",
    "TransactionsUnsupportedError",
    "UnfinishedMigrationError",
    "UnknownMigrationError",
    "UnknownRecordsError",
    "VerificationFailedError",
    "log_event",
]

__version__: str
"""The version of the installed package."""

# In the order in which they import each other, so that a name loads no module that it doesn't need.
_MODULES = ("errors", "registry", "databases", "status", "events", "_hosts.calls", "context", "runners")

if not TYPE_CHECKING:  # type checkers accept any name from a module with a `__getattr__`

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562), because events, drivers and metadata load slowly."""
        if name in __all__:
            from importlib import import_module

            for module in _MODULES:
                names = vars(import_module(f"{__name__}.{module}"))
                if name in names:
                    return globals().setdefault(name, names[name])
        if name == "__version__":
            from importlib.metadata import version

            return globals().setdefault(name, version("mongo-quaestor"))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
