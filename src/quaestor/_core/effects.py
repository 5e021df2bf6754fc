"""The vocabulary of the core: what a flow may ask of the world.

Rule 1: an effect is a frozen value. It says what is wanted, never how.
Rule 2: a flow asks with `answer = yield from SomeEffect(...)`. The type of the answer stands in the effect's base.
Rule 3: a runner performs every effect in one `match` that ends in `assert_never`.
Rule 4: a `Command` may be answered by `Unknown`: the flow decides whether to ask again, to look, or to give up.

The pattern of generators that ask and runners that do is psycopg 3's (`generators.py`, `waiting.py`).
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

from quaestor._core.definition import Colour
from quaestor._core.lease import Lock, Turn, Whereabouts
from quaestor._core.plan import Change
from quaestor._core.records import Records
from quaestor._core.transaction import Attempt
from quaestor.events import Event, Place
from quaestor.status import Lease, PassStatus, Work

E_co = TypeVar("E_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")


class Ask(Generic[T]):
    """A request for a T."""

    __slots__ = ()

    def __iter__(self) -> Generator[Self, Any, T]:  # Any: only here the answer of a runner gets its type
        answer: T = yield self
        return answer


class Asking(Protocol[E_co, T_co]):
    """Any effect that is answered by a T, with its own type E: so a flow made of it yields that, and not any effect."""

    def __iter__(self) -> Generator[E_co, Any, T_co]: ...  # Any: as above


@dataclass(frozen=True, slots=True)
class Unknown:
    """The outcome of a command is not known: the connection was lost, or the server could not promise it to last.

    Attributes:
        error: What the driver raised.
        away: Whether the driver found no server at all, for as long as it is told to look.
    """

    error: Exception
    away: bool = False


class Command(Ask[T | Unknown]):
    """A command of our own to the server, which may be sent again without harm."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ReadRecords(Command[Records]):
    """Read all records, with majority concern on the primary."""


@dataclass(frozen=True, slots=True)
class FindRecord(Command[bool]):
    """Whether the migration of this name is recorded, with majority concern on the primary."""

    name: str


@dataclass(frozen=True, slots=True)
class Record(Command[bool]):
    """Write that the migration of this name has been applied now, with majority concern. False: its `_id` is taken."""

    name: str


@dataclass(frozen=True, slots=True)
class Unrecord(Command[bool]):
    """Remove the record of the migration of this name, with majority concern. False: there was none.

    Attributes:
        name: The migration.
        recorded_at: What its records said when they were read: one that was written since stays.
    """

    name: str
    recorded_at: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class ReadProgress(Command[Mapping[str, tuple[PassStatus, ...]]]):
    """How far the passes of migrations are, by the names of these."""


@dataclass(frozen=True, slots=True)
class ForgetProgress(Command[None]):
    """Remove what is kept of the passes of a migration, with majority concern.

    Attributes:
        name: The migration.
        token: That of the run's lease: what belongs to a later run stays.
        undo: Whether of those of its rollback.
    """

    name: str
    token: int
    undo: bool


@dataclass(frozen=True, slots=True)
class ReadLock(Command[Lock]):
    """Read who holds the lease."""


@dataclass(frozen=True, slots=True)
class AcquireLease(Command[Lease]):
    """Take the lease if it is free, in one atomic step. Answers who holds it then.

    Attributes:
        work: What it is for.
        migrations: Those that will be first.
        sessions: The ids of the sessions for this run's transactions.
    """

    work: Work
    migrations: tuple[str, ...]
    sessions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RenewLease(Command[bool]):
    """Make the lease last for another ttl. False: it was lost, be it that it ended or that somebody else has it."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class CheckLease(Command[bool]):
    """Renew the lease and say in it where the run is. False: it was lost.

    Attributes:
        whereabouts: Where; None: as it was said before.
        sessions: The ids of sessions in which transactions may be open from now on, beside those that were named.
        ended: The ids of those in which none is open any more.
    """

    lease: Lease
    whereabouts: Whereabouts | None = None
    sessions: tuple[bytes, ...] = ()
    ended: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BreakLease(Command[Lease | None]):
    """Free the lease, whoever holds it. Answers who did, or None."""


@dataclass(frozen=True, slots=True)
class KeepLease(Ask[None]):
    """Begin to perform the flow `leasing.keep` beside this one, until the lease is released."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class FreeLease(Command[None]):
    """Free the lease if this run holds it, with the sessions of this run that the lock need not name any more."""

    sessions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ReleaseLease(Ask[Exception | None]):
    """Stop keeping the lease and perform the flow `leasing.give_back`, out of reach of whatever interrupts the run.

    Answers what made that fail, if anything did.
    """


@dataclass(frozen=True, slots=True)
class AskForTransactions(Ask[bool]):
    """Whether the server has transactions, as far as the driver knows by now. No command is sent."""


@dataclass(frozen=True, slots=True)
class OpenSessions(Command[tuple[bytes, ...]]):
    """Have sessions for transactions in the databases of these colours. Answers the ids of all that are open.

    Attributes:
        colours: The colours.
        lanes: How many for each, at least.
    """

    colours: frozenset[Colour]
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class EndSessions(Command[Exception | None]):
    """End sessions on the server, and with them their transactions. Answers why it was refused, if it was."""

    sessions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Execute(Ask[float]):
    """Call the function of a change and wait for its end. Answers how long it took, in seconds.

    Attributes:
        change: What is done.
        place: For the events that the function may tell.
        turn: For the passes of the function, which check the lease.
    """

    change: Change
    place: Place
    turn: Turn


@dataclass(frozen=True, slots=True)
class Transact(Ask[Attempt[None]]):
    """Perform the flow `transaction.attempt`: the function and its record in one transaction. As `Execute`.

    Attributes:
        lane: Of the sessions of the change's colour, the one to use.
    """

    change: Change
    place: Place
    turn: Turn
    lane: int = 0


@dataclass(frozen=True, slots=True)
class CommitAgain(Ask[Attempt[None]]):
    """Send the commit of the last attempt once more, for its outcome is unknown. As `Transact`."""

    change: Change
    lane: int = 0


@dataclass(frozen=True, slots=True)
class SideBySide(Ask[None]):
    """Perform a flow of branches where no interruption reaches it: its `NextFinished` raises that, and only when the
    flow has ended does it go on to the one who asks for this. What ends the event loop itself reaches all the same.

    Attributes:
        flow: The flow (`side_by_side.side_by_side`).
    """

    flow: "BranchFlow[None]"


@dataclass(frozen=True, slots=True)
class Start(Ask[None], Generic[E_co]):
    """Begin to perform an effect beside all that is under way. Answered at once.

    Attributes:
        key: By what it is known when it has ended; nothing else under way has it.
        effect: What is begun.
        is_told: Whether it is told of an interruption, and may end early.
    """

    key: int
    effect: E_co
    is_told: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """What was started has ended.

    Attributes:
        key: Which.
        answer: That of its effect.
        error: What it raised instead, if it did.
    """

    key: int
    answer: object = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class NextFinished(Ask[Finished]):
    """Wait until any of those that were started has ended; of several, the one that has first.

    It raises what interrupts the run, once or more.
    """


@dataclass(frozen=True, slots=True)
class Now(Ask[float]):
    """The time of a clock that never goes back and goes on while the process is frozen, in seconds."""


@dataclass(frozen=True, slots=True)
class Sleep(Ask[None]):
    """Wait for a random time between the two, in seconds."""

    shortest: float
    longest: float


@dataclass(frozen=True, slots=True)
class Emit(Ask[None]):
    """Tell the hook a fact. Never fails."""

    event: Event


Effect: TypeAlias = (
    ReadRecords
    | FindRecord
    | Record
    | Unrecord
    | ReadProgress
    | ForgetProgress
    | ReadLock
    | AcquireLease
    | RenewLease
    | CheckLease
    | BreakLease
    | KeepLease
    | FreeLease
    | ReleaseLease
    | AskForTransactions
    | OpenSessions
    | EndSessions
    | Execute
    | Transact
    | CommitAgain
    | SideBySide
    | Now
    | Sleep
    | Emit
)
"""Any effect. A runner performs all of them."""

Flow: TypeAlias = Generator[Effect, object, R]
"""A generator that asks for effects and returns an R.

Its send type is object, not Any: a type checker then finds an effect that is yielded without `from`.
"""

BranchFlow: TypeAlias = Generator[Effect | Start[Effect] | NextFinished, object, R]
"""A flow of branches."""
