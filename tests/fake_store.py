"""A server in memory, and processes that run the engine against it; the test decides which call is performed next.

Every method of a store, and every function of a migration, suspends once: it yields a `Call`. `Process.step` performs
it on the server and sends the answer, or loses the request or the answer. A killed process does nothing more.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from quaestor._core import engine
from quaestor._core.backfill import Backfill, Backfills
from quaestor._core.checkpoint import Checkpoint, Document, Throttle
from quaestor._core.definition import MigrationDefinition
from quaestor._core.engine import Engine, Operation, Scope
from quaestor._core.lease import HeldLease, LeaseState, Location, Terms
from quaestor._core.plan import Change, Records
from quaestor._core.store import Attempt, Ending, Finished, OutcomeUnknown
from quaestor.errors import BatchesInTransactionError
from quaestor.events import Event, Place
from quaestor.status import BackfillStatus, Lease, Status, Work
from tests.world import LONG_AGO, lease

TTL = 30.0
WHERE = ("shop", "app")
LONGEST_TRANSACTION = 60.0
"""When the server aborts a transaction by itself, in seconds."""

Definitions = Mapping[str, MigrationDefinition]


class Aborted(ConnectionError):
    """What a driver raises where an attempt at a transaction ends like this."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending = ending


class Key(NamedTuple):
    """What a checkpoint is stored under."""

    migration: str
    undo: bool
    backfill: str


@dataclass(frozen=True)
class Stored:
    """A checkpoint on the server, and the token of the run that claimed it."""

    checkpoint: Checkpoint
    token: int
    collection: str = "orders"
    fingerprint: str = "all"


@dataclass
class Transaction:
    """An open transaction: since when, the document that it has written, and what its commit does."""

    began: float
    key: object = None
    effect: Callable[[], object] | None = None


@dataclass
class Server:
    """All that outlives a process.

    Attributes:
        now: The time, in seconds.
        recorded: The recorded names, with their dates.
        work: The migrations whose work is there, as often as it was done.
        undone: Likewise of rollbacks.
        holder: The lease document, if it names an owner.
        ends_at: When the lease expires.
        token: The last fencing token.
        sessions: The sessions that the lease document names.
        previous: The last owner that never released the lease.
        checkpoints: Those of backfills.
        transactions: Those that are open, by session.
        committed: The sessions whose last transaction is committed.
        killed: The sessions that were ever killed.
        refusal: Why sessions can't be killed.
        overtaken: The migrations recorded, or whose dependencies were removed, by a process that had lost the lease.
    """

    now: float = 1_000.0
    recorded: dict[str, Any] = field(default_factory=dict)
    work: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    holder: Lease | None = None
    ends_at: float = 0.0
    token: int = 0
    sessions: set[bytes] = field(default_factory=set)
    previous: str | None = None
    checkpoints: dict[Key, Stored] = field(default_factory=dict)
    transactions: dict[bytes, Transaction] = field(default_factory=dict)
    committed: set[bytes] = field(default_factory=set)
    killed: set[bytes] = field(default_factory=set)
    refusal: Exception | None = None
    overtaken: set[str] = field(default_factory=set)

    @property
    def records(self) -> set[str]:
        return set(self.recorded)

    @property
    def is_free(self) -> bool:
        """Whether nobody holds the lease."""
        return self.holder is None or self.ends_at <= self.now

    def do(self, change: Change) -> None:
        (self.work if change.applies else self.undone).append(change.name)

    def insert_record(self, name: str) -> bool:
        if name in self.recorded:
            return False
        self.recorded[name] = LONG_AGO + timedelta(seconds=self.now)
        return True

    def delete_records(self, name: str, recorded_at: tuple[object, ...]) -> bool:
        if self.recorded.get(name) not in recorded_at:
            return False
        del self.recorded[name]
        return True

    def acquire(self, terms: Terms, work: Work, migrations: tuple[str, ...], sessions: Iterable[bytes]) -> Lease:
        if self.is_free:
            self.previous = self.previous if self.holder is None else self.holder.owner
            self.token += 1
            self.sessions |= set(sessions)
            taken = lease(terms.owner, self.token, migrations, tuple(sorted(self.sessions)), self.previous)
            self.holder = replace(taken, work=work)
            self._prolong(terms.ttl)
        assert self.holder is not None
        return self.holder

    def check(
        self, held: Lease, ttl: float, location: Location | None, sessions: Iterable[bytes], ended: Iterable[bytes]
    ) -> bool:
        if not self.renew(held, ttl):
            return False
        self.sessions = (self.sessions - set(ended)) | set(sessions)
        if self.holder is not None and location is not None:
            at = {"migrations": location.migrations, "recording": location.recording, "upcoming": location.upcoming}
            self.holder = replace(self.holder, **at)
        return True

    def renew(self, held: Lease, ttl: float) -> bool:
        if not self.is_held(held):
            return False
        self._prolong(ttl)
        return True

    def is_held(self, held: Lease) -> bool:
        holder = self.holder
        return (
            holder is not None and (holder.owner, holder.token) == (held.owner, held.token) and self.ends_at > self.now
        )

    def expire(self) -> Lease | None:
        held = None if self.is_free else self.holder
        self.ends_at = min(self.ends_at, self.now)
        return held

    def release(self, owner: str, sessions: Iterable[bytes]) -> None:
        if self.holder is not None and self.holder.owner == owner:
            self.holder = None
            self.sessions -= set(sessions)

    def begin(self, session: bytes) -> None:
        self.committed.discard(session)
        self.transactions[session] = Transaction(self.now)

    def write(self, session: bytes, key: object, effect: Callable[[], object]) -> None:
        """Write a document in a transaction."""
        self._abort_old()
        if session not in self.transactions:
            raise Aborted(Ending.EXPIRED)
        if self.is_blocked(key):
            raise Aborted(Ending.ABORTED)
        self.transactions[session] = Transaction(self.transactions[session].began, key, effect)

    def commit(self, session: bytes) -> None:
        self._abort_old()
        if session in self.committed:
            return
        if session not in self.transactions:
            raise Aborted(Ending.EXPIRED)
        effect = self.transactions.pop(session).effect
        assert effect is not None
        effect()
        self.committed.add(session)

    def kill(self, sessions: Iterable[bytes]) -> Exception | None:
        if self.refusal is not None:
            return self.refusal
        for session in sessions:
            self.transactions.pop(session, None)
            self.killed.add(session)
        return None

    def is_blocked(self, key: object) -> bool:
        """Whether an open transaction has written this document."""
        self._abort_old()
        return any(transaction.key == key for transaction in self.transactions.values())

    def claim(self, key: Key, fresh: Stored | None, token: int, *, force: bool) -> Checkpoint | None:
        stored = self.checkpoints.get(key)
        if stored is not None and stored.token > token and not force:
            return None
        stored = fresh or stored
        if stored is None:
            return None
        self.checkpoints[key] = replace(stored, token=token)
        return stored.checkpoint

    def find_claimed(self, key: Key, token: int) -> Checkpoint | None:
        stored = self.checkpoints.get(key)
        return stored.checkpoint if stored is not None and stored.token == token else None

    def save(self, key: Key, checkpoint: Checkpoint, token: int) -> bool:
        if self.find_claimed(key, token) is None:
            return False
        self.checkpoints[key] = replace(self.checkpoints[key], checkpoint=checkpoint)
        return True

    def delete_checkpoints(self, name: str, token: int, undo: bool) -> None:
        for key, stored in list(self.checkpoints.items()):
            if (key.migration, key.undo) == (name, undo) and stored.token <= token:
                del self.checkpoints[key]

    def read_statuses(self) -> dict[str, tuple[BackfillStatus, ...]]:
        found: dict[str, tuple[BackfillStatus, ...]] = {}
        for key, stored in self.checkpoints.items():
            one = stored.checkpoint
            status = BackfillStatus(
                key.backfill, stored.collection, one.done, one.total, one.finished, LONG_AGO, key.undo
            )
            found[key.migration] = (*found.get(key.migration, ()), status)
        return found

    def _prolong(self, ttl: float) -> None:
        assert self.holder is not None
        self.ends_at = self.now + ttl
        self.holder = replace(self.holder, expires_at=LONG_AGO + timedelta(seconds=self.ends_at))

    def _abort_old(self) -> None:
        for session, transaction in list(self.transactions.items()):
            if self.now - transaction.began >= LONGEST_TRANSACTION:
                del self.transactions[session]


@dataclass
class Call:
    """A call that is suspended until the test performs it.

    Attributes:
        name: What is called.
        perform: Does it.
        lose: Makes the error that the loss of its request or answer is; None: it can't be lost.
        wakes_at: When it is ready, in seconds.
        is_woken: Whether it is ready before that.
        key: The document that it writes: it waits while an open transaction has written that.
        details: What else tests look at.
        task: The key of the task that made it.
        outcome: What came of it, once it is performed: the answer, or the error.
    """

    name: str
    perform: Callable[[], object] = lambda: None
    lose: Callable[[str], Exception] | None = None
    wakes_at: float = 0.0
    is_woken: Callable[[], bool] = lambda: False
    key: object = None
    details: object = None
    task: str = ""
    outcome: tuple[object, BaseException | None] | None = None

    def __await__(self) -> Generator["Call", Any, Any]:
        answer, error = yield self
        if error is not None:  # raised here, and not thrown in: coverage loses its way there on Python 3.11
            raise error
        return answer

    @property
    def is_function(self) -> bool:
        return self.name.startswith("function ")


def lose_answer(fault: str) -> Exception:
    return OutcomeUnknown(ConnectionError(fault))


class Task:
    """A coroutine of a process, and the call that it waits for."""

    def __init__(self, key: str, coroutine: Coroutine[Call, Any, Any], end: Callable[["Task"], object] = id) -> None:
        self.key = key
        self.coroutine = coroutine
        self.call: Call | None = None
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._end = end

    def go_on(self, answer: object = None, error: BaseException | None = None) -> None:
        is_started, self.call = self.call is not None, None
        try:
            self.call = self.coroutine.send((answer, error) if is_started else None)
        except StopIteration as stop:
            self.is_done, self.result = True, stop.value
        except BaseException as raised:  # noqa: BLE001 - `get_result` raises it
            self.is_done, self.error = True, raised
        if self.is_done:
            self._end(self)

    def get_result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


Choose = Callable[[Sequence[Task]], Task]


class Process:
    """One process with one run, which a test steps.

    Args:
        server: The server.
        definitions: The migrations.
        owner: The owner of its lease.
        options: Attributes to set.

    Attributes:
        events: All events.
        hooks: What else happens at an event, by its type.
        log: The calls that were performed or struck, in order.
        faults: What becomes of calls, by their number in the log: "request lost" or "answer lost".
        strike_at: The number of the call at which something happens; None: nothing does.
        strike_after: Whether it happens when the call is performed, or before.
        strike: What happens: by default the process is killed.
        durations: How long functions take, by name, in seconds.
        latency: How long commands take, in seconds.
        lags: How far the slowest replica is behind, at each look; then not at all.
        endings: How the commits of the next attempts end instead (None: as usual), and repeated commits.
        refused: The workers that can't be started.
        cancelled: The migrations whose function ends early when the run is interrupted beside others.
        wrong: What was found wrong while it ran.
        is_undisturbed: Whether it must hold the lease whenever it calls a function or writes a record.
    """

    def __init__(
        self, server: Server, definitions: Definitions, owner: str = "me", timeout: float | None = None, **options: Any
    ) -> None:
        self.server = server
        self.terms = Terms(owner, TTL, timeout)
        self.scope = Scope(definitions, *WHERE, {False, True}, self.terms)
        self.store, self.host, self.functions = FakeStore(self), FakeHost(self), FakeFunctions(self)
        self.engine = Engine(self.scope, self.store, self.host, self.functions)
        self.events: list[Event] = []
        self.hooks: dict[type[Event], Callable[[], object]] = {}
        self.log: list[Call] = []
        self.faults: Mapping[int, str] = {}
        self.strike_at: int | None = None
        self.strike_after = False
        self.strike: Callable[[], object] = self.kill
        self.durations: Mapping[str, float] = {}
        self.latency = 0.0
        self.lags: list[float] = []
        self.endings: list[Ending | None] = []
        self.refused: Collection[str] = ()
        self.cancelled: Collection[str] = ()
        self.wrong: list[str] = []
        self.is_undisturbed = True
        self.has_transactions = True
        self.is_dead = False
        self.tasks: list[Task] = []
        self.workers: FakeWorkers | None = None
        self.sessions: list[bytes] = []
        self.open: set[bytes] = set()
        self.in_use: set[bytes] = set()
        self.held: Lease | None = None
        self.checked: Location | None = None
        for name, value in options.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    # Starting

    def run(self, targets: Collection[str] | None = None, **options: Any) -> "Process":
        """Start a run."""
        return self.perform(engine.run(self.scope, targets, **options))

    def roll_back(self, *targets: str) -> "Process":
        """Start a rollback."""
        return self.perform(engine.roll_back(self.scope, targets))

    def perform(self, operation: Operation) -> "Process":
        return self.start(self.engine.perform(operation))

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "Process":
        self.main = self.spawn("main", coroutine)
        return self

    def spawn(self, key: str, coroutine: Coroutine[Any, Any, Any], end: Callable[[Task], object] = id) -> Task:
        task = Task(key, coroutine, end)
        self.tasks.append(task)
        task.go_on()
        return task

    # Going on

    @property
    def is_ended(self) -> bool:
        return self.is_dead or self.main.is_done

    @property
    def ready(self) -> list[Task]:
        """The tasks whose call can be performed now, or was."""
        return [task for task in self.tasks if task.call is not None and self._is_ready(task.call)]

    def finish(self, choose: Choose | None = None) -> Any:
        """Run to the end; time passes only when there is nothing else to do. Returns or raises what the run does."""
        for _ in range(100_000):
            if self.is_ended:
                break
            if ready := self.ready:
                self.step((choose or next_task)(ready))
            else:
                self.wait()
        assert self.is_ended, "it never ends"
        assert self.wrong == [], self.wrong
        if not self.is_dead:
            assert all(task.is_done for task in self.tasks), "the run has ended, and something goes on"
            return self.main.get_result()
        return None

    def wait(self) -> None:
        """Let the time pass until something is ready."""
        times = [task.call.wakes_at for task in self.tasks if task.call is not None]
        times += [one.began + LONGEST_TRANSACTION for one in self.server.transactions.values()]
        self.server.now = min(time for time in times if time > self.server.now)
        assert math.isfinite(self.server.now), "it waits forever"

    def reach(self, name: str) -> Call:
        """Run until the main task is suspended in this call."""
        while (call := self.main.call) is None or call.name != name:
            self.step(self.ready[0]) if self.ready else self.wait()
        return call

    def step(self, task: Task, fault: str | None = None) -> None:
        """Perform the call of a task, and let the task go on to the next one."""
        call = task.call
        assert call is not None
        number = len(self.log)
        call.task = task.key
        self.log.append(call)
        is_struck = number == self.strike_at
        if is_struck and not self.strike_after:
            self.strike()
            if task.call is not call:  # it was interrupted
                return
        if not self.is_dead:
            self.answer(call, fault or self.faults.get(number))
        if is_struck and self.strike_after:
            self.strike()
        if not self.is_dead:
            assert call.outcome is not None
            task.go_on(*call.outcome)

    def answer(self, call: Call, fault: str | None = None) -> None:
        """Perform a call, whose task doesn't know it yet."""
        if call.outcome is not None:
            return
        answer, error = None, None
        lost = None if call.lose is None or fault is None else call.lose(fault)
        if lost is None or fault == "answer lost":
            try:
                answer = call.perform()
            except BaseException as raised:  # noqa: BLE001 - it is the answer
                error = raised
        call.outcome = (answer, lost or error)

    def kill(self) -> None:
        """End the process: not even its `finally` blocks reach the server."""
        self.is_dead = True
        for task in self.tasks:
            task.call = None
            task.coroutine.close()

    def interrupt(self) -> None:
        """Send Ctrl-C."""
        error = KeyboardInterrupt()
        if self.workers is not None:
            self.workers.interrupt(error)
        else:
            self.main.go_on(error=error)

    async def call(self, name: str, perform: Callable[[], object] = lambda: None, **options: Any) -> Any:
        """Suspend until the test performs this."""
        if self.is_dead:
            raise GeneratorExit
        try:
            return await Call(name, perform, **options)
        except GeneratorExit:  # the coroutine is thrown away
            self.is_dead = True
            raise

    async def command(self, name: str, perform: Callable[[], object], **options: Any) -> Any:
        """Send a command, whose request or answer can be lost."""

        def take_time() -> object:
            self.server.now += self.latency
            return perform()

        return await self.call(name, take_time, **({"lose": lose_answer} | options))

    # Looking

    def names(self, *kinds: type[Event]) -> list[str]:
        """The migrations of events of these types, in order."""
        return [event.name for event in self.events if isinstance(event, kinds) and hasattr(event, "name")]

    def find(self, name: str) -> list[Call]:
        """The calls of this name."""
        return [call for call in self.log if call.name == name]

    def check_held(self, doing: str) -> None:
        """Find it wrong if something is done without the lease."""
        if self.is_undisturbed and (self.held is None or not self.server.is_held(self.held)):
            self.wrong.append(f"{doing} without the lease")

    def note_overtaken(self, names: Collection[str]) -> None:
        """Remember that a record was changed without the lease: the process was frozen, or the request slow."""
        if self.held is None or not self.server.is_held(self.held):
            self.server.overtaken |= set(names)

    def check_needs(self, change: Change) -> None:
        """Find it wrong if a function is called too early, or isn't named in the lease document."""
        holder = self.server.holder
        if not self.is_undisturbed or holder is None or self.held is None or not self.server.is_held(self.held):
            return  # it was frozen after its last check
        missing = set(self.scope.definitions[change.name].depends_on) - self.server.records
        if change.applies and missing and change.name not in self.server.overtaken:
            self.wrong.append(f"{change.name} starts before what it needs is recorded")
        if change.name not in holder.migrations:
            self.wrong.append(f"{change.name} starts, and the lease document doesn't name it")

    def check_recording(self, name: str) -> None:
        """Find it wrong if the record isn't written or removed right after a check of the lease that says so."""
        self.check_held(f"record of {name}")
        at = self.checked
        if at is None or (at.recording != name and (at.recording is not None or at.migrations != (name,))):
            self.wrong.append(f"the record of {name} follows the check {at}")
        self.checked = None

    def _is_ready(self, call: Call) -> bool:
        if call.outcome is not None:
            return True
        if call.key is not None and self.server.is_blocked(call.key):
            return False
        return self.server.now >= call.wakes_at or call.is_woken()


def next_task(ready: Sequence[Task]) -> Task:
    """Functions last: everything else takes less time."""
    return min(ready, key=lambda task: task.call is not None and task.call.is_function)


class Choices:
    """Chooses which function ends next, one order after the other until there are no others.

    Attributes:
        taken: The choices of this order, each as its number and of how many.
    """

    def __init__(self, chosen: Sequence[int] = ()) -> None:
        self._chosen = chosen
        self.taken: list[tuple[int, int]] = []

    def __call__(self, ready: Sequence[Task]) -> Task:
        first = next_task(ready)
        if len(ready) == 1 or first.call is None or not first.call.is_function:
            return first
        step = len(self.taken)
        number = min(self._chosen[step], len(ready) - 1) if step < len(self._chosen) else 0
        self.taken.append((number, len(ready)))
        return sorted(ready, key=lambda task: task.key)[number]

    def again(self) -> "Choices":
        """The same order once more, as far as there is the same to choose from."""
        return Choices([number for number, _ in self.taken])

    @staticmethod
    def all() -> "Iterator[Choices]":
        """Every order: go through each before you ask for the next."""
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


class FakeStore:
    """`quaestor._core.store.Store` of a process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def now(self) -> float:
        return self.process.server.now

    async def sleep(self, shortest: float, longest: float) -> None:
        await self.process.call("sleep", wakes_at=self.now() + longest, details=(shortest, longest))

    def emit(self, event: Event) -> None:
        if not self.process.is_dead:
            self.process.events.append(event)
            self.process.hooks.get(type(event), lambda: None)()

    def has_transactions(self) -> bool:
        return self.process.has_transactions

    async def check_lease(
        self,
        lease: Lease,
        location: Location | None = None,
        sessions: tuple[bytes, ...] = (),
        ended: tuple[bytes, ...] = (),
    ) -> bool:
        process = self.process
        check = partial(process.server.check, lease, process.terms.ttl, location, sessions, ended)
        is_held: bool = await process.command("check_lease", check, details=location)
        if is_held and location is not None:
            process.checked = location
        return is_held

    async def read_records(self) -> Records:
        server = self.process.server
        read = lambda: Records({name: (date,) for name, date in server.recorded.items()})  # noqa: E731
        return await self.process.command("read_records", read)

    async def has_record(self, name: str) -> bool:
        return await self.process.command("has_record", lambda: name in self.process.server.recorded)

    async def insert_record(self, name: str) -> bool:
        process, server = self.process, self.process.server
        process.check_recording(name)

        def insert() -> bool:
            is_inserted = server.insert_record(name)
            if is_inserted:
                process.note_overtaken({name})
            return is_inserted

        return await process.command("insert_record", insert, key=("record", name), details=name)

    async def delete_records(self, name: str, recorded_at: tuple[object, ...]) -> bool:
        self.process.check_recording(name)
        process, server = self.process, self.process.server

        def delete() -> bool:
            is_deleted = server.delete_records(name, recorded_at)
            if is_deleted:
                process.note_overtaken(process.scope.definitions.keys() - {name})
            return is_deleted

        return await self.process.command("delete_records", delete, key=("record", name), details=name)

    async def read_checkpoints(self) -> Mapping[str, tuple[BackfillStatus, ...]]:
        return await self.process.command("read_checkpoints", self.process.server.read_statuses)

    async def delete_checkpoints(self, name: str, token: int, *, undo: bool) -> None:
        delete = partial(self.process.server.delete_checkpoints, name, token, undo)
        await self.process.command("delete_checkpoints", delete, details=(name, token, undo))

    async def read_lease(self) -> LeaseState:
        server = self.process.server
        read = lambda: LeaseState(None, server.holder) if server.is_free else LeaseState(server.holder)  # noqa: E731
        return await self.process.command("read_lease", read)

    async def acquire_lease(self, work: Work, migrations: tuple[str, ...], sessions: tuple[bytes, ...]) -> Lease:
        process = self.process
        acquire = partial(process.server.acquire, process.terms, work, migrations, sessions)
        found: Lease = await process.command("acquire_lease", acquire)
        if found.owner == process.terms.owner:
            process.held = found
        return found

    async def renew_lease(self, lease: Lease) -> bool:
        renew = partial(self.process.server.renew, lease, self.process.terms.ttl)
        return await self.process.command("renew_lease", renew)

    async def expire_lease(self) -> Lease | None:
        return await self.process.command("expire_lease", self.process.server.expire)

    async def release_lease(self, sessions: tuple[bytes, ...]) -> None:
        release = partial(self.process.server.release, self.process.terms.owner, sessions)
        await self.process.command("release_lease", release, details=sessions)

    async def kill_sessions(self, sessions: tuple[bytes, ...]) -> Exception | None:
        kill = partial(self.process.server.kill, sessions)
        return await self.process.command("kill_sessions", kill, details=sessions)


async def attempt(
    process: Process,
    session: bytes,
    work: Callable[[], Awaitable[Any]],
    key: object,
    write: Callable[[Any], Callable[[], object] | None],
) -> Attempt[Any]:
    """Attempt a transaction, as `_mongo.transactions` does.

    Args:
        process: The process.
        session: In this session.
        work: What is done in it.
        key: The document that it writes.
        write: Given what that returned, returns what the commit does; None: there is no such document.
    """
    server = process.server
    process.check_held("transaction")
    assert session not in process.in_use, "two transactions at once in one session"
    process.in_use.add(session)
    began, result = server.now, []
    effects: list[Callable[[], object]] = []

    def write_document() -> None:
        if (effect := write(result[0])) is not None:
            server.write(session, key, effect)
            effects.append(effect)

    async def abort() -> None:
        await process.call("abort", partial(server.transactions.pop, session, None))

    def commit() -> None:
        ending = process.endings.pop(0) if process.endings else None
        if ending is Ending.UNKNOWN:  # it was lost on its way back
            server.commit(session)
        elif ending is not None:
            server.transactions.pop(session, None)
        if ending is not None:
            raise Aborted(ending)
        server.commit(session)

    try:
        process.open.add(session)
        await process.call("begin", partial(server.begin, session))
        try:
            result.append(await work())
            lose = lambda _: Aborted(Ending.ABORTED)  # noqa: E731
            await process.call("write in transaction", write_document, lose=lose)
        except BaseException:
            await process.host.shield(abort)
            raise
        if not effects:
            await abort()
            return Attempt(Ending.RECORDED, server.now - began, None, *result)
        await process.call("commit", commit, lose=lambda _: Aborted(Ending.UNKNOWN))
        process.open.discard(session)
    except Aborted as error:
        return Attempt(error.ending, server.now - began, error, *result)
    except ConnectionError as error:
        return Attempt(Ending.ABORTED, server.now - began, error, *result)
    finally:
        process.in_use.discard(session)
    return Attempt(Ending.COMMITTED, server.now - began, None, *result)


async def commit_again(process: Process, session: bytes) -> Attempt[Any]:
    """Repeat the last commit."""

    def commit() -> None:
        if process.endings and (ending := process.endings.pop(0)) is not None:
            raise Aborted(ending)
        process.server.commit(session)

    try:
        await process.call("commit again", commit, lose=lambda _: Aborted(Ending.UNKNOWN))
    except Aborted as error:
        return Attempt(error.ending, error=error)
    process.open.discard(session)
    return Attempt(Ending.COMMITTED)


class FakeFunctions:
    """`quaestor._core.store.Functions` of a process. An `async def` function is given a `FakeContext`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._slots: dict[tuple[bool, int], bytes] = {}

    async def execute(self, change: Change, place: Place, held: HeldLease) -> float:
        server = self.process.server
        self.process.check_held(f"function {change.name}")
        began = server.now
        await self._call(change, place, held, lambda: server.do(change))
        return server.now - began

    async def transact(self, change: Change, place: Place, held: HeldLease, slot: int) -> Attempt[None]:
        process, server = self.process, self.process.server

        def write(_: object) -> Callable[[], object] | None:
            if change.applies is (change.name in server.recorded):
                return None
            return commit if change.applies or server.recorded[change.name] in change.recorded_at else None

        def commit() -> None:
            if change.applies:
                server.insert_record(change.name)
                process.note_overtaken({change.name})
            else:
                server.delete_records(change.name, change.recorded_at)
                process.note_overtaken(process.scope.definitions.keys() - {change.name})
            server.do(change)

        work = partial(self._call, change, place, held, lambda: None)
        return await attempt(process, self._slots[change.is_async, slot], work, ("record", change.name), write)

    async def commit_again(self, change: Change, slot: int) -> Attempt[None]:
        return await commit_again(self.process, self._slots[change.is_async, slot])

    async def open_sessions(self, kinds: frozenset[bool], slots: int) -> tuple[bytes, ...]:
        for kind in kinds:
            for slot in range(slots):
                if (kind, slot) not in self._slots:
                    self._slots[kind, slot] = self.process.functions.add_session()
        return await self.process.command("open_sessions", lambda: tuple(self.process.sessions))

    def add_session(self) -> bytes:
        session = f"{self.process.terms.owner} {len(self.process.sessions)}".encode()
        self.process.sessions.append(session)
        return session

    def list_sessions(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        return tuple(self.process.sessions), tuple(sorted(self.process.open))

    async def end_sessions(self) -> None:
        await self.process.call("end_sessions")

    async def _call(self, change: Change, place: Place, held: HeldLease, work: Callable[[], object]) -> None:
        process = self.process
        process.check_needs(change)

        def call() -> None:
            if not change.is_async:
                change.function(process)
            work()
            if process.checked is not None and process.checked.recording == change.name:
                process.checked = None  # the lease is checked after the function

        if change.is_async:
            await change.function(process, FakeContext(process, change, place, held))
        wakes_at = process.server.now + process.durations.get(change.name, 0.0)
        await process.call(f"function {change.name}", call, wakes_at=wakes_at, details=change.name)


_TYPES: list[tuple[type, ...]] = [(type(None),), (int, float), (str,), (bytes,)]


def find_type(value: object) -> int:
    """The position of its type in MongoDB's order."""
    return next(position for position, types in enumerate(_TYPES) if isinstance(value, types))


def order(value: object) -> tuple[int, Any]:
    """Its position among all `_id`s."""
    return find_type(value), 0 if value is None else value


class FakeCollection:
    """A collection, and what was done with its documents.

    Attributes:
        documents: By `_id`.
        uuid: As the server says; b"": there is no such collection; None: the server doesn't say.
        count: How many documents the metadata says there are; None: as many as there are; ...: the server can't say.
        done: The `_id`s in each batch whose work is there.
    """

    def __init__(self, ids: Iterable[object] = (), **fields: object) -> None:
        self.documents: dict[object, Document] = {}
        self.uuid: bytes | None = b"one"
        self.count: Any = None
        self.done: list[list[object]] = []
        self.insert(*ids, **fields)

    def insert(self, *ids: object, **fields: object) -> None:
        self.documents |= {one: {"_id": one, **fields} for one in ids}

    @property
    def ids_done(self) -> list[object]:
        return [one for batch in self.done for one in batch]


class FakeBackfillStore:
    """`quaestor._core.store.BackfillStore` of a process."""

    def __init__(self, context: "FakeContext", key: Key, collection: FakeCollection, filter: Mapping[str, Any]) -> None:  # noqa: A002
        self.process = context.process
        self.name = key.backfill
        self.collection = "orders"
        self.fingerprint = f"all {dict(filter)}" if filter else "all"
        self.has_filter = bool(filter)
        self._context = context
        self._key = key
        self._source = collection
        self._filter = filter
        self._session: bytes | None = None
        self._batch: list[object] = []

    def check_not_in_transaction(self) -> None:
        if self._context.is_in_transaction:
            raise BatchesInTransactionError(self._key.migration)

    async def identify_collection(self) -> bytes | None:
        return await self.process.command("identify_collection", lambda: self._source.uuid)

    async def read_fingerprint(self) -> str | None:
        stored = self.process.server.checkpoints
        read = lambda: stored[self._key].fingerprint if self._key in stored else None  # noqa: E731
        return await self.process.command("read_fingerprint", read)

    async def read_checkpoint(self, token: int) -> Checkpoint | None:
        found = partial(self.process.server.find_claimed, self._key, token)
        return await self.process.command("read_checkpoint", found)

    async def claim_checkpoint(self, checkpoint: Checkpoint | None, token: int, *, force: bool) -> Checkpoint | None:
        fresh = None if checkpoint is None else Stored(checkpoint, token, self.collection, self.fingerprint)
        claim = partial(self.process.server.claim, self._key, fresh, token, force=force)
        key = ("checkpoint", self._key)
        return await self.process.command("claim_checkpoint", claim, key=key, details=force)

    async def save_checkpoint(self, checkpoint: Checkpoint, token: int) -> bool:
        save = partial(self.process.server.save, self._key, checkpoint, token)
        return await self.process.command("save_checkpoint", save, key=("checkpoint", self._key))

    async def find_highest(self, others: tuple[object, ...]) -> tuple[object, ...]:
        def find() -> tuple[object, ...]:
            found = [one for one in self._source.documents if find_type(one) not in map(find_type, others)]
            return tuple(sorted(found, key=order)[-1:])

        return await self.process.command("find_highest", find)

    async def count_collection(self) -> int | None:
        there = self._source
        count = lambda: {None: len(there.documents), ...: None}.get(there.count, there.count)  # noqa: E731
        return await self.process.command("count_collection", count)

    async def count_matching(self) -> int | None:
        return await self.process.command("count_matching", lambda: len(self._find()))

    async def count_sampled(self, size: int) -> int | None:
        return await self.process.command("count_sampled", lambda: len(self._find()), details=size)

    async def read_batch(self, checkpoint: Checkpoint, limit: int) -> list[Document]:
        bound, start = checkpoint.bounds[0], checkpoint.start

        def read() -> list[Document]:
            rest = [one for one in self._find() if find_type(one["_id"]) == find_type(bound)]
            rest = [one for one in rest if order(one["_id"]) <= order(bound)]
            return [one for one in rest if not start or order(one["_id"]) >= order(start[0])][:limit]

        return await self.process.command("read_batch", read)

    async def read_lag(self) -> float:
        lags = self.process.lags
        return await self.process.command("read_lag", lambda: lags.pop(0) if lags else 0.0)

    async def open_session(self) -> tuple[bytes, ...]:
        self._session = self._session or self.process.functions.add_session()
        return await self.process.command("open_session", lambda: tuple(self.process.sessions))

    async def transact(self, work: Callable[[], Awaitable[Checkpoint]], token: int) -> Attempt[Checkpoint]:
        assert self._session is not None
        server = self.process.server
        self._batch = []

        def write(checkpoint: Checkpoint) -> Callable[[], object] | None:
            return None if server.find_claimed(self._key, token) is None else partial(commit, checkpoint, self._batch)

        def commit(checkpoint: Checkpoint, batch: list[object]) -> None:
            server.save(self._key, checkpoint, token)
            self._source.done += [batch] if batch else []

        self._context.is_in_transaction = True
        try:
            return await attempt(self.process, self._session, work, ("checkpoint", self._key), write)
        finally:
            self._context.is_in_transaction = False

    async def commit_again(self) -> Attempt[Checkpoint]:
        assert self._session is not None
        return await commit_again(self.process, self._session)

    def do(self, batch: list[Document]) -> None:
        """Do the work of a batch: at once, or with the commit of its transaction."""
        assert batch, "an empty batch"
        ids = [one["_id"] for one in batch]
        if self._session is None:
            self._source.done.append(ids)
        else:
            self._batch = ids

    def _find(self) -> list[Document]:
        found = [one for one in self._source.documents.values() if self._filter.items() <= one.items()]
        return sorted(found, key=lambda one: order(one["_id"]))


class FakeContext:
    """What an `async def` function is given in tests: three ways to go over a collection."""

    def __init__(self, process: Process, change: Change, place: Place, held: HeldLease) -> None:
        self.process = process
        self.place = place
        self.undo = not change.applies
        self.is_in_transaction = change.transaction
        self.backfills = Backfills(process.store, process.host, place, held, undo=self.undo)

    def open(
        self, collection: FakeCollection, size: int, name: str = "orders", **options: Any
    ) -> tuple[Backfill, FakeBackfillStore]:
        store = FakeBackfillStore(self, Key(self.place.name, self.undo, name), collection, options.pop("filter", {}))
        return self.backfills.start(store, Throttle(size, **options)), store

    async def loop(
        self, collection: FakeCollection, size: int = 2, work: Callable[[list[Document]], object] = id, **options: Any
    ) -> None:
        """A loop of the function itself."""
        backfill, store = self.open(collection, size, **options)
        while (batch := await backfill.next()) is not None:
            await self._do(store, work, batch)

    async def give(
        self, collection: FakeCollection, size: int = 2, work: Callable[[list[Document]], object] = id, **options: Any
    ) -> None:
        """A function that is given each batch."""
        backfill, store = self.open(collection, size, **options)
        await backfill.give_all(partial(self._do, store, work))

    async def transact(
        self, collection: FakeCollection, size: int = 2, work: Callable[[list[Document]], object] = id, **options: Any
    ) -> None:
        """A function that is given each batch in a transaction."""
        backfill, store = self.open(collection, size, **options)
        await backfill.transact_all(partial(self._do, store, work))

    async def _do(
        self, store: FakeBackfillStore, work: Callable[[list[Document]], object], batch: list[Document]
    ) -> None:
        def do() -> None:
            work(batch)
            store.do(batch)

        await self.process.call("body", do)


class FakeHost:
    """`quaestor._core.store.Host` of a process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._heartbeat: Task | None = None
        self._is_stopped = False

    async def sleep(self, seconds: float) -> None:
        await self.process.store.sleep(seconds, seconds)

    def check_interruption(self) -> None:
        workers = self.process.workers
        if workers is not None and workers.interruption is not None:
            raise workers.interruption

    async def both(self, first: Callable[[], Coroutine[Any, Any, Any]], second: Callable[[], Any]) -> tuple[Any, Any]:
        task = self.process.spawn("both", second())
        try:
            result = await first()
        finally:
            await self.shield(partial(self._join, task))
        return result, task.get_result()

    async def shield(self, step: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Repeat a step until no Ctrl-C has met it, as the host of threads does."""
        interruption: KeyboardInterrupt | None = None
        while True:
            try:
                result = await step()
                break
            except KeyboardInterrupt as error:
                interruption = error
        if interruption is not None:
            raise interruption
        return result

    def start_heartbeat(self, beat: Callable[[Callable[[float], Awaitable[bool]]], Coroutine[Any, Any, None]]) -> None:
        async def sleep(seconds: float) -> bool:
            wakes_at = self.process.server.now + seconds
            await self.process.call("heartbeat", wakes_at=wakes_at, is_woken=lambda: self._is_stopped, details=seconds)
            return self._is_stopped

        self._heartbeat = self.process.spawn("heartbeat", beat(sleep))

    async def stop_heartbeat(self) -> None:
        self._is_stopped = True
        if self._heartbeat is not None:
            await self._join(self._heartbeat)

    def lock(self) -> AbstractAsyncContextManager[object]:
        return FakeLock(self.process)

    async def supervise(self, supervisor: Callable[["FakeWorkers"], Coroutine[Any, Any, None]]) -> None:
        self.process.workers = workers = FakeWorkers(self.process)
        try:
            await supervisor(workers)
        finally:
            self.process.workers = None
        if workers.interruption is not None:
            raise workers.interruption

    async def _join(self, task: Task) -> None:
        if not task.is_done:
            await self.process.call("join", wakes_at=math.inf, is_woken=lambda: task.is_done)


class FakeLock:
    """A lock for the tasks of a process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._is_free = True

    async def __aenter__(self) -> None:
        while not self._is_free:
            await self._process.call("lock", wakes_at=math.inf, is_woken=lambda: self._is_free)
        self._is_free = False

    async def __aexit__(self, *_: object) -> None:
        self._is_free = True


class FakeWorkers:
    """`quaestor._core.store.Workers` of a process.

    Attributes:
        interruption: What has interrupted the run.
        most: How many workers there were at once.
    """

    def __init__(self, process: Process) -> None:
        self.interruption: KeyboardInterrupt | None = None
        self._process = process
        self._finished: list[Finished[str] | None] = []

    def start(self, key: str, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if key in self._process.refused:
            self._finished.append(Finished(key, RuntimeError(key)))
            return
        self._process.spawn(key, step(), self._end)

    async def next_finished(self) -> Finished[str] | None:
        process = self._process
        await process.call("next_finished", wakes_at=math.inf, is_woken=lambda: bool(self._finished))
        return self._finished.pop(0)

    def interrupt(self, error: KeyboardInterrupt) -> None:
        self.interruption = error
        self._finished.insert(0, None)
        for task in list(self._process.tasks):
            call = task.call
            if call is not None and call.is_function and call.details in self._process.cancelled:
                task.go_on(error=error)

    def _end(self, task: Task) -> None:
        self._finished.append(Finished(task.key, task.error))


def read_status(server: Server, definitions: Definitions) -> Status:
    """The status, as another process reads it now."""
    process = Process(server, definitions, "reader")
    status: Status = process.start(process.engine.read_status()).finish()
    return status
