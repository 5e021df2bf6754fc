"""The protocols between the engine and the world: stores, functions, hosts and workers.

The `async` methods of a sync store never suspend, so a sync runner drives the engine to its end without an event loop.
A store for an event loop really awaits. The engine doesn't notice the difference.

A command whose outcome is unknown raises `OutcomeUnknown`. Every command is idempotent, so `retry_until_known` (in
`lease.py`) retries it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:  # these modules import this one
    from datetime import datetime

    from quaestor._core.checkpoint import Batch, Checkpoint, Origin, Throttle
    from quaestor._core.guards import Guard
    from quaestor._core.lease import HeldLease, LeaseState, Location
    from quaestor._core.plan import Change, Records, StartMark
    from quaestor.events import Event, Place
    from quaestor.status import (
        BackfillStatus,
        Happening,
        HistoryEntry,
        Lease,
        MigrationRecord,
        RecordedError,
        Source,
        Work,
    )

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")

Step: TypeAlias = Callable[[], Coroutine[Any, Any, R_co]]
"""Makes a coroutine to run now, elsewhere, or again."""


class OutcomeUnknown(Exception):  # noqa: N818 - it is no error: the engine catches it
    """The server may or may not have performed a command."""

    def __init__(
        self, error: Exception, *, no_server: bool = False, no_majority: bool = False, seconds: float = 0.0
    ) -> None:
        super().__init__(error)
        self.error = error
        self.seconds = seconds  # since a commit was sent
        self.no_server = no_server
        self.no_majority = no_majority  # but the server has performed it


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """What a record says, beside who writes it, and when."""

    source: Source
    checksum: str | None = None  # of the function
    seconds: float | None = None  # how long the function took
    applied_at: datetime | None = None  # aware, UTC; None: now


@dataclass(frozen=True, slots=True)
class HistoryFact:
    """Something that has happened, for the history. The fields are those of `HistoryEntry`."""

    what: Happening
    name: str | None = None
    seconds: float | None = None
    error: RecordedError | None = None
    record: MigrationRecord | None = None
    undo: bool = False
    backfill: str | None = None


class Ending(Enum):
    """The ending of an attempt at a transaction."""

    COMMITTED = auto()  # the function's work and its record
    RECORDED = auto()  # the record was written or removed before, so the attempt was aborted
    ABORTED = auto()  # it can be retried
    EXPIRED = auto()  # likewise: the server had ended the transaction
    UNKNOWN = auto()  # the commit wasn't answered, or no majority confirmed it


@dataclass(frozen=True, slots=True)
class Attempt(Generic[R]):
    """An attempt at a transaction that has ended."""

    ending: Ending
    seconds: float = 0.0
    error: Exception | None = None  # of the driver
    result: R | None = None  # of the function
    unknown: OutcomeUnknown | None = None  # of the commit
    error_name: str = ""  # of the error, or of one that the function caught before it, without values of documents


class Surroundings(Protocol):
    """The part that the engine and backfills share: a clock, the event hook, and the lease."""

    @property
    def where(self) -> tuple[str, str, str]:
        """The database, the prefix and the id of the run, for events."""

    def limit(self, seconds: float | None) -> AbstractContextManager[object]:
        """Limit the time of a command, and raise `OutcomeUnknown` if its outcome is unknown. None: the driver's own."""

    def now(self) -> float:
        """Read a monotonic clock that also runs while the process is frozen, in seconds."""

    async def sleep(self, shortest: float, longest: float) -> None:
        """Sleep for a random time in between, in seconds."""

    def emit(self, event: Event, /) -> None:
        """Pass an event to the hook. Never fails."""

    def has_transactions(self) -> bool:
        """Say whether the deployment has transactions, as far as the driver knows by now. Sends no command."""

    async def renew_lease(
        self,
        lease: Lease,
        location: Location | None = None,
        sessions: tuple[bytes, ...] = (),
        *,
        majority: bool = True,
    ) -> bool:
        """Renew the lease, and update its document. False: another run has it, or nobody.

        From now on transactions may be open in these sessions too. With a majority, a failover can't undo the renewal.
        """


class Store(Surroundings, Protocol):
    """The records, the checkpoints and the lease of one run."""

    async def read_records(self, *, details: bool = False) -> Records:
        """Read all records, with majority concern. The details are what no plan needs: `Records.newest`."""

    async def find_records_elsewhere(self) -> Event | None:
        """Find a sign that the prefix or the name of the database is wrong, when it has no records. Two commands."""

    async def find_recorded(self, names: Collection[str]) -> Collection[str]:
        """Find which of these migrations are recorded, with majority concern."""

    async def insert_records(self, entries: Mapping[str, RecordEntry]) -> bool:
        """Record migrations as applied, in order, with one command. False: the `_id` of one is taken."""

    async def delete_records(self, recorded: Mapping[str, tuple[object, ...]]) -> bool:
        """Remove the migrations' records as they were read, with one command. False: there was none."""

    async def update_checksum(self, name: str, recorded_at: tuple[object, ...], checksum: str) -> bool:
        """Write a checksum into the migration's records as they were read. False: there is none."""

    async def create_records(self) -> None:
        """Create the collection of the records, if there is none."""

    async def read_foreign(self, collection: str) -> Sequence[Mapping[str, Any]] | None:
        """Read the history that another tool keeps in a collection, sorted by `_id`. None: there is no such collection.

        With majority concern; its dates are naive.
        """

    async def read_checkpoints(self) -> Mapping[str, tuple[BackfillStatus, ...]]:
        """Read the checkpoints of all backfills, by migration."""

    async def delete_checkpoints(
        self, names: Collection[str], token: int, *, undo: bool, backfill: str | None = None
    ) -> None:
        """Remove the checkpoints of migrations or their rollbacks, or of one backfill, but not a later run's."""

    async def add_history(self, fact: HistoryFact) -> None:
        """Write an entry to the history. Of a migration's failures, only the newest are kept."""

    async def read_history(self, names: Collection[str] | None, limit: int | None) -> list[HistoryEntry]:
        """Read the history of these migrations, or all of it, newest first."""

    async def read_last_failures(self) -> Mapping[str, HistoryEntry]:
        """Read the last failure of each migration that wasn't rolled back or marked since. Empty without the right."""

    def identify_primary(self) -> object:
        """Return a value that changes with a failover, as far as the driver has noticed by now. Sends no command."""

    async def check_primary(self) -> None:
        """Raise a `PrimaryRequiredError` if the client is connected directly to a member that can't take writes."""

    def is_mongodb(self) -> bool:
        """Say whether the server is MongoDB, as far as the driver can tell. Sends no command."""

    async def read_lease(self) -> LeaseState:
        """Read who holds the lease, dead or alive, the start marks, and the label of a protected database.

        One command, with majority concern.
        """

    async def write_start_mark(self, name: str, known: StartMark | None) -> bool:
        """Mark that this run starts the migration. False: there is a mark that is neither known nor this run's."""

    async def remove_start_mark(self, name: str, known: StartMark | None) -> None:
        """Remove the mark of the migration if it is the known one, or this run's."""

    async def write_protection(self, label: str | None) -> None:
        """Protect the database under this label, or, without one, no longer."""

    async def read_lease_and_clock(self) -> tuple[LeaseState, datetime | None]:
        """Do what `read_lease` does, and read the clock, in one command if the server can. None: nobody holds it."""

    async def read_clock(self) -> datetime:
        """Read the primary's clock."""

    async def acquire_lease(
        self, work: Work, migrations: tuple[str, ...], sessions: tuple[bytes, ...], dead: Lease | None
    ) -> Lease | None:
        """Acquire the lease if nobody holds it, atomically. None: somebody does.

        With the lease of a dead holder as it was read, acquire it from this holder, unless it was renewed since.
        """

    async def expire_lease(self) -> Lease | None:
        """Make the lease expire, as if its holder were dead. Returns the holder."""

    async def release_lease(self, sessions: tuple[bytes, ...]) -> None:
        """Release the lease if this run holds it, and forget these sessions."""

    async def kill_sessions(self, sessions: tuple[bytes, ...]) -> Exception | None:
        """Abort the transactions of sessions on the server. Returns the error if the server refuses."""


class Functions(Protocol):
    """The migrations' functions, each called with its database and context, and the sessions of their transactions."""

    async def check(self, guard: Guard, place: Place) -> None:
        """Call a guard. Raises its error if it fails."""

    async def execute(self, change: Change, place: Place, held: HeldLease) -> float:
        """Call the function of a change. Returns how long it took, in seconds."""

    async def transact(
        self, change: Change, place: Place, held: HeldLease, slot: int, checksum: str | None
    ) -> Attempt[None]:
        """Call the function and its verifications, and write or remove its record, with this checksum, in one
        transaction.
        """

    async def commit_again(self, change: Change, slot: int, seconds: float) -> Attempt[None]:
        """Repeat the commit of the last attempt, whose outcome is unknown, within a time limit."""

    def compute_checksum(self, function: Callable[..., object]) -> str | None:
        """Compute the checksum of a migration's function. None: its source isn't there."""

    async def open_sessions(self, kinds: frozenset[bool], slots: int) -> tuple[bytes, ...]:
        """Open a session for each slot and kind of function (is_async). Returns the ids of all sessions of the run."""

    def list_sessions(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Return the ids of this run's sessions, and the ids of those in which a transaction may be open."""

    async def end_sessions(self) -> None:
        """Return this run's sessions to the driver."""


class BackfillStore(Protocol):
    """The collection and the checkpoint of one backfill."""

    name: str
    collection: str  # as `database.collection` in another database
    fingerprints: tuple[str, ...]  # of collection and filter. The first is stored; earlier releases stored others

    def check_not_in_transaction(self) -> None:
        """Raise a `BatchesInTransactionError` if this is called from a function that runs in a transaction."""

    async def identify_collection(self) -> bytes | None:
        """Read the collection's UUID. b"": there is no such collection; None: the server doesn't say."""

    async def read_origin(self) -> Origin | None:
        """Read which backfill the stored checkpoint belongs to. None: there is none."""

    async def read_checkpoint(self, token: int) -> Checkpoint | None:
        """Read the checkpoint if the run with this token has claimed it, with majority concern."""

    async def claim_checkpoint(self, checkpoint: Checkpoint | None, token: int, *, force: bool) -> Checkpoint | None:
        """Claim the checkpoint for this run. None: it belongs to a later run, or is gone.

        A run with a lower token can't write it any more; `force` claims it from a run with a higher token too.
        `checkpoint` replaces the stored one; None: keep that, with the fingerprint of this release.
        """

    async def save_checkpoint(self, checkpoint: Checkpoint, token: int) -> bool:
        """Write the checkpoint, with majority concern. False: another run has claimed it."""

    async def find_highest(self, others: tuple[object, ...]) -> tuple[object, ...]:
        """Find the highest `_id` of a type that none of the others has, as the only item; empty if there is none."""

    async def estimate_count(self) -> int | None:
        """Estimate how many documents match, without counting a large collection. None: the server can't."""

    async def read_batch(self, front: Checkpoint, throttle: Throttle) -> Batch:
        """Read the next batch of the current type of `_id`, as large as the throttle allows."""

    async def find_ids(self, front: Checkpoint, throttle: Throttle) -> Batch:
        """Find the documents of the next batch. They have only their `_id`, as stored."""

    async def read_found(self, found: Batch, throttle: Throttle) -> Batch:
        """Read those of the found documents that still match, or as many as the throttle allows."""

    def describe(self, batch: Batch, error: BaseException) -> str:
        """Say which documents of a batch an error is about."""

    async def read_lag(self) -> float:
        """Read the highest replication lag, in seconds."""

    async def open_session(self) -> tuple[bytes, ...]:
        """Get a session for this backfill's transactions. Returns the ids of all sessions of the run."""

    async def transact(self, work: Callable[[], Awaitable[Checkpoint]], token: int) -> Attempt[Checkpoint]:
        """Do the work and save the checkpoint that it returns, in one transaction."""

    async def commit_again(self, seconds: float) -> Attempt[Checkpoint]:
        """Repeat the commit of the last attempt, whose outcome is unknown, within a time limit."""


class Workers(Protocol):
    """Coroutines that run at the same time, in threads or tasks."""

    def start(self, step: Step[None]) -> None:
        """Start a worker."""

    async def next_finished(self) -> BaseException | None:
        """Wait until a worker has ended. Returns what it raised."""


Supervisor: TypeAlias = Callable[[Workers], Coroutine[Any, Any, None]]
"""Starts workers, and waits for them."""


class Host(Protocol):
    """Where the engine runs: plain calls and threads, or an event loop."""

    async def sleep(self, seconds: float) -> None:
        """Sleep."""

    async def call(self, step: Step[R], *, is_async: bool, interruptible: bool = True) -> R:
        """Run a step where `async def` or `def` functions run; if it isn't async, it never suspends.

        If it's interruptible, an interruption may end it early, or before it starts.
        """

    def check_interruption(self) -> None:
        """Raise what has interrupted the run, to end a function that nothing else can stop."""

    async def both(self, first: Step[R], second: Step[S], stop: Callable[[], None]) -> tuple[R, S]:
        """Run two steps at the same time. Returns when both have ended. An interruption calls `stop`, then waits."""

    async def shield(self, step: Step[None], seconds: float, repeats: float = ...) -> None:
        """Run a step, shielded from interruptions, within a time limit. An interruption is raised after it.

        More than `repeats` interruptions end it.
        """

    def is_from_outside(self, error: BaseException) -> bool:
        """Say whether it came from outside (a signal, a cancellation), even if it is an Exception."""

    def start_heartbeat(self, beat: Callable[[Callable[[float], Awaitable[bool]]], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine beside the engine. It gets a sleep that returns True when it should end."""

    async def stop_heartbeat(self) -> None:
        """End the heartbeat, and wait for its end."""

    def lock(self) -> AbstractAsyncContextManager[object]:
        """Make a lock for workers."""

    async def supervise(self, supervisor: Supervisor, stop: Callable[[], None], *, reaches_all: bool = False) -> None:
        """Run a supervisor, shielded from interruption.

        An interruption calls `stop`, which lets no more workers start, then ends the functions of workers early where
        that is possible, and continues when all have ended. `reaches_all`: it may end the workers themselves.
        """

    def close(self) -> None:
        """End what the host runs beside the engine. Nothing else is running any more."""
