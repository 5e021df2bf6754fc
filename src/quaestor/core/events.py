"""Facts of a run, told to the event hook (`on_event`) as frozen values when they have happened.

Reporting facts as values, with logging as one hook among others, follows stamina's instrumentation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from quaestor.core.lease import Lease


class Place(NamedTuple):
    """Where a migration stands: what all events of one begin with."""

    database: str
    prefix: str
    name: str
    position: int
    total: int


@dataclass(frozen=True, slots=True)
class _Fact:
    """What all events have.

    Attributes:
        database: The name of the database (str).
        prefix: The prefix of the run (str).
    """

    database: str
    prefix: str


@dataclass(frozen=True, slots=True)
class RunStarted(_Fact):
    """A run has read the records and made its plan.

    Attributes:
        plan: The names to apply, in order (tuple of str); empty where nothing is to do.
    """

    plan: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordsIgnored(_Fact):
    """Some records have a name that is missing or not a str; they were left alone. Told once a run.

    Attributes:
        ids: The `_id` of each of these records (tuple of any BSON values).
    """

    ids: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class RecordsUnknown(_Fact):
    """Some migrations are recorded that the code does not have: an older release runs on a newer database. Told once a
    run or rollback, which leaves them alone.

    Attributes:
        names: Their names, alphabetically (tuple of str).
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaseAwaited(_Fact):
    """Another instance is at work, and this one waits for it. Told at once, then every 30 s.

    Attributes:
        holder: Who holds the lease (Lease).
        seconds: For how long this run has waited (float, seconds).
    """

    holder: Lease
    seconds: float


@dataclass(frozen=True, slots=True)
class SessionsNotEnded(_Fact):
    """A holder was killed or frozen, and the server refused to end the transactions that it may have left open.

    What they touched stays blocked until the server ends them by itself, after about a minute; the migrations wait.

    Attributes:
        error: Why the server refused (Exception).
    """

    error: Exception


@dataclass(frozen=True, slots=True)
class LeaseNotReleased(_Fact):
    """The run has ended and could not give its lease back; others wait until it ends by itself.

    Attributes:
        seconds: How long that is, at most (float, seconds).
        error: What the driver raised (Exception).
    """

    seconds: float
    error: Exception


@dataclass(frozen=True, slots=True)
class _MigrationFact(_Fact):
    """What all events of one migration have.

    Attributes:
        name: The migration (str).
        position: Its place in the plan (int, from 1).
        total: How many migrations the plan holds (int).
        undo: Whether it is being undone, and its function is its rollback (bool).
    """

    name: str
    position: int
    total: int
    undo: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class MigrationStarted(_MigrationFact):
    """The function of a migration is about to be called."""


@dataclass(frozen=True, slots=True)
class MigrationRetried(_MigrationFact):
    """The transaction of a migration was aborted by the server, and its function is about to be called again.

    Attributes:
        attempt: Which attempt begins now (int, from 2).
        error: What the driver raised in the last one (Exception); None where another process had it recorded.
    """

    attempt: int
    error: Exception | None


@dataclass(frozen=True, slots=True)
class MigrationProgressed(_MigrationFact):
    """A migration has said how far it is, by `context.progress`. It may be told from the thread of its function.

    Attributes:
        done: How much is done (int), in whatever it counts.
        whole: How much there is to do in all (int); None where it does not know.
    """

    done: int
    whole: int | None


@dataclass(frozen=True, slots=True)
class MigrationApplied(_MigrationFact):
    """A migration has run to its end and is recorded.

    Attributes:
        seconds: How long its function took (float, seconds); with transaction=True, its last transaction.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationRolledBack(_MigrationFact):
    """The rollback of a migration has run to its end, and the migration is recorded no more.

    Attributes:
        seconds: As of `MigrationApplied`.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationFailed(_MigrationFact):
    """A migration failed, was cancelled or interrupted before its record was known to be written (or, where it is
    undone, removed); the run ends with it.

    Attributes:
        error: The exception (BaseException), which goes on to the caller. (Of a StopIteration it is the RuntimeError
            that Python makes of it; the caller of a synchronous run gets the StopIteration.)
    """

    error: BaseException


@dataclass(frozen=True, slots=True)
class RunFinished(_Fact):
    """All of the plan is applied.

    Attributes:
        applied: The names applied by this run, in order (tuple of str).
    """

    applied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RollbackStarted(_Fact):
    """A rollback has read the records and made its plan.

    Attributes:
        plan: The names to undo, in order (tuple of str); empty where nothing is to do.
    """

    plan: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RollbackFinished(_Fact):
    """All of the plan is undone.

    Attributes:
        rolled_back: The names undone, in order (tuple of str).
    """

    rolled_back: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordsMarked(_Fact):
    """Records were corrected, without running anything.

    Attributes:
        names: The migrations whose record was written or removed, in order (tuple of str).
        applied: Whether they are recorded now (bool).
    """

    names: tuple[str, ...]
    applied: bool


Event: TypeAlias = (
    RunStarted
    | RecordsIgnored
    | RecordsUnknown
    | LeaseAwaited
    | SessionsNotEnded
    | LeaseNotReleased
    | MigrationStarted
    | MigrationRetried
    | MigrationProgressed
    | MigrationApplied
    | MigrationRolledBack
    | MigrationFailed
    | RunFinished
    | RollbackStarted
    | RollbackFinished
    | RecordsMarked
)
"""Any of the facts."""

Hook: TypeAlias = Callable[[Event], None]
"""What `on_event` takes: a plain function, called between two steps of a run. An Exception of its own is logged."""
