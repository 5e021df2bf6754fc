"""What is applied, what is not, and who is at work, as values for people and programs to read."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

Work: TypeAlias = Literal["run", "rollback", "mark"]
"""What a lease is held for: to apply migrations, to undo them, or to correct the records."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds the lease of a database and prefix, as its lock document says.

    Attributes:
        owner: The id of the run (str).
        token: Rises with every take-over (int).
        host: The machine the run is on (str).
        pid: Its process there (int).
        since: When it took the lease (datetime, aware, UTC, by the server's clock).
        expires_at: When the lease ends unless it is renewed (datetime, likewise).
        migrations: The migrations it is in (tuple of str), as far as it has said; empty after the last. One that failed
            while others go on is named until they have ended.
        sessions: The server's sessions in which transactions of this or an ended holder may be open (tuple of bytes:
            their ids, as `_mongo/documents.py` makes them).
        previous: The last owner that never released it (str), and so was killed, or frozen and able to wake; None if
            there was none.
        work: What it is held for: "run", "rollback" or "mark".
        recording: The migration (str) whose function has ended, and whose record was next to be written or removed when
            the run last said where it is; None if there was none.
        upcoming: Those of `migrations` (tuple of str) that begin when that is done.
    """

    owner: str
    token: int
    host: str
    pid: int
    since: datetime
    expires_at: datetime
    migrations: tuple[str, ...]
    sessions: tuple[bytes, ...] = ()
    previous: str | None = None
    work: Work = "run"
    recording: str | None = None
    upcoming: tuple[str, ...] = ()

    def __str__(self) -> str:
        doing = {"run": "in", "rollback": "undoing", "mark": "marking"}[self.work]
        several = "s" if len(self.migrations) > 1 else ""
        where = f", {doing} migration{several} {', '.join(map(repr, self.migrations))}" if self.migrations else ""
        return f"{self.host} (process {self.pid}), since {self.since:%Y-%m-%d %H:%M:%S} UTC{where}"


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
