"""Facts of a run, told to the event hook (`on_event`) as frozen values when they have happened.

Reporting facts as values, with logging as one hook among others, follows stamina's instrumentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from quaestor.core.lease import Lease


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
    """The records are read and the plan is made.

    Attributes:
        plan: The names to apply, in order (tuple of str); empty where nothing is to do.
    """

    plan: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordsIgnored(_Fact):
    """Some records have a name that is missing or not a str; they were left alone. Told once a run.

    Attributes:
        ids: The `_id`s of these records (tuple of any BSON values).
    """

    ids: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class LeaseAwaited(_Fact):
    """Another instance migrates, and this one waits for it. Told at once, then every 30 s.

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
    """

    name: str
    position: int
    total: int


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
class MigrationApplied(_MigrationFact):
    """A migration has run to its end and is recorded.

    Attributes:
        seconds: How long its function took (float, seconds); with transaction=True, its last transaction.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationFailed(_MigrationFact):
    """A migration failed, was cancelled or interrupted before its record was known to be written; the run ends with it.

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


Event: TypeAlias = (
    RunStarted
    | RecordsIgnored
    | LeaseAwaited
    | SessionsNotEnded
    | LeaseNotReleased
    | MigrationStarted
    | MigrationRetried
    | MigrationApplied
    | MigrationFailed
    | RunFinished
)
"""Any of the facts."""

Hook: TypeAlias = Callable[[Event], None]
"""What `on_event` takes: a plain function, called between two steps of a run. An Exception of its own is logged."""
