"""The order of steps, each written once for both colours.

Rule 1: a flow only decides. It asks for effects (`_core/effects.py`) and never performs one.
Rule 2: bad input raises before the first effect.
Rule 3: whatever interrupts an effect, Ctrl-C and cancellation included, is thrown into the flow at that place, and
        leaves it as it came.
Rule 4: what is done is planned from records that were read under the lease, and the lease is released on every way out.
"""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from quaestor._core import lease as rules
from quaestor._core import leasing, plan
from quaestor._core import overview as statuses
from quaestor._core.definition import Colour
from quaestor._core.effects import (
    AskForTransactions,
    BreakLease,
    CommitAgain,
    Emit,
    Execute,
    FindRecord,
    Flow,
    ForgetProgress,
    Now,
    OpenSessions,
    ReadLock,
    ReadProgress,
    ReadRecords,
    Record,
    ReleaseLease,
    SideBySide,
    Sleep,
    Transact,
    Unknown,
    Unrecord,
)
from quaestor._core.lease import Terms, Turn, Whereabouts
from quaestor._core.leasing import settled
from quaestor._core.plan import Change, PlannedMigration, RecordChange
from quaestor._core.records import Records
from quaestor._core.rehearsal import rehearsed
from quaestor._core.scheduler import Begun, Schedule
from quaestor._core.side_by_side import one_by_one, side_by_side
from quaestor._core.transacting import transacted
from quaestor.errors import LeaseLostError, TransactionsUnsupportedError
from quaestor.events import (
    Event,
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationRolledBack,
    MigrationStarted,
    Place,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunStarted,
)
from quaestor.status import Lease, Status, Work

T = TypeVar("T")

_Planner: TypeAlias = Callable[[Records], plan.Plan]
"""What is to be done where these are the records."""

_Announcement: TypeAlias = Callable[[str, str, tuple[str, ...]], Event]
"""Makes a fact about a whole plan: of database, prefix, names."""


_Where: TypeAlias = Callable[[], Whereabouts]
"""Where the run is, as things stand when it is asked."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What is done under the lease.

    Attributes:
        work: What the lease is for.
        planned: Makes the plan.
        finished: Tells that it is carried out.
        started: Tells that it begins, where that is told.
        lanes: How many changes may be under way at once.
    """

    work: Work
    planned: _Planner
    finished: _Announcement
    started: _Announcement | None = None
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Scope:
    """What a flow is about.

    Attributes:
        definitions: All registered migrations.
        database: The name of the database, for the events.
        prefix: The prefix, likewise.
        colours: The colours of function for which the runner has a database.
        terms: How the lease is taken.
    """

    definitions: plan.Definitions
    database: str
    prefix: str
    colours: Collection[Colour]
    terms: Terms


def run(
    scope: Scope, targets: Collection[str] | None = None, *, strict: bool = False, concurrency: int = 1
) -> Flow[list[str]]:
    """Apply what is pending, as the only instance that does: all of it, or only the targets and what they need; as many
    at once as `concurrency` allows.

    Returns:
        The names applied, in order.
    """
    wanted = None if targets is None else plan.checked_names("targets", targets)
    sorters = [plan.validated(scope.definitions)]
    if wanted is not None:
        plan.check_known(wanted, scope.definitions)

    def planned(records: Records) -> plan.Plan:
        if strict:
            plan.check_unknown_records(scope.definitions, records)
        # The sorter that checked the graph serves the first plan: a second one would double its time.
        sorter = sorters.pop() if sorters else plan.validated(scope.definitions)
        return plan.pending(scope.definitions, sorter, records, wanted)

    return (yield from _work(scope, _Job("run", planned, RunFinished, RunStarted, lanes=concurrency)))


def rollback(scope: Scope, targets: Collection[str]) -> Flow[list[str]]:
    """Undo the targets and every applied migration that needs them, dependents first.

    Returns:
        The names undone, in order.
    """
    names = plan.checked_names("targets", targets)
    plan.validated(scope.definitions)
    plan.check_known(names, scope.definitions)

    def planned(records: Records) -> plan.Plan:
        return plan.rollback(scope.definitions, records, names)

    return (yield from _work(scope, _Job("rollback", planned, RollbackFinished, RollbackStarted)))


def mark_applied(scope: Scope, names: Collection[str]) -> Flow[list[str]]:
    """Record migrations without running them. Returns the names recorded by this call, in order."""
    marked = plan.checked_names("names", names)
    plan.validated(scope.definitions)
    plan.check_known(marked, scope.definitions)

    def planned(records: Records) -> plan.Plan:
        return plan.mark_applied(scope.definitions, records, marked)

    return (yield from _work(scope, _Job("mark", planned, partial(RecordsMarked, applied=True))))


def mark_pending(scope: Scope, names: Collection[str]) -> Flow[list[str]]:
    """Remove records without undoing anything. Returns the names whose record this call removed, in order."""
    marked = plan.checked_names("names", names)
    plan.validated(scope.definitions)

    def planned(records: Records) -> plan.Plan:
        plan.check_known(marked, scope.definitions.keys() | records.applied.keys())
        return plan.mark_pending(scope.definitions, records, marked)

    return (yield from _work(scope, _Job("mark", planned, partial(RecordsMarked, applied=False))))


def plan_run(
    scope: Scope, targets: Collection[str] | None = None, *, strict: bool = False
) -> Flow[list[PlannedMigration]]:
    """What `run` would do, in order: the same flow, performed dry."""
    wanted = None if targets is None else plan.checked_names("targets", targets)
    names = yield from rehearsed(run(scope, wanted, strict=strict), scope.terms)
    return plan.explained(scope.definitions, names, wanted)


def plan_rollback(scope: Scope, targets: Collection[str]) -> Flow[list[PlannedMigration]]:
    """What `rollback` would do, in order: the same flow, performed dry."""
    wanted = plan.checked_names("targets", targets)
    names = yield from rehearsed(rollback(scope, wanted), scope.terms)
    return plan.explained(scope.definitions, names, wanted, undo=True)


def status(scope: Scope) -> Flow[Status]:
    """What is applied, what is not, and who is at work."""
    ordered = plan.ordered(scope.definitions)
    # The lock first: a migration that its ended holder was in, and that is recorded by then, was taken up by another.
    lock = yield from _first(settled(ReadLock(), rules.PATIENCE, awaiting_server=False), scope)
    records = yield from _read(scope)
    progress = yield from settled(ReadProgress(), rules.PATIENCE)
    return statuses.status(scope.database, scope.prefix, ordered, records, lock, progress=progress)


def unlock(_: Scope) -> Flow[Lease | None]:
    """Free the lease, whoever holds it; whoever does stops at its next step. Returns who did, or None."""
    return (yield from settled(BreakLease(), rules.PATIENCE, awaiting_server=False))


def _work(scope: Scope, job: _Job) -> Flow[list[str]]:
    """Carry out a plan, as the only instance that does. Returns the names in it, in order."""
    records = yield from _read(scope)
    if job.work != "mark" and (unknown := plan.unknown_records(scope.definitions, records)):
        yield from Emit(RecordsUnknown(scope.database, scope.prefix, tuple(unknown)))
    todo = job.planned(records)
    names: tuple[str, ...] = ()
    if todo:
        sessions = yield from _prepared(todo, records, scope.colours, job.lanes)
        names = yield from _under_the_lease(scope, job, todo, records, sessions)
    elif job.started is not None:
        yield from Emit(job.started(scope.database, scope.prefix, ()))
    yield from Emit(job.finished(scope.database, scope.prefix, names))
    return list(names)


def _under_the_lease(
    scope: Scope, job: _Job, todo: plan.Plan, records: Records, sessions: tuple[bytes, ...]
) -> Flow[tuple[str, ...]]:
    """Take the lease, plan again if the records have changed since, and carry it out. Returns the names."""
    database, prefix, terms = scope.database, scope.prefix, scope.terms
    schedule = _schedule(scope, job, todo)
    first = schedule.whereabouts().migrations
    try:
        turn = yield from leasing.take(terms, database, prefix, work=job.work, first=first, sessions=sessions)
        again = yield from settled(ReadRecords(), rules.patience(terms.ttl))
        if again != records:  # another instance has been at work
            todo = job.planned(again)
            schedule = _schedule(scope, job, todo)
            prepared = yield from _prepared(todo, again, scope.colours, job.lanes)
            sessions = prepared or sessions  # none needed: some may be open
        names = tuple(change.name for change in todo)
        yield from leasing.end_sessions_of_others(turn, sessions, database, prefix)
        if job.started is not None:
            yield from Emit(job.started(database, prefix, names))

        def carry_out(begun: Begun) -> Flow[None]:
            place = Place(database, prefix, begun.change.name, begun.position, len(names))
            return _carry_out(begun, place, turn, schedule)

        if job.lanes == 1:
            yield from one_by_one(schedule, carry_out)
        else:
            yield from SideBySide(side_by_side(schedule, carry_out))
    except GeneratorExit:  # the flow itself is thrown away: there is nobody left to ask
        raise
    except BaseException:
        yield from _release(scope)
        raise
    yield from _release(scope)
    return names


def _schedule(scope: Scope, job: _Job, todo: plan.Plan) -> Schedule:
    # One after the other the order of the plan is enough, and that of a rollback is the other way round.
    needs = {} if job.lanes == 1 else {change.name: scope.definitions[change.name].depends_on for change in todo}
    return Schedule(todo, needs, job.lanes)


def _read(scope: Scope) -> Flow[Records]:
    records = yield from _first(settled(ReadRecords(), rules.PATIENCE, awaiting_server=False), scope)
    if records.unreadable:
        yield from Emit(RecordsIgnored(scope.database, scope.prefix, records.unreadable))
    return records


def _first(reading: Flow[T], scope: Scope) -> Flow[T]:
    """The first command of all: if it fails it says where it was sent."""
    try:
        return (yield from reading)
    except Exception as error:
        _note(error, f"quaestor: while reading {scope.prefix!r} in the database {scope.database!r}; nothing has run")
        raise


def _release(scope: Scope) -> Flow[None]:
    failure = yield from ReleaseLease()
    if failure is not None:
        yield from Emit(LeaseNotReleased(scope.database, scope.prefix, scope.terms.ttl, failure))


def _prepared(todo: plan.Plan, records: Records, colours: Collection[Colour], lanes: int) -> Flow[tuple[bytes, ...]]:
    """Check that the plan can be carried out. Returns the ids of the sessions for its transactions."""
    plan.check_databases(todo, colours)
    plan.check_records(todo, records)
    transactional = [change for change in todo if isinstance(change, Change) and change.transaction]
    if not transactional:
        return ()
    if not (yield from AskForTransactions()):
        raise TransactionsUnsupportedError([change.name for change in transactional])
    colours_needed = frozenset(change.colour for change in transactional)
    # One for each lane, for any lane may come to have such a change.
    return (yield from settled(OpenSessions(colours_needed, min(lanes, len(todo))), rules.PATIENCE))


def _carry_out(begun: Begun, place: Place, turn: Turn, schedule: Schedule) -> Flow[None]:
    change = begun.change
    if not isinstance(change, Change):
        yield from _forget(change.name, turn, undo=change.applies)
        where = partial(Whereabouts, (change.name,))
        yield from leasing.check(turn, where)
        yield from _settle(change, turn, where)
        yield from _forget(change.name, turn, undo=not change.applies)
        return
    undo = not change.applies
    where = partial(schedule.whereabouts, change.name)
    yield from Emit(MigrationStarted(*place, undo=undo))
    try:
        if change.name not in turn.named:  # what the lock says of the next ones was overtaken by events
            yield from leasing.check(turn, schedule.whereabouts)
        if change.keeps_progress:  # that of its opposite was of use only until the record was as it is
            yield from _forget(change.name, turn, undo=not undo)
        if change.transaction:
            seconds = yield from _transact(change, place, turn, begun.lane)
        else:
            yield from leasing.check_if_old(turn)
            seconds = yield from Execute(change, place, turn)
            yield from leasing.check(turn, where)
            yield from _settle(change, turn, where)
    except GeneratorExit:  # the flow itself is thrown away: there is nobody left to ask
        raise
    except BaseException as error:
        doing = "while undoing" if undo else "in"
        _note(error, f"quaestor: {doing} migration {change.name!r}, {place.position} of {place.total}")
        yield from Emit(MigrationFailed(*place, error, undo=undo))
        raise
    fact = MigrationRolledBack if undo else MigrationApplied
    yield from Emit(fact(*place, seconds, undo=undo))
    if change.keeps_progress:
        yield from _forget(change.name, turn, undo=undo)
    if change.transaction and where().upcoming:  # after any other, the check before the record has said it
        yield from leasing.check(turn, lambda: Whereabouts(where().migrations))


def _settle(change: RecordChange, turn: Turn, where: _Where) -> Flow[None]:
    """Write or remove the record, once, whatever happens to the connection."""
    if change.applies:
        yield from _record(change.name, turn, where)
    else:
        yield from _unrecord(change, turn, where)


def _forget(name: str, turn: Turn, *, undo: bool) -> Flow[None]:
    """Remove what was kept of its passes, or of those of its rollback."""
    yield from settled(ForgetProgress(name, turn.lease.token, undo), rules.patience(turn.ttl))


def _record(name: str, turn: Turn, where: _Where) -> Flow[None]:
    written = yield from Record(name)
    if written is True:
        return
    if written is False and turn.lease.previous is None:  # somebody else did it, who must hold the lease then
        raise LeaseLostError(name)
    # Else the outcome is unknown; or a holder that was frozen just before its record has woken.
    began = yield from Now()
    while not (yield from settled(FindRecord(name), rules.patience(turn.ttl))):
        if isinstance(written, Unknown) and (yield from Now()) - began >= rules.patience(turn.ttl):
            raise written.error
        yield from Sleep(*leasing.PAUSE)
        yield from leasing.check(turn, where)
        written = yield from Record(name)
        if written is True:
            return
    yield from leasing.check(turn, where)  # what was found may be that of another, if this one was frozen


def _unrecord(change: RecordChange, turn: Turn, where: _Where) -> Flow[None]:
    began: float | None = None
    while (removed := (yield from Unrecord(change.name, change.recorded_at))) is not True:
        if isinstance(removed, Unknown):
            now = yield from Now()
            began = now if began is None else began
            if now - began >= rules.patience(turn.ttl):
                raise removed.error
            yield from Sleep(*leasing.PAUSE)
        yield from leasing.check(turn, where)
        if removed is False:  # an earlier attempt of this run has removed it, for nobody else holds the lease
            return


def _transact(change: Change, place: Place, turn: Turn, lane: int) -> Flow[float]:
    """Do the function and the record in one transaction, as often as it takes. Returns how long the last one took."""

    def found() -> Flow[bool]:
        return (yield from settled(FindRecord(change.name), rules.patience(turn.ttl))) is change.applies

    undo = not change.applies
    attempt = yield from transacted(
        Transact(change, place, turn, lane), CommitAgain(change, lane), found, place, turn, undo=undo
    )
    return attempt.seconds


def _note(error: BaseException, note: str) -> None:
    with contextlib.suppress(Exception):  # an exception may refuse notes, as a frozen dataclass does: it goes first
        error.add_note(note)
