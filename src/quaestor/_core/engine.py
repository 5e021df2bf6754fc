"""Run, rollback, mark, import, plan, status, verify, unlock: the order of steps, for sync and async applications alike.

Rule 1: the engine only decides. The protocols in `store.py` do everything else.
Rule 2: bad input raises before the first command.
Rule 3: the plan is made from records that were read under the lease.
Rule 4: an interruption is raised unchanged, and the lease is released whatever happens.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeAlias, TypeVar

from quaestor._core import corrections, overview, plan
from quaestor._core.applier import Applier
from quaestor._core.catalog import Catalog
from quaestor._core.definition import check_names, check_text
from quaestor._core.graph import make_sorter, order
from quaestor._core.guards import make_guards
from quaestor._core.history import TIMEOUT, History, check_limit, merge
from quaestor._core.imports import Document, Source, plan_import
from quaestor._core.lease import (
    HeldLease,
    LeaseState,
    Patience,
    Terms,
    acquire,
    check_lease,
    keep_alive,
    prove,
    retry_until_known,
)
from quaestor._core.phases import EVERYTHING, Selection
from quaestor._core.plan import Adoption, Change, Marks, Records, Restart
from quaestor._core.scheduler import Schedule, combine, follow
from quaestor._core.store import Functions, HistoryFact, Host, OutcomeUnknown, Store
from quaestor._core.undo import Undo
from quaestor._text import add_note
from quaestor.errors import (
    DependencyConflictError,
    HistoryMissingError,
    InvalidOptionError,
    OutageError,
    PlanChangedError,
    QuaestorError,
    TransactionsUnsupportedError,
    UnknownRecordsError,
    VerificationFailedError,
)
from quaestor.events import (
    BackfillReset,
    ChangesAccepted,
    DependenciesPending,
    Event,
    HistoryImported,
    LeaseNotReleased,
    MigrationsWaiting,
    Place,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    RegistryEmpty,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
)
from quaestor.status import HistoryEntry, ImportResult, Lease, PinnedPlan, PlannedMigration, Status, Work

T = TypeVar("T")

_RELEASE_TIMEOUT = 7.5  # seconds for all its steps; 10 with the abort of a transaction before them
_RELEASE_LIMIT = 8.0  # seconds, if the driver takes longer
_LAST_TRY = 1.0  # seconds, likewise, if the last command found no server

PlanEvent: TypeAlias = Callable[[str, str, str, tuple[str, ...]], Event]
"""Makes an event about a plan, of database, prefix, run and names."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The migrations of an operation, and how it acquires the lease."""

    catalog: Catalog
    kinds: Collection[bool]  # of function (is_async) that there is a database for
    terms: Terms
    read_clock: Callable[[], datetime]  # of this machine (aware, UTC), for delays


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation under the lease. The functions that make one check their arguments."""

    work: Work
    make_plan: Callable[[Records, Marks], plan.Plan]
    finished: PlanEvent  # after the changes of the plan
    started: PlanEvent | None = None  # before them
    concurrency: int = 1
    is_about_marks: bool = False  # a start mark alone can put a migration into its plan
    plan_id: str | None = None  # of the one plan that it may carry out
    read: Callable[[], Awaitable[None]] | None = None  # reads what the plan needs beside the records

    def may_meet_marks(self, todo: plan.Plan) -> bool:
        """Say whether start marks can change this plan."""
        return self.is_about_marks or any(change.may_be_marked for change in todo)


def run(
    scope: Scope, selection: Selection = EVERYTHING, *, concurrency: int = 1, plan_id: str | None = None
) -> Operation:
    """Apply what is pending, as far as the selection goes."""
    pinned = None if plan_id is None else plan.check_id(plan_id)
    catalog, strict = scope.catalog, selection.strict
    sorters = [catalog.check()]
    selection.check(catalog)
    has_delays: bool | None = None

    def make_plan(records: Records, marks: Marks) -> plan.Plan:
        nonlocal has_delays
        if has_delays is None:  # the first read decides, because the run itself writes records
            has_delays = not (selection.ignore_delays or records.is_empty)
        view = catalog.view(records.applied.keys())
        if strict and (unknown := catalog.find_unknown(records.applied)):
            raise UnknownRecordsError(unknown)
        if strict and (conflicts := plan.find_conflicts(view)):
            raise DependencyConflictError(conflicts, in_run=True)
        # The sorter that checked the graph serves the first plan: a second one would double its time.
        sorter = sorters.pop() if sorters else catalog.check()
        now = scope.read_clock() if has_delays else None
        return plan.plan_run(catalog, sorter, view, records, selection, now=now, marks=marks)

    finished = partial(RunFinished, is_registry_empty=not catalog.definitions)
    return Operation("run", make_plan, finished, RunStarted, concurrency, plan_id=pinned)


def roll_back(scope: Scope, undo: Undo) -> Operation:
    """Undo what is meant and every applied migration that needs it, dependents first."""
    catalog = scope.catalog
    catalog.check()
    catalog.check_known(undo.names)

    def make_plan(records: Records, marks: Marks) -> plan.Plan:
        view = catalog.view(records.applied.keys())
        return plan.plan_rollback(catalog, view, records, marks, undo)

    targets = undo.targets  # without, it may be any of them
    may_be_marked = bool(catalog.replaced) or plan.has_stops(
        catalog, catalog.definitions if targets is None else plan.find_dependents(catalog.view({}), targets)
    )
    return Operation("rollback", make_plan, RollbackFinished, RollbackStarted, is_about_marks=may_be_marked)


def mark_applied(scope: Scope, names: Collection[str], *, with_dependencies: bool = False) -> Operation:
    """Record migrations without running them."""
    marked, catalog = check_names("names", names), scope.catalog
    catalog.check()
    catalog.check_known(marked)
    make_plan = partial(corrections.plan_mark_applied, catalog, names=marked, with_dependencies=with_dependencies)
    # Of those that stop a run, the plan says it; a replaced one may be gone.
    may_be_marked = any(name in catalog.replaced for name in marked)
    return Operation("mark", make_plan, partial(RecordsMarked, applied=True), is_about_marks=may_be_marked)


def mark_pending(scope: Scope, names: Collection[str]) -> Operation:
    """Remove records and start marks without undoing anything."""
    marked, catalog = check_names("names", names), scope.catalog
    catalog.check()

    def make_plan(records: Records, marks: Marks) -> plan.Plan:
        catalog.check_known(marked, records.applied.keys() | catalog.retired)
        return corrections.plan_mark_pending(catalog, records, marks, marked)

    may_be_marked = plan.has_stops(catalog, marked) or any(name in catalog.replaced for name in marked)
    return Operation("mark", make_plan, partial(RecordsMarked, applied=False), is_about_marks=may_be_marked)


def mark_accepted(scope: Scope, names: Collection[str], compute: plan.Compute) -> Operation:
    """Record the present checksums of migrations without running them."""
    marked, catalog = check_names("names", names), scope.catalog
    catalog.check()
    catalog.check_known(marked)
    make_plan = partial(corrections.plan_mark_accepted, catalog, names=marked, compute=compute)
    return Operation("mark", make_plan, ChangesAccepted)


class Engine:
    """Performs one operation on one database and prefix."""

    def __init__(self, scope: Scope, store: Store, host: Host, functions: Functions) -> None:
        self.scope = scope
        self._store = store
        self._host = host
        self._functions = functions
        self._where = store.where
        self._patience = Patience(scope.terms.patience)
        self._history = History(store, host.is_from_outside)
        self._held: HeldLease | None = None
        self._may_hold = True  # unless the server has refused
        self._is_away = False  # whether the run gave up waiting for the server
        self._release_by: float | None = None
        # Until the release succeeds: a second signal may come before it starts.
        self._release_failure: Exception | None = TimeoutError("It took too long, or a second signal ended it.")
        self._others: tuple[bytes, ...] = ()  # sessions of earlier holders, which no longer matter

    async def perform(self, operation: Operation) -> list[str]:
        """Perform an operation under the lease. Returns the names in its plan, in order."""
        try:
            records = await self._read_records(details=operation.work != "run")
            await self._warn(operation.work, records)
            # The mark of a migration to apply may be that of the current holder: only under the lease does it count.
            read = partial(self._read, "the start marks", self._store.read_lease)
            todo = await self._plan(operation, records, read if operation.is_about_marks else None)
            names: tuple[str, ...] = ()
            if todo:
                sessions = await self._prepare(operation, todo, records)
                names = await self._perform_under_lease(operation, todo, records, sessions)
            elif operation.started is not None:
                self._store.emit(operation.started(*self._where, ()))
                self._report_waiting(todo)
        except BaseException as error:
            self._store.emit(RunFailed(*self._where, error, work=operation.work))
            raise
        self._store.emit(operation.finished(*self._where, names))
        return list(names)

    async def explain(self, operation: Operation) -> list[PlannedMigration]:
        """Return what `perform` would do, in order, and why: the same plan. Nothing is written or emitted."""
        return self._explain(operation, *await self._make_plan(operation))

    async def pin(self, operation: Operation) -> PinnedPlan:
        """Return the same with the id of the plan."""
        todo, records = await self._make_plan(operation)
        return PinnedPlan(self._compute_id(todo), tuple(self._explain(operation, todo, records)))

    async def _make_plan(self, operation: Operation) -> tuple[plan.Plan, Records]:
        records = await self._read("the records", self._store.read_records)
        todo = await self._plan(operation, records, self._read_lease)
        self._check(todo, records)
        plan.check_decided(todo)
        return todo, records

    def _explain(self, operation: Operation, todo: plan.Plan, records: Records) -> list[PlannedMigration]:
        view = self.scope.catalog.view(records.applied.keys())
        return plan.explain(self.scope.catalog, view, todo, undo=operation.work == "rollback")

    def _compute_id(self, todo: plan.Plan) -> str:
        return plan.compute_id(todo, self._functions.compute_checksum)

    async def read_status(self) -> Status:
        """Read what is applied, what is pending, what failed, and who holds the lease. Four reads."""
        self.scope.catalog.check()
        # The lease first: if a migration of its expired holder is recorded by now, another instance has applied it.
        lease = await self._read_lease()
        records = await self._read_records(details=True)
        checkpoints = await self._read("the checkpoints", self._store.read_checkpoints)
        failures = await self._read("the history", self._store.read_last_failures)
        changed = corrections.find_changed(self.scope.catalog.definitions, records, self._functions.compute_checksum)
        return overview.make_status(
            self._where[:2],
            self.scope.catalog,
            records,
            lease,
            checkpoints,
            failures=failures,
            changed=changed,
            now=None if records.is_empty else self.scope.read_clock(),  # the next run would decide by this, too
        )

    async def read_history(self, names: Collection[str] | None, limit: int | None) -> list[HistoryEntry]:
        """Read the records and the history of these migrations, or of all, newest first."""
        wanted = None if names is None else check_names("names", names)
        check_limit(limit)
        entries = await self._read("the history", partial(self._store.read_history, wanted, limit))
        records = await self._read_records(details=True)
        known = {entry.name for entry in entries if entry.name is not None}
        self.scope.catalog.check_known(wanted or (), known | records.applied.keys() | self.scope.catalog.retired)
        return merge(records, entries, wanted, limit)

    async def verify(self, names: Collection[str] | None) -> dict[str, str]:
        """Call the verifications of applied migrations. Returns which of these fail, and why. No lease is acquired."""
        wanted, catalog = None if names is None else check_names("names", names), self.scope.catalog
        catalog.check()
        catalog.check_known(wanted or ())
        view = catalog.view((await self._read_records(details=False)).applied.keys())
        verified = view.graph if wanted is None else view.find(wanted)
        guards = [
            guard
            for name in order(make_sorter(view.graph))
            if name in verified and name in view.applied
            for guard in make_guards("verification", catalog.definitions[name])
        ]
        plan.check_kinds(((guard.migration, guard.is_async) for guard in guards), self.scope.kinds)
        failures: dict[str, list[str]] = {}
        for position, guard in enumerate(guards, 1):
            try:
                await self._functions.check(guard, Place(*self._where, guard.migration, position, len(guards)))
            except VerificationFailedError as error:
                # It may have been rolled back meanwhile. And if the server is away, this raises the driver's error.
                names = (guard.migration, *view.replaces.get(guard.migration, ()))
                if await self._read("the records", partial(self._store.find_recorded, names)):
                    failures.setdefault(guard.migration, []).append(f"{error.function} {error.reason}")
        return {name: "; ".join(reasons) for name, reasons in failures.items()}

    async def restart_backfill(self, name: str, backfill: str | None) -> list[str]:
        """Remove the checkpoint of a backfill, so it starts over. Returns its name; empty if there is no checkpoint."""
        checkpoints = await self._read("the checkpoints", self._store.read_checkpoints)
        self.scope.catalog.check_known([name], checkpoints.keys())
        known = [one.name for one in checkpoints.get(name, ())]
        if len(known) > 1 if backfill is None else known and backfill not in known:
            raise InvalidOptionError(f"Pass the backfill to restart, as one of {', '.join(map(repr, known))}.")
        if not known:
            return []
        restart = Restart(name, applies=False, backfill=backfill or known[0])
        await self.perform(
            Operation("mark", lambda *_: plan.Plan([restart]), partial(BackfillReset, backfill=restart.backfill))
        )
        return [restart.backfill]

    async def import_history(self, source: Source, *, dry_run: bool = False) -> ImportResult:
        """Record what another tool has applied, with its dates. A dry run returns what would be recorded."""
        documents: Sequence[Document] = ()
        result = ImportResult(source.adapter.tool, source.collection, ())

        async def read() -> None:
            nonlocal documents
            command = partial(self._store.read_foreign, source.collection)
            what = f"the history of {source.adapter.tool}"
            found = await (self._read(what, command) if self._held is None else self._retry(f"to read {what}", command))
            if found is None:
                raise HistoryMissingError(source.adapter.tool, source.collection, self._where[0])
            documents = found

        def make_plan(records: Records, marks: Marks) -> plan.Plan:
            nonlocal result
            todo, result = plan_import(source, documents, self.scope.catalog, records, marks)
            return todo

        finished = partial(HistoryImported, tool=source.adapter.tool)
        operation = Operation("mark", make_plan, finished, read=read)
        if dry_run:
            await self._make_plan(operation)
        else:
            await self.perform(operation)
        return result

    async def unlock(self) -> Lease | None:
        """Make the lease expire, whoever holds it; the holder stops at its next step. Returns the holder."""
        holder = (await self._read("the lease", self._store.read_lease)).holder
        if holder is None:
            return None
        is_answer_lost = False

        async def expire() -> Lease | None:
            nonlocal is_answer_lost
            try:
                return await self._store.expire_lease()
            except OutcomeUnknown:
                is_answer_lost = True
                raise

        removed = await self._retry("to release the lease", expire)
        if removed is None and is_answer_lost:
            removed = holder
        if removed is not None:
            self._history.note(HistoryFact("unlocked"))
            await self._history.write_now()
        return removed

    async def read_protection(self) -> str | None:
        """Read the label of a protected database. None: it isn't protected."""
        return (await self._read("the protection", self._store.read_lease)).protected_as

    async def protect(self, label: str | None) -> None:
        """Protect the database under this label; None: no longer."""
        checked = None if label is None else check_text("The label", label, InvalidOptionError)
        if await self.read_protection() != checked:
            await self._retry("to write the protection", partial(self._store.write_protection, checked))

    def close(self) -> None:
        """Close the host, after the operation."""
        self._host.close()

    async def _read_records(self, *, details: bool) -> Records:
        records = await self._read("the records", partial(self._store.read_records, details=details))
        if records.unreadable:
            self._store.emit(RecordsIgnored(*self._where, records.unreadable))
        return records

    async def _read_lease(self) -> LeaseState:
        """Read the lease without acquiring it, and the start marks of what isn't in progress."""
        lease, now = await self._read("the lease", self._store.read_lease_and_clock)
        # One read doesn't show whether the holder is alive: this goes by the server's clock, which is only a guess. It
        # comes with the lease, because a fifth command would be too many for a status.
        if (holder := lease.holder) is not None and now is not None and now > holder.expires_at:
            lease = replace(lease, holder=None, expired=holder)
        return replace(lease, marks=lease.find_interrupted())

    async def _plan(
        self, operation: Operation, records: Records, read: Callable[[], Awaitable[LeaseState]] | None
    ) -> plan.Plan:
        """Make the plan of an operation. It reads the start marks only if the plan depends on them."""
        if operation.read is not None:
            await operation.read()
        todo = operation.make_plan(records, {})
        if read is None or not operation.may_meet_marks(todo):
            return todo
        found, catalog = (await read()).marks, self.scope.catalog
        return operation.make_plan(
            records,
            {name: one for name, one in found.items() if name in catalog.replaced or plan.has_stops(catalog, [name])},
        )

    async def _read(self, what: str, command: Callable[[], Awaitable[T]]) -> T:
        """Send the first command of an operation. If it fails, the error says where it was sent."""

        async def read() -> T:
            try:
                return await command()
            finally:
                await self._store.check_primary()

        try:
            return await self._retry(f"to read {what}", read, has_started=False)
        except Exception as error:
            database, prefix, _ = self._where
            add_note(error, f"while reading {what} of {prefix!r} in the database {database!r}; nothing has run")
            raise

    async def _retry(self, what: str, command: Callable[[], Awaitable[T]], *, has_started: bool = True) -> T:
        return await retry_until_known(self._store, what, command, self._patience, has_started=has_started)

    async def _warn(self, work: Work, records: Records) -> None:
        catalog = self.scope.catalog
        if not catalog.definitions:
            self._store.emit(RegistryEmpty(*self._where))
        if work != "mark" and (unknown := catalog.find_unknown(records.applied)):
            self._store.emit(RecordsUnknown(*self._where, tuple(unknown)))
        if work == "run" and (conflicts := plan.find_conflicts(catalog.view(records.applied.keys()))):
            self._store.emit(DependenciesPending(*self._where, conflicts))
        if work == "run" and catalog.definitions and records.is_empty:
            found = await self._read("other records", self._store.find_records_elsewhere)
            if found is not None:
                self._store.emit(found)

    def _check(self, todo: plan.Plan, records: Records) -> frozenset[bool]:
        """Check that the plan can be carried out. Returns the kinds of function that are transactions."""
        plan.check_databases(todo, self.scope.kinds)
        plan.check_records(todo, records)
        transactional = [change for change in todo if isinstance(change, Change) and change.transaction]
        if transactional and not self._store.has_transactions():
            raise TransactionsUnsupportedError([change.name for change in transactional])
        return frozenset(change.is_async for change in transactional)

    def _check_id(self, operation: Operation, todo: plan.Plan) -> None:
        """Check that the plan is the one that the operation may carry out. One without functions always is."""
        expected, names = operation.plan_id, plan.list_names(todo)
        if expected is not None and names and (found := self._compute_id(todo)) != expected:
            raise PlanChangedError(expected, found, list(names))

    async def _prepare(self, operation: Operation, todo: plan.Plan, records: Records) -> tuple[bytes, ...]:
        """Check the plan, and open sessions for its transactions. Returns the ids of all that are open."""
        kinds = self._check(todo, records)
        if not kinds:
            return ()
        if not self._store.is_mongodb():  # others can't create it in a transaction
            await self._retry("to create the collection of the records", self._store.create_records)
        slots = min(operation.concurrency, len(todo))  # any slot may get a transaction
        return await self._retry("to open sessions", lambda: self._functions.open_sessions(kinds, slots))

    async def _perform_under_lease(
        self, operation: Operation, todo: plan.Plan, records: Records, sessions: tuple[bytes, ...]
    ) -> tuple[str, ...]:
        """Acquire the lease, plan again if the records have changed since, and apply. Returns the names."""
        store, terms = self._store, self.scope.terms
        schedule = self._make_schedule(operation, todo, records)
        repeats = 1  # of the release, if something interrupts it: a second signal ends it
        try:
            first = schedule.locate().migrations
            claim = partial(store.acquire_lease, operation.work, first, sessions)
            self._held = held = await acquire(store, terms, self._patience, claim)
            self._host.start_heartbeat(partial(keep_alive, store, held))
            if not store.is_mongodb():
                await prove(store, held, claim)
            # Before the read: a transaction that commits after it would be missing in the plan.
            await self._kill_sessions_of_others(held, sessions)
            read = partial(store.read_records, details=operation.work != "run")
            again = await self._retry("to read the records", read)
            # Another instance may have changed them, or died in a migration that this one must not repeat.
            if again != records or operation.read is not None or operation.may_meet_marks(todo):
                todo = await self._plan(
                    operation, again, partial(self._retry, "to read the start marks", store.read_lease)
                )
                schedule = self._make_schedule(operation, todo, again)
                opened = await self._prepare(operation, todo, again)
                if not set(opened) <= set(sessions):
                    await check_lease(store, held, sessions=opened)
            plan.check_decided(todo)  # only now: another release may have been between two that one of them replaces
            names = plan.list_names(todo)
            # Only now: the rest of a plan that another instance is carrying out would be another plan.
            self._check_id(operation, todo)
            if operation.started is not None:
                store.emit(operation.started(*self._where, names))
            self._report_waiting(todo)
            at_once = operation.concurrency > 1
            lock = self._host.lock() if at_once else nullcontext()
            changes = {change.name: change for change in todo}
            applier = Applier(
                store, self._functions, held, schedule, changes, self.scope.catalog.definitions, lock, self._history
            )
            if at_once:
                await self._apply_concurrently(applier, schedule, lock)
            else:
                while (start := schedule.start()) is not None:
                    await applier.apply(start)
        except BaseException as error:
            is_interrupted = self._host.is_from_outside(error)
            repeats = 0 if is_interrupted else 1
            self._is_away = isinstance(error, OutageError)
            # Otherwise the server has refused to let it acquire the lease.
            self._may_hold = self._held is not None or is_interrupted or isinstance(error, QuaestorError)
            raise
        finally:
            try:
                await self._host.shield(self._release, _RELEASE_LIMIT, repeats)
            finally:
                if self._held is not None and self._release_failure is not None:
                    store.emit(LeaseNotReleased(*self._where, terms.ttl, self._release_failure))
                self._history.report(self._release_failure)
        return names

    def _make_schedule(self, operation: Operation, todo: plan.Plan, records: Records) -> Schedule:
        names = [change.name for change in todo]
        # One after the other, the order of the plan is enough, which a rollback reverses.
        is_ordered = operation.concurrency == 1
        needs = {} if is_ordered else self.scope.catalog.view(records.applied.keys()).graph
        recorded_only = {change.name for change in todo if isinstance(change, Adoption)}
        return Schedule(names, needs, operation.concurrency, uncounted=recorded_only)

    async def _apply_concurrently(
        self, applier: Applier, schedule: Schedule, lock: AbstractAsyncContextManager[object]
    ) -> None:
        """Apply several changes at once. Raises what they raised, or what interrupted them, with that as its cause."""
        failures: list[BaseException] = []

        def stop() -> None:
            schedule.stop()
            self._patience.cut(self._store.now())

        try:
            supervisor = partial(follow, schedule, applier.apply, lock, failures)
            await self._host.supervise(supervisor, stop)
        except BaseException as interruption:
            # Changes that it ended have raised a copy of it.
            own = [error for error in failures if isinstance(error, Exception) and error is not interruption]
            if own:
                raise interruption from combine(own)
            raise
        if failures:
            raise combine(failures)

    def _report_waiting(self, todo: plan.Plan) -> None:
        if waiting := todo.waiting:
            self._store.emit(MigrationsWaiting(*self._where, waiting.delayed, waiting.dependents, waiting.post_deploy))

    async def _kill_sessions_of_others(self, held: HeldLease, own: tuple[bytes, ...]) -> None:
        """Abort the transactions that a killed or frozen holder left open, because they block the documents in them.

        If the user lacks the privilege, the migrations wait until the server aborts them.
        """
        if others := tuple(session for session in held.lease.sessions if session not in own):
            kill = partial(self._store.kill_sessions, others)
            if (refusal := await self._retry("to end sessions", kill)) is not None:
                self._store.emit(SessionsNotEnded(*self._where, refusal))
        self._others = others

    async def _release(self) -> None:
        """Stop the heartbeat, abort what this run left open, release the lease, and write the history.

        Keeps what failed.
        """
        # An interruption may repeat this, within the same time.
        deadline = self._release_by = self._release_by or self._store.now() + _RELEASE_TIMEOUT
        await self._host.stop_heartbeat()
        own, left_open = self._functions.list_sessions()
        left = deadline - self._store.now()
        if self._is_away or (self._held is not None and self._held.is_cut_off):
            left = min(left, _LAST_TRY)
        try:
            with self._store.limit(max(left, 0.1)):
                if self._may_hold:
                    if left_open and not await self._kill(left_open):
                        # The lease document still names them, so the next holder kills them.
                        own = tuple(session for session in own if session not in left_open)
                    await self._store.release_lease((*own, *self._others))
                self._release_failure = None
                # The application may use the sessions again only now: others can kill those in the lease document.
                await self._functions.end_sessions()
        except Exception as error:
            if self._host.is_from_outside(error):
                raise
            # What the run raised, or returns, matters more. And sessions that can't be ended end by themselves.
            if self._release_failure is not None:
                self._release_failure = error.error if isinstance(error, OutcomeUnknown) else error
        if self._release_failure is None:  # otherwise the server is away
            await self._history.write(max(min(TIMEOUT, deadline - self._store.now()), 0.1))

    async def _kill(self, sessions: tuple[bytes, ...]) -> bool:
        """Abort the transactions of sessions. Returns whether they are known to be aborted."""
        try:
            with self._store.limit(_RELEASE_TIMEOUT / 4):
                return await self._store.kill_sessions(sessions) is None
        except OutcomeUnknown:  # the lease can be released all the same
            return False
