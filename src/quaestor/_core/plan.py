"""Plans: changes in order, to apply pending migrations, to roll back, or to correct the records."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias

from quaestor._core.definition import MigrationDefinition, is_async, takes_context
from quaestor._core.guards import Guard, make_guards
from quaestor._text import find_similar
from quaestor.errors import (
    CircularDependencyError,
    DependencyConflictError,
    InterruptedMigrationError,
    InvalidOptionError,
    IrreversibleMigrationError,
    MissingDatabaseError,
    MissingDependencyError,
    RecordConflictError,
    UnknownMigrationError,
)
from quaestor.status import MigrationRecord, PlannedMigration

_ID_LENGTH = 16  # hexadecimal digits: short enough to paste, and too many for two plans to share

Graph: TypeAlias = Mapping[str, Collection[str]]
"""Each name with the names that it depends on."""

Definitions: TypeAlias = Mapping[str, MigrationDefinition]
"""All registered migrations by name."""


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


@dataclass(frozen=True, slots=True)
class RecordChange:
    """A record to write (`applies`) or remove."""

    name: str
    applies: bool
    recorded_at: tuple[object, ...] = field(default=(), kw_only=True)  # of records to remove; newer ones stay
    record: MigrationRecord | None = field(default=None, kw_only=True)  # the newest of these, for the history
    stops: bool = field(default=False, kw_only=True)  # a start mark goes with the record
    mark: StartMark | None = field(default=None, kw_only=True)  # the one that an earlier run left

    @property
    def has_mark(self) -> bool:
        """Whether there may be a mark to remove: one that was found, or that of the migration that was just applied."""
        return self.mark is not None or (self.applies and self.stops)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Restart(RecordChange):
    """A backfill of a migration to start over: its checkpoint is removed, and no record changes."""

    backfill: str


@dataclass(frozen=True, slots=True)
class Acceptance(RecordChange):
    """A record that gets the present checksum of its function, and is as it was otherwise."""

    checksum: str


Compute: TypeAlias = Callable[[Callable[..., object]], str | None]
"""Computes the checksum of a function; None: it has no source."""

Plan: TypeAlias = Sequence[RecordChange]
"""The changes, in order."""


def check_known(names: Iterable[str], known: Collection[str]) -> None:
    """Check that there are migrations with these names. The error suggests similar ones."""
    if unknown := {name: find_similar(name, known) for name in names if name not in known}:
        raise UnknownMigrationError(unknown)


def find_unknown(definitions: Definitions, records: Records) -> list[str]:
    """Find the applied migrations that aren't registered, alphabetically."""
    return sorted(records.applied.keys() - definitions.keys())


def find_conflicts(definitions: Definitions, records: Records) -> dict[str, list[str]]:
    """Find the applied migrations with pending dependencies, alphabetically."""
    applied = sorted(definitions.keys() & records.applied.keys())
    return _find_pending(definitions, applied, lambda needed: needed not in records.applied)


def check_graph(definitions: Definitions) -> TopologicalSorter[str]:
    """Check the graph of all migrations, applied or not. Returns, and raises, what `make_sorter` does."""
    return make_sorter(_dependencies(definitions))


def sort(definitions: Definitions) -> list[MigrationDefinition]:
    """Put all migrations in the order of a plan for all of them. Raises what `check_graph` raises."""
    return [definitions[name] for name in order(check_graph(definitions))]


def plan_run(
    definitions: Definitions,
    sorter: TopologicalSorter[str],
    records: Records,
    targets: Iterable[str] | None = None,
    *,
    marks: Marks = MappingProxyType({}),
    retry: Container[str] = (),
) -> Plan:
    """Plan to apply all pending migrations, or only the targets and their dependencies. Uses up the sorter.

    Migrations with a start mark are refused, except for those to retry.
    """
    met = definitions.keys() & records.applied.keys()
    wanted = definitions.keys() if targets is None else find_reachable(_dependencies(definitions), targets, stop=met)
    if targets is not None or any(needed not in met for name in met for needed in definitions[name].depends_on):
        # Only some are wanted; or an applied migration was given a new, pending dependency, and counts as applied all
        # the same. (Otherwise the sorter of the check is enough: another one would double the time of a plan.)
        waiting = wanted - met
        sorter = make_sorter(
            {name: [needed for needed in definitions[name].depends_on if needed in waiting] for name in waiting}
        )
    names = order(sorter, met)
    if len(names) != len(wanted - met):
        raise RuntimeError("This sorter has made a plan before, and would make an empty one: check the graph again.")
    if interrupted := {name: marks[name].since for name in names if name in marks and name not in retry}:
        raise InterruptedMigrationError(interrupted)
    return [
        Change(
            name,
            applies=True,
            function=definition.execute,
            is_async=definition.is_async,
            transaction=definition.transaction,
            wants_context=definition.wants_context,
            can_backfill=definition.can_backfill,
            # Most have none, and a plan may have 200,000 migrations.
            preconditions=make_guards("precondition", definition) if definition.preconditions else (),
            verifications=make_guards("verification", definition) if definition.verifications else (),
            stops=definition.stops,
            mark=marks.get(name),
        )
        for name in names
        for definition in [definitions[name]]
    ]


def plan_rollback(definitions: Definitions, records: Records, marks: Marks, targets: Iterable[str]) -> Plan:
    """Plan to undo the targets and all migrations that need them, directly or not, dependents first.

    Migrations are undone if they are applied, or have a start mark.
    """
    names = find_dependents(definitions, targets) & (records.applied.keys() | marks.keys())
    undone = [migration for migration in reversed(sort(definitions)) if migration.name in names]
    if irreversible := [migration.name for migration in undone if migration.rollback is None]:
        raise IrreversibleMigrationError(irreversible)
    return [
        Change(
            migration.name,
            applies=False,
            recorded_at=records.applied.get(migration.name, ()),
            record=records.newest.get(migration.name),
            stops=migration.stops,
            mark=marks.get(migration.name),
            function=migration.rollback,
            is_async=is_async(migration.rollback),
            transaction=migration.transaction,
            wants_context=takes_context(migration.name, migration.rollback),
            can_backfill=migration.can_backfill,
        )
        for migration in undone
        if migration.rollback is not None
    ]


def plan_mark_applied(definitions: Definitions, records: Records, marks: Marks, names: Collection[str]) -> Plan:
    """Plan to record these migrations, without running anything."""
    recorded = records.applied.keys() | set(names)
    _check_dependencies(definitions, names, lambda needed: needed not in recorded)
    unrecorded = set(names) - records.applied.keys()
    return [
        RecordChange(migration.name, applies=True, stops=migration.stops, mark=marks.get(migration.name))
        for migration in sort(definitions)
        if migration.name in unrecorded
    ]


def plan_mark_pending(definitions: Definitions, records: Records, marks: Marks, names: Collection[str]) -> Plan:
    """Plan to remove the records of these migrations, registered or not, and their start marks."""
    left = records.applied.keys() - set(names)
    _check_dependencies(definitions, sorted(left & definitions.keys()), lambda needed: needed in names)
    backwards = [*find_unknown(definitions, records), *(one.name for one in reversed(sort(definitions)))]
    found = (records.applied.keys() | marks.keys()) & set(names)
    return [
        RecordChange(
            name,
            applies=False,
            recorded_at=records.applied.get(name, ()),
            record=records.newest.get(name),
            mark=marks.get(name),
        )
        for name in backwards
        if name in found
    ]


def find_changed(definitions: Definitions, records: Records, compute: Compute) -> set[str]:
    """Find the applied migrations whose function isn't the recorded one. Without a checksum, nobody knows."""
    return {
        name
        for name, record in records.newest.items()
        if name in definitions
        and record.checksum is not None
        and compute(definitions[name].execute) not in {None, record.checksum}
    }


def plan_mark_accepted(
    definitions: Definitions, records: Records, _: Marks, names: Collection[str], compute: Compute
) -> Plan:
    """Plan to record the present checksums of these migrations. Those that aren't applied are left out."""
    applied = [one for one in sort(definitions) if one.name in names and one.name in records.newest]
    return [
        Acceptance(one.name, applies=False, recorded_at=records.applied[one.name], record=record, checksum=checksum)
        for one in applied
        for record in [records.newest[one.name]]
        if (checksum := compute(one.execute)) is not None and checksum != record.checksum
    ]


def explain(
    definitions: Definitions, names: Collection[str], targets: Collection[str] | None, *, undo: bool = False
) -> list[PlannedMigration]:
    """Say why each migration is in the plan."""
    dependencies = _dependencies(definitions)
    reasons = dependencies if undo else reverse(dependencies)
    planned = set(names)

    def explain_one(name: str) -> PlannedMigration:
        if targets is None or name in targets:
            return PlannedMigration(name, asked_for=True, undo=undo)
        # A migration to undo may need a target by way of a pending one, which is named then.
        because_of = tuple(sorted(planned.intersection(reasons[name]) or reasons[name]))
        return PlannedMigration(name, asked_for=False, because_of=because_of, undo=undo)

    return [explain_one(name) for name in names]


def compute_id(plan: Plan, compute_checksum: Callable[[Callable[..., object]], str | None]) -> str:
    """Compute the id of a plan from its names, their order and the checksums of its functions."""
    steps = [(one.name, compute_checksum(one.function)) for one in plan if isinstance(one, Change)]
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
    if taken := [change.name for change in plan if change.applies and change.name in records.taken]:
        raise RecordConflictError(taken)


def find_dependents(definitions: Definitions, names: Iterable[str]) -> set[str]:
    """Find the migrations and all that need them, directly or not."""
    return find_reachable(reverse(_dependencies(definitions)), names)


def has_stops(definitions: Definitions, names: Iterable[str]) -> bool:
    """Say whether any of the migrations, if it is registered, stops a run after it was interrupted."""
    return any(name in definitions and definitions[name].stops for name in names)


def _dependencies(definitions: Definitions) -> dict[str, Collection[str]]:
    return {name: definition.depends_on for name, definition in definitions.items()}


def _check_dependencies(definitions: Definitions, names: Iterable[str], is_pending: Callable[[str], bool]) -> None:
    """Check that no dependency of these migrations would be pending after a mark."""
    if conflicts := _find_pending(definitions, names, is_pending):
        raise DependencyConflictError(conflicts)


def _find_pending(
    definitions: Definitions, names: Iterable[str], is_pending: Callable[[str], bool]
) -> dict[str, list[str]]:
    pending = {name: [needed for needed in definitions[name].depends_on if is_pending(needed)] for name in names}
    return {name: needed for name, needed in pending.items() if needed}


def make_sorter(graph: Graph) -> TopologicalSorter[str]:
    """Check the graph and make the sorter that `order` uses up. The error doesn't depend on the order of the graph."""
    if not all(map(graph.__contains__, chain.from_iterable(graph.values()))):
        raise _make_missing(graph)
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError:
        raise CircularDependencyError(_find_cycle(graph)) from None
    return sorter


def order(sorter: TopologicalSorter[str], met: Container[str] = ()) -> list[str]:
    """Put the names in order, dependencies first; of several that are ready, the alphabetically first.

    Names in `met` count as done and are left out; their dependencies must be in `met` as well.
    """
    ordered: list[str] = []
    ready: list[str] = []  # a heap
    while (new := sorter.get_ready()) or ready:
        for name in new:
            if name in met:
                sorter.done(name)
            else:
                heappush(ready, name)
        if not new:  # everything in `met` that can be done is done
            name = heappop(ready)
            ordered.append(name)
            sorter.done(name)
    return ordered


def find_reachable(graph: Graph, names: Iterable[str], stop: Container[str] = ()) -> set[str]:
    """Find the names and all their dependencies, direct or not. It doesn't go to or beyond the names in `stop`."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in found and name not in stop:
            found.add(name)
            ahead.extend(graph[name])
    return found


def reverse(graph: Graph) -> dict[str, list[str]]:
    """Make the graph of each name with the names that depend on it."""
    dependents: dict[str, list[str]] = {name: [] for name in graph}
    for name, dependencies in graph.items():
        for needed in dependencies:
            dependents[needed].append(name)
    return dependents


def _make_missing(graph: Graph) -> MissingDependencyError:
    migration, dependency = min((name, needed) for name in graph for needed in graph[name] if needed not in graph)
    candidates = [name for name in graph if name != migration]
    return MissingDependencyError(migration, dependency, find_similar(dependency, candidates))


def _find_cycle(graph: Graph) -> list[str]:
    """Find a cycle in the direction of "depends on", from its alphabetically first name."""
    in_one_order = TopologicalSorter({name: sorted(graph[name]) for name in sorted(graph)})
    found: list[str] = []
    try:
        in_one_order.prepare()
    except CycleError as error:
        found = error.args[1]  # from dependency to dependent, with its first name at both ends
    cycle = list(reversed(found[1:]))
    start = cycle.index(min(cycle))
    return [*cycle[start:], *cycle[: start + 1]]
