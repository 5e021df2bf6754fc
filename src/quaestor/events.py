"""The events of a run: frozen values that go to the event hook (`on_event`).

`str(event)` is its message, which both the log and the command line show. Events as values, with logging as one hook
among others, follow stamina's instrumentation.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from quaestor._text import (
    format_amount,
    format_count,
    format_duration,
    format_error,
    format_list,
    format_rate,
    is_interruption,
    read_error,
)
from quaestor.status import Lease, Tool, Work

LONG_WAIT = 5.0
"""A longer wait is a WARNING, in seconds."""


class Place(NamedTuple):
    """The first six fields of every event of a migration."""

    database: str
    prefix: str
    run: str
    name: str
    position: int
    # Hides tuple.count, which has no use here:
    count: int  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]


current_migration: ContextVar[Place | None] = ContextVar("current_migration", default=None)
"""The migration whose function is running in this thread or task, so a log can name it; None outside of one."""


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events.

    Attributes:
        database: The name of the database.
        prefix: The prefix of the run.
        run: The id of the run, rollback or mark, also in the records and the history that it writes. Over many
            databases it is the same in all of them.
    """

    database: str
    prefix: str
    run: str


@dataclass(frozen=True, slots=True)
class RunEvent(Event):
    """The base of all events of a run, a rollback or a mark as a whole."""


@dataclass(frozen=True, slots=True)
class MigrationEvent(Event):
    """The base of all events of one migration.

    Attributes:
        name: The migration.
        position: Its position in the plan (from 1).
        count: The number of migrations in the plan.
        undo: Whether the migration is being rolled back.
    """

    name: str
    position: int
    count: int
    undo: bool = field(default=False, kw_only=True)

    @property
    def _label(self) -> str:
        return f"{self.name!r} ({self.position} of {self.count})"


@dataclass(frozen=True, slots=True)
class RunStarted(RunEvent):
    """A run has read the records and made its plan.

    Attributes:
        plan: The migrations to apply, in order; empty if all are applied.
    """

    plan: tuple[str, ...]

    def __str__(self) -> str:
        return f"{format_count(len(self.plan))} to apply{format_list(self.plan)}"


@dataclass(frozen=True, slots=True)
class RecordsIgnored(RunEvent):
    """Some records have no name, or one that is not a str. They were left alone. Emitted once per run.

    Attributes:
        ids: The `_id` of each of these records.
    """

    ids: tuple[object, ...]

    def __str__(self) -> str:
        ignored = format_count(len(self.ids), "record")
        return f"Ignored {ignored} whose name is missing or not a str; _id{format_list(self.ids)}"


@dataclass(frozen=True, slots=True)
class RecordsUnknown(RunEvent):
    """Applied migrations aren't in the code, which may be an older release. Emitted once per run or rollback.

    Attributes:
        names: Their names, alphabetically.
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{format_count(len(self.names), 'applied migration')} not found in the code, which may be an older "
            f"release{format_list(self.names)}"
        )


@dataclass(frozen=True, slots=True)
class RegistryEmpty(RunEvent):
    """No migration is registered, so there is nothing to do. Emitted once per run, rollback or mark."""

    def __str__(self) -> str:
        return (
            "No migration is registered, so nothing was checked or applied. First import the modules that use this "
            "registry, or call discover()"
        )


@dataclass(frozen=True, slots=True)
class OtherPrefixesFound(RunEvent):
    """A run found no record under its prefix, but the database is used with others: the prefix may be wrong.

    Attributes:
        prefixes: The other prefixes, alphabetically.
    """

    prefixes: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Check the prefix: nothing is recorded under {self.prefix!r}, so this run starts from scratch, but the "
            f"database has records under other prefixes{format_list(self.prefixes)}"
        )


@dataclass(frozen=True, slots=True)
class SimilarDatabaseFound(RunEvent):
    """A run creates its database, but one with a similar name has records under its prefix: the name may be wrong.

    Attributes:
        similar: The name of the other database.
    """

    similar: str

    def __str__(self) -> str:
        return (
            f"Check the name of the database: {self.database!r} doesn't exist yet, but {self.similar!r} has records "
            f"under the prefix {self.prefix!r}"
        )


@dataclass(frozen=True, slots=True)
class DependenciesPending(RunEvent):
    """Applied migrations have pending dependencies, which this run applies after them. Emitted once per run.

    Attributes:
        conflicts: Each of these applied migrations with its pending dependencies.
    """

    conflicts: Mapping[str, Sequence[str]] = field(hash=False)

    def __str__(self) -> str:
        needs = [f"{name!r} needs {', '.join(map(repr, needed))}" for name, needed in self.conflicts.items()]
        return f"Applied migrations have pending dependencies, which now run after them{format_list(needs)}"


@dataclass(frozen=True, slots=True)
class ReplacementRecorded(RunEvent):
    """A run has recorded a migration whose function it didn't call, because all that it replaces is applied.

    Attributes:
        name: The migration.
        replaces: The names that it replaces, also by way of others.
    """

    name: str
    replaces: tuple[str, ...]

    def __str__(self) -> str:
        return f"Recorded {self.name!r} as applied, because it replaces applied migrations{format_list(self.replaces)}"


@dataclass(frozen=True, slots=True)
class MigrationsWaiting(RunEvent):
    """A run leaves pending migrations for a later one. Emitted once per run.

    Attributes:
        delayed: The delayed migrations, with until when (aware, UTC); None if their dependencies aren't applied yet.
        dependents: The migrations that depend on a delayed one.
        post_deploy: The migrations of phase "post_deploy" that a run of phase "deploy" leaves.
    """

    delayed: Mapping[str, datetime | None] = field(hash=False)
    dependents: tuple[str, ...]
    post_deploy: tuple[str, ...]

    def __str__(self) -> str:
        waiting = [
            *(
                f"{name} ({'delayed, its dependencies are pending' if date is None else _format_until(date)})"
                for name, date in self.delayed.items()
            ),
            *(f"{name} (depends on a delayed one)" for name in self.dependents),
            *(f"{name} (phase post_deploy)" for name in self.post_deploy),
        ]
        return f"{format_count(len(waiting))} left for later{format_list(waiting)}"


@dataclass(frozen=True, slots=True)
class LeaseAwaited(RunEvent):
    """Another instance holds the lease, and this one waits. Emitted at once, after 5 s, then every 30 s.

    Attributes:
        holder: Who holds the lease.
        seconds: How long this instance has waited, in seconds.
    """

    holder: Lease
    seconds: float

    def __str__(self) -> str:
        waited = f" ({format_duration(self.seconds)} so far)" if self.seconds >= 1 else ""  # not at the first look
        return f"Waiting for the lease{waited}, held by {self.holder}"


@dataclass(frozen=True, slots=True)
class ServerAwaited(RunEvent):
    """A run in progress waits for an answer: the server can't be reached, or no majority confirms. Emitted after 5 s,
    then every 30 s.

    Attributes:
        what: The step it waits for, such as "to check the lease".
        seconds: How long it has waited, in seconds.
        error: The last error of the driver.
    """

    what: str
    seconds: float
    error: Exception

    def __str__(self) -> str:
        return (
            f"Waiting for the server {self.what} ({format_duration(self.seconds)} so far): it can't be reached, or no "
            f"majority confirms. {format_error(self.error)}"
        )


@dataclass(frozen=True, slots=True)
class MajorityAwaited(RunEvent):
    """A run in progress waits for a majority of the replica set to confirm a write. Emitted after 5 s, then every 30 s.

    Attributes:
        what: The step it waits for, such as "to record 'a'".
        seconds: How long it has waited, in seconds.
        error: The last error of the driver.
    """

    what: str
    seconds: float
    error: Exception

    def __str__(self) -> str:
        return (
            f"Waiting for a majority of the replica set {self.what} ({format_duration(self.seconds)} so far): a "
            "data-bearing member is down or behind"
        )


@dataclass(frozen=True, slots=True)
class SessionsNotEnded(RunEvent):
    """The previous lease holder was killed or frozen, and the server refused to end its open transactions.

    They lock the documents they changed until the server aborts them, after about a minute. The migrations wait.

    Attributes:
        error: The server's refusal.
    """

    error: Exception

    def __str__(self) -> str:
        return (
            "The previous lease holder was killed, and the server refused to end its transactions: documents they "
            f"changed may stay locked for a minute. {format_error(self.error)}"
        )


@dataclass(frozen=True, slots=True)
class LeaseNotReleased(RunEvent):
    """The run has ended but couldn't release its lease; other instances wait until it expires.

    Attributes:
        seconds: The longest that takes, in seconds.
        error: The driver's error.
    """

    seconds: float
    error: Exception

    def __str__(self) -> str:
        return (
            "Couldn't release the lease: other instances wait until it expires, in "
            f"{format_duration(self.seconds)} at most. {format_error(self.error)}"
        )


@dataclass(frozen=True, slots=True)
class HistoryNotWritten(RunEvent):
    """Something has happened that couldn't be written to the history, or isn't known to be. Nothing else changes.

    Attributes:
        what: What has happened: the `HistoryEntry.what` of the entry.
        name: The migration; None if the lease was unlocked.
        error: The driver's error.
    """

    what: str
    name: str | None
    error: Exception

    def __str__(self) -> str:
        subject = "The lease" if self.name is None else repr(self.name)
        did = self.what.replace("_", " ")
        return f"Couldn't write to the history: {subject}, {did}. {format_error(self.error)}"


@dataclass(frozen=True, slots=True)
class MigrationStarted(MigrationEvent):
    """A migration's preconditions, if it has some, and then its function are about to be called."""

    def __str__(self) -> str:
        return f"{'Rolling back' if self.undo else 'Applying'} {self._label}"


@dataclass(frozen=True, slots=True)
class MigrationRetried(MigrationEvent):
    """The server aborted the transaction of a migration, or of a batch, and its function is about to be called again.

    Attributes:
        attempt: The number of the attempt that starts now (from 2).
        error: The driver's error in the previous attempt; None if another process had recorded the migration.
    """

    attempt: int
    error: Exception | None

    def __str__(self) -> str:
        reason = "" if self.error is None else f": {format_error(self.error)}"
        return f"Retrying {self._label}, attempt {self.attempt}{reason}"


@dataclass(frozen=True, slots=True)
class MigrationProgressed(MigrationEvent):
    """A migration has called `context.progress`, or done a batch of a backfill. May come from its function's thread.

    Attributes:
        done: How much is done, in any unit; in a backfill, the number of processed documents, including those of
            earlier attempts.
        total: How much there is in all (in a backfill, an estimate); None if unknown.
        rate: How many documents per second this attempt at the backfill has processed; None outside one.
        due: Whether 30 s have passed since the last one with `due`: the log shows these as INFO.
        backfill: The name of the backfill whose batch is done; None for `context.progress`.
    """

    done: int
    total: int | None
    rate: float | None = None
    due: bool = field(default=False, kw_only=True)
    backfill: str | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        rate = "" if self.rate is None else f", {format_rate(self.done, self.total, self.rate)}"
        return f"In {self._label}: {format_amount(self.done, self.total)}{rate}"


@dataclass(frozen=True, slots=True)
class BackfillStarted(MigrationEvent):
    """A backfill starts, or resumes where an earlier attempt left off.

    Attributes:
        backfill: The name of the backfill; by default that of the collection, as `database.collection` in another
            database.
        collection: The name of the collection.
        done: How many documents earlier attempts have processed.
        total: About how many documents there are in all; None if unknown.
    """

    backfill: str
    collection: str
    done: int
    total: int | None

    def __str__(self) -> str:
        backfill = _format_backfill(self.backfill, self.collection)
        if self.done:
            return f"In {self._label}: {backfill} resumes after {format_amount(self.done, self.total)} documents"
        about = "" if self.total is None else f", about {format_count(self.total, 'document')}"
        return f"In {self._label}: {backfill} starts{about}"


@dataclass(frozen=True, slots=True)
class BackfillRestarted(MigrationEvent):
    """A backfill starts over, because its filter or collection has changed since the last attempt, or another
    collection has that name now. It may process documents again.

    Attributes:
        backfill: The name of the backfill.
        collection: The name of the collection.
    """

    backfill: str
    collection: str

    def __str__(self) -> str:
        return (
            f"In {self._label}: {_format_backfill(self.backfill, self.collection)} starts over, because its filter or "
            "collection has changed since the last attempt. It may process documents again"
        )


@dataclass(frozen=True, slots=True)
class CollectionMissing(MigrationEvent):
    """The collection of a backfill doesn't exist, so there is nothing to do. Its name may be misspelled.

    Attributes:
        backfill: The name of the backfill.
        collection: The name of the collection.
    """

    backfill: str
    collection: str

    def __str__(self) -> str:
        return f"In {self._label}: there is no collection {self.collection!r}, so the backfill has nothing to do"


@dataclass(frozen=True, slots=True)
class ReplicasAwaited(MigrationEvent):
    """A backfill waits between two batches until the replicas have caught up. Emitted at once, then every 30 s.

    Attributes:
        lag: The highest replication lag, in seconds.
        seconds: How long the backfill has waited, in seconds.
    """

    lag: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"In {self._label}: waiting for replicas that are {format_duration(self.lag)} behind "
            f"({format_duration(self.seconds)} so far)"
        )


@dataclass(frozen=True, slots=True)
class PrimaryChanged(MigrationEvent):
    """A failover happened while the function of a migration without transaction=True was running, or before its record.

    Writes that the old primary acknowledged alone may have been rolled back. The database that a function gets writes
    with majority concern, so only writes with a weaker concern of their own are affected.
    """

    def __str__(self) -> str:
        return (
            f"In {self._label}: the primary of the replica set changed. Writes of this migration that didn't wait for "
            "a majority (w=1) may have been rolled back: check them"
        )


@dataclass(frozen=True, slots=True)
class MigrationApplied(MigrationEvent):
    """The function of a migration has returned, and the migration is recorded.

    Attributes:
        seconds: How long the function took, in seconds; with transaction=True, its last attempt.
    """

    seconds: float

    def __str__(self) -> str:
        return f"Applied {self._label} in {format_duration(self.seconds)}"


@dataclass(frozen=True, slots=True)
class MigrationRolledBack(MigrationEvent):
    """The rollback of a migration has returned, and the record of the migration is removed.

    Attributes:
        seconds: How long the rollback took, in seconds; with transaction=True, its last attempt.
    """

    seconds: float

    def __str__(self) -> str:
        return f"Rolled back {self._label} in {format_duration(self.seconds)}"


@dataclass(frozen=True, slots=True)
class MigrationFailed(MigrationEvent):
    """A migration failed, was cancelled or interrupted before its record was known to be written (in a rollback:
    removed). The run ends with it.

    Attributes:
        error: The exception, which the caller gets. A SystemExit of the function counts as a failure, one that the
            handler of a signal raised as an interruption. (For a StopIteration, this is the RuntimeError that
            Python makes of it; the caller of a sync run of one migration at a time gets the StopIteration.)
    """

    error: BaseException

    def __str__(self) -> str:
        if is_interruption(self.error):
            return f"Interrupted while {'rolling back' if self.undo else 'applying'} {self._label}"
        return f"Failed to {'roll back' if self.undo else 'apply'} {self._label}: {format_error(self.error)}"


@dataclass(frozen=True, slots=True)
class RunFinished(RunEvent):
    """All migrations of the plan are applied.

    Attributes:
        applied: The migrations that this run applied, in order.
        is_registry_empty: Whether there was nothing to do because no migration is registered.
    """

    applied: tuple[str, ...]
    is_registry_empty: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        if self.is_registry_empty:
            return "Nothing to apply: no migration is registered."
        return f"Applied {format_count(len(self.applied))}" if self.applied else "Up to date: nothing to apply."


@dataclass(frozen=True, slots=True)
class RollbackStarted(RunEvent):
    """A rollback has read the records and made its plan.

    Attributes:
        plan: The migrations to roll back, in order; empty if none is applied.
    """

    plan: tuple[str, ...]

    def __str__(self) -> str:
        return f"{format_count(len(self.plan))} to roll back{format_list(self.plan)}"


@dataclass(frozen=True, slots=True)
class RollbackFinished(RunEvent):
    """All migrations of the plan are rolled back.

    Attributes:
        rolled_back: The migrations that were rolled back, in order.
    """

    rolled_back: tuple[str, ...]

    def __str__(self) -> str:
        if not self.rolled_back:
            return "Nothing to roll back: not applied."
        return f"Rolled back {format_count(len(self.rolled_back))}"


@dataclass(frozen=True, slots=True)
class RecordsMarked(RunEvent):
    """Migrations were marked as applied or pending, without running anything.

    Attributes:
        names: The migrations whose record was written or removed, in order.
        applied: Whether they are recorded now.
    """

    names: tuple[str, ...]
    applied: bool

    def __str__(self) -> str:
        state = "applied" if self.applied else "pending"
        if not self.names:
            return f"Nothing to mark: already {state}."
        return f"Marked {format_count(len(self.names))} as {state}, without running anything{format_list(self.names)}"


@dataclass(frozen=True, slots=True)
class HistoryImported(RunEvent):
    """Migrations were recorded that another tool has applied.

    Attributes:
        names: The migrations that were recorded, in order.
        tool: The tool.
    """

    names: tuple[str, ...]
    tool: Tool

    def __str__(self) -> str:
        if not self.names:
            return f"Nothing to import from {self.tool}"
        return f"Imported {format_count(len(self.names))} from {self.tool}{format_list(self.names)}"


@dataclass(frozen=True, slots=True)
class ChangesAccepted(RunEvent):
    """The present functions of migrations were recorded as those that were applied, without running anything.

    Attributes:
        names: The migrations whose record got another checksum, in order.
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        if not self.names:
            return "Nothing to accept: not changed, or not applied."
        return f"Accepted the present code of {format_count(len(self.names))}{format_list(self.names)}"


@dataclass(frozen=True, slots=True)
class BackfillReset(RunEvent):
    """The checkpoint of a backfill was removed by `restart_backfill`, so the next run starts it over.

    Attributes:
        names: The migration, as the only item.
        backfill: The name of the backfill.
    """

    names: tuple[str, ...]
    backfill: str

    def __str__(self) -> str:
        return f"The backfill {self.backfill!r} of {self.names[0]!r} starts over in the next run"


@dataclass(frozen=True, slots=True)
class RunFailed(RunEvent):
    """A run, rollback or mark has ended with an exception. It's the last event of each that fails; over many databases
    also of one where it couldn't start.

    Attributes:
        error: The exception, which the caller gets.
        work: The operation that failed: "run", "rollback" or "mark".
    """

    error: BaseException
    work: Work = field(default="run", kw_only=True)

    def __str__(self) -> str:
        if is_interruption(self.error):
            return f"{self.work.capitalize()} interrupted"
        # A note may say in which migration; the message of `MigrationFailed` has the error then.
        notes = [note.removeprefix("quaestor: ") for note in getattr(self.error, "__notes__", ())]
        places = ("in migration ", "while rolling back migration ")
        where = next((note for note in notes if note.startswith(places)), None)
        return f"{self.work.capitalize()} failed" + (f": {format_error(self.error)}" if where is None else f" {where}")


@dataclass(frozen=True, slots=True)
class DatabaseFinished(RunEvent):
    """A run, rollback or mark on one of many databases has ended. Emitted by `MigrationRegistry.run_many`,
    `rollback_many`, `mark_many`, and their sync forms.

    Attributes:
        applied: The migrations that the run applied, in order.
        error: The exception that ended it; None if it succeeded.
        rolled_back: The migrations that the rollback undid, in order.
        marked: The migrations that were marked, in order; empty after an error.
        work: The operation: "run", "rollback" or "mark".
    """

    applied: tuple[str, ...]
    error: BaseException | None = None
    rolled_back: tuple[str, ...] = field(default=(), kw_only=True)
    marked: tuple[str, ...] = field(default=(), kw_only=True)
    work: Work = field(default="run", kw_only=True)

    def __str__(self) -> str:
        if self.error is None:
            done = {"run": "applied", "rollback": "rolled back", "mark": "marked"}[self.work]
            return f"Finished: {format_count(len(self.applied or self.rolled_back or self.marked))} {done}"
        return f"Ended with an error: {read_error(self.error)}"  # `RunFailed` or `MigrationFailed` has its message


Level: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def level_of(event: Event) -> Level:  # noqa: PLR0911 - it is one table
    """Return the log level of an event. WARNING: someone should look at it, but the run goes on."""
    match event:
        case RunStarted(plan=()) | RollbackStarted(plan=()) | DatabaseFinished(error=None):
            return "DEBUG"  # RunFinished or RollbackFinished says the same
        case MigrationProgressed(due=False):
            return "DEBUG"
        case RecordsIgnored() | RecordsUnknown() | SessionsNotEnded() | LeaseNotReleased() | BackfillRestarted():
            return "WARNING"
        case ServerAwaited() | MajorityAwaited() | PrimaryChanged() | RegistryEmpty() | DependenciesPending():
            return "WARNING"
        case CollectionMissing() | OtherPrefixesFound() | SimilarDatabaseFound() | HistoryNotWritten():
            return "WARNING"
        case LeaseAwaited(seconds=seconds):
            return "WARNING" if seconds >= LONG_WAIT else "INFO"
        case MigrationFailed() | RunFailed() | DatabaseFinished():
            return "ERROR"
        case _:
            return "INFO"


def _format_until(date: datetime) -> str:
    return f"delayed until {date:%Y-%m-%d %H:%M} UTC"


def _format_backfill(name: str, collection: str) -> str:
    return f"backfill of {collection!r}" if name == collection else f"backfill {name!r} of {collection!r}"


Hook: TypeAlias = Callable[[Event], None]
"""The type of `on_event`: a plain function, called with one event at a time, between two steps of a run. Concurrent
migrations or databases also call it from other threads. It must be quick, and must not wait for the event loop, which
may be waiting for it. If it raises an Exception, that is logged and the run goes on."""
