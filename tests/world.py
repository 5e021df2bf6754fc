"""A server and its clock in memory, and runs against it whose processes can crash at any effect."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import assert_never

from quaestor.core import leasing, transaction
from quaestor.core.batches import Checkpoint, PassKey
from quaestor.core.effects import (
    AcquireLease,
    AskForTransactions,
    BreakLease,
    CheckLease,
    CommitAgain,
    Effect,
    Emit,
    EndSessions,
    Execute,
    FindRecord,
    Flow,
    ForgetProgress,
    FreeLease,
    KeepLease,
    Now,
    OpenSessions,
    ReadLock,
    ReadProgress,
    ReadRecords,
    Record,
    ReleaseLease,
    RenewLease,
    Sleep,
    Transact,
    Unrecord,
)
from quaestor.core.events import Event
from quaestor.core.lease import Lease, Lock, Terms
from quaestor.core.pass_effects import ClaimCheckpoint
from quaestor.core.plan import Change
from quaestor.core.records import Records
from quaestor.core.status import PassStatus
from quaestor.core.transaction import Attempt, Ending, Step
from quaestor.runners.drive import drive

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(BaseException):
    """The process dies here."""


@dataclass(frozen=True)
class Kept:
    """A checkpoint on the server.

    Attributes:
        checkpoint: How far the pass is.
        token: That of the run whose it is.
        name: What the pass goes over.
    """

    checkpoint: Checkpoint
    token: int
    name: str


@dataclass
class Server:
    """What lasts between runs: the clock, the records, the lease, the progress, the work of the migrations.

    Attributes:
        now: The time in seconds.
        recorded: The names recorded, and when.
        work: The names whose work is there, as often as it was done: a transaction's at its commit.
        undone: Likewise of rollbacks.
        holder: The owner, the token and the end of the lease, where it is held.
        token: The last one given.
        ends_at: When the lease ends.
        sessions: The ids of sessions that the lock document names.
        previous: The last owner that never released the lease.
        overtaken: The migrations recorded by a holder who had lost the lease: it was frozen just before.
        ended: The ids of sessions whose transactions were ended, until that is noticed.
        ended_once: Those that ever were.
        progress: The checkpoints of passes.
    """

    now: float = 1_000.0
    recorded: dict[str, datetime] = field(default_factory=dict)
    work: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    holder: Lease | None = None
    token: int = 0
    ends_at: float = 0.0
    sessions: frozenset[bytes] = frozenset()
    previous: str | None = None
    overtaken: set[str] = field(default_factory=set)
    ended: set[bytes] = field(default_factory=set)
    ended_once: set[bytes] = field(default_factory=set)
    progress: dict[PassKey, Kept] = field(default_factory=dict)

    @property
    def records(self) -> set[str]:
        """The names recorded."""
        return set(self.recorded)

    def record(self, name: str) -> bool:
        """Whether there was none."""
        if name in self.recorded:
            return False
        self.recorded[name] = LONG_AGO + timedelta(seconds=self.now)
        return True

    def unrecord(self, name: str, recorded_at: tuple[object, ...]) -> bool:
        """Whether there was one, and it was not written since."""
        if not self.is_as_read(name, recorded_at):
            return False
        del self.recorded[name]
        return True

    def is_as_read(self, name: str, recorded_at: tuple[object, ...]) -> bool:
        """Whether the record is there that was read."""
        return self.recorded.get(name) in recorded_at

    def do(self, change: Change) -> None:
        """Keep the work of a change."""
        (self.work if change.applies else self.undone).append(change.name)

    def acquire(self, terms: Terms, effect: AcquireLease) -> Lease:
        if self.holder is None or self.ends_at <= self.now:
            self.previous = self.previous if self.holder is None else self.holder.owner
            self.token += 1
            self.sessions |= set(effect.sessions)
            sessions = tuple(sorted(self.sessions))
            taken = lease(terms.owner, self.token, effect.migration, sessions, self.previous)
            self.holder = replace(taken, work=effect.work)
            self.ends_at = self.now + terms.ttl
        return self.holder

    def renew(self, held: Lease, ttl: float) -> bool:
        if not self.is_held(held):
            return False
        self.ends_at = self.now + ttl
        return True

    def is_held(self, held: Lease) -> bool:
        """Whether the lease is that of this holder at this moment."""
        return (
            self.holder is not None
            and (self.holder.owner, self.holder.token) == (held.owner, held.token)
            and self.ends_at > self.now
        )

    def release(self, owner: str, sessions: tuple[bytes, ...]) -> None:
        if self.holder is not None and self.holder.owner == owner:
            self.holder = None
            self.sessions -= set(sessions)

    def claim(self, effect: ClaimCheckpoint) -> Checkpoint | None:
        """The checkpoint, which is this run's from now on."""
        kept = self.progress.get(effect.key)
        if kept is not None and kept.token > effect.token and not effect.by_force:
            return None
        if effect.checkpoint is not None:
            kept = Kept(effect.checkpoint, effect.token, effect.name)
        if kept is None:
            return None
        self.progress[effect.key] = replace(kept, token=effect.token)
        return kept.checkpoint

    def save(self, key: PassKey, checkpoint: Checkpoint, token: int) -> bool:
        """Whether it is this run's."""
        if self.checkpoint(key, token) is None:
            return False
        self.progress[key] = replace(self.progress[key], checkpoint=checkpoint)
        return True

    def checkpoint(self, key: PassKey, token: int) -> Checkpoint | None:
        """The checkpoint, if it is this run's."""
        kept = self.progress.get(key)
        return None if kept is None or kept.token != token else kept.checkpoint

    def forget(self, effect: ForgetProgress) -> None:
        for key, kept in list(self.progress.items()):
            if key.migration == effect.name and key.undo is effect.undo and kept.token <= effect.token:
                del self.progress[key]

    def statuses(self, name: str) -> tuple[PassStatus, ...]:
        """How far the passes of a migration are."""
        return tuple(
            PassStatus(kept.name, one.done, one.total, one.finished, LONG_AGO, key.undo)
            for key, kept in self.progress.items()
            if key.migration == name
            for one in [kept.checkpoint]
        )


def lease(
    owner: str = "me",
    token: int = 1,
    migration: str | None = "a",
    sessions: tuple[bytes, ...] = (),
    previous: str | None = None,
) -> Lease:
    """A lease of an imagined process."""
    return Lease(owner, token, "host", 7, LONG_AGO, LONG_AGO, migration, sessions, previous)


@dataclass
class World:
    """One run's view of a server; performs the effects of its flow.

    Attributes:
        server: The server.
        terms: Of the run.
        events: All that was emitted.
        crash_at: The number of the effect (from 0) at which to crash, or None.
        crash_after: Whether that effect is performed before the crash.
        performed: How many effects were.
        session: The session of the run, once it has one.
        is_open: Whether a transaction was begun in it and not committed.
        kept: The lease that is being kept, or None.
        kept_once: Whether one ever was.
    """

    server: Server = field(default_factory=Server)
    terms: Terms = field(default_factory=lambda: Terms("me"))
    events: list[Event] = field(default_factory=list)
    crash_at: int | None = None
    crash_after: bool = False
    performed: int = 0
    kept: Lease | None = None
    kept_once: bool = False
    session: bytes | None = None
    is_open: bool = False

    def perform(self, effect: Effect) -> object:
        return self.counted(partial(self.answer, effect))

    def counted(self, step: Callable[[], object]) -> object:
        """Do something at which the process may crash."""
        crashes = self.performed == self.crash_at
        self.performed += 1
        if crashes and not self.crash_after:
            raise Crash
        answer = step()
        if crashes:
            raise Crash
        return answer

    def execute(self, effect: Execute | Transact) -> None:
        """Call the function of a change."""
        effect.change.function(self)

    def answer(self, effect: Effect) -> object:
        server = self.server
        match effect:
            case ReadRecords():
                return Records({name: (date,) for name, date in server.recorded.items()})
            case FindRecord(name):
                return name in server.records
            case Record(name):
                return server.record(name)
            case Unrecord(name, recorded_at):
                return server.unrecord(name, recorded_at)
            case ReadLock():
                held = server.holder if server.ends_at > server.now else None
                return Lock(held, None if held else server.holder)
            case AcquireLease():
                return server.acquire(self.terms, effect)
            case RenewLease(held):
                return server.renew(held, self.terms.ttl)
            case CheckLease(held, migration, sessions, recording):
                if renewed := server.renew(held, self.terms.ttl):
                    server.sessions = frozenset(sessions)
                    server.holder = replace(held, migration=migration, recording=recording)
                return renewed
            case BreakLease():
                held = server.holder if server.holder is not None and server.ends_at > server.now else None
                server.ends_at = server.now
                return held
            case KeepLease(held):
                self.kept, self.kept_once = held, True
                return None
            case FreeLease(sessions):
                server.release(self.terms.owner, sessions)
                return None
            case ReleaseLease():
                self.kept = None
                own = () if self.session is None else (self.session,)
                return drive(leasing.give_back(own, own if self.is_open else ()), self.answer)
            case AskForTransactions():
                return True
            case OpenSessions():
                self.session = self.terms.owner.encode()
                return (self.session,)
            case EndSessions(sessions):
                server.ended |= set(sessions)
                server.ended_once |= set(sessions)
                return None
            case ReadProgress():
                return {name: server.statuses(name) for name in {key.migration for key in server.progress}}
            case ForgetProgress():
                server.forget(effect)
                return None
            case Execute(change):
                self.execute(effect)
                server.do(change)
                return 0.5
            case Transact():
                return Attempt(drive(transaction.attempt(), lambda step: self._step(step, effect)), 0.5)
            case CommitAgain():
                return Attempt(Ending.COMMITTED)
            case Now():
                return server.now
            case Sleep(_, longest):
                server.now += longest
                return None
            case Emit(event):
                self.events.append(event)
                return None
            case _:
                assert_never(effect)

    def _step(self, step: Step, effect: Transact) -> object:
        change = effect.change
        match step:
            case Step.EXECUTE:
                self.execute(effect)
            case Step.RECORD:
                if change.applies:
                    return change.name not in self.server.records
                return self.server.is_as_read(change.name, change.recorded_at)
            case Step.COMMIT:
                if change.applies:
                    self.server.record(change.name)
                else:
                    self.server.unrecord(change.name, change.recorded_at)
                self.server.do(change)
                self.is_open = False
            case Step.BEGIN:
                self.is_open = True
            case Step.ABORT:
                pass
            case _:
                assert_never(step)
        return None


def killed(flow: Flow[list[str]], perform: Callable[[Effect], object]) -> None:
    """Drive the flow until an effect raises, and do nothing more: as when the process is gone."""
    effect = next(flow)
    while True:
        effect = flow.send(perform(effect))
