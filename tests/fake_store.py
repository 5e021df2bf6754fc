"""A server in memory, and processes that run the engine against it; the test decides which call is performed next.

Every method of a store, and every function of a migration, suspends once: it yields a `Call`. `Process.step` performs
it on the server and sends the answer, or loses the request or the answer. A killed process does nothing more.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from quaestor._core import engine
from quaestor._core.backfill import Backfill, Backfills
from quaestor._core.catalog import Catalog
from quaestor._core.checkpoint import Batch, Checkpoint, Document, Origin, Throttle
from quaestor._core.definition import MigrationDefinition
from quaestor._core.engine import Engine, Operation, Scope
from quaestor._core.guards import Guard, check_guard
from quaestor._core.lease import HeldLease, LeaseState, Location, Terms
from quaestor._core.phases import Selection
from quaestor._core.plan import Change, Records, StartMark, make_entries
from quaestor._core.store import Attempt, Ending, HistoryFact, OutcomeUnknown, RecordEntry
from quaestor._core.undo import Undo
from quaestor._mongo.documents import make_milliseconds
from quaestor.errors import BatchesInTransactionError
from quaestor.events import Event, Place
from quaestor.status import BackfillStatus, HistoryEntry, Lease, MigrationRecord, Status, Work
from tests.world import LONG_AGO, TTL, lease

PATIENCE = 60.0
WHERE = ("shop", "app", "r1")
LONGEST_TRANSACTION = 60.0
"""When the server aborts a transaction by itself, in seconds."""

Ids = Iterable[bytes]
Make = Callable[[], Coroutine[Any, Any, Any]]


class Aborted(ConnectionError):
    """What a driver raises where an attempt at a transaction ends like this."""

    def __init__(self, ending: Ending, fault: str = "") -> None:
        super().__init__(ending)
        self.ending = ending
        self.no_majority = fault == "no majority"


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
    """All that outlives a process."""

    now: float = 1_000.0  # in seconds
    recorded: dict[str, Any] = field(default_factory=dict)  # names and dates
    details: dict[str, MigrationRecord] = field(default_factory=dict)  # what else the records say
    history: list[HistoryEntry] = field(default_factory=list)
    work: list[str] = field(default_factory=list)  # migrations, as often as their work was done
    undone: list[str] = field(default_factory=list)
    holder: Lease | None = None  # the lease document, if it names an owner
    expelled: Lease | None = None  # what it names if the lease was taken from its holder by hand
    token: int = 0
    sessions: set[bytes] = field(default_factory=set)  # in the lease document
    previous: str | None = None  # the last owner that never released the lease
    checkpoints: dict[Key, Stored] = field(default_factory=dict)
    transactions: dict[bytes, Transaction] = field(default_factory=dict)  # the open ones, by session
    committed: set[bytes] = field(default_factory=set)  # sessions whose last transaction is committed
    killed: set[bytes] = field(default_factory=set)
    refusal: Exception | None = None  # why sessions can't be killed
    protected_as: str | None = None
    elections: int = 0
    marks: dict[str, StartMark] = field(default_factory=dict)  # of starts, beside the lease
    elsewhere: Event | None = None  # about records under another prefix
    foreign: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # histories of other tools
    overtaken: set[str] = field(default_factory=set)  # recorded, or their needs removed, without the lease

    @property
    def records(self) -> set[str]:
        return set(self.recorded)

    def do(self, change: Change) -> None:
        (self.work if change.applies else self.undone).append(change.name)

    # The lease

    @property
    def clock(self) -> datetime:
        return LONG_AGO + timedelta(seconds=self.now)

    def acquire(
        self, terms: Terms, work: Work, migrations: tuple[str, ...], sessions: Ids, dead: Lease | None = None
    ) -> Lease | None:
        """Acquire the free lease, or that of a dead holder that is as it was seen. None: somebody holds it."""
        seen = self.holder and (self.holder.owner, self.holder.token, self.holder.beat)
        if seen != (dead and (dead.owner, dead.token, dead.beat)):
            return None
        self.previous = self.previous if dead is None else dead.owner
        self.token += 1
        self.sessions |= set(sessions)
        taken = lease(terms.owner, self.token, migrations, tuple(sorted(self.sessions)), self.previous)
        self.holder = replace(taken, work=work, ttl=terms.ttl, since=self.clock, renewed_at=self.clock)
        self.expelled = None
        return self.holder

    def renew(self, held: Lease, location: Location | None = None, sessions: Ids = ()) -> bool:
        if self.holder is None or not self.is_held(held):
            return False
        self.sessions |= set(sessions)
        self.holder = replace(self.holder, beat=self.holder.beat + 1, renewed_at=self.clock)
        if location is not None:
            at = {"migrations": location.migrations, "recording": location.recording, "upcoming": location.upcoming}
            self.holder = replace(self.holder, **at)
        return True

    def read_lease(self) -> LeaseState:
        return LeaseState(self.holder, self.expelled, dict(self.marks), self.protected_as)

    def is_held(self, held: Lease | None) -> bool:
        holder = self.holder
        return holder is not None and held is not None and (holder.owner, holder.token) == (held.owner, held.token)

    def expire(self) -> Lease | None:
        """Take the lease from its holder by hand."""
        held = self.holder
        if held is not None:
            self.expelled, self.holder, self.previous = held, None, held.owner
        return held

    def release(self, owner: str, sessions: Ids) -> None:
        if self.holder is not None and self.holder.owner == owner:
            self.holder = None
            self.sessions -= set(sessions)

    # Start marks

    def write_mark(self, name: str, owner: str, known: StartMark | None) -> bool:
        if not self._is_mark(name, owner, known) and name in self.marks:
            return False
        self.marks[name] = StartMark(owner, self.clock)
        return True

    def remove_mark(self, name: str, owner: str, known: StartMark | None) -> None:
        if self._is_mark(name, owner, known):
            del self.marks[name]

    def _is_mark(self, name: str, owner: str, known: StartMark | None) -> bool:
        return name in self.marks and self.marks[name].owner in {owner, known and known.owner}

    # Transactions

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

    def abort(self, session: bytes) -> None:
        self.transactions.pop(session, None)

    def kill(self, sessions: Ids) -> Exception | None:
        if self.refusal is None:
            for session in sessions:
                self.abort(session)
                self.killed.add(session)
        return self.refusal

    def is_blocked(self, key: object) -> bool:
        """Whether an open transaction has written this document."""
        self._abort_old()
        return any(transaction.key == key for transaction in self.transactions.values())

    def _abort_old(self) -> None:
        for session, transaction in list(self.transactions.items()):
            if self.now - transaction.began >= LONGEST_TRANSACTION:
                del self.transactions[session]

    # Checkpoints

    def claim(self, key: Key, fresh: Stored | None, token: int, force: bool, fingerprint: str) -> Checkpoint | None:
        stored = self.checkpoints.get(key)
        if stored is not None and stored.token > token and not force:
            return None
        if (stored := fresh or stored) is None:
            return None
        self.checkpoints[key] = replace(stored, token=token, fingerprint=fingerprint)
        return stored.checkpoint

    def find_claimed(self, key: Key, token: int) -> Checkpoint | None:
        stored = self.checkpoints.get(key)
        return stored.checkpoint if stored is not None and stored.token == token else None

    def save(self, key: Key, checkpoint: Checkpoint, token: int) -> bool:
        if self.find_claimed(key, token) is None:
            return False
        self.checkpoints[key] = replace(self.checkpoints[key], checkpoint=checkpoint)
        return True

    def delete_checkpoints(self, names: Collection[str], token: int, undo: bool, backfill: str | None) -> None:
        for key, stored in list(self.checkpoints.items()):
            if key.migration in names and key[1:] == (undo, backfill or key.backfill) and stored.token <= token:
                del self.checkpoints[key]

    # The history

    def add_history(self, fact: HistoryFact, run: str) -> None:
        entry = HistoryEntry(
            fact.what, fact.name, self.clock, make_milliseconds(fact.seconds), run, error=fact.error, record=fact.record
        )
        self.history.append(replace(entry, undo=fact.undo, backfill=fact.backfill))

    def read_last_failures(self) -> dict[str, HistoryEntry]:
        last = {entry.name: entry for entry in self.history if entry.what not in {"restarted", "unlocked"}}
        return {name: entry for name, entry in last.items() if name is not None and entry.what == "failed"}

    def read_statuses(self) -> dict[str, tuple[BackfillStatus, ...]]:
        found: dict[str, tuple[BackfillStatus, ...]] = {}
        for key, stored in self.checkpoints.items():
            one = stored.checkpoint
            counts = (one.done, one.total, one.finished)
            status = BackfillStatus(key.backfill, stored.collection, *counts, LONG_AGO, key.undo)
            found[key.migration] = (*found.get(key.migration, ()), status)
        return found


@dataclass
class Call:
    """A call that is suspended until the test performs it."""

    name: str
    perform: Callable[[], object]
    lose: Callable[[str], Exception] | None = None  # makes the error of a fault
    limit: float = 0.0  # how long the driver waits for an answer, in seconds
    wakes_at: float = 0.0  # when it is ready, unless it is woken before
    is_woken: Callable[[], bool] = lambda: False
    key: object = None  # the document that it writes: it waits while an open transaction has written that
    details: Any = None  # what else tests look at
    task: str = ""  # the key of the task that made it
    outcome: tuple[object, BaseException | None] | None = None  # the answer, or the error, once it is performed

    def __await__(self) -> Generator["Call", Any, Any]:
        answer, error = yield self
        if error is not None:  # raised here, and not thrown in: coverage loses its way there on Python 3.11
            raise error
        return answer

    @property
    def is_function(self) -> bool:
        return self.name.startswith("function ")


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


@dataclass(eq=False)
class Process:
    """One process with one run, which a test steps."""

    server: Server
    definitions: Mapping[str, MigrationDefinition]
    owner: str = "me"
    timeout: float | None = None
    patience: float = PATIENCE
    hooks: dict[type[Event], Callable[[], object]] = field(default_factory=dict)  # what else happens at an event
    faults: Mapping[int, str] = field(default_factory=dict)  # by the number of a call
    strike_at: int | None = None  # the number of the call at which something happens
    strike_after: bool = False  # it happens when the call is performed, not before
    strike: Callable[[], object] | None = None  # what happens: by default the process is killed
    durations: Mapping[str, float] = field(default_factory=dict)  # of functions, by name, in seconds
    latency: float = 0.0  # of commands, in seconds
    hangs: bool = False  # a lost request or answer is noticed only at the command's limit
    lags: list[float] = field(default_factory=list)  # of the slowest replica, at each look; then there is none
    endings: list[Ending | None] = field(default_factory=list)  # of the next commits; None: as usual
    refused: Collection[str] = ()  # workers that can't be started
    cancelled: Collection[str] = ()  # migrations whose function ends early when a concurrent run is interrupted
    is_undisturbed: bool = True  # it must hold the lease whenever it calls a function or writes a record
    has_transactions: bool = True
    is_mongodb: bool = True
    retired: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.terms = Terms(TTL, self.timeout, self.patience, self.owner)
        catalog = Catalog(self.definitions, self.retired)
        self.scope = Scope(catalog, {False, True}, self.terms, lambda: self.server.clock)
        self.store, self.host, self.functions = FakeStore(self), FakeHost(self), FakeFunctions(self)
        self.engine = Engine(self.scope, self.store, self.host, self.functions)
        self.events: list[Event] = []
        self.log: list[Call] = []  # the calls that were performed or struck, in order
        self.wrong: list[str] = []  # what was found wrong while it ran
        self.is_dead = False
        self.tasks: list[Task] = []
        self.workers: FakeWorkers | None = None
        self.sessions: list[bytes] = []
        self.open: set[bytes] = set()  # sessions in which a transaction may be open
        self.in_use: set[bytes] = set()
        self.checked: Location | None = None
        self.limit = 0.0  # of the next command

    # Starting

    def run(self, targets: Collection[str] | None = None, **options: Any) -> "Process":
        of_run = {name: options.pop(name) for name in ("concurrency", "plan_id") if name in options}
        return self.perform(engine.run(self.scope, Selection(targets, **options), **of_run))

    def roll_back(self, *targets: str) -> "Process":
        return self.perform(engine.roll_back(self.scope, Undo(targets)))

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

    def finish_without(self, is_lost: Callable[[Call], bool], fault: str = "request lost") -> Any:
        """Run to the end, with this fault in the commands that it chooses."""
        while not self.is_ended:
            if not self.ready:
                self.wait()
                continue
            task = next_task(self.ready)
            assert task.call is not None
            self.step(task, fault if is_lost(task.call) else None)
        return self.finish()

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
        if self.is_dead:
            return None
        assert all(task.is_done for task in self.tasks), "the run has ended, and something goes on"
        return self.main.get_result()

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
            (self.strike or self.kill)()
            if task.call is not call:  # it was interrupted
                return
        if not self.is_dead:
            self.answer(call, fault or self.faults.get(number))
        if is_struck and self.strike_after:
            (self.strike or self.kill)()
        if not self.is_dead:
            assert call.outcome is not None
            task.go_on(*call.outcome)

    def answer(self, call: Call, fault: str | None = None) -> None:
        """Perform a call, whose task doesn't know it yet.

        Args:
            call: The call.
            fault: "request lost", "answer lost" or "no majority": the last one as if it were rolled back.
        """
        if call.outcome is not None:
            return
        answer, error = None, None
        lost = None if call.lose is None or fault is None else call.lose(fault)
        if lost is None or fault == "answer lost":
            self.server.now += 0.0 if call.lose is None else self.latency
            try:
                answer = call.perform()
            except BaseException as raised:  # noqa: BLE001 - it is the answer
                error = raised
        if lost is not None and self.hangs:
            self.server.now += call.limit
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

    async def call(
        self, name: str, perform: Callable[..., object] = lambda: None, *arguments: object, **options: Any
    ) -> Any:
        """Suspend until the test performs this."""
        if self.is_dead:
            raise GeneratorExit
        try:
            return await Call(name, partial(perform, *arguments), **options)
        except GeneratorExit:  # the coroutine is thrown away
            self.is_dead = True
            raise

    async def command(self, name: str, perform: Callable[..., object], *arguments: object, **options: Any) -> Any:
        """Send a command, whose request or answer can be lost."""
        return await self.call(name, perform, *arguments, lose=lose_answer, limit=self.limit, **options)

    # Looking

    def names(self, *kinds: type[Event]) -> list[str]:
        """The migrations of events of these types, in order."""
        return [event.name for event in self.events if isinstance(event, kinds) and hasattr(event, "name")]

    def find(self, name: str) -> list[Call]:
        """The calls of this name."""
        return [call for call in self.log if call.name == name]

    def find_renewals(self, *, by_heartbeat: bool) -> list[Call]:
        """The renewals by the heartbeat, or the checks of the lease."""
        return [call for call in self.find("renew_lease") if (call.task == "heartbeat") is by_heartbeat]

    @property
    def has_lease(self) -> bool:
        """Whether the lease document names it: nobody has replaced it."""
        return self.server.holder is not None and self.server.holder.owner == self.owner

    def check_held(self, doing: str) -> None:
        """Find it wrong if something is done without the lease."""
        if self.is_undisturbed and not self.has_lease:
            self.wrong.append(f"{doing} without the lease")

    def check_needs(self, change: Change) -> None:
        """Find it wrong if a function is called too early, or isn't named in the lease document."""
        holder = self.server.holder
        if not self.is_undisturbed or holder is None or not self.has_lease:
            return  # it was frozen after its last check
        missing = set(self.definitions[change.name].depends_on) - self.server.records
        if change.applies and missing and change.name not in self.server.overtaken:
            self.wrong.append(f"{change.name} starts before what it needs is recorded")
        if change.name not in holder.migrations:
            self.wrong.append(f"{change.name} starts, and the lease document doesn't name it")

    def check_recording(self, name: str) -> None:
        """Find it wrong if the record isn't written or removed right after a check of the lease that says so.

        The records of what a migration replaces belong to the same check.
        """
        self.check_held(f"record of {name}")
        at = self.checked
        meant = None if at is None else at.recording or next(iter(at.migrations), None)
        if at is None or meant is None or name not in {meant, *self.scope.catalog.list_replaced(meant)}:
            self.wrong.append(f"the record of {name} follows the check {at}")
        if name == meant:
            self.checked = None

    def insert_records(self, entries: Mapping[str, RecordEntry]) -> bool:
        """Write records, until one is there already. Returns whether none was."""
        return all(self.change_record(name, entry=entry) for name, entry in entries.items())

    def delete_records(self, recorded: Mapping[str, tuple[object, ...]]) -> bool:
        """Remove records as they were read. Returns whether any was there."""
        removed = [self.change_record(name, recorded_at) for name, recorded_at in recorded.items()]
        return any(removed)

    def change_record(
        self, name: str, recorded_at: tuple[object, ...] | None = None, entry: RecordEntry | None = None
    ) -> bool:
        """Write a record, or remove it as it was read. Returns whether it was possible."""
        server = self.server
        if (name in server.recorded) if recorded_at is None else (server.recorded.get(name) not in recorded_at):
            return False
        if recorded_at is None:
            assert entry is not None
            server.recorded[name] = entry.applied_at or LONG_AGO + timedelta(seconds=server.now)
            more = {"run": self.owner, "checksum": entry.checksum, "source": entry.source}
            server.details[name] = MigrationRecord(server.recorded[name], make_milliseconds(entry.seconds), **more)
        else:
            del server.recorded[name]
        if not self.has_lease:  # the process was frozen, or the request slow
            server.overtaken |= {name} if recorded_at is None else self.definitions.keys() - {name}
        return True

    def _is_ready(self, call: Call) -> bool:
        if call.outcome is not None:
            return True
        if call.key is not None and self.server.is_blocked(call.key):
            return False
        return self.server.now >= call.wakes_at or call.is_woken()


def lose_answer(fault: str) -> Exception:
    return OutcomeUnknown(ConnectionError(fault), no_majority=fault == "no majority")


def next_task(ready: Sequence[Task]) -> Task:
    """Functions last: everything else takes less time."""
    return min(ready, key=lambda task: task.call is not None and task.call.is_function)


class Choices:
    """Chooses which function ends next, one order after the other until there are no others."""

    def __init__(self, chosen: Sequence[int] = ()) -> None:
        self._chosen = chosen
        self.taken: list[tuple[int, int]] = []  # each choice as its number, and of how many

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
        ahead: list[list[int]] = [[]]
        while ahead:
            chosen = ahead.pop()
            yield (choices := Choices(chosen))
            numbers = [number for number, _ in choices.taken]
            for step in range(len(chosen), len(numbers)):
                ahead += [[*numbers[:step], other] for other in range(1, choices.taken[step][1])]


class FakeStore:
    """`quaestor._core.store.Store` of a process."""

    def __init__(self, process: Process) -> None:
        self.process, self.server = process, process.server
        self._send = process.command
        self.where = WHERE

    def now(self) -> float:
        return self.server.now

    async def sleep(self, shortest: float, longest: float) -> None:
        await self.process.call("sleep", wakes_at=self.now() + longest, details=(shortest, longest))

    def emit(self, event: Event) -> None:
        if not self.process.is_dead:
            self.process.events.append(event)
            self.process.hooks.get(type(event), lambda: None)()

    def has_transactions(self) -> bool:
        return self.process.has_transactions

    def limit(self, seconds: float | None) -> AbstractContextManager[None]:
        self.process.limit = seconds or 0.0
        return nullcontext()

    async def renew_lease(
        self, lease: Lease, location: Location | None = None, sessions: Ids = (), *, majority: bool = True
    ) -> bool:
        details = (location, majority)
        is_held: bool = await self._send("renew_lease", self.server.renew, lease, location, sessions, details=details)
        if is_held and location is not None:
            self.process.checked = location
        return is_held

    async def read_records(self, *, details: bool = False) -> Any:
        def read() -> Records:
            recorded = self.server.recorded
            newest = {name: self.server.details.get(name, MigrationRecord(recorded[name])) for name in recorded}
            return Records({name: (date,) for name, date in recorded.items()}, newest=newest if details else {})

        return await self._send("read_records", read)

    async def find_records_elsewhere(self) -> Event | None:
        return self.server.elsewhere

    async def find_recorded(self, names: Collection[str]) -> Any:
        return await self._send("find_recorded", lambda: {*names} & self.server.records)

    async def read_foreign(self, collection: str) -> Any:
        return await self._send("read_foreign", lambda: self.server.foreign.get(collection))

    async def insert_records(self, entries: Mapping[str, RecordEntry]) -> Any:
        first = next(iter(entries))
        self.process.check_recording(first)
        insert = partial(self.process.insert_records, entries)
        return await self._send("insert_records", insert, key=("record", first), details=first)

    async def delete_records(self, recorded: Mapping[str, tuple[object, ...]]) -> Any:
        first = next(iter(recorded))
        self.process.check_recording(first)
        delete = partial(self.process.delete_records, recorded)
        return await self._send("delete_records", delete, key=("record", first), details=first)

    async def update_checksum(self, name: str, recorded_at: tuple[object, ...], checksum: str) -> Any:
        def update() -> bool:
            is_recorded = self.server.recorded.get(name) in recorded_at
            if is_recorded:
                known = self.server.details.get(name, MigrationRecord())
                self.server.details[name] = replace(known, checksum=checksum)
            return is_recorded

        return await self._send("update_checksum", update, key=("record", name), details=name)

    async def create_records(self) -> None:
        await self._send("create_records", lambda: None)

    async def read_checkpoints(self) -> Any:
        return await self._send("read_checkpoints", self.server.read_statuses)

    async def delete_checkpoints(
        self, names: Collection[str], token: int, *, undo: bool, backfill: str | None = None
    ) -> None:
        which = (names, token, undo, backfill)
        await self._send("delete_checkpoints", self.server.delete_checkpoints, *which, details=which)

    async def add_history(self, fact: HistoryFact) -> None:
        await self._send("add_history", self.server.add_history, fact, self.process.owner, details=fact)

    async def read_history(self, names: Collection[str] | None, limit: int | None) -> Any:
        def read() -> list[HistoryEntry]:
            found = [entry for entry in reversed(self.server.history) if names is None or entry.name in names]
            return found[:limit]

        return await self._send("read_history", read)

    async def read_last_failures(self) -> Any:
        return await self._send("read_last_failures", self.server.read_last_failures)

    async def read_lease_and_clock(self) -> Any:
        return await self._send("read_lease_and_clock", lambda: (self.server.read_lease(), self.server.clock))

    async def read_lease(self) -> Any:
        return await self._send("read_lease", self.server.read_lease)

    async def write_start_mark(self, name: str, known: StartMark | None) -> Any:
        self.process.check_held(f"start mark of {name}")
        write = partial(self.server.write_mark, name, self.process.owner, known)
        return await self._send("write_start_mark", write, details=name)

    async def remove_start_mark(self, name: str, known: StartMark | None) -> None:
        remove = partial(self.server.remove_mark, name, self.process.owner, known)
        await self._send("remove_start_mark", remove, details=name)

    async def write_protection(self, label: str | None) -> None:
        await self._send("write_protection", lambda: setattr(self.server, "protected_as", label))

    def identify_primary(self) -> int:
        return self.server.elections

    async def check_primary(self) -> None:
        """Here is one server."""

    def is_mongodb(self) -> bool:
        return self.process.is_mongodb

    async def read_clock(self) -> Any:
        return await self._send("read_clock", lambda: self.server.clock)

    async def acquire_lease(
        self, work: Work, migrations: tuple[str, ...], sessions: tuple[bytes, ...], dead: Lease | None
    ) -> Any:
        terms = self.process.terms
        claim = partial(self.server.acquire, terms, work, migrations, sessions, dead)
        return await self._send("acquire_lease", claim, details=dead)

    async def expire_lease(self) -> Any:
        return await self._send("expire_lease", self.server.expire)

    async def release_lease(self, sessions: tuple[bytes, ...]) -> None:
        await self._send("release_lease", self.server.release, self.process.owner, sessions)

    async def kill_sessions(self, sessions: tuple[bytes, ...]) -> Any:
        return await self._send("kill_sessions", self.server.kill, sessions)


async def attempt(
    process: Process, session: bytes, work: Callable[[], Awaitable[Any]], key: object, write: Callable[[Any], Any]
) -> Attempt[Any]:
    """Attempt a transaction in a session, as `_mongo.transactions` does.

    Args:
        process: The process.
        session: The session.
        work: What is done in the transaction.
        key: The document that it writes.
        write: Given what the work returned, returns what the commit does; None: there is no such document.
    """
    server = process.server
    process.check_held("transaction")
    assert session not in process.in_use, "two transactions at once in one session"
    process.in_use.add(session)
    began, result = server.now, []

    def write_document() -> bool:
        if (effect := write(result[0])) is not None:
            server.write(session, key, effect)
        return effect is not None

    def commit() -> None:
        ending = process.endings.pop(0) if process.endings else None
        if ending not in {None, Ending.UNKNOWN}:
            server.abort(session)
        else:
            server.commit(session)
        if ending is not None:
            raise Aborted(ending)

    try:
        process.open.add(session)
        await process.call("begin", server.begin, session)
        try:
            result.append(await work())
            lose = partial(Aborted, Ending.ABORTED)
            is_written = await process.call("write in transaction", write_document, lose=lose)
        except BaseException:
            await process.host.shield(partial(process.call, "abort", server.abort, session), 0)
            raise
        if not is_written:
            await process.call("abort", server.abort, session)
            return Attempt(Ending.RECORDED, server.now - began, None, *result)
        await process.call("commit", commit, lose=partial(Aborted, Ending.UNKNOWN))
        process.open.discard(session)
    except ConnectionError as error:
        ending = error.ending if isinstance(error, Aborted) else Ending.ABORTED
        return make_attempt(ending, error, server.now - began, *result)
    finally:
        process.in_use.discard(session)
    return Attempt(Ending.COMMITTED, server.now - began, None, *result)


def make_attempt(ending: Ending, error: Exception, seconds: float = 0.0, result: Any = None) -> Attempt[Any]:
    no_majority = isinstance(error, Aborted) and error.no_majority
    unknown = OutcomeUnknown(error, no_majority=no_majority) if ending is Ending.UNKNOWN else None
    return Attempt(ending, seconds, error, result, unknown)


async def commit_again(process: Process, session: bytes, seconds: float) -> Attempt[Any]:
    """Repeat the last commit, within a time limit."""

    def commit() -> None:
        if process.endings and (ending := process.endings.pop(0)) is not None:
            raise Aborted(ending)
        process.server.commit(session)

    try:
        await process.call("commit again", commit, lose=partial(Aborted, Ending.UNKNOWN), limit=seconds)
    except Aborted as error:
        return make_attempt(error.ending, error)
    process.open.discard(session)
    return Attempt(Ending.COMMITTED)


class FakeFunctions:
    """`quaestor._core.store.Functions` of a process. An `async def` function is given a `FakeContext`."""

    def __init__(self, process: Process) -> None:
        self.process, self.server = process, process.server
        self._slots: dict[tuple[bool, int], bytes] = {}

    async def check(self, guard: Guard, place: Place) -> None:
        if guard.kind == "precondition":
            self.process.check_held(f"precondition of {place.name}")
        await self._check(guard, self.process.host.is_from_outside)

    async def execute(self, change: Change, place: Place, held: HeldLease) -> float:
        self.process.check_held(f"function {change.name}")
        began = self.server.now
        await self._call(change, place, held, lambda: self.server.do(change))
        return self.server.now - began

    async def transact(
        self, change: Change, place: Place, held: HeldLease, slot: int, checksum: str | None
    ) -> Attempt[None]:
        process, server, name = self.process, self.server, change.name
        began = server.now

        removed = {name: change.recorded_at, **change.replaces}

        def write(_: object) -> Callable[[], object] | None:
            if change.applies:
                return None if server.records.intersection(change.names) else commit
            return commit if any(server.recorded.get(one) in dates for one, dates in removed.items()) else None

        def commit() -> None:
            if change.applies:
                process.insert_records(make_entries(change, RecordEntry("run", checksum, server.now - began)))
            else:
                process.delete_records(removed)
            server.do(change)

        async def work() -> None:
            await self._call(change, place, held, lambda: None)
            for guard in change.verifications:
                await self._check(guard, lambda error: isinstance(error, ConnectionError | InterruptedError))

        return await attempt(process, self._slots[change.is_async, slot], work, ("record", name), write)

    async def commit_again(self, change: Change, slot: int, seconds: float) -> Attempt[None]:
        return await commit_again(self.process, self._slots[change.is_async, slot], seconds)

    def compute_checksum(self, function: Callable[..., object]) -> str:
        return f"checksum of {function!r}"

    async def open_sessions(self, kinds: frozenset[bool], slots: int) -> tuple[bytes, ...]:
        for slot in ((kind, slot) for kind in kinds for slot in range(slots)):
            if slot not in self._slots:
                self._slots[slot] = self.add_session()
        return await self.process.command("open_sessions", lambda: tuple(self.process.sessions))

    def add_session(self) -> bytes:
        session = f"{self.process.owner} {len(self.process.sessions)}".encode()
        self.process.sessions.append(session)
        return session

    def list_sessions(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        return tuple(self.process.sessions), tuple(sorted(self.process.open))

    async def end_sessions(self) -> None:
        await self.process.call("end_sessions")

    async def _check(self, guard: Guard, is_raised: Callable[[Exception], bool]) -> None:
        def call() -> bool:
            return guard.read_result(guard.function(self.process))

        name = f"{guard.kind} {guard.migration}"
        await check_guard(guard, partial(self.process.call, name, call, details=guard.migration), is_raised)

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
        wakes_at = self.server.now + process.durations.get(change.name, 0.0)
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
        count: How many documents the server estimates; None: as many as match; ...: the server can't say.
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
        self.process, self.server = context.process, context.process.server
        self.name = key.backfill
        self.collection = "orders"
        self.fingerprints = (f"all {dict(filter)}" if filter else "all", "as an earlier release wrote it")
        self._send = context.process.command
        self._context = context
        self._key = key
        self._source = collection
        self._filter = filter
        self._session = b""
        self._batch: list[object] = []

    def check_not_in_transaction(self) -> None:
        if self._context.is_in_transaction:
            raise BatchesInTransactionError(self._key.migration)

    async def identify_collection(self) -> Any:
        return await self._send("identify_collection", lambda: self._source.uuid)

    async def read_origin(self) -> Any:
        def read() -> Origin | None:
            if (stored := self.server.checkpoints.get(self._key)) is None:
                return None
            done = stored.checkpoint
            return Origin(stored.collection, stored.fingerprint, done.collection_id, done.finished)

        return await self._send("read_origin", read)

    async def read_checkpoint(self, token: int) -> Any:
        return await self._send("read_checkpoint", self.server.find_claimed, self._key, token)

    async def claim_checkpoint(self, checkpoint: Checkpoint | None, token: int, *, force: bool) -> Any:
        fresh = None if checkpoint is None else Stored(checkpoint, token, self.collection, self.fingerprints[0])
        claim = partial(self.server.claim, self._key, fresh, token, force, self.fingerprints[0])
        return await self._send("claim_checkpoint", claim, key=("checkpoint", self._key), details=force)

    async def save_checkpoint(self, checkpoint: Checkpoint, token: int) -> Any:
        save = partial(self.server.save, self._key, checkpoint, token)
        return await self._send("save_checkpoint", save, key=("checkpoint", self._key))

    async def find_highest(self, others: tuple[object, ...]) -> Any:
        def find() -> tuple[object, ...]:
            found = [one for one in self._source.documents if find_type(one) not in map(find_type, others)]
            return tuple(sorted(found, key=order)[-1:])

        return await self._send("find_highest", find)

    async def estimate_count(self) -> Any:
        def count() -> Any:
            return {None: len(self._find()), ...: None}.get(self._source.count, self._source.count)

        return await self._send("estimate_count", count)

    async def count_sampled(self, size: int) -> Any:
        return await self._send("count_sampled", lambda: len(self._find()), details=size)

    async def read_batch(self, front: Checkpoint, throttle: Throttle) -> Any:
        return await self._send("read_batch", lambda: self._read(front, throttle))

    async def find_ids(self, front: Checkpoint, throttle: Throttle) -> Any:
        return await self._send("find_ids", lambda: self._read(front, throttle))

    async def read_found(self, found: Batch, throttle: Throttle) -> Any:
        def read() -> Batch:
            return replace(found, documents=[one for one in self._find() if one in found.documents])

        lose = partial(Aborted, Ending.ABORTED)  # an error ends the attempt
        return await self.process.call("read_found", read, lose=lose)

    def describe(self, batch: Batch, error: BaseException) -> str:
        return str(batch.ends)

    async def read_lag(self) -> Any:
        lags = self.process.lags
        return await self._send("read_lag", lambda: lags.pop(0) if lags else 0.0)

    async def open_session(self) -> Any:
        self._session = self._session or self.process.functions.add_session()
        return await self._send("open_session", lambda: tuple(self.process.sessions))

    async def transact(self, work: Callable[[], Awaitable[Checkpoint]], token: int) -> Attempt[Checkpoint]:
        self._batch = []

        def write(checkpoint: Checkpoint) -> Callable[[], object] | None:
            is_claimed = self.server.find_claimed(self._key, token) is not None
            return partial(commit, checkpoint, self._batch) if is_claimed else None

        def commit(checkpoint: Checkpoint, batch: list[object]) -> None:
            self.server.save(self._key, checkpoint, token)
            self._source.done += [batch] if batch else []

        self._context.is_in_transaction = True
        try:
            return await attempt(self.process, self._session, work, ("checkpoint", self._key), write)
        finally:
            self._context.is_in_transaction = False

    async def commit_again(self, seconds: float) -> Attempt[Checkpoint]:
        return await commit_again(self.process, self._session, seconds)

    def do(self, batch: list[Document]) -> None:
        """Do the work of a batch: at once, or with the commit of its transaction."""
        assert batch, "an empty batch"
        ids = [one["_id"] for one in batch]
        if self._session:
            self._batch = ids
        else:
            self._source.done.append(ids)

    def _read(self, front: Checkpoint, throttle: Throttle) -> Batch:
        bound, start = order(front.bounds[0]), [order(one) for one in front.start]
        rest = [(order(one["_id"]), one) for one in self._find()]
        found = [one for at, one in rest if at[0] == bound[0] and at <= bound and [at] >= start]
        batch, ids = found[: throttle.size], [one["_id"] for one in found[: throttle.size + 1]]
        return Batch(batch, tuple(one["_id"] for one in (*batch[:1], *batch[-1:])), tuple(ids[throttle.size :]))

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
        self, collection: FakeCollection, size: int = 2, name: str = "orders", **options: Any
    ) -> tuple[Backfill, FakeBackfillStore]:
        store = FakeBackfillStore(self, Key(self.place.name, self.undo, name), collection, options.pop("filter", {}))
        return self.backfills.start(store, Throttle(size, **options)), store

    async def loop(self, *arguments: Any, work: Callable[[list[Document]], object] = id, **options: Any) -> None:
        """A loop of the function itself."""
        backfill, store = self.open(*arguments, **options)
        while (batch := await backfill.next()) is not None:
            await self._do(store, work, batch)
        assert await backfill.next() is None, "a finished backfill has no more"

    async def give(self, *arguments: Any, work: Callable[[list[Document]], object] = id, **options: Any) -> None:
        """A function that is given each batch."""
        backfill, store = self.open(*arguments, **options)
        await backfill.give_all(partial(self._do, store, work))

    async def share(
        self, *arguments: Any, work: Callable[[list[Document]], object] = id, workers: int, **options: Any
    ) -> None:
        """A function that is given several batches at a time."""
        backfill, store = self.open(*arguments, **options)
        await backfill.share_all(partial(self._do, store, work), workers)

    async def transact(self, *arguments: Any, work: Callable[[list[Document]], object] = id, **options: Any) -> None:
        """A function that is given each batch in a transaction."""
        backfill, store = self.open(*arguments, **options)
        await backfill.transact_all(partial(self._do, store, work))

    async def _do(self, store: FakeBackfillStore, work: Callable[[list[Document]], object], batch: Any) -> None:
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

    def check_interruption(self) -> None:
        workers = self.process.workers
        if workers is not None and workers.interruption is not None:
            raise workers.interruption

    async def both(self, first: Make, second: Make, stop: Callable[[], None]) -> tuple[Any, Any]:
        task = self.process.spawn("both", second())
        try:
            result = await first()
        except KeyboardInterrupt:
            stop()
            raise
        finally:
            await self.shield(partial(self._join, task), 0)
        return result, task.get_result()

    def is_from_outside(self, error: BaseException) -> bool:
        return isinstance(error, KeyboardInterrupt | InterruptedError)  # the latter is a soft time limit

    async def shield(self, step: Make, seconds: float, repeats: float = float("inf")) -> Any:
        """Repeat a step until no Ctrl-C has met it, as the host of threads does."""
        interruption: BaseException | None = None
        while True:
            try:
                result = await step()
                break
            except (KeyboardInterrupt, InterruptedError) as error:
                if not repeats:
                    raise
                repeats -= 1
                interruption = error
        if interruption is not None:
            raise interruption
        return result

    def start_heartbeat(self, beat: Callable[..., Coroutine[Any, Any, None]]) -> None:
        async def sleep(seconds: float) -> bool:
            wakes_at = self.process.server.now + seconds
            await self.process.call("heartbeat", wakes_at=wakes_at, is_woken=lambda: self._is_stopped, details=seconds)
            return self._is_stopped

        self._heartbeat = self.process.spawn("heartbeat", beat(sleep))

    async def stop_heartbeat(self) -> None:
        self._is_stopped = True
        if self._heartbeat is not None:
            await self._join(self._heartbeat)

    def lock(self) -> "FakeLock":
        return FakeLock(self.process)

    async def supervise(
        self,
        supervisor: Callable[["FakeWorkers"], Coroutine[Any, Any, None]],
        stop: Callable[[], None],
        *,
        reaches_all: bool = False,
    ) -> None:
        self.process.workers = workers = FakeWorkers(self.process, stop)
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
    """`quaestor._core.store.Workers` of a process, and what has interrupted them."""

    def __init__(self, process: Process, stop: Callable[[], None]) -> None:
        self.interruption: KeyboardInterrupt | None = None
        self._process = process
        self._stop = stop
        self._finished: list[BaseException | None] = []

    def start(self, step: Any) -> None:
        key: str = getattr(step.args[0], "name", "batch")
        if key in self._process.refused:
            self._finished.append(RuntimeError(key))
        else:
            self._process.spawn(key, step(), lambda task: self._finished.append(task.error))

    async def next_finished(self) -> BaseException | None:
        is_woken = lambda: bool(self._finished)  # noqa: E731
        await self._process.call("next_finished", wakes_at=math.inf, is_woken=is_woken)
        return self._finished.pop(0)

    def interrupt(self, error: KeyboardInterrupt) -> None:
        self.interruption = error
        self._stop()
        for task in list(self._process.tasks):
            call = task.call
            if call is not None and call.is_function and call.details in self._process.cancelled:
                task.go_on(error=error)


def read_status(server: Server, definitions: Mapping[str, MigrationDefinition]) -> Status:
    """The status, as another process reads it now."""
    process = Process(server, definitions, "reader")
    status: Status = process.start(process.engine.read_status()).finish()
    return status
