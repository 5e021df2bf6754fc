"""Plans: changes in order, to apply pending migrations, to roll back, or to correct the records."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import Any, TypeAlias

from quaestor._core.catalog import Catalog, Standing, View
from quaestor._core.definition import MigrationDefinition, is_async, takes_context
from quaestor._core.graph import find_reachable, make_sorter, order, reverse
from quaestor._core.guards import Guard, make_guards
from quaestor._core.phases import (
    EVERYTHING,
    NOTHING_WAITS,
    Selection,
    Waiting,
    complete,
    find_asked_for,
    find_causes,
    select,
)
from quaestor._core.store import RecordEntry
from quaestor._core.undo import Undo, find_undone
from quaestor.errors import (
    DependencyConflictError,
    InterruptedMigrationError,
    InvalidOptionError,
    IrreversibleMigrationError,
    MigrationReplacedError,
    MissingDatabaseError,
    PartlyReplacedError,
    RecordConflictError,
    UnknownRecordsError,
)
from quaestor.status import MigrationRecord, PlannedMigration

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_ID_LENGTH = 16  # hexadecimal digits: short enough to paste, and too many for two plans to share


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one database and prefix.

    `applied` has the dates in the records of each migration: aware datetimes (UTC), or whatever is stored there. A
    migration may have several records of mongo-quaestor 0.1.0. `concurrent` and `newest` are empty unless the records
    were read with their details.
    """

    applied: Mapping[str, tuple[object, ...]]
    unreadable: tuple[object, ...] = ()  # the `_id`s of records whose name is missing or not a str
    taken: frozenset[str] = frozenset()  # `_id`s that differ from the name in their record: these can't be recorded
    concurrent: Mapping[str, str] = field(default_factory=dict)  # the run that applied it, if it was a concurrent one
    newest: Mapping[str, MigrationRecord] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there are none at all."""
        return not (self.applied or self.unreadable)

    def applied_at(self, name: str) -> datetime | None:
        """Find when the migration was last applied; None if it isn't, or its records have no date."""
        return max((date for date in self.applied.get(name, ()) if isinstance(date, datetime)), default=None)


@dataclass(frozen=True, slots=True)
class StartMark:
    """The mark of a migration that was started, and must not be repeated unasked. Beside a record it is void."""

    owner: object  # of the lease, when it was started
    since: datetime  # aware, UTC, by the server's clock


Marks: TypeAlias = Mapping[str, StartMark]
"""The start marks of migrations, by name."""


# Nothing changes a change, but frozen ones take twice as long to make, and a plan may have 200,000.
@dataclass(slots=True)
class RecordChange:
    """A record to write (`applies`) or remove."""

    name: str
    applies: bool
    recorded_at: tuple[object, ...] = field(default=(), kw_only=True)  # of records to remove; newer ones stay
    record: MigrationRecord | None = field(default=None, kw_only=True)  # the newest of these, for the history
    replaces: Mapping[str, tuple[object, ...]] = field(default_factory=dict, kw_only=True)
    """The migrations that it replaces, whose records are written or removed with its own: their `recorded_at`."""
    stops: bool = field(default=False, kw_only=True)  # a start mark goes with the record
    marks: Marks = field(default_factory=dict, kw_only=True)  # its own, and of those: what earlier runs left

    @property
    def names(self) -> tuple[str, ...]:
        """The names whose records it writes or removes."""
        return (self.name, *self.replaces)

    @property
    def may_be_marked(self) -> bool:
        """Whether a start mark matters for it: one of its own, or of a migration that it replaces."""
        return self.stops or bool(self.replaces)

    @property
    def marked(self) -> tuple[str, ...]:
        """The names that may have a mark to remove."""
        return tuple(self.marks)


@dataclass(slots=True)
class Change(RecordChange):
    """A migration to apply or undo, with its record. The fields are those of `MigrationDefinition`."""

    function: Callable[..., object]  # `execute` or `rollback`; `is_async` and `wants_context` are about this one
    is_async: bool
    transaction: bool = False
    wants_context: bool = False
    can_backfill: bool = False
    preconditions: tuple[Guard, ...] = ()  # none to undo it; likewise verifications
    verifications: tuple[Guard, ...] = ()

    @property
    def kinds(self) -> list[bool]:
        """The kind (is_async) of each of its functions."""
        return [self.is_async, *[guard.is_async for guard in self.preconditions + self.verifications]]

    @property
    def marked(self) -> tuple[str, ...]:
        """The names that may have a mark to remove: all of them, if it was just applied."""
        return self.names if self.applies and self.stops else tuple(self.marks)


@dataclass(slots=True)
class Restart(RecordChange):
    """A backfill of a migration to start over: its checkpoint is removed, and no record changes."""

    backfill: str


@dataclass(slots=True)
class Acceptance(RecordChange):
    """A record that gets the present checksum of its function, and is as it was otherwise."""

    checksum: str


@dataclass(slots=True)
class Adoption(RecordChange):
    """A replacement that counts as applied: its record is written, unless it is there, and those in `replaces`."""

    replaced: tuple[str, ...]  # all that it replaces
    has_record: bool = False
    applied_at: datetime | None = None  # when the last of them was applied; None: now


@dataclass(slots=True)
class Import(RecordChange):
    """A record to write, of a migration that another tool has applied."""

    applied_at: datetime


@dataclass(slots=True)
class Undecided(RecordChange):
    """A replacement that can't run, because some of what it replaces is applied, and the rest is gone.

    A run raises it only under the lease: before, another release may be between two of them.
    """

    error: PartlyReplacedError = field(compare=False)  # errors have no equality


Compute: TypeAlias = Callable[[Callable[..., object]], str | None]
"""Computes the checksum of a function; None: it has no source."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes, in order, and what a run leaves for later."""

    changes: Sequence[RecordChange]
    waiting: Waiting = NOTHING_WAITS
    asked_for: Collection[str] | None = None  # None: all of them; the others are needed by these, or need them

    def __iter__(self) -> Iterator[RecordChange]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)


def find_conflicts(view: View) -> dict[str, list[str]]:
    """Find the applied migrations with pending dependencies, alphabetically."""
    applied = sorted(view.graph.keys() & view.applied)
    return find_pending(view, applied, lambda needed: needed not in view.applied)


def plan_run(
    catalog: Catalog,
    sorter: TopologicalSorter[str],
    view: View,
    records: Records,
    selection: Selection = EVERYTHING,
    *,
    now: datetime | None = None,
    marks: Marks = _NOTHING,
) -> Plan:
    """Plan to apply the pending migrations that a run selects. Uses up the sorter. Without `now`, delays don't count.

    Migrations with a start mark are refused, except for those to retry; beside a record, a mark is void. What counts as
    applied comes first.
    """
    graph, definitions = view.graph, catalog.definitions
    met = graph.keys() & view.applied
    asked_for = find_asked_for(catalog, view, selection)
    chosen, waiting = select(catalog, view, partial(find_date, view=view, records=records), selection, now)
    if (
        len(chosen) < len(graph) - len(met)
        or catalog.replaced
        or any(needed not in met for name in met for needed in definitions[name].depends_on)
    ):
        # Only some are wanted; or an applied migration was given a new, pending dependency, and counts as applied all
        # the same. (Otherwise the sorter of the check is enough: another one would double the time of a plan.)
        sorter = make_sorter({name: [needed for needed in graph[name] if needed in chosen] for name in chosen})
    names = order(sorter, met)
    if len(names) != len(chosen):
        raise RuntimeError("This sorter has made a plan before, and would make an empty one: check the graph again.")
    if selection.steps is not None:
        functions = [name for name in names if view.standings.get(name) is not Standing.COMPLETED]
        kept = complete(catalog, view, functions[: selection.steps])
        names = [name for name in names if name in kept]
    steps = [_make_step(definitions[name], view, marks) for name in names]
    started = [name for step in steps for name in _find_started(step)] if marks else ()
    if interrupted := {name: marks[name].since for name in started if name not in selection.retry}:
        raise InterruptedMigrationError(interrupted)
    adoptions = [_adopt(definitions[name], view, records, marks) for name in sorted(view.unrecorded)]
    return Plan([*adoptions, *steps], waiting, asked_for)


def find_marks(names: Iterable[str], marks: Marks) -> Marks:
    """Find the start marks of these migrations."""
    return {name: marks[name] for name in names if name in marks} if marks else marks


def _find_started(change: RecordChange) -> Iterable[str]:
    """Find the started migrations that a run may not repeat unasked. Its own mark covers what it replaces."""
    return [change.name] if change.name in change.marks else change.marks


def find_date(name: str, view: View, records: Records) -> datetime | None:
    """Find when a migration was applied, also one that only counts as applied. None: it isn't, or has no date."""
    if name in records.applied or name not in view.applied:
        return records.applied_at(name)
    dates = (records.applied_at(old) for old in view.replaces[name])
    return max((date for date in dates if date is not None), default=None)


def make_entries(change: RecordChange, entry: RecordEntry) -> dict[str, RecordEntry]:
    """Make the entries to write for a change.

    Its own comes first: if the process is killed between two of them, what isn't there can be found out.
    """
    own = {} if isinstance(change, Adoption) and change.has_record else {change.name: entry}
    return own | dict.fromkeys(change.replaces, RecordEntry("replaces", applied_at=entry.applied_at))


def list_names(todo: Plan) -> tuple[str, ...]:
    """List the migrations of a plan without those that are only recorded."""
    return tuple(change.name for change in todo if not isinstance(change, Adoption))


def _adopt(definition: MigrationDefinition, view: View, records: Records, marks: Marks) -> Adoption:
    name = definition.name
    return Adoption(
        name,
        applies=True,
        replaces={old: () for old in view.unrecorded[name] if old != name},
        stops=definition.stops,
        marks=find_marks((name, *view.replaces[name]), marks),
        replaced=view.replaces[name],
        has_record=name in records.applied,
        applied_at=find_date(name, view, records),
    )


def _make_step(definition: MigrationDefinition, view: View, marks: Marks) -> RecordChange:
    # Most migrations have no standing, marks or guards, and a plan may have 200,000.
    name, replaced = definition.name, tuple[str, ...]()
    if (standing := view.standings.get(name)) is not None:
        replaced, own = view.replaces[name], find_marks([name], marks)
        if standing is Standing.COMPLETED:  # by the steps before this one
            return Adoption(name, applies=True, stops=definition.stops, marks=own, replaced=replaced)
        if standing is Standing.PARTLY:
            return Undecided(name, applies=True, stops=definition.stops, marks=own, error=view.errors[name])
    return Change(
        name,
        applies=True,
        replaces=dict.fromkeys(replaced, ()) if replaced else _NOTHING,
        function=definition.execute,
        is_async=definition.is_async,
        transaction=definition.transaction,
        wants_context=definition.wants_context,
        can_backfill=definition.can_backfill,
        preconditions=make_guards("precondition", definition) if definition.preconditions else (),
        verifications=make_guards("verification", definition) if definition.verifications else (),
        stops=definition.stops,
        # Also those of what it replaces: an older release may have left that half done.
        marks=find_marks((name, *replaced), marks) if marks else _NOTHING,
    )


def check_decided(todo: Plan) -> None:
    """Check, under the lease, that no replacement is left that can't run."""
    for change in todo:
        if isinstance(change, Undecided):
            raise change.error


def _find_gone(view: View, names: Iterable[str], records: Records) -> Iterator[str]:
    """Find what is applied, and gone, of replacements that aren't applied: only an older release can undo it."""
    for name in names:
        if view.standings.get(name) in {Standing.COMPLETED, Standing.PARTLY}:
            outside = (old for old in view.replaces[name] if old in records.applied and old not in view.graph)
            yield from (old for old in outside if view.stand_ins.get(old) in {None, name})


def plan_rollback(catalog: Catalog, view: View, records: Records, marks: Marks, undo: Undo) -> Plan:
    """Plan to undo what is meant and all migrations that need it, directly or not, dependents first.

    Migrations are undone if they are applied, or have a start mark.
    """
    check_not_replaced(catalog, view.applied, undo.names)
    begun = records.applied.keys() | (marks.keys() - catalog.definitions.keys())
    if gone := sorted(begun & {*(undo.targets or ())} - view.graph.keys()):
        raise UnknownRecordsError(gone, undo=True)
    meant = find_undone(catalog, view, partial(find_date, view=view, records=records), records.applied.keys(), undo)
    dependents = find_dependents(view, meant)
    if gone := sorted({*_find_gone(view, dependents, records)}):
        raise UnknownRecordsError(gone, undo=True)
    names = dependents & {*view.applied, *marks}
    if not undo.with_dependents and (others := sorted(names.difference(meant))):
        raise DependencyConflictError(
            {name: sorted(names.intersection(view.graph[name])) for name in others}, undo=True
        )
    ordered = [name for name in reversed(order(make_sorter(view.graph))) if name in names]
    # An older release was interrupted in one that is replaced by now.
    started = sorted(catalog.definitions.keys() & marks.keys() & (undo.targets or ()) - view.graph.keys())
    undone = [catalog.definitions[name] for name in [*started, *ordered]]
    if irreversible := [migration.name for migration in undone if migration.rollback is None]:
        raise IrreversibleMigrationError(irreversible)
    return Plan(
        [
            Change(
                migration.name,
                applies=False,
                recorded_at=records.applied.get(migration.name, ()),
                record=records.newest.get(migration.name),
                replaces=find_records(view.replaces.get(migration.name, ()), records),
                stops=migration.stops,
                marks=find_marks((migration.name, *view.replaces.get(migration.name, ())), marks),
                function=migration.rollback,
                is_async=is_async(migration.rollback),
                transaction=migration.transaction,
                wants_context=takes_context(migration.name, migration.rollback),
                can_backfill=migration.can_backfill,
            )
            for migration in undone
            if migration.rollback is not None
        ],
        asked_for=meant,
    )


def find_records(names: Iterable[str], records: Records) -> dict[str, tuple[object, ...]]:
    """Find the dates in the records of those names that have one."""
    return {name: records.applied[name] for name in names if name in records.applied}


def check_not_replaced(catalog: Catalog, applied: Collection[str], names: Iterable[str]) -> None:
    """Check that no applied migration replaces any of these. Otherwise only the replacement can be undone."""

    def find(name: str) -> str | None:
        by = catalog.replaced.get(name)
        return by if by is None or by in applied else find(by)

    if replaced := {name: by for name in names if (by := find(name)) is not None}:
        raise MigrationReplacedError(replaced)


def explain(catalog: Catalog, view: View, todo: Plan, *, undo: bool = False) -> list[PlannedMigration]:
    """Say why each migration is in the plan, and of a run, what each of the others waits for."""
    reasons = view.graph if undo else reverse(view.graph)
    planned = {change.name for change in todo}

    def explain_one(change: RecordChange) -> PlannedMigration:
        name, is_recorded_only = change.name, isinstance(change, Adoption)
        # A replaced migration to undo isn't in the graph; it was asked for by its own name.
        is_asked_for = todo.asked_for is None or name in todo.asked_for or name not in view.graph or is_recorded_only
        # A migration to undo may need a target by way of a pending one, which is named then.
        because_of = () if is_asked_for else tuple(sorted(planned.intersection(reasons[name]) or reasons[name]))
        return PlannedMigration(
            name,
            is_asked_for,
            because_of,
            undo,
            replaces=catalog.definitions[name].replaces,
            is_recorded_only=is_recorded_only,
            completes=None if undo else catalog.replaced.get(name),
        )

    return [*map(explain_one, todo), *_explain_waiting(catalog, view, todo.waiting)]


def _explain_waiting(catalog: Catalog, view: View, waiting: Waiting) -> Iterator[PlannedMigration]:
    def make(name: str, **why: Any) -> PlannedMigration:
        return PlannedMigration(name, asked_for=True, replaces=catalog.definitions[name].replaces, **why)

    for name, until in waiting.delayed.items():
        pending = tuple(sorted(needed for needed in view.graph[name] if needed not in view.applied))
        yield make(name, is_delayed=True, delayed_until=until, waits_for=pending)
    for name, causes in find_causes(view.graph, waiting).items():
        yield make(name, waits_for=tuple(causes))
    for name in waiting.post_deploy:
        yield make(name, waits_for_phase="post_deploy")


def compute_id(plan: Plan, compute: Compute) -> str:
    """Compute the id of a plan from its names, their order and the checksums of its functions."""
    steps = [(one.name, compute(one.function)) for one in plan if isinstance(one, Change)]
    return hashlib.sha256(json.dumps(steps).encode()).hexdigest()[:_ID_LENGTH]


def check_id(plan_id: object) -> str:
    """Check what should be the id of a plan."""
    if not isinstance(plan_id, str) or not re.fullmatch(f"[0-9a-f]{{{_ID_LENGTH}}}", plan_id):
        raise InvalidOptionError(
            f"plan_id must be the id of a plan, which has {_ID_LENGTH} characters from 0 to 9 and a to f, not "
            f"{plan_id!r:.40}. The runner's pin() returns it; `quaestor plan --pin` prints it."
        )
    return plan_id


def check_databases(plan: Plan, kinds: Collection[bool]) -> None:
    """Check that there is a database for every function of the plan, sync or async."""
    changes = [change for change in plan if isinstance(change, Change)]
    check_kinds(((change.name, is_async) for change in changes for is_async in change.kinds), kinds)


def check_kinds(functions: Iterable[tuple[str, bool]], kinds: Collection[bool]) -> None:
    """Check that there is a database for each of these functions: the migration, and whether it is async."""
    if without := {name: is_async for name, is_async in functions if is_async not in kinds}:
        raise MissingDatabaseError(list(without), "async_db" if any(without.values()) else "sync_db")


def check_records(plan: Plan, records: Records) -> None:
    """Check that no other record has the `_id` of a migration in the plan."""
    # Most databases have none, and a plan may have 200,000 migrations.
    written = (name for change in plan if change.applies for name in change.names) if records.taken else ()
    if taken := [name for name in written if name in records.taken]:
        raise RecordConflictError(taken)


def find_dependents(view: View, names: Iterable[str]) -> set[str]:
    """Find the migrations and all that need them, directly or not."""
    return find_reachable(reverse(view.graph), names)


def has_stops(catalog: Catalog, names: Iterable[str]) -> bool:
    """Say whether any of the migrations, if it is registered, stops a run after it was interrupted."""
    return any(name in catalog.definitions and catalog.definitions[name].stops for name in names)


def find_pending(view: View, names: Iterable[str], is_pending: Callable[[str], bool]) -> dict[str, list[str]]:
    """Find which of these migrations have pending dependencies, and which."""
    pending = {
        name: [needed for needed in view.graph[name] if is_pending(needed)] for name in names if name in view.graph
    }
    return {name: needed for name, needed in pending.items() if needed}
