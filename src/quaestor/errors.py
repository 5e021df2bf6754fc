"""Every error that quaestor raises by itself.

Exceptions of your migrations and of the driver are never wrapped; a migration's carries a note with its name.

    QuaestorError
    ├── InvalidMigrationError     (ValueError)  a name, dependency or function that cannot be a migration
    ├── DuplicateMigrationError   (ValueError)  two functions under one name
    ├── UnknownMigrationError     (ValueError)  a name that is no migration's
    ├── MissingDependencyError    (ValueError)  a dependency that nobody registered
    ├── CircularDependencyError   (ValueError)  migrations that wait for each other
    ├── InvalidPrefixError        (ValueError)  a prefix that cannot name a collection
    ├── InvalidDatabaseError      (TypeError)   not a database, or one of the other colour
    ├── MissingDatabaseError      (ValueError)  a pending migration is of a colour that has no database
    ├── RecordConflictError       (ValueError)  a pending migration could not be recorded
    ├── UnknownRecordsError       (ValueError)  strict=True, and a record is of no registered migration
    ├── IrreversibleMigrationError  (ValueError)  a migration that is to be undone has no rollback
    ├── DependencyConflictError   (ValueError)  a mark that would leave a record without one that it depends on
    ├── InvalidOptionError        (ValueError)  an option that cannot be used
    ├── UnfinishedMigrationError  (TypeError)   a function that returned before its work was done
    ├── LeaseTimeoutError         (TimeoutError)  another instance held the lease for longer than lease_timeout
    ├── LeaseLostError            (RuntimeError)  another instance may hold the lease by now: this one has stopped
    ├── TransactionsUnsupportedError  (ValueError)    transaction=True on a server that has none
    ├── TransactionFailedError        (RuntimeError)  a transaction that the server aborted again and again
    ├── BatchesInTransactionError     (RuntimeError)  a pass in batches inside a transaction
    └── CollectionChangedError        (RuntimeError)  a collection was dropped or renamed under a pass

An error's arguments are its data, so it can be pickled and carried between processes; the sentence is made by `str()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a lease is data that an error carries; the errors stand below everything
    from quaestor.status import Lease


class QuaestorError(Exception):
    """The base of all errors that quaestor raises by itself."""


class InvalidMigrationError(QuaestorError, ValueError):
    """A name, a list of dependencies or a function that cannot be a migration; `str()` says why."""


class DuplicateMigrationError(QuaestorError, ValueError):
    """Two functions were registered under one name.

    Attributes:
        name: The name (str).
        first: Where the function that has the name comes from (str), as `module.function`.
        rollback: Whether they are rollbacks (bool).
    """

    def __init__(self, name: str, first: str, rollback: bool = False) -> None:  # noqa: FBT001, FBT002 - it is data
        super().__init__(name, first, rollback)
        self.name = name
        self.first = first
        self.rollback = rollback

    def __str__(self) -> str:
        if self.rollback:
            return f"Migration {self.name!r} already has a rollback ({self.first}): remove one of the two."
        return f"Migration {self.name!r} is already registered (by {self.first}): give one of the two another name."


class UnknownMigrationError(QuaestorError, ValueError):
    """Names that are no migration's. Nothing has run.

    Attributes:
        suggestions: Each of the names (str) with the closest that there is (str), or None where none is close (dict).
    """

    def __init__(self, suggestions: dict[str, str | None]) -> None:
        super().__init__(suggestions)
        self.suggestions = suggestions

    @property
    def names(self) -> list[str]:
        """The names (list of str)."""
        return list(self.suggestions)

    def __str__(self) -> str:
        return " ".join(
            f"There is no migration {name!r}. "
            + ("Register it, and import its module first." if close is None else f"Did you mean {close!r}?")
            for name, close in self.suggestions.items()
        )


class MissingDependencyError(QuaestorError, ValueError):
    """A migration depends on a name that is not registered.

    Attributes:
        migration: The migration that has the dependency (str).
        dependency: The name that is not registered (str).
        suggestion: The registered name closest to it (str), or None where none is close.
    """

    def __init__(self, migration: str, dependency: str, suggestion: str | None = None) -> None:
        super().__init__(migration, dependency, suggestion)
        self.migration = migration
        self.dependency = dependency
        self.suggestion = suggestion

    def __str__(self) -> str:
        remedy = (
            f"Did you mean {self.suggestion!r}?"
            if self.suggestion is not None
            else "Register it, and import its module before the run."
        )
        return f"Migration {self.migration!r} depends on {self.dependency!r}, which is not registered. {remedy}"


class CircularDependencyError(QuaestorError, ValueError):
    """Migrations depend on each other in a circle.

    Attributes:
        cycle: The names (list of str): each depends on the next one, and the last is the first again.
    """

    def __init__(self, cycle: list[str]) -> None:
        super().__init__(cycle)
        self.cycle = cycle

    def __str__(self) -> str:
        return f"Circular dependency: {' -> '.join(self.cycle)}"


class InvalidPrefixError(QuaestorError, ValueError):
    """A prefix that cannot name a collection; `str()` says why."""


class InvalidDatabaseError(QuaestorError, TypeError):
    """Something that is not a database, or one that this call cannot use; `str()` says why and what to pass."""


class MissingDatabaseError(QuaestorError, ValueError):
    """Migrations of the plan are `def`, or `async def`, and the call was given no database for such. Nothing has run.

    Attributes:
        migrations: The names of these migrations (list of str), in the order of the plan.
        argument: The argument to pass: "sync_db" or "async_db".
    """

    def __init__(self, migrations: list[str], argument: str) -> None:
        super().__init__(migrations, argument)
        self.migrations = migrations
        self.argument = argument

    def __str__(self) -> str:
        functions, driver = {
            "sync_db": ("`def`", "PyMongo's synchronous client"),
            "async_db": ("`async def`", "an asynchronous client"),
        }[self.argument]
        return (
            f"The functions of these migrations are {functions} functions: {', '.join(self.migrations)}. "
            f"Pass {self.argument}=, the same database opened with {driver}. Nothing has run."
        )


class RecordConflictError(QuaestorError, ValueError):
    """Pending migrations could not be recorded: a document that is no record of them has their `_id`. Nothing has run.

    Attributes:
        migrations: The names of these migrations (list of str), in the order of the plan.
    """

    def __init__(self, migrations: list[str]) -> None:
        super().__init__(migrations)
        self.migrations = migrations

    def __str__(self) -> str:
        return (
            f"The records hold documents whose _id is the name of a pending migration while their name is not: "
            f"{', '.join(self.migrations)}. Correct their name or remove them. Nothing has run."
        )


class UnknownRecordsError(QuaestorError, ValueError):
    """Migrations are recorded that are not registered, and the run was told to be strict. Nothing has run.

    Attributes:
        names: The names recorded (list of str), alphabetically.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names

    def __str__(self) -> str:
        return (
            f"The database has migrations that the code does not have: {', '.join(self.names)}. A newer release has "
            "migrated it, or they were renamed or removed. Deploy that release, or run without strict. Nothing has run."
        )


class IrreversibleMigrationError(QuaestorError, ValueError):
    """Migrations that would have to be undone have no rollback. Nothing has run.

    Attributes:
        names: Their names (list of str), in the order in which they would be undone.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names

    def __str__(self) -> str:
        return (
            f"No rollback is registered for {', '.join(self.names)}. Write one with "
            f"@registry.register_rollback({self.names[0]!r}), or correct the data by a new migration. Nothing has run."
        )


class DependencyConflictError(QuaestorError, ValueError):
    """A mark would leave a migration recorded while one that it depends on is not. Nothing was marked.

    Attributes:
        conflicts: Each such migration (str) with those of its dependencies that would not be recorded (dict of lists).
    """

    def __init__(self, conflicts: dict[str, list[str]]) -> None:
        super().__init__(conflicts)
        self.conflicts = conflicts

    def __str__(self) -> str:
        needs = "; ".join(f"{name!r} needs {', '.join(map(repr, needed))}" for name, needed in self.conflicts.items())
        return (
            f"Recorded migrations would have dependencies that are not recorded: {needs}. "
            "Mark these together. Nothing was marked."
        )


class InvalidOptionError(QuaestorError, ValueError):
    """An option of a run that cannot be used; `str()` says why."""


class UnfinishedMigrationError(QuaestorError, TypeError):
    """A migration's function returned something that still waits to be run; the migration is not recorded.

    Attributes:
        name: The migration (str).
        returned: What its function returned (str): "a coroutine", "a generator", ...
    """

    def __init__(self, name: str, returned: str) -> None:
        super().__init__(name, returned)
        self.name = name
        self.returned = returned

    def __str__(self) -> str:
        return (
            f"Migration {self.name!r} returned {self.returned}, so its work is not done. "
            "Make it an `async def` function that awaits what it starts, or a `def` function that runs to its end."
        )


class LeaseTimeoutError(QuaestorError, TimeoutError):
    """Another instance held the lease for as long as this one was told to wait. Nothing has run.

    Attributes:
        seconds: How long it waited (float, seconds).
        holder: Who holds the lease (Lease).
    """

    def __init__(self, seconds: float, holder: Lease) -> None:
        super().__init__(seconds, holder)
        self.seconds = seconds
        self.holder = holder

    def __str__(self) -> str:
        return (
            f"Waited {self.seconds:.1f} s for the migrations of {self.holder}. Nothing has run here. "
            "Give it more time by lease_timeout=. If that process is gone its lease ends by itself; "
            "if it hangs, end it, or free the lease by the runner's unlock()."
        )


class LeaseLostError(QuaestorError, RuntimeError):
    """The lease was lost: another instance may have it by now, so this one has stopped.

    Attributes:
        migration: The migration (str) whose function had just run to its end, and whose record was not written (in a
            rollback: removed) by this run; None if there was none.
        in_batches: Whether that function was stopped at a batch of a pass (bool), and did not come to its end.
    """

    def __init__(self, migration: str | None, in_batches: bool = False) -> None:  # noqa: FBT001, FBT002 - it is data
        super().__init__(migration, in_batches)
        self.migration = migration
        self.in_batches = in_batches

    def __str__(self) -> str:
        if self.in_batches:
            left = f"{self.migration!r} was stopped at a batch of a pass; whoever runs it next goes on from there."
        elif self.migration is None:
            left = "Nothing was left half done."
        else:
            left = (
                f"This run did not get to the record of {self.migration!r}; a function of it that ran came to its end."
            )
        return (
            f"The lease was lost, and nothing more was started. {left} The lease is lost when it cannot be renewed in "
            "time (a frozen process, a blocked event loop, a broken network, no connection left in the pool), is "
            "freed by unlock(), or its document is removed, as by dropping the database. "
            "Run again: what another instance has done is skipped."
        )


class TransactionsUnsupportedError(QuaestorError, ValueError):
    """Migrations need transactions, which this server does not have.

    Attributes:
        migrations: The names of these migrations (list of str), in the order of the plan. Nothing has run.
        in_batches: Whether it is one that called `for_each_batch(..., transaction=True)` (bool); it has run up to that.
    """

    def __init__(self, migrations: list[str], in_batches: bool = False) -> None:  # noqa: FBT001, FBT002 - it is data
        super().__init__(migrations, in_batches)
        self.migrations = migrations
        self.in_batches = in_batches

    def __str__(self) -> str:
        if self.in_batches:
            return (
                f"Migration {self.migrations[0]!r} calls for_each_batch with transaction=True, and this server has no "
                "transactions: make it a replica set (one node is enough), or use transaction=False, with a body that "
                "may be given a batch twice. (mongomock has none either.)"
            )
        return (
            f"These migrations are registered with transaction=True: {', '.join(self.migrations)}. This server "
            "has no transactions: make it a replica set (one node is enough), or register them without. (mongomock has "
            "none either: call such a function by itself in a unit test.) Nothing has run."
        )


class TransactionFailedError(QuaestorError, RuntimeError):
    """The server aborted the transaction of a migration again and again; nothing of it is applied.

    Its `__cause__` is what the driver raised last.

    Attributes:
        name: The migration (str).
        attempts: How often its function was called (int).
        seconds: How long that took, all in all (float, seconds).
        expired: Whether the server ended the last transaction, as it does after `transactionLifetimeLimitSeconds`.
        in_batches: Whether it was that of a batch of a pass (bool): the batches before it are done and stay.
    """

    def __init__(
        self,
        name: str,
        attempts: int,
        seconds: float,
        expired: bool,  # noqa: FBT001 - it is data
        in_batches: bool = False,  # noqa: FBT001, FBT002 - likewise
    ) -> None:
        super().__init__(name, attempts, seconds, expired, in_batches)
        self.name = name
        self.attempts = attempts
        self.seconds = seconds
        self.expired = expired
        self.in_batches = in_batches

    def __str__(self) -> str:
        what, smaller = ("a batch of ", "the batches") if self.in_batches else ("", "the migration")
        without = "use transaction=False" if self.in_batches else "register it without transaction=True"
        remedy = (
            "The server had ended it: it lasted longer than transactionLifetimeLimitSeconds (60 s by default), or its "
            f"function went on after an error in it. Make {smaller} smaller, raise that parameter of the server, or "
            f"{without}."
            if self.expired
            else "Something else writes the same documents at the same time, or the servers are unwell: see the cause."
        )
        return (
            f"The transaction of {what}migration {self.name!r} was aborted {self.attempts} times in "
            f"{self.seconds:.0f} s and is not tried again; nothing of it is applied. {remedy}"
        )


class BatchesInTransactionError(QuaestorError, RuntimeError):
    """A function that is done in a transaction wanted to go over a collection in batches.

    Attributes:
        name: The migration (str).
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"Migration {self.name!r} wants to go over a collection in batches inside a transaction. What it keeps of "
            "each batch, to go on from there, would be gone with the transaction, and a transaction is too short for "
            "many. Register the migration without transaction=True, and use context.for_each_batch(..., "
            "transaction=True), which makes each batch a transaction; and no pass inside the body of another such."
        )


class CollectionChangedError(QuaestorError, RuntimeError):
    """A collection was dropped, renamed or replaced while a migration went over it.

    The batches up to then are done; of what was in the collection besides, nothing is known. The migration is not
    recorded, and begins anew over whatever the collection's name stands for when it runs again.

    Attributes:
        name: The migration (str).
        collection: The collection (str).
    """

    def __init__(self, name: str, collection: str) -> None:
        super().__init__(name, collection)
        self.name = name
        self.collection = collection

    def __str__(self) -> str:
        return (
            f"The collection {self.collection!r} was dropped, renamed or replaced while migration {self.name!r} went "
            "over it, so some of its documents may not have been seen. The migration is not recorded; see what became "
            "of the collection, and run again: the pass begins anew."
        )
