"""Facts of a run, told to the event hook (`on_event`) as frozen values when they have happened.

Reporting facts as values, with logging as one hook among others, follows stamina's instrumentation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from quaestor.status import Lease


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
    """A migration has said how far it is: by `context.progress`, or with each batch of a pass. It may be told from the
    thread of its function.

    Attributes:
        done: How much is done (int), in whatever it counts; in a pass documents, those of earlier attempts included.
        whole: How much there is to do in all (int), in a pass an estimate; None where nobody knows.
        rate: How many documents a second this attempt at the pass has done (float); None where it is no pass.
        due: Whether nothing was said of this for 30 s (bool): the log shows these.
    """

    done: int
    whole: int | None
    rate: float | None = None
    due: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class PassStarted(_MigrationFact):
    """A migration begins to go over a collection in batches, or goes on where an earlier attempt has ended.

    Attributes:
        collection: The name of the collection (str).
        done: How many documents earlier attempts have done (int).
        whole: About how many there are in all (int); None where nobody knows.
    """

    collection: str
    done: int
    whole: int | None


@dataclass(frozen=True, slots=True)
class PassChanged(_MigrationFact):
    """An earlier attempt has ended in a pass over something else: the filter or the collection was changed in the code
    since, or another collection has its name. This pass begins anew, and documents that are done may be seen again.

    Attributes:
        collection: The name of the collection (str) that this pass goes over.
    """

    collection: str


@dataclass(frozen=True, slots=True)
class ReplicasAwaited(_MigrationFact):
    """A pass waits between two batches until the replicas have caught up. Told at once, then every 30 s.

    Attributes:
        lag: How far the one that is most behind is behind (float, seconds).
        seconds: For how long the pass has waited (float, seconds).
    """

    lag: float
    seconds: float


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
            that Python makes of it; the caller of a synchronous run of one at a time gets the StopIteration.)
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


@dataclass(frozen=True, slots=True)
class DatabaseFinished(_Fact):
    """The run of one of many databases has ended, well or not. Told by `MigrationRegistry.run_many` and its twin.

    Attributes:
        applied: The names applied in it by this call (tuple of str).
        error: What it raised (BaseException); None if it went well.
    """

    applied: tuple[str, ...]
    error: BaseException | None = None


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
    | PassStarted
    | PassChanged
    | ReplicasAwaited
    | MigrationApplied
    | MigrationRolledBack
    | MigrationFailed
    | RunFinished
    | RollbackStarted
    | RollbackFinished
    | RecordsMarked
    | DatabaseFinished
)
"""Any of the facts."""

Hook: TypeAlias = Callable[[Event], None]
"""What `on_event` takes: a plain function, called between two steps of a run, with one event at a time; where several
migrations or databases are under way at once, from other threads as well. It must be quick, and must not wait for the
event loop, which may be waiting for it. An Exception of its own is logged."""
