"""Making the status of the registered migrations, from records, lease and checkpoints."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

from quaestor._core.catalog import Catalog, Standing
from quaestor._core.graph import make_sorter, order
from quaestor._core.lease import LeaseState
from quaestor._core.phases import EVERYTHING, select
from quaestor._core.plan import Records, find_date, find_marks
from quaestor.status import (
    BackfillStatus,
    HistoryEntry,
    Lease,
    MigrationRecord,
    MigrationStatus,
    OrderConflict,
    State,
    Status,
)


def make_status(
    where: tuple[str, str],
    catalog: Catalog,
    records: Records,
    lease: LeaseState,
    checkpoints: Mapping[str, tuple[BackfillStatus, ...]],
    *,
    failures: Mapping[str, HistoryEntry],
    changed: Collection[str] = (),
    now: datetime | None = None,
) -> Status:
    """Make the status. `where` is the database and the prefix.

    `failures` has the last failure of each migration that wasn't rolled back or marked since. Without `now`, delays
    don't count.
    """

    def find_failure(name: str) -> HistoryEntry | None:
        failure = failures.get(name)
        # Once a migration is applied, or rolled back, its earlier failures don't matter.
        return failure if failure is not None and failure.undo is (name in records.applied) else None

    def find_duration(name: str) -> float | None:
        milliseconds = records.newest.get(name, nothing).duration_ms
        return None if milliseconds is None else milliseconds / 1000

    def find_state(name: str) -> State:
        if name in view.applied:
            return "applied"
        return "waiting" if name in waiting.delayed or name in dependents else "pending"

    def make_gone(name: str, state: State) -> MigrationStatus:
        return MigrationStatus(
            name,
            state,
            records.applied_at(name),
            duration=find_duration(name),
            release=records.newest.get(name, nothing).release,
            last_failure=find_failure(name) if name in records.applied else None,  # otherwise it runs no more
            replaced_by=catalog.replaced.get(name),
        )

    nothing = MigrationRecord()
    view = catalog.view(records.applied.keys())
    _, waiting = select(catalog, view, partial(find_date, view=view, records=records), EVERYTHING, now)
    dependents = frozenset(waiting.dependents)
    definitions = [catalog.definitions[name] for name in order(make_sorter(view.graph))]
    in_progress = () if lease.holder is None else lease.holder.migrations
    interrupted = _find_interrupted(lease.expired, records.applied, view.applied) | {
        # A rollback's checkpoints are removed with the record.
        name
        for name, backfills in checkpoints.items()
        if name in view.applied and name not in in_progress and any(backfill.undo for backfill in backfills)
    }
    # Their start marks say more: the lease may name a migration that was next, and doesn't name one that failed.
    stopping = {one.name for one in definitions if one.stops and one.name not in view.applied}
    stopped = {
        name: min(mark.since for mark in marks.values())
        for name in view.graph
        if name in stopping or view.standings.get(name) is Standing.PENDING
        if (marks := find_marks((name, *view.replaces.get(name, ())), lease.marks))
    }
    interrupted = interrupted - stopping | stopped.keys()
    migrations = [
        MigrationStatus(
            name=definition.name,
            state=find_state(definition.name),
            applied_at=find_date(definition.name, view, records),
            depends_on=tuple(view.graph[definition.name]),
            transaction=definition.transaction,
            has_rollback=definition.rollback is not None,
            description=definition.description,
            interrupted=definition.name in interrupted and not definition.transaction,
            backfills=checkpoints.get(definition.name, ()),
            duration=find_duration(definition.name),
            release=records.newest.get(definition.name, nothing).release,
            last_failure=find_failure(definition.name),
            changed=definition.name in changed,
            interrupted_since=stopped.get(definition.name),
            phase=definition.phase,
            replaces=definition.replaces,
            replaced_by=catalog.replaced.get(definition.name),
            delayed_until=waiting.delayed.get(definition.name),
        )
        for definition in definitions
    ]
    known = catalog.definitions.keys() | records.applied.keys()
    gone = [
        *(make_gone(name, "replaced") for name in sorted(catalog.replaced.keys() & known - view.graph.keys())),
        *(make_gone(name, "retired") for name in sorted(catalog.retired & records.applied.keys())),
        *(make_gone(name, "unknown") for name in catalog.find_unknown(records.applied)),
    ]
    dates = {one.name: one.applied_at for one in migrations if one.applied_at is not None}
    # What waited for its phase or its delay is late on purpose.
    prompt = {one.name for one in definitions if one.phase == "deploy" and one.delay is None}
    found = find_order_conflicts([one.name for one in migrations], dates, records.concurrent)
    conflicts = tuple(conflict for conflict in found if conflict.second in prompt)
    return Status(*where, (*migrations, *gone), lease.holder, conflicts, lease.protected_as)


def find_order_conflicts(
    names: Sequence[str], dates: Mapping[str, datetime], concurrent: Mapping[str, str]
) -> Iterator[OrderConflict]:
    """Find the migrations that were recorded in another order than this one, the plan's. Equal dates are no conflict.

    A migration that was rolled back and applied again counts by the last time, because its data does too. `concurrent`
    has the run that applied a migration, if it was a concurrent one.
    """
    began: dict[str, datetime] = {}  # several at once end in any order
    for name, date in dates.items():
        run = concurrent.get(name, name)
        began[run] = min(date, began.get(run, date))
    latest = -1
    places = [place for place, name in enumerate(names) if name in dates]
    for place in sorted(places, key=lambda place: began[concurrent.get(names[place], names[place])]):
        if place < latest:
            yield OrderConflict(names[latest], names[place])
        latest = max(place, latest)


def _find_interrupted(expired: Lease | None, recorded: Collection[str], applied: Collection[str]) -> set[str]:
    """Find the migrations that were in progress when a holder was killed or frozen.

    The lease check between a function and its record names that migration, and those that start after it. One that
    only counts as applied is applied, and has no record.
    """
    if expired is None or expired.work == "mark":
        return set()
    undone = expired.work == "rollback"
    named = {*expired.migrations, expired.recording}
    there = applied if undone else recorded
    started = {name for name in named if name is not None and (name in there) == undone}
    found = started if expired.recording not in started else started.difference(expired.upcoming)
    return found if undone else found.difference(applied)
