"""What is applied, what is not, and who is at work, as values for people and programs to read."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from quaestor.core.lease import Lease, Lock
from quaestor.core.migration import MigrationDefinition
from quaestor.core.records import Records

State: TypeAlias = Literal["applied", "pending", "unknown"]
"""Of a migration: recorded; not recorded; recorded, but not in the code (an older release on a newer database)."""


@dataclass(frozen=True, slots=True)
class PassStatus:
    """How far a pass over a collection is, as its last batch has said.

    Attributes:
        collection: The name of the collection (str).
        done: How many documents are done (int).
        total: About how many there are in all (int); None where nobody knows.
        finished: Whether all of it is done (bool).
        updated_at: When that was so (datetime, aware, UTC, by the server's clock).
        undo: Whether it is a pass of the migration's rollback (bool).
    """

    collection: str
    done: int
    total: int | None
    finished: bool
    updated_at: datetime
    undo: bool = False


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One migration and what the database says of it.

    Attributes:
        name: The migration (str).
        state: "applied", "pending", or "unknown": recorded, but not in the code.
        applied_at: When it was recorded (datetime, aware, UTC, by the clock of the process that did); None if it is
            not, or its record does not say.
        depends_on: The names of the migrations that it needs (tuple of str); of an unknown one empty.
        transaction: Whether it and its record are one transaction (bool).
        has_rollback: Whether it can be undone (bool).
        description: What it does, in one line (str); may be empty.
        interrupted: Whether the last holder of the lease was killed or frozen in it (bool), so that it is half applied
            if it is pending, and half undone if it is applied: the next run, or rollback, of it does it again. What is
            one transaction is never half done. It is told until somebody else takes the lease; of a rollback that went
            over a collection in batches, and failed or was killed, until it is done.
        passes: How far its passes over collections are, in batches (tuple of PassStatus, the last one to go on last),
            from the first batch until it is recorded, or undone. Whether it is at work now, `Status.lease` says.
    """

    name: str
    state: State
    applied_at: datetime | None = None
    depends_on: tuple[str, ...] = ()
    transaction: bool = False
    has_rollback: bool = False
    description: str = ""
    interrupted: bool = False
    passes: tuple[PassStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """All migrations of one database and prefix.

    Attributes:
        database: The name of the database (str).
        prefix: The prefix (str).
        migrations: Those of the code in the order of a plan for all of them, then the unknown ones alphabetically
            (tuple of MigrationStatus).
        lease: Who is at work, since when, in which migrations (Lease); None if nobody is.
    """

    database: str
    prefix: str
    migrations: tuple[MigrationStatus, ...]
    lease: Lease | None = None

    def names(self, state: State) -> list[str]:
        """The names of the migrations in this state, in order (list of str)."""
        return [migration.name for migration in self.migrations if migration.state == state]


def status(
    database: str,
    prefix: str,
    ordered: list[MigrationDefinition],
    records: Records,
    lock: Lock,
    *,
    progress: Mapping[str, tuple[PassStatus, ...]],
) -> Status:
    """Lay records, lock and progress beside the migrations of the code, which are given in order."""
    known = {migration.name for migration in ordered}
    at_work = () if lock.holder is None else lock.holder.migrations
    interrupted = _interrupted(lock.ended, records.applied) | {
        # What is kept of a rollback goes with the record.
        name
        for name, passes in progress.items()
        if name in records.applied and name not in at_work and any(one.undo for one in passes)
    }
    migrations = [
        MigrationStatus(
            name=migration.name,
            state="applied" if migration.name in records.applied else "pending",
            applied_at=records.applied_at(migration.name),
            depends_on=tuple(migration.depends_on),
            transaction=migration.transaction,
            has_rollback=migration.rollback is not None,
            description=migration.description,
            interrupted=migration.name in interrupted and not migration.transaction,
            passes=progress.get(migration.name, ()),
        )
        for migration in ordered
    ]
    unknown = [
        MigrationStatus(name, "unknown", records.applied_at(name)) for name in sorted(records.applied.keys() - known)
    ]
    return Status(database, prefix, (*migrations, *unknown), lock.holder)


def _interrupted(ended: Lease | None, applied: Mapping[str, object]) -> set[str]:
    """The migrations that a holder who never released the lease was in. Whoever checks the lease between a function and
    its record names that migration, and those that begin after it.
    """
    if ended is None or ended.work == "mark":
        return set()
    undone = ended.work == "rollback"
    named = {*ended.migrations, ended.recording}
    begun = {name for name in named if name is not None and (name in applied) == undone}
    return begun if ended.recording not in begun else begun.difference(ended.upcoming)
