"""Making the status of the registered migrations, from records, lease and checkpoints."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from quaestor._core.definition import MigrationDefinition
from quaestor._core.lease import LeaseState
from quaestor._core.plan import Records
from quaestor.status import (
    BackfillStatus,
    HistoryEntry,
    Lease,
    MigrationRecord,
    MigrationStatus,
    OrderConflict,
    Status,
)


def make_status(
    where: tuple[str, str],
    definitions: Sequence[MigrationDefinition],
    records: Records,
    lease: LeaseState,
    checkpoints: Mapping[str, tuple[BackfillStatus, ...]],
    *,
    failures: Mapping[str, HistoryEntry],
    changed: Collection[str] = (),
) -> Status:
    """Make the status. `where` is the database and the prefix; the definitions are in order.

    `failures` has the last failure of each migration that wasn't rolled back or marked since.
    """

    def find_failure(name: str) -> HistoryEntry | None:
        failure = failures.get(name)
        # Once a migration is applied, or rolled back, its earlier failures don't matter.
        return failure if failure is not None and failure.undo is (name in records.applied) else None

    def find_duration(name: str) -> float | None:
        milliseconds = records.newest.get(name, nothing).duration_ms
        return None if milliseconds is None else milliseconds / 1000

    nothing = MigrationRecord()
    known = {definition.name for definition in definitions}
    in_progress = () if lease.holder is None else lease.holder.migrations
    interrupted = _find_interrupted(lease.expired, records.applied) | {
        # A rollback's checkpoints are removed with the record.
        name
        for name, backfills in checkpoints.items()
        if name in records.applied and name not in in_progress and any(backfill.undo for backfill in backfills)
    }
    # Their start marks say more: the lease may name a migration that was next, and doesn't name one that failed.
    stopping = {one.name for one in definitions if one.stops and one.name not in records.applied}
    stopped = {name: mark.since for name, mark in lease.marks.items() if name in stopping}
    interrupted = interrupted - stopping | stopped.keys()
    migrations = [
        MigrationStatus(
            name=definition.name,
            state="applied" if definition.name in records.applied else "pending",
            applied_at=records.applied_at(definition.name),
            depends_on=tuple(definition.depends_on),
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
        )
        for definition in definitions
    ]
    unknown = [
        MigrationStatus(
            name,
            "unknown",
            records.applied_at(name),
            duration=find_duration(name),
            release=records.newest.get(name, nothing).release,
            last_failure=find_failure(name),
        )
        for name in sorted(records.applied.keys() - known)
    ]
    conflicts = find_order_conflicts([one.name for one in migrations], records)
    return Status(*where, (*migrations, *unknown), lease.holder, tuple(conflicts), lease.protected_as)


def find_order_conflicts(names: Sequence[str], records: Records) -> Iterator[OrderConflict]:
    """Find the migrations that were recorded in another order than this one, the plan's. Equal dates are no conflict.

    A migration that was rolled back and applied again counts by the last time, because its data does too.
    """
    dates = {name: date for name in names if (date := records.applied_at(name)) is not None}
    began: dict[str, datetime] = {}  # several at once end in any order
    for name, date in dates.items():
        run = records.concurrent.get(name, name)
        began[run] = min(date, began.get(run, date))
    latest = -1
    places = [place for place, name in enumerate(names) if name in dates]
    for place in sorted(places, key=lambda place: began[records.concurrent.get(names[place], names[place])]):
        if place < latest:
            yield OrderConflict(names[latest], names[place])
        latest = max(place, latest)


def _find_interrupted(expired: Lease | None, applied: Mapping[str, object]) -> set[str]:
    """Find the migrations that were in progress when a holder was killed or frozen.

    The lease check between a function and its record names that migration, and those that start after it.
    """
    if expired is None or expired.work == "mark":
        return set()
    undone = expired.work == "rollback"
    named = {*expired.migrations, expired.recording}
    started = {name for name in named if name is not None and (name in applied) == undone}
    return started if expired.recording not in started else started.difference(expired.upcoming)
