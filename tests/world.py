"""A server and its clock in memory, and runs against it whose processes can crash at any effect.

What runs side by side is under way from when it is begun, and ends when the test says so: `Choices` goes through every
order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import assert_never

from quaestor._core import leasing, transaction
from quaestor._core.checkpoint import Checkpoint, PassKey
from quaestor._core.effects import (
    AcquireLease,
    AskForTransactions,
    BranchFlow,
    BreakLease,
    CheckLease,
    CommitAgain,
    Effect,
    Emit,
    EndSessions,
    Execute,
    FindRecord,
    Finished,
    Flow,
    ForgetProgress,
    FreeLease,
    KeepLease,
    NextFinished,
    Now,
    OpenSessions,
    ReadLock,
    ReadProgress,
    ReadRecords,
    Record,
    ReleaseLease,
    RenewLease,
    SideBySide,
    Sleep,
    Start,
    Transact,
    Unrecord,
)
from quaestor._core.lease import Lock, Terms
from quaestor._core.pass_effects import ClaimCheckpoint
from quaestor._core.plan import Change
from quaestor._core.records import Records
from quaestor._core.transaction import Attempt, Ending, Step
from quaestor._hosts.drive import drive
from quaestor.events import Event
from quaestor.status import Lease, PassStatus

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(BaseException):
    """The process dies here."""


def crash() -> None:
    """Die."""
    raise Crash


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
            taken = lease(terms.owner, self.token, effect.migrations, sessions, self.previous)
            self.holder = replace(taken, work=effect.work)
            self.ends_at = self.now + terms.ttl
        return self.holder

    def check(self, effect: CheckLease, ttl: float) -> bool:
        """Whether it is held; then it is renewed, and the lock says what it is to say."""
        if not self.renew(effect.lease, ttl):
            return False
        self.sessions = (self.sessions - set(effect.ended)) | set(effect.sessions)
        if self.holder is not None and (where := effect.whereabouts) is not None:
            self.holder = replace(
                self.holder, migrations=where.migrations, recording=where.recording, upcoming=where.upcoming
            )
        return True

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
    migrations: tuple[str, ...] = ("a",),
    sessions: tuple[bytes, ...] = (),
    previous: str | None = None,
) -> Lease:
    """A lease of an imagined process."""
    return Lease(owner, token, "host", 7, LONG_AGO, LONG_AGO, migrations, sessions, previous)


@dataclass(frozen=True)
class Begun:
    """What is under way side by side with others.

    Attributes:
        start: What was asked for.
        work: Does it, at its end.
    """

    start: Start[Effect]
    work: Callable[[], object]


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
        strike: What happens there; else the process dies.
        sessions: The sessions of the run.
        lanes: Those of them that its lanes have.
        in_use: Those that a lane or a migration has.
        open: Those in which a transaction was begun and not committed.
        kept: The lease that is being kept, or None.
        kept_once: Whether one ever was.
        choose: Which of those under way side by side ends next, of their keys.
        is_early: Whether what they do is there as soon as they are begun; else only when they end.
        interrupt_at: The number of the wait (from 0) for one of them that is interrupted by Ctrl-C, or None.
        cancelled: Whose functions end early then; all others go on to their end.
        under_way: What is, by its keys.
        most_at_once: How many were under way at once.
        waits: How often was waited for one.
    """

    server: Server = field(default_factory=Server)
    terms: Terms = field(default_factory=lambda: Terms("me"))
    events: list[Event] = field(default_factory=list)
    crash_at: int | None = None
    crash_after: bool = False
    performed: int = 0
    strike: Callable[[], object] = crash
    kept: Lease | None = None
    kept_once: bool = False
    sessions: list[bytes] = field(default_factory=list)
    lanes: list[bytes] = field(default_factory=list)
    in_use: set[bytes] = field(default_factory=set)
    open: set[bytes] = field(default_factory=set)
    choose: Callable[[Sequence[int]], int] = min
    is_early: bool = False
    interrupt_at: int | None = None
    cancelled: frozenset[str] = frozenset()
    under_way: dict[int, Begun] = field(default_factory=dict)
    most_at_once: int = 0
    waits: int = 0

    def perform(self, effect: Effect) -> object:
        if isinstance(effect, SideBySide):  # what it consists of is counted
            return self.answer(effect)
        return self.counted(partial(self.answer, effect))

    def counted(self, step: Callable[[], object]) -> object:
        """Do something at which the process may crash."""
        is_struck = self.performed == self.crash_at
        self.performed += 1
        if is_struck and not self.crash_after:
            self.strike()
        answer = step()
        if is_struck and self.crash_after:
            self.strike()
        return answer

    def take_session(self) -> bytes:
        """A session that nobody uses."""
        free = [session for session in self.sessions if session not in self.in_use]
        if not free:
            number = f" {len(self.sessions)}" if self.sessions else ""
            free = [f"{self.terms.owner}{number}".encode()]
            self.sessions += free
        self.in_use.add(free[0])
        return free[0]

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
            case CheckLease():
                return server.check(effect, self.terms.ttl)
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
                return drive(leasing.give_back(tuple(self.sessions), tuple(self.open)), self.answer)
            case AskForTransactions():
                return True
            case OpenSessions(_, lanes):
                while len(self.lanes) < lanes:
                    self.lanes.append(self.take_session())
                return tuple(self.sessions)
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
            case Transact(lane=lane) if self.lanes[lane] in server.ended:
                server.ended.discard(self.lanes[lane])
                self.open.discard(self.lanes[lane])
                return Attempt(Ending.EXPIRED, 0.5, ConnectionError())
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
            case SideBySide(flow):
                self.side_by_side(flow)
                return None
            case _:
                assert_never(effect)

    def side_by_side(self, flow: BranchFlow[None]) -> None:
        """Perform a flow of branches. A crash is the end of the process, and nothing for the flow."""
        go_on: Callable[[], Effect | Start[Effect] | NextFinished] = partial(next, flow)
        while True:
            try:
                effect = go_on()
            except StopIteration:
                return
            try:
                go_on = partial(flow.send, self._branch(effect))
            except Crash:
                flow.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the flow's
                go_on = partial(flow.throw, error)

    def _branch(self, effect: Effect | Start[Effect] | NextFinished) -> object:
        match effect:
            case Start():
                return self.counted(partial(self._start, effect))
            case NextFinished():
                is_interrupted = self.waits == self.interrupt_at
                self.waits += 1
                if is_interrupted:
                    raise self._interrupted()
                key = self.choose(sorted(self.under_way))
                return _finished(key, self.under_way.pop(key).work)
            case _:
                return self.perform(effect)

    def _interrupted(self) -> KeyboardInterrupt:
        error = KeyboardInterrupt()
        for key, begun in self.under_way.items():
            if begun.start.is_told and name_of(begun.start) in self.cancelled:
                self.under_way[key] = replace(begun, work=partial(raised, error))
        return error

    def _start(self, start: Start[Effect]) -> None:
        assert start.key not in self.under_way, "two at once that have one key"
        effect = start.effect
        if isinstance(effect, Transact):
            session = self.lanes[effect.lane]
            self.server.ended.discard(session)
            self.open.add(session)
        work: Callable[[], object] = partial(self.perform, effect)
        if self.is_early and isinstance(effect, Execute | Transact):
            done = _finished(start.key, work)
            work = partial(raised, done.error) if done.error is not None else lambda: done.answer
        self.under_way[start.key] = Begun(start, work)
        self.most_at_once = max(self.most_at_once, len(self.under_way))

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
                self.open.discard(self.lanes[effect.lane])
            case Step.BEGIN:
                self.open.add(self.lanes[effect.lane])
            case Step.ABORT:
                pass
            case _:
                assert_never(step)
        return None


def raised(error: BaseException) -> None:
    """Raise it."""
    raise error


def name_of(start: Start[Effect]) -> str | None:
    """The migration that is begun, if it is one."""
    return start.effect.change.name if isinstance(start.effect, Execute | Transact) else None


def _finished(key: int, work: Callable[[], object]) -> Finished:
    try:
        return Finished(key, work())
    except Crash:
        raise
    except BaseException as error:  # noqa: BLE001 - it is the branch's
        return Finished(key, error=error)


class Choices:
    """Chooses what ends next, one order after the other until there is no other one.

    Attributes:
        taken: The choices of this order, each as its number and the number of those that there were.
    """

    def __init__(self, chosen: Sequence[int] = ()) -> None:
        self._chosen = chosen
        self.taken: list[tuple[int, int]] = []

    def __call__(self, keys: Sequence[int]) -> int:
        step = len(self.taken)
        number = min(self._chosen[step], len(keys) - 1) if step < len(self._chosen) else 0
        self.taken.append((number, len(keys)))
        return keys[number]

    def again(self) -> "Choices":
        """The same order once more, as far as there is the same to choose from."""
        return Choices([number for number, _ in self.taken])

    @staticmethod
    def all() -> "Iterator[Choices]":
        """Every order: each is to be gone through before the next one is asked for."""
        chosen: list[int] = []
        while True:
            choices = Choices(chosen)
            yield choices
            taken = choices.taken
            while taken and taken[-1][0] + 1 == taken[-1][1]:
                taken.pop()
            if not taken:
                return
            chosen = [number for number, _ in taken]
            chosen[-1] += 1


def killed(flow: Flow[list[str]], perform: Callable[[Effect], object]) -> None:
    """Drive the flow until an effect raises, and do nothing more: as when the process is gone."""
    effect = next(flow)
    while True:
        effect = flow.send(perform(effect))
