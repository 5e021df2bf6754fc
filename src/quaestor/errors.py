"""Every error that quaestor raises itself.

Exceptions of your migrations and of the driver are never wrapped; a migration's gets a note with its name.

    QuaestorError
    ├── InvalidMigrationError         (ValueError)    a name, dependency or function that isn't valid
    ├── DuplicateMigrationError       (ValueError)    two functions with one name
    ├── NoMigrationsError             (ValueError)    discovered modules that register no migration here
    ├── UnknownMigrationError         (ValueError)    a name that no migration has
    ├── GraphError                    (ValueError)    the dependencies can't be put in order
    │   ├── MissingDependencyError    (ValueError)    a dependency that isn't registered
    │   └── CircularDependencyError   (ValueError)    migrations that depend on each other
    ├── InvalidPrefixError            (ValueError)    a prefix that can't name a collection
    ├── InvalidDatabaseError          (TypeError)     not a database, or sync instead of async
    ├── InvalidOptionError            (ValueError)    an option with a value that can't be used
    ├── MissingDatabaseError          (ValueError)    a pending migration needs a sync or async database
    ├── RecordConflictError           (ValueError)    another document has a pending migration's `_id`
    ├── UnknownRecordsError           (ValueError)    strict=True, and an applied migration isn't registered
    ├── HistoryMissingError           (LookupError)   an import from a collection that isn't there
    ├── PartlyReplacedError           (RuntimeError)  some of what a migration replaces is applied, the rest is gone
    ├── MigrationReplacedError        (ValueError)    a migration to undo is part of an applied replacement
    ├── MigrationDelayedError         (RuntimeError)  a target of a run is delayed, or needs one that is
    ├── PlanChangedError              (RuntimeError)  a run with a plan_id would apply something else
    ├── IrreversibleMigrationError    (ValueError)    a migration to roll back has no rollback
    ├── InterruptedMigrationError     (RuntimeError)  after_crash="stop", and the migration was interrupted or failed
    ├── DependencyConflictError       (ValueError)    an applied migration has a pending dependency: after a
    │                                                 mark, or in a run with strict=True
    ├── UnfinishedMigrationError      (TypeError)     a function returned before its work was done
    ├── PreconditionFailedError       (RuntimeError)  a migration didn't begin
    ├── VerificationFailedError       (RuntimeError)  a migration has run, and isn't recorded
    ├── InvalidGuardError             (TypeError)     a precondition or verification that can't be used
    ├── LeaseError                                    errors of the lease
    │   ├── LeaseTimeoutError         (TimeoutError)  another instance held it for longer than lease_timeout
    │   └── LeaseLostError            (RuntimeError)  another instance may hold it by now, so this one has stopped
    ├── OutageError                   (TimeoutError)  the server, or a majority, was away for longer than patience
    ├── DatabaseSkippedError          (RuntimeError)  not started: ten databases in a row found no server
    ├── PrimaryRequiredError          (RuntimeError)  the client is connected directly to another member
    ├── ServerUnsupportedError        (RuntimeError)  a MongoDB look-alike on which the lease can't work
    ├── TransactionError                              errors of transactions
    │   ├── TransactionsUnsupportedError  (ValueError)    transaction=True on a server without them
    │   ├── TransactionFailedError        (RuntimeError)  the server aborted a transaction again and again
    │   └── BatchesInTransactionError     (RuntimeError)  a backfill inside a transaction
    ├── DuplicateBackfillError        (ValueError)    two backfills with one name in one migration
    ├── BackfillChangedError          (RuntimeError)  an exactly-once backfill changed its filter or collection
    └── CollectionChangedError        (RuntimeError)  a collection was dropped or renamed during a backfill

An error's arguments are its data, so it can be pickled and sent between processes; `str()` returns the message.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # data of errors; at run time this module imports nothing of quaestor
    from collections.abc import Collection
    from datetime import datetime

    from quaestor.status import Lease


class QuaestorError(Exception):
    """The base of all errors that quaestor raises itself."""

    def __post_init__(self) -> None:
        """Make the data of an error (a dataclass) its arguments, from which pickle makes it again."""
        super().__init__(*vars(self).values())


class InvalidMigrationError(QuaestorError, ValueError):
    """A migration's name, dependencies or function isn't valid; `str()` says why."""


@dataclass(eq=False)
class DuplicateMigrationError(QuaestorError, ValueError):
    """Two functions were registered under one name.

    Attributes:
        name: The name.
        first: The function that was registered first, as `module.function`.
        rollback: Whether the functions are rollbacks.
        again: The second function, if it is most likely the same one, whose code ran twice; otherwise None.
        guard: "precondition" or "verification", if the functions are that; otherwise "".
    """

    name: str
    first: str
    rollback: bool = False
    again: str | None = None
    guard: str = ""

    def __str__(self) -> str:
        if self.guard:
            return (
                f"Migration {self.name!r} already has the {self.guard} {self.first}. Give one of the two functions "
                "another name. If they are the same, its code ran twice: in a notebook, pass replace=True."
            )
        state = "already has a rollback (" if self.rollback else "is already registered (by "
        if self.again is None:
            remedy = "Remove one of the two." if self.rollback else "Give one of the two another name."
        else:
            remedy = (
                "Its code ran twice: in a notebook, pass replace=True."
                if self.again == self.first
                else f"Its file ran twice, also as {self.again}: import it under one name; don't run it as a script."
            )
            remedy += " Another name would apply it twice, unless these are two functions."
        return f"Migration {self.name!r} {state}{self.first}). {remedy}"


@dataclass(eq=False)
class NoMigrationsError(QuaestorError, ValueError):
    """`discover` found no modules, or none that registered a migration in this registry.

    Attributes:
        package: The package.
        modules: The modules that were imported, now or before; empty if the package has none.
        here: The module that created this registry.
        elsewhere: The modules that created other registries, which `modules` may use.
    """

    package: str
    modules: list[str]
    here: str
    elsewhere: list[str]

    def __str__(self) -> str:
        if not self.modules:
            return (
                f"The package {self.package!r} has no modules. Add them to the build or image (PyInstaller: "
                f"--collect-submodules {self.package}), or correct the name."
            )
        nothing = f"None of these modules has registered a migration in this registry: {', '.join(self.modules)}."
        if self.elsewhere:
            return (
                f"{nothing} It was created in {self.here}; another one exists, created in {', '.join(self.elsewhere)}. "
                "Running a module as a script, reloading it, or importing it under a second name creates a second "
                "registry. Create it in a module of its own, and import it from there."
            )
        return f"{nothing} Use @registry.register in them, or correct the name {self.package!r}."


@dataclass(eq=False)
class UnknownMigrationError(QuaestorError, ValueError):
    """No migration has the given name. Nothing has run.

    Attributes:
        suggestions: Each unknown name with the most similar registered name, or None.
        retired: Those that were retired.
    """

    suggestions: dict[str, str | None]
    retired: Collection[str] = ()

    @property
    def names(self) -> list[str]:
        """The unknown names."""
        return list(self.suggestions)

    def __str__(self) -> str:
        return " ".join(
            f"Migration {name!r} was retired."
            if name in self.retired
            else f"There is no migration {name!r}. {_suggest(close)}"
            for name, close in self.suggestions.items()
        )


def _suggest(close: str | None) -> str:
    return "Register it, and import its module first." if close is None else f"Did you mean {close!r}?"


class GraphError(QuaestorError, ValueError):
    """The base of the errors of dependencies that can't be put in order. Nothing has run."""


@dataclass(eq=False)
class MissingDependencyError(GraphError):
    """A migration depends on a name that is not registered.

    Attributes:
        migration: The migration that has the dependency.
        dependency: The name that is not registered.
        suggestion: The most similar registered name, or None.
        is_retired: Whether the name was retired.
    """

    migration: str
    dependency: str
    suggestion: str | None = None
    is_retired: bool = False

    def __str__(self) -> str:
        if self.is_retired:
            return (
                f"Migration {self.migration!r} depends on {self.dependency!r}, which was retired. Remove the "
                "dependency, or don't retire it."
            )
        return (
            f"Migration {self.migration!r} depends on {self.dependency!r}, which is not registered. "
            f"{_suggest(self.suggestion)}"
        )


@dataclass(eq=False)
class CircularDependencyError(GraphError):
    """Migrations depend on each other in a circle.

    Attributes:
        cycle: The names: each depends on the next, and the last equals the first.
    """

    cycle: list[str]

    def __str__(self) -> str:
        return f"Circular dependency: {' -> '.join(self.cycle)}. Remove one of these dependencies."


class InvalidPrefixError(QuaestorError, ValueError):
    """A prefix can't name a collection; `str()` says why."""


class InvalidDatabaseError(QuaestorError, TypeError):
    """An argument isn't a database that this call can use; `str()` says why, and what to pass."""


@dataclass(eq=False)
class MissingDatabaseError(QuaestorError, ValueError):
    """Sync (or async) migrations are pending, but no sync (or async) database was passed. Nothing has run.

    Attributes:
        migrations: The names of these migrations, in the order of the plan.
        argument: The argument to pass: "sync_db" or "async_db".
    """

    migrations: list[str]
    argument: str

    def __str__(self) -> str:
        functions, driver = {
            "sync_db": ("`def`", "PyMongo's sync client"),
            "async_db": ("`async def`", "an async client"),
        }[self.argument]
        return (
            f"These migrations have {functions} functions: {', '.join(self.migrations)}. "
            f"Pass {self.argument}=, the same database opened with {driver}. Nothing has run."
        )


@dataclass(eq=False)
class RecordConflictError(QuaestorError, ValueError):
    """Other documents have the `_id` of pending migrations, so these couldn't be recorded. Nothing has run.

    Attributes:
        migrations: The names of these migrations, in the order of the plan.
    """

    migrations: list[str]

    def __str__(self) -> str:
        return (
            f"Other documents have the _id of a pending migration, with another `name`: {', '.join(self.migrations)}. "
            "Correct that `name`, or remove the documents. Nothing has run."
        )


@dataclass(eq=False)
class UnknownRecordsError(QuaestorError, ValueError):
    """A strict run found applied migrations that aren't registered, or a rollback would have to undo some: among the
    last ones, or because something that isn't applied replaces its target, or what depends on it. Nothing has run.

    Attributes:
        names: Their names, alphabetically.
        undo: Whether it was a rollback.
    """

    names: list[str]
    undo: bool = False

    def __str__(self) -> str:
        if self.undo:
            return (
                f"The migrations to roll back include some that this release can't undo: {', '.join(self.names)}. "
                "Only a release that has them can. Roll back with that release first, or name others. "
                "Nothing has run."
            )
        return (
            f"The database has applied migrations that the code doesn't have: {', '.join(self.names)}. They are from a "
            "newer release, or were renamed or removed. Deploy that release, or run without strict. Nothing has run."
        )


@dataclass(eq=False)
class HistoryMissingError(QuaestorError, LookupError):
    """There is no collection with the history of the other tool. Nothing was imported.

    Attributes:
        tool: The tool.
        collection: The collection.
        database: The database.
    """

    tool: str
    collection: str
    database: str

    def __str__(self) -> str:
        return (
            f"The database {self.database!r} has no collection {self.collection!r}, so {self.tool} has applied nothing "
            "there, or keeps its history elsewhere. Pass that collection, or another database."
        )


@dataclass(eq=False)
class PartlyReplacedError(QuaestorError, RuntimeError):
    """Only some of the migrations that another one replaces are applied, and the rest aren't registered any more.

    Nothing has run.

    Attributes:
        name: The replacement.
        recorded: The names that it replaces and that are applied.
        missing: Those that are neither applied nor registered.
    """

    name: str
    recorded: list[str]
    missing: list[str]

    def __str__(self) -> str:
        return (
            f"{self.name!r} replaces migrations of which only some are applied: {', '.join(self.recorded)}, but not "
            f"{', '.join(self.missing)}. Let a release that still has these apply them first. Or see what is in the "
            f"data, and correct the records: `quaestor mark applied {shlex.join(self.missing)}` if it is all there, "
            f"or `quaestor mark pending {shlex.join(self.recorded)}` to let {self.name!r} run. Nothing has run."
        )


@dataclass(eq=False)
class MigrationReplacedError(QuaestorError, ValueError):
    """Migrations to undo are replaced by others, which are applied: only these can be undone. Nothing was changed.

    Attributes:
        replacements: Each of the migrations with the applied one that replaces it.
    """

    replacements: dict[str, str]

    def __str__(self) -> str:
        return " ".join(
            f"{name!r} is replaced by {by!r}, which is applied: name {by!r} instead."
            for name, by in self.replacements.items()
        )


@dataclass(eq=False)
class MigrationDelayedError(QuaestorError, RuntimeError):
    """Targets of a run are delayed, or depend on migrations that are. Nothing has run.

    Attributes:
        delayed: The names of the delayed migrations, alphabetically, with until when (aware, UTC); None if their
            dependencies aren't applied yet.
    """

    delayed: dict[str, datetime | None]

    def __str__(self) -> str:
        until = ", ".join(
            f"{name!r} ({'its dependencies are pending' if date is None else f'until {date:%Y-%m-%d %H:%M} UTC'})"
            for name, date in self.delayed.items()
        )
        return (
            f"These migrations are delayed, and a target is one of them or depends on one: {until}. Run without this "
            "target, or without delays (`quaestor run --no-delay`, ignore_delays=True). Nothing has run."
        )


@dataclass(eq=False)
class PlanChangedError(QuaestorError, RuntimeError):
    """A run would apply something else than the plan whose id it was given. Nothing has run.

    Attributes:
        expected: The id that was given.
        found: The id of the plan that the run would apply.
        migrations: The names in that plan, in order.
    """

    expected: str
    found: str
    migrations: list[str]

    def __str__(self) -> str:
        return (
            f"The plan has changed: expected {self.expected}, but this would be {self.found}, which applies "
            f"{', '.join(self.migrations)}. Other migrations have been applied since, or the code has changed. Review "
            "the plan and its new id (`quaestor plan --pin`, or the runner's pin()). Nothing has run."
        )


@dataclass(eq=False)
class IrreversibleMigrationError(QuaestorError, ValueError):
    """Migrations to roll back have no rollback. Nothing has run.

    Attributes:
        names: Their names, in the order of the plan.
    """

    names: list[str]

    def __str__(self) -> str:
        decorators = " and one with ".join(f"@registry.register_rollback({name!r})" for name in self.names)
        return (
            f"No rollback is registered for {', '.join(self.names)}. Write one with {decorators}, or fix the data with "
            "a new migration. Nothing has run."
        )


@dataclass(eq=False)
class InterruptedMigrationError(QuaestorError, RuntimeError):
    """Migrations with after_crash="stop" were interrupted or failed halfway, and aren't repeated unasked.

    Nothing has run.

    Attributes:
        interrupted: Their names, in the order of the plan, with when each was started (aware, UTC, by the server's
            clock).
    """

    interrupted: dict[str, datetime]

    @property
    def names(self) -> list[str]:
        """The names of these migrations."""
        return list(self.interrupted)

    def __str__(self) -> str:
        started = ", ".join(
            f"{name!r} (started {since:%Y-%m-%d %H:%M:%S} UTC)" for name, since in self.interrupted.items()
        )
        names = shlex.join(self.interrupted)
        retries = shlex.join(word for name in self.interrupted for word in ("--retry", name))
        return (
            f"These migrations were interrupted or failed halfway: {started}. after_crash='stop' keeps a run from "
            "repeating them unasked. Check the data. Then repeat them with "
            f"`quaestor run {retries}` or run(retry={self.names!r}), undo them with `quaestor rollback {names}`, "
            f"or say what you found with `quaestor mark applied {names}` or `quaestor mark pending {names}`. "
            "Nothing has run."
        )


@dataclass(eq=False)
class DependencyConflictError(QuaestorError, ValueError):
    """A mark, or a rollback without dependents, would leave a migration applied while its dependencies are pending, or
    a strict run found one like that. Nothing was marked, rolled back or run.

    Attributes:
        conflicts: Each such migration with its pending dependencies.
        in_run: Whether it was a run.
        undo: Whether it was a rollback.
    """

    conflicts: dict[str, list[str]]
    in_run: bool = False
    undo: bool = False

    def __str__(self) -> str:
        needs = "; ".join(f"{name!r} needs {', '.join(map(repr, needed))}" for name, needed in self.conflicts.items())
        remedy = (
            "They would run in the wrong order: check the data, then run without strict. Nothing has run."
            if self.in_run
            else "Another instance may have applied it since. Roll it back, too. Nothing was rolled back."
            if self.undo
            else "Mark them together. Nothing was marked."
        )
        return f"A migration can't stay applied while its dependencies are pending: {needs}. {remedy}"


class InvalidOptionError(QuaestorError, ValueError):
    """An option's value isn't valid; `str()` says why."""


@dataclass(eq=False)
class UnfinishedMigrationError(QuaestorError, TypeError):
    """A migration's function returned before its work was done. The migration isn't recorded.

    Tasks that it left running were cancelled, and work in threads has ended.

    Attributes:
        name: The migration.
        returned: How its function returned: "an awaitable (coroutine)", "without awaiting 'f'", "while ...".
    """

    name: str
    returned: str

    def __str__(self) -> str:
        return (
            f"Migration {self.name!r} returned {self.returned}, so its work isn't done. "
            "An `async def` function must await its work, and a `def` function must do it before it returns."
        )


@dataclass(eq=False)
class PreconditionFailedError(QuaestorError, RuntimeError):
    """A precondition of a migration failed, so the migration didn't begin, and isn't recorded.

    If the precondition raised an exception, that is the `__cause__`.

    Attributes:
        name: The migration.
        function: The precondition, as `module.function`.
        reason: How it failed: "returned False", or "raised" with the exception's class and message.
    """

    name: str
    function: str
    reason: str

    def __str__(self) -> str:
        return (
            f"Migration {self.name!r} didn't begin, because its precondition {self.function} {_end(self.reason)} "
            "Correct the data, then run again."
        )


@dataclass(eq=False)
class VerificationFailedError(QuaestorError, RuntimeError):
    """A verification of a migration failed after its function, so the migration isn't recorded.

    If the verification raised an exception, that is the `__cause__`.

    Attributes:
        name: The migration.
        function: The verification, as `module.function`.
        reason: How it failed: "returned False", or "raised" with the exception's class and message.
        transaction: Whether the migration is a transaction, and so nothing of it is applied.
    """

    name: str
    function: str
    reason: str
    transaction: bool = False

    def __str__(self) -> str:
        left = (
            "Nothing of it is applied: its transaction was aborted"
            if self.transaction
            else "What it changed stays changed"
        )
        return (
            f"Migration {self.name!r} isn't recorded, because its verification {self.function} {_end(self.reason)} "
            f"{left}. Correct the migration or the data, then run again."
        )


@dataclass(eq=False)
class InvalidGuardError(QuaestorError, TypeError):
    """A precondition or a verification returned neither True, False nor None, or started a backfill.

    Attributes:
        name: The migration.
        kind: "precondition" or "verification".
        function: The function, as `module.function`.
        fault: What it did, and what it should do.
    """

    name: str
    kind: str
    function: str
    fault: str

    def __str__(self) -> str:
        return f"The {self.kind} {self.function} of migration {self.name!r} {_end(self.fault)}"


def _end(sentence: str) -> str:
    """End a sentence whose last words may be somebody else's."""
    return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."


class LeaseError(QuaestorError):
    """The base of the errors of the lease."""


@dataclass(eq=False)
class LeaseTimeoutError(LeaseError, TimeoutError):
    """Another instance held the lease for longer than `lease_timeout`. Nothing has run.

    Attributes:
        seconds: How long this instance waited, in seconds.
        holder: Who holds the lease.
    """

    seconds: float
    holder: Lease

    def __str__(self) -> str:
        return (
            f"Waited {self.seconds:.1f} s for the lease, held by {self.holder}. Nothing has run here. Pass a longer "
            f"lease_timeout=: a dead holder's lease expires after {self.holder.ttl:g} s. If the holder hangs, kill it, "
            "or release the lease with the runner's unlock()."
        )


@dataclass(eq=False)
class LeaseLostError(LeaseError, RuntimeError):
    """The lease was lost: another instance may hold it by now, so this one has stopped.

    Attributes:
        migration: The migration whose function had just returned, and whose record this run didn't write (in a
            rollback: remove); None if there was none.
        in_batches: Whether that function was stopped at a batch of a backfill, and didn't return.
    """

    migration: str | None
    in_batches: bool = False

    def __str__(self) -> str:
        if self.in_batches:
            left = f"{self.migration!r} was stopped at a batch of a backfill; the next run resumes there."
        elif self.migration is None:
            left = "Nothing was left half done."
        else:
            left = f"The function of {self.migration!r} may have run, but this run didn't update its record."
        return (
            f"The lease was lost, and nothing more was started. {left} Another instance took it over because this one "
            "couldn't renew it in time (a frozen process, a blocked event loop, a broken network, no free connection "
            "in the pool), or unlock() released it, or its document was removed (by dropping the database, say). "
            "Run again: migrations that another instance has applied are skipped."
        )


@dataclass(eq=False)
class OutageError(QuaestorError, TimeoutError):
    """The server, or a majority of its replica set, was away for longer than `patience`. Nothing more was started.

    Its `__cause__` is the last error.

    Attributes:
        what: What the run waited for, such as "to record 'a'".
        seconds: How long it waited, in seconds.
        no_majority: Whether the server answered that no majority confirmed the write.
    """

    what: str
    seconds: float
    no_majority: bool

    def __str__(self) -> str:
        missing = (
            "no majority of the replica set has confirmed it: a data-bearing member is down or behind"
            if self.no_majority
            else "the server can't be reached, or no majority confirms"
        )
        return (
            f"Waited {self.seconds:.0f} s {self.what}: {missing}. Nothing more was started. Run again when the servers "
            "are back, or with a longer `patience`."
        )


@dataclass(eq=False)
class DatabaseSkippedError(QuaestorError, RuntimeError):
    """Nothing was done in one of many databases, because ten in a row before it had found no server.

    Attributes:
        unreachable: The names of these ten.
    """

    unreachable: list[str]

    def __str__(self) -> str:
        return (
            f"Not started, because {len(self.unreachable)} databases in a row found no server: "
            f"{', '.join(self.unreachable)}. Run again when the server is back."
        )


@dataclass(eq=False)
class PrimaryRequiredError(QuaestorError, RuntimeError):
    """The client is connected directly to a member of a replica set that isn't the primary. Nothing has run.

    Attributes:
        address: The member, as `host:port`.
        state: Its state: "a secondary", "an arbiter" or "a member that is starting or recovering".
        primary: The primary's address, as far as the member knows; None if it knows none.
    """

    address: str
    state: str
    primary: str | None

    def __str__(self) -> str:
        primary = "which has no primary now" if self.primary is None else f"whose primary is {self.primary}"
        return (
            f"The client is connected directly to {self.address}, {self.state} of a replica set, {primary}. "
            "Connect to the primary, or to the whole set by removing directConnection=true."
        )


@dataclass(eq=False)
class ServerUnsupportedError(QuaestorError, RuntimeError):
    """The server imitates MongoDB, but its lease wouldn't exclude a second instance. Nothing has run.

    Attributes:
        commands: The commands that it evaluates differently.
    """

    commands: list[str]

    def __str__(self) -> str:
        return (
            f"This server evaluates {', '.join(self.commands)} differently from MongoDB, so two instances could "
            "migrate at the same time. Nothing has run. docs/servers.md lists the servers that work."
        )


class TransactionError(QuaestorError):
    """The base of the errors of transactions."""


@dataclass(eq=False)
class TransactionsUnsupportedError(TransactionError, ValueError):
    """Migrations need transactions, but the server has none.

    Attributes:
        migrations: The names of these migrations, in the order of the plan. Nothing has run.
        in_batches: Whether one called `for_each_batch(..., transaction=True)`, and has run up to there.
    """

    migrations: list[str]
    in_batches: bool = False

    def __str__(self) -> str:
        if self.in_batches:
            return (
                f"Migration {self.migrations[0]!r} calls for_each_batch with transaction=True, but this server has no "
                "transactions. Make it a replica set (one node is enough), or use transaction=False with an idempotent "
                "body. (mongomock has no transactions either.)"
            )
        return (
            f"These migrations are registered with transaction=True: {', '.join(self.migrations)}. This server "
            "has no transactions. Make it a replica set (one node is enough), or register them without. (mongomock has "
            "none either: in a unit test, call the function itself.) Nothing has run."
        )


@dataclass(eq=False)
class TransactionFailedError(TransactionError, RuntimeError):
    """The server aborted the transaction of a migration again and again. Nothing of it is applied.

    Its `__cause__` is the last exception of the driver.

    Attributes:
        name: The migration.
        attempts: How many times its function was called.
        seconds: How long all attempts took, in seconds.
        expired: Whether the server no longer had the last transaction, as after `transactionLifetimeLimitSeconds`.
        in_batches: Whether it was the transaction of one batch of a backfill: the batches before it stay.
        went_on: Whether an operation failed inside the transaction, but the function continued: the server ended each
            attempt sooner than its shortest limit.
        error: The class and code of the last error of the driver, or of the one that the function caught; may be empty.
    """

    name: str
    attempts: int
    seconds: float
    expired: bool
    in_batches: bool = False
    went_on: bool = False
    error: str = ""

    def __str__(self) -> str:
        what, smaller = ("a batch of ", "the batches") if self.in_batches else ("", "the migration")
        without = "use transaction=False" if self.in_batches else "register it without transaction=True"
        if self.went_on:
            remedy = (
                "An operation failed inside it, which ends a transaction, but the function caught the error and "
                "continued. Let the error leave the function. If you expect it (a duplicate key, say), avoid it, for "
                f"example by an upsert, or {without}."
            )
        elif self.expired:
            remedy = (
                "The server had ended it: it took longer than transactionLifetimeLimitSeconds (60 s by default), or "
                "an operation failed inside it, but the function caught the error and continued. Make "
                f"{smaller} smaller, raise that server parameter, let such an error leave the function, or {without}."
            )
        else:
            remedy = "Something else writes the same documents, or the servers have a problem."
        last = f" The last error: {self.error}." if self.error else ""
        return (
            f"The transaction of {what}migration {self.name!r} was aborted {self.attempts} times in "
            f"{self.seconds:.0f} s, so it isn't retried any more. Nothing of it is applied. {remedy}{last}"
        )


@dataclass(eq=False)
class BatchesInTransactionError(TransactionError, RuntimeError):
    """A backfill was started inside a transaction.

    Attributes:
        name: The migration.
    """

    name: str

    def __str__(self) -> str:
        return (
            f"Migration {self.name!r} starts a backfill inside a transaction, which would undo its checkpoints and is "
            "too short for many batches. Register the migration without transaction=True and use "
            "context.for_each_batch(..., transaction=True), which makes each batch a transaction; don't start a "
            "backfill inside the body of one."
        )


@dataclass(eq=False)
class DuplicateBackfillError(QuaestorError, ValueError):
    """A migration started a second backfill with the same name. The first one, and its checkpoint, stay.

    Attributes:
        name: The migration.
        backfill: The name of both backfills.
    """

    name: str
    backfill: str

    def __str__(self) -> str:
        return (
            f"Migration {self.name!r} already has a backfill named {self.backfill!r}. Pass name= to tell the "
            "two apart; it defaults to the name of the collection."
        )


@dataclass(eq=False)
class BackfillChangedError(QuaestorError, RuntimeError):
    """The filter or collection of a backfill with transaction=True has changed since its last attempt. It did nothing.

    Attributes:
        name: The migration.
        backfill: The backfill.
        changed: What has changed: "filter" or "collection".
    """

    name: str
    backfill: str
    changed: str

    def __str__(self) -> str:
        return (
            f"The {self.changed} of the backfill {self.backfill!r} of migration {self.name!r} has changed since the "
            "last attempt. With transaction=True each document is processed exactly once, so the backfill doesn't "
            f"restart by itself. To resume, use the same {self.changed} as before. To process all documents again, run "
            f"`quaestor restart-backfill {self.name} --backfill {self.backfill}`, or call the runner's "
            "restart_backfill()."
        )


@dataclass(eq=False)
class CollectionChangedError(QuaestorError, RuntimeError):
    """A collection was dropped, renamed or replaced during a backfill.

    The batches up to then are done; other documents may have been missed. The migration isn't recorded. When it runs
    again, the backfill starts over with the collection that has the name then; with transaction=True, it raises
    `BackfillChangedError` until it is restarted.

    Attributes:
        name: The migration.
        collection: The collection.
    """

    name: str
    collection: str

    def __str__(self) -> str:
        return (
            f"The collection {self.collection!r} was dropped, renamed or replaced during a backfill of migration "
            f"{self.name!r}, so documents may have been missed. The migration isn't recorded. Check the collection, "
            "then run again: the backfill starts over, with transaction=True after `quaestor restart-backfill`."
        )
