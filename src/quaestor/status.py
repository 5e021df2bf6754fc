"""What is applied, what is pending, and who holds the lease, as values."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

Work: TypeAlias = Literal["run", "rollback", "mark"]
"""The operation that a lease is held for: apply migrations, roll them back, or mark them."""

Source: TypeAlias = Literal["run", "mark", "import", "replaces"]
"""What wrote a record: a run, a mark, an import from another tool, or a run that found one that this one replaces."""

Happening: TypeAlias = Literal[
    "applied",
    "failed",
    "rolled_back",
    "marked_applied",
    "marked_pending",
    "accepted",
    "unlocked",
    "imported",
    "restarted",
]
"""What an entry of the history is about. "applied" is a record; "restarted" is a backfill that was made to start over;
"accepted" is a changed function."""

AfterCrash: TypeAlias = Literal["rerun", "stop"]
"""What a run does with a migration that was interrupted or failed halfway: repeat it, or refuse to unless asked."""

MarkState: TypeAlias = Literal["applied", "pending", "accepted"]
"""What migrations are marked as: see `AsyncRunner.mark_applied`, `mark_pending` and `mark_accepted`."""

Phase: TypeAlias = Literal["deploy", "post_deploy"]
"""When a rollout applies a migration: before the new release takes over, or after the old one is gone."""

Tool: TypeAlias = Literal[
    "pymongo-migrate",
    "mongodb-migrations",
    "migrate-mongo",
    "mongrator",
    "mongomig",
    "beanie",
    "mongock",
    "flamingock",
]
"""Another tool, whose history can be imported."""

DEFAULT_TTL = 30.0
"""How long a lease lasts unless it is renewed, in seconds."""

DEFAULT_PATIENCE = 300.0
"""How long a run in progress waits for an unreachable server or a missing majority, in seconds."""

DEFAULT_PATIENCE_OF_MANY = 30.0
"""The same, for each of the databases of `run_many`, `rollback_many` and `mark_many`."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a database and prefix, as stored.

    Attributes:
        owner: The id of the run that holds it; over many databases, followed by the number of its database.
        token: The fencing token: higher for each holder.
        host: The machine of the run.
        pid: Its process there.
        since: When the run acquired the lease (aware, UTC, by the server's clock).
        beat: Rises with every renewal. The lease expires when it hasn't risen for `ttl` seconds.
        ttl: How long the lease lasts unless it is renewed, in seconds.
        renewed_at: When it was last renewed (likewise).
        migrations: The migrations in progress, as last recorded; empty after the last one. A failed migration is listed
            until those running at the same time have ended.
        sessions: The ids of the server sessions in which transactions of this holder or an earlier one may be open
            (lsid and SHA-256 of the user).
        previous: The last owner that never released the lease: it was killed, or is frozen and may wake; None if
            there was none.
        work: The operation that the lease is held for: "run", "rollback" or "mark".
        recording: The migration whose function has returned and whose record was about to be written or removed
            when the lease was last updated; None if there was none.
        upcoming: The `migrations` that start after that.
    """

    owner: str
    token: int
    host: str
    pid: int
    since: datetime
    beat: int
    ttl: float
    renewed_at: datetime
    migrations: tuple[str, ...]
    sessions: tuple[bytes, ...] = ()
    previous: str | None = None
    work: Work = "run"
    recording: str | None = None
    upcoming: tuple[str, ...] = ()

    @property
    def expires_at(self) -> datetime:
        """When the lease expires unless it is renewed, by the server's clock as of the last renewal."""
        return self.renewed_at + timedelta(seconds=self.ttl)

    def __str__(self) -> str:
        doing = {"run": "in", "rollback": "rolling back", "mark": "marking"}[self.work]
        several = "s" if len(self.migrations) > 1 else ""
        where = f", {doing} migration{several} {', '.join(map(repr, self.migrations))}" if self.migrations else ""
        return f"{self.host} (process {self.pid}), since {self.since:%Y-%m-%d %H:%M:%S} UTC{where}"


State: TypeAlias = Literal["applied", "pending", "waiting", "replaced", "retired", "unknown"]
"""The state of a migration: recorded; not recorded; not recorded, and not applied by a run yet, because it is delayed
or depends on one that is; replaced by another one; retired; or recorded but not in the code (which may be older)."""


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """The progress of a backfill at its last checkpoint.

    Attributes:
        name: The name of the backfill.
        collection: The name of the collection.
        done: How many documents are processed.
        total: About how many documents there are in all; None if unknown.
        finished: Whether all of them are processed.
        updated_at: When the checkpoint was saved (aware, UTC, by the server's clock).
        undo: Whether the backfill belongs to the migration's rollback.
    """

    name: str
    collection: str
    done: int
    total: int | None
    finished: bool
    updated_at: datetime
    undo: bool = False


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """The record of an applied migration. Earlier releases recorded less: what isn't there is None.

    Attributes:
        applied_at: When it was recorded (aware, UTC, by the clock of the process that recorded it).
        duration_ms: How long its function took, in milliseconds.
        run: The id of the run.
        host: The machine of the run.
        user: The operating system's user of its process.
        release: The release of the application.
        quaestor: The version of quaestor.
        checksum: The checksum of its function.
        source: What recorded it: "run", "mark", "import" or "replaces".
    """

    applied_at: datetime | None = None
    duration_ms: float | None = None
    run: str | None = None
    host: str | None = None
    user: str | None = None
    release: str | None = None
    quaestor: str | None = None
    checksum: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedError:
    """An error in the history: its class, and the first line of its message, without documents and passwords."""

    type: str
    message: str

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Something that happened in the database, by whom and when. What isn't known is None.

    Attributes:
        what: "applied", "failed", "rolled_back", "marked_applied", "marked_pending", "accepted", "unlocked", "imported"
            or "restarted" (a backfill).
        name: The migration; None if the lease was unlocked.
        at: When (aware, UTC, by the server's clock; of "applied", by the clock of the process that recorded it).
        duration_ms: How long the function took, in milliseconds; of a failure, how long the attempt did.
        run: The id of the run, rollback or mark.
        host: The machine of the run.
        user: The operating system's user of its process.
        release: The release of the application.
        quaestor: The version of quaestor.
        error: The error that it failed with.
        record: The record that was removed by a rollback or a mark; of "applied", the record itself.
        undo: Whether it was the rollback that failed.
        backfill: The name of the backfill that was restarted.
    """

    what: Happening
    name: str | None
    at: datetime | None
    duration_ms: float | None = None
    run: str | None = None
    host: str | None = None
    user: str | None = None
    release: str | None = None
    quaestor: str | None = None
    error: RecordedError | None = None
    record: MigrationRecord | None = None
    undo: bool = False
    backfill: str | None = None


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration and its state in the database.

    Attributes:
        name: The migration.
        state: "applied", also of a replacement without a record if all that it replaces is applied; "pending";
            "waiting": pending, but a run doesn't apply it yet; "replaced": another one takes its place; "retired"; or
            "unknown": recorded but not in the code.
        applied_at: When it was recorded (aware, UTC, by the clock of the process that recorded it); None if
            it isn't, or its record has no date.
        depends_on: The migrations it depends on; empty for an unknown one.
        transaction: Whether the migration and its record are one transaction.
        has_rollback: Whether it can be rolled back.
        description: A summary in one line; may be empty.
        interrupted: Whether the last lease holder was killed or frozen in it: then it is half applied (if
            pending) or half rolled back (if applied). The next run or rollback repeats it. Always False with
            transaction=True. True until another run acquires the lease; after a failed or killed rollback with a
            backfill, until it is rolled back; with after_crash="stop", also if it failed, until you say how to
            continue (see `InterruptedMigrationError`).
        backfills: Its backfills (the last one updated last), from their first batch until the
            migration is recorded or rolled back. `Status.lease` says whether it is in progress now.
        duration: How long its function took when it was applied, in seconds; None if unknown.
        release: The release of the application that applied it; None if unknown.
        last_failure: Its last failure, until it is applied; of an applied one, that of its rollback. None without one,
            or without the right to read the history.
        changed: Whether its function has changed since it was applied, going by the checksum in its record. False if
            that or the present one isn't known. `mark_accepted` accepts the change.
        interrupted_since: When an interrupted migration with after_crash="stop" was started (aware, UTC, by the
            server's clock); None for all others. Of a pending replacement, also if one that it replaces was.
        phase: When a rollout applies it.
        replaces: The names that it replaces.
        replaced_by: The name of the migration that replaces it; None if none does.
        delayed_until: Until when a waiting migration is delayed (aware, UTC); None if it isn't, or if its dependencies
            aren't applied yet.
    """

    name: str
    state: State
    applied_at: datetime | None = None
    depends_on: tuple[str, ...] = ()
    transaction: bool = False
    has_rollback: bool = False
    description: str = ""
    interrupted: bool = False
    backfills: tuple[BackfillStatus, ...] = ()
    duration: float | None = None
    release: str | None = None
    last_failure: HistoryEntry | None = None
    changed: bool = False
    interrupted_since: datetime | None = None
    phase: Phase = "deploy"
    replaces: tuple[str, ...] = ()
    replaced_by: str | None = None
    delayed_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class OrderConflict:
    """Two migrations that were applied in another order than in a new database: the data may differ from there.

    Attributes:
        first: The migration that was recorded first.
        second: The migration that was recorded later, and that a new database applies before the other.
    """

    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Status:
    """All migrations of one database and prefix.

    Attributes:
        database: The name of the database.
        prefix: The prefix.
        migrations: The registered migrations in the order of a plan for all of them, except for replaced ones. Then
            these, the retired ones that are recorded, and the unknown ones, each alphabetically.
        lease: The lease of the current holder; None if there is none.
        order_conflicts: Each migration that was recorded after one that a new database applies later; of several, the
            last in the plan. Those that a run with `concurrency` applied have no order among themselves. Those of phase
            "post_deploy" or with a delay are left out: they are late on purpose.
        protected_as: The label of a protected database, such as "production" (see `AsyncRunner.protect`); None if it
            isn't protected.
    """

    database: str
    prefix: str
    migrations: tuple[MigrationStatus, ...]
    lease: Lease | None = None
    order_conflicts: tuple[OrderConflict, ...] = ()
    protected_as: str | None = None

    def names(self, state: State, *, phase: Phase | None = None) -> list[str]:
        """Return the names of the migrations in this state, in order.

        With phase "deploy", of the pending migrations only those that a run of this phase applies.
        """
        found = {migration.name: migration for migration in self.migrations if migration.state == state}
        if state != "pending" or phase != "deploy":
            return list(found)
        wanted: set[str] = set()
        ahead = [name for name, migration in found.items() if migration.phase == "deploy"]
        while ahead:
            name = ahead.pop()
            if name in found and name not in wanted:
                wanted.add(name)
                ahead.extend(found[name].depends_on)
        return [name for name in found if name in wanted]


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """A migration that would be applied or rolled back, and why; or one that waits, and for what.

    Attributes:
        name: The migration.
        asked_for: Whether it is one of the targets; without targets all are.
        because_of: If it isn't, the migrations of the plan that need it, or, in a rollback, that it needs.
        undo: Whether it would be rolled back.
        replaces: The migrations that it replaces.
        is_recorded_only: Whether only its record would be written, because all that it replaces is applied.
        completes: The replacement that is only recorded after it, because the rest of what that replaces is applied.
        waits_for_phase: The phase that it waits for: "post_deploy", in a run of the other one.
        is_delayed: Whether it waits until its dependencies have been applied for long enough.
        delayed_until: Until when, if they are applied (aware, UTC).
        waits_for: The pending dependencies of a delayed migration, or the delayed migrations that this one depends on.
    """

    name: str
    asked_for: bool
    because_of: tuple[str, ...] = ()
    undo: bool = False
    replaces: tuple[str, ...] = ()
    is_recorded_only: bool = False
    completes: str | None = None
    waits_for_phase: Phase | None = None
    is_delayed: bool = False
    delayed_until: datetime | None = None
    waits_for: tuple[str, ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether the run would leave it for later."""
        return self.is_delayed or bool(self.waits_for) or self.waits_for_phase is not None

    @property
    def reason(self) -> str:
        """The reason in words."""
        if self.waits_for_phase is not None:
            return f"waits for phase {self.waits_for_phase}"
        if self.delayed_until is not None:
            return f"delayed until {self.delayed_until:%Y-%m-%d %H:%M} UTC"
        if self.waits_for:
            delay = ", and then for its delay" if self.is_delayed else ""
            return f"waits for {', '.join(self.waits_for)}{delay}"
        replaced = f"replaces {', '.join(self.replaces)}"
        if self.is_recorded_only:
            return f"only recorded: {replaced}"
        others = [name for name in self.because_of if name != self.completes]
        reasons = [f"{'needs' if self.undo else 'needed by'} {', '.join(others)}"] if others else []
        if self.completes is not None:
            reasons.append(f"completes {self.completes}")
        if self.replaces and not self.undo:
            reasons.append(replaced)
        return "; ".join(reasons) or "asked for"


@dataclass(frozen=True, slots=True)
class PinnedPlan:
    """A plan with its id, to review it now and to run exactly this later.

    Attributes:
        id: Made from the names of the migrations, their order, and what their functions do (not their comments or
            layout). The `plan_id` of `run`.
        migrations: The plan: what `plan` returns. The id doesn't cover those that wait.
    """

    id: str
    migrations: tuple[PlannedMigration, ...]


@dataclass(frozen=True, slots=True)
class DatabaseResult:
    """The result of a run, rollback or mark on one of many databases.

    Attributes:
        database: The database's name.
        applied: The migrations that the run applied, in order, including those before an error.
        error: The exception that ended it, with its notes; None if it succeeded.
        rolled_back: The migrations that the rollback undid, in order, including those before an error.
        marked: The migrations that were marked, in order. After an error it is empty, although some may have been
            marked before it.
    """

    database: str
    applied: list[str]
    error: BaseException | None = None
    rolled_back: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ImportedMigration:
    """A migration that another tool has applied, and that was recorded here.

    Attributes:
        name: The migration.
        theirs: Its name in the other tool.
        applied_at: When that tool applied it (aware, UTC).
    """

    name: str
    theirs: str
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class UnplacedMigration:
    """A migration of another tool that wasn't recorded here, and why.

    Attributes:
        name: Its name in the other tool; "?" if its record has none.
        reason: The reason in words.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The result of an import from another tool.

    Attributes:
        tool: The tool.
        collection: The collection that has its history.
        imported: What was recorded here, dependencies first; from a plan, what would be.
        recorded: Its migrations that were recorded here already, whatever it says of them. Their records stay as they
            were.
        not_applied: What isn't applied there, because it was rolled back, say. The next run applies it.
        unplaced: What can't be placed: nobody here knows the name, or the tool doesn't say for certain whether it is
            applied.
    """

    tool: Tool
    collection: str
    imported: tuple[ImportedMigration, ...]
    recorded: tuple[str, ...] = ()
    not_applied: tuple[UnplacedMigration, ...] = ()
    unplaced: tuple[UnplacedMigration, ...] = ()
