"""Run, roll back, mark, plan, status, unlock: the order of steps, written once for sync and async applications.

Rule 1: the engine only decides. The protocols in `store.py` do everything else.
Rule 2: bad input raises before the first command.
Rule 3: the plan is made from records that were read under the lease.
Rule 4: an interruption is raised unchanged, and the lease is released whatever happens.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from quaestor._core import overview, plan
from quaestor._core.applier import Applier
from quaestor._core.lease import (
    PATIENCE,
    REPORT_INTERVAL,
    HeldLease,
    Terms,
    poll_interval,
    renew_interval,
    retry_interval,
)
from quaestor._core.notes import add_note
from quaestor._core.plan import Change, RecordChange
from quaestor._core.records import Records
from quaestor._core.retry import check_lease, retry_until_known
from quaestor._core.scheduler import Schedule, combine, supervise
from quaestor._core.store import Functions, Host, OutcomeUnknown, Store, Workers
from quaestor.errors import LeaseTimeoutError, TransactionsUnsupportedError
from quaestor.events import (
    Event,
    LeaseAwaited,
    LeaseNotReleased,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
)
from quaestor.status import Lease, PlannedMigration, Status, Work

T = TypeVar("T")

PlanEvent: TypeAlias = Callable[[str, str, tuple[str, ...]], Event]
"""Makes an event about a plan, of database, prefix and names."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The migrations and the database of an operation.

    Attributes:
        definitions: All registered migrations.
        database: The name of the database, for the events.
        prefix: The prefix of the collections, likewise.
        kinds: The kinds of function (is_async) that there is a database for.
        terms: How the lease is acquired.
    """

    definitions: plan.Definitions
    database: str
    prefix: str
    kinds: Collection[bool]
    terms: Terms


@dataclass(frozen=True, slots=True)
class Operation:
    """What to do under the lease. The functions that make one check their arguments.

    Attributes:
        work: What the lease is held for.
        make_plan: Makes the plan from the records.
        finished: The event after the changes of the plan.
        started: The event before them; None: there is none.
        concurrency: How many changes may be in progress at once.
    """

    work: Work
    make_plan: Callable[[Records], plan.Plan]
    finished: PlanEvent
    started: PlanEvent | None = None
    concurrency: int = 1


def run(
    scope: Scope, targets: Collection[str] | None = None, *, strict: bool = False, concurrency: int = 1
) -> Operation:
    """Apply what is pending: all of it, or the targets and what they need."""
    wanted = None if targets is None else plan.check_names("targets", targets)
    sorters = [plan.check_graph(scope.definitions)]
    if wanted is not None:
        plan.check_known(wanted, scope.definitions)

    def make_plan(records: Records) -> plan.Plan:
        if strict:
            plan.check_unknown(scope.definitions, records)
        # The sorter that checked the graph serves the first plan: a second one would double its time.
        sorter = sorters.pop() if sorters else plan.check_graph(scope.definitions)
        return plan.plan_run(scope.definitions, sorter, records, wanted)

    return Operation("run", make_plan, RunFinished, RunStarted, concurrency)


def roll_back(scope: Scope, targets: Collection[str]) -> Operation:
    """Undo the targets and every applied migration that needs them, dependents first."""
    names = plan.check_names("targets", targets)
    plan.check_graph(scope.definitions)
    plan.check_known(names, scope.definitions)
    make_plan = partial(plan.plan_rollback, scope.definitions, targets=names)
    return Operation("rollback", make_plan, RollbackFinished, RollbackStarted)


def mark_applied(scope: Scope, names: Collection[str]) -> Operation:
    """Record migrations without running them."""
    marked = plan.check_names("names", names)
    plan.check_graph(scope.definitions)
    plan.check_known(marked, scope.definitions)
    make_plan = partial(plan.plan_mark_applied, scope.definitions, names=marked)
    return Operation("mark", make_plan, partial(RecordsMarked, applied=True))


def mark_pending(scope: Scope, names: Collection[str]) -> Operation:
    """Remove records without undoing anything."""
    marked = plan.check_names("names", names)
    plan.check_graph(scope.definitions)

    def make_plan(records: Records) -> plan.Plan:
        plan.check_known(marked, scope.definitions.keys() | records.applied.keys())
        return plan.plan_mark_pending(scope.definitions, records, marked)

    return Operation("mark", make_plan, partial(RecordsMarked, applied=False))


class Engine:
    """Performs one operation on one database and prefix."""

    def __init__(self, scope: Scope, store: Store, host: Host, functions: Functions) -> None:
        self.scope = scope
        self._store = store
        self._host = host
        self._functions = functions
        self._where = (scope.database, scope.prefix)

    async def perform(self, operation: Operation) -> list[str]:
        """Perform an operation, as the only instance that does. Returns the names in its plan, in order."""
        try:
            records = await self._read_records()
            self._warn_of_unknown(operation, records)
            todo = operation.make_plan(records)
            names: tuple[str, ...] = ()
            if todo:
                sessions = await self._prepare(operation, todo, records)
                names = await self._perform_under_lease(operation, todo, records, sessions)
            elif operation.started is not None:
                self._store.emit(operation.started(*self._where, ()))
        except BaseException as error:
            self._store.emit(RunFailed(*self._where, error, work=operation.work))
            raise
        self._store.emit(operation.finished(*self._where, names))
        return list(names)

    async def explain(
        self, operation: Operation, targets: Collection[str] | None, *, undo: bool = False
    ) -> list[PlannedMigration]:
        """Say what `perform` would do, in order, and why: the same plan. One read; nothing is written or emitted."""
        records = await self._read(self._store.read_records)
        todo = operation.make_plan(records)
        self._check(todo, records)
        return plan.explain(self.scope.definitions, [change.name for change in todo], targets, undo=undo)

    async def read_status(self) -> Status:
        """Read what is applied, what is not, and who is at work."""
        definitions = plan.sort(self.scope.definitions)
        # The lease first: if a migration of its expired holder is recorded by now, another instance has applied it.
        lease = await self._read(self._store.read_lease)
        records = await self._read_records()
        checkpoints = await retry_until_known(self._store, self._store.read_checkpoints, PATIENCE)
        return overview.make_status(self._where, definitions, records, lease, checkpoints)

    async def unlock(self) -> Lease | None:
        """Make the lease expire, whoever holds it; the holder stops at its next step. Returns the holder."""
        return await retry_until_known(self._store, self._store.expire_lease, PATIENCE, wait_for_server=False)

    async def _read_records(self) -> Records:
        records = await self._read(self._store.read_records)
        if records.unreadable:
            self._store.emit(RecordsIgnored(*self._where, records.unreadable))
        return records

    async def _read(self, command: Callable[[], Awaitable[T]]) -> T:
        """Send the first command of an operation. If it fails, the error says where it was sent."""
        try:
            return await retry_until_known(self._store, command, PATIENCE, wait_for_server=False)
        except Exception as error:
            database, prefix = self._where
            add_note(error, f"while reading the records of {prefix!r} in the database {database!r}; nothing has run")
            raise

    def _warn_of_unknown(self, operation: Operation, records: Records) -> None:
        if operation.work != "mark" and (unknown := plan.find_unknown(self.scope.definitions, records)):
            self._store.emit(RecordsUnknown(*self._where, tuple(unknown)))

    def _check(self, todo: plan.Plan, records: Records) -> frozenset[bool]:
        """Check that the plan can be carried out. Returns the kinds of function that are transactions."""
        plan.check_databases(todo, self.scope.kinds)
        plan.check_records(todo, records)
        transactional = [change for change in todo if isinstance(change, Change) and change.transaction]
        if transactional and not self._store.has_transactions():
            raise TransactionsUnsupportedError([change.name for change in transactional])
        return frozenset(change.is_async for change in transactional)

    async def _prepare(self, operation: Operation, todo: plan.Plan, records: Records) -> tuple[bytes, ...]:
        """Check the plan, and open sessions for its transactions. Returns the ids of all that are open."""
        kinds = self._check(todo, records)
        if not kinds:
            return ()
        slots = min(operation.concurrency, len(todo))  # any slot may get a transaction
        return await retry_until_known(self._store, lambda: self._functions.open_sessions(kinds, slots), PATIENCE)

    async def _perform_under_lease(
        self, operation: Operation, todo: plan.Plan, records: Records, sessions: tuple[bytes, ...]
    ) -> tuple[str, ...]:
        """Acquire the lease, plan again if the records have changed since, and apply. Returns the names."""
        schedule = self._make_schedule(operation, todo)
        try:
            held = await self._acquire(operation.work, schedule.locate().migrations, sessions)
            # Before the read: a transaction that commits after it would be missing in the plan.
            await self._kill_sessions_of_others(held, sessions)
            again = await retry_until_known(self._store, self._store.read_records, held.patience)
            if again != records:  # another instance has been at work
                todo = operation.make_plan(again)
                schedule = self._make_schedule(operation, todo)
                opened = await self._prepare(operation, todo, again)
                if not set(opened) <= set(sessions):
                    await check_lease(self._store, held, sessions=opened)
            names = tuple(change.name for change in todo)
            if operation.started is not None:
                self._store.emit(operation.started(*self._where, names))
            lock = nullcontext() if operation.concurrency == 1 else self._host.lock()
            applier = Applier(
                where=self._where,
                store=self._store,
                functions=self._functions,
                held=held,
                schedule=schedule,
                count=len(names),
                lock=lock,
            )
            changes = {change.name: change for change in todo}
            if operation.concurrency > 1:
                if failures := await self._apply_concurrently(applier, changes, schedule, lock):
                    raise combine(failures)
            else:
                while (start := schedule.start()) is not None:
                    await applier.apply(changes[start.name], start)
        finally:
            failure = await self._host.shield(self._release)
            if failure is not None:
                self._store.emit(LeaseNotReleased(*self._where, self.scope.terms.ttl, failure))
        return names

    def _make_schedule(self, operation: Operation, todo: plan.Plan) -> Schedule:
        names = [change.name for change in todo]
        # One after the other, the order of the plan is enough, which a rollback reverses.
        is_ordered = operation.concurrency == 1
        needs = {} if is_ordered else {name: self.scope.definitions[name].depends_on for name in names}
        return Schedule(names, needs, operation.concurrency)

    async def _apply_concurrently(
        self,
        applier: Applier,
        changes: Mapping[str, RecordChange],
        schedule: Schedule,
        lock: AbstractAsyncContextManager[object],
    ) -> list[BaseException]:
        """Apply several changes at once. Returns what they raised, when all have ended.

        Raises:
            BaseException: What interrupted it. Its cause is what the changes raised besides.
        """
        failures: list[BaseException] = []

        async def apply_all(workers: Workers[str]) -> None:
            await supervise(schedule, lambda start: applier.apply(changes[start.name], start), workers, lock, failures)

        try:
            await self._host.supervise(apply_all)
        except BaseException as interruption:
            # Changes that it ended have raised a copy of it.
            own = [error for error in failures if isinstance(error, Exception) and error is not interruption]
            if own:
                raise interruption from combine(own)
            raise
        return failures

    async def _acquire(self, work: Work, first: tuple[str, ...], sessions: tuple[bytes, ...]) -> HeldLease:
        """Acquire the lease, waiting for whoever holds it, and start its heartbeat.

        Raises:
            LeaseTimeoutError: Another instance held it for longer than the timeout of the terms.
        """
        store, terms = self._store, self.scope.terms
        began = asked_at = changed_at = store.now()
        reported_at: float | None = None
        seen: Lease | None = None
        polls = 0
        while True:
            lease = await retry_until_known(store, lambda: store.acquire_lease(work, first, sessions), PATIENCE)
            if lease.owner == terms.owner:
                self._host.start_heartbeat(partial(keep_alive, store, lease, terms.ttl))
                return HeldLease(lease, terms.ttl, asked_at, first)
            now = store.now()
            left = float("inf") if terms.timeout is None else began + terms.timeout - now
            if left <= 0:
                raise LeaseTimeoutError(now - began, lease)
            if reported_at is None or now - reported_at >= REPORT_INTERVAL:
                reported_at = now
                store.emit(LeaseAwaited(*self._where, lease, now - began))
            if seen is None or seen.owner != lease.owner:  # another holder, whose run may be a short one
                polls = 0
            if seen is None or seen.expires_at != lease.expires_at:
                changed_at = now
            seen = lease
            longest = poll_interval(polls, now - changed_at, terms.ttl)
            await store.sleep(min(longest / 2, left), min(longest, left))
            polls += 1
            asked_at = store.now()

    async def _kill_sessions_of_others(self, held: HeldLease, own: tuple[bytes, ...]) -> None:
        """Abort the transactions that a killed or frozen holder left open, because they block the documents in them.

        If the user has no right to, the migrations wait until the server aborts them.
        """
        named = held.lease.sessions
        if others := tuple(session for session in named if session not in own):
            refusal = await retry_until_known(self._store, lambda: self._store.kill_sessions(others), held.patience)
            if refusal is not None:
                self._store.emit(SessionsNotEnded(*self._where, refusal))
        if set(own) != set(named):
            await check_lease(self._store, held, sessions=own, ended=others)

    async def _release(self) -> Exception | None:
        """Stop the heartbeat, abort what this run left open, and release the lease. Returns what failed."""
        await self._host.stop_heartbeat()
        own, left_open = self._functions.list_sessions()
        try:
            if left_open and not await self._kill(left_open):
                # The lease document goes on naming them, and a successor kills them.
                own = tuple(session for session in own if session not in left_open)
            await self._store.release_lease(own)
            # The application may use the sessions again only now: others can kill those in the lease document.
            await self._functions.end_sessions()
        except OutcomeUnknown as unknown:
            return unknown.error
        except Exception as error:  # noqa: BLE001 - what the run raised, or returns, matters more
            return error
        return None

    async def _kill(self, sessions: tuple[bytes, ...]) -> bool:
        """Abort the transactions of sessions. Returns whether they are known to be aborted."""
        try:
            return await self._store.kill_sessions(sessions) is None
        except OutcomeUnknown:  # the lease can be released all the same
            return False


async def keep_alive(store: Store, lease: Lease, ttl: float, sleep: Callable[[float], Awaitable[bool]]) -> None:
    """Renew the lease until it is lost or the run ends. The run's own checks find a loss."""
    pause = renew_interval(ttl)
    while not await sleep(pause):
        try:
            if not await store.renew_lease(lease):
                return
            pause = renew_interval(ttl)
        except Exception:  # noqa: BLE001 - whatever it is, another renewal may succeed
            pause = retry_interval(ttl)
