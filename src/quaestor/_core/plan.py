"""Plans: changes in order, to apply pending migrations, to roll back, or to correct the records."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, TypeAlias

from quaestor._core import graph
from quaestor._core.definition import MigrationDefinition, is_async, takes_context
from quaestor._core.records import Records
from quaestor.errors import (
    DependencyConflictError,
    InvalidOptionError,
    IrreversibleMigrationError,
    MissingDatabaseError,
    RecordConflictError,
    UnknownMigrationError,
    UnknownRecordsError,
)
from quaestor.status import PlannedMigration

Definitions: TypeAlias = Mapping[str, MigrationDefinition]
"""All registered migrations by name."""


@dataclass(frozen=True, slots=True)
class RecordChange:
    """A record to write or remove.

    Attributes:
        name: The migration.
        applies: Whether to write the record, or remove it.
        recorded_at: The dates in the records to remove: a record that was written since stays.
    """

    name: str
    applies: bool
    recorded_at: tuple[object, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Change(RecordChange):
    """A migration to apply or undo, with its record. The fields are those of `MigrationDefinition`.

    Attributes:
        function: `execute` or `rollback`. `is_async` and `wants_context` are about this function.
    """

    function: Callable[..., object]
    is_async: bool
    transaction: bool = False
    wants_context: bool = False
    can_backfill: bool = False


Plan: TypeAlias = Sequence[RecordChange]
"""The changes, in order."""


def check_names(argument: str, names: object) -> list[str]:
    """Check a list of names. Returns each name once.

    Raises:
        InvalidOptionError: It isn't a list of names.
    """
    if isinstance(names, str):
        raise InvalidOptionError(f"{argument} must be a list of names, not a str: write [{names!r}].")
    given: list[Any] = list(names) if isinstance(names, Iterable) else [names]
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in given):
        raise InvalidOptionError(f"{argument} must be a list of names (str), not {names!r:.80}.")
    return list(dict.fromkeys(map(str.__str__, given)))


def check_known(names: Iterable[str], known: Collection[str]) -> None:
    """Check that there are migrations with these names.

    Raises:
        UnknownMigrationError: Some don't exist. It suggests similar names.
    """
    if unknown := {name: graph.closest(name, known) for name in names if name not in known}:
        raise UnknownMigrationError(unknown)


def find_unknown(definitions: Definitions, records: Records) -> list[str]:
    """Find the applied migrations that aren't registered, alphabetically."""
    return sorted(records.applied.keys() - definitions.keys())


def check_unknown(definitions: Definitions, records: Records) -> None:
    """Check that all applied migrations are registered.

    Raises:
        UnknownRecordsError: Some aren't.
    """
    if unknown := find_unknown(definitions, records):
        raise UnknownRecordsError(unknown)


def check_graph(definitions: Definitions) -> TopologicalSorter[str]:
    """Check the graph of all migrations, applied or not, and make the sorter that `plan_run` uses up.

    Raises:
        MissingDependencyError: A dependency isn't registered.
        CircularDependencyError: Migrations depend on each other.
    """
    return graph.prepare(_dependencies(definitions))


def sort(definitions: Definitions) -> list[MigrationDefinition]:
    """Put all migrations in the order of a plan for all of them. Raises what `check_graph` raises."""
    return [definitions[name] for name in graph.order(check_graph(definitions))]


def plan_run(
    definitions: Definitions,
    sorter: TopologicalSorter[str],
    records: Records,
    targets: Iterable[str] | None = None,
) -> Plan:
    """Plan to apply all pending migrations, or only the targets and their dependencies.

    Raises:
        RuntimeError: The sorter was used before.
    """
    met = definitions.keys() & records.applied.keys()
    wanted = (
        definitions.keys() if targets is None else graph.find_reachable(_dependencies(definitions), targets, stop=met)
    )
    if targets is not None or any(needed not in met for name in met for needed in definitions[name].depends_on):
        # Only some are wanted; or an applied migration was given a new, pending dependency, and counts as applied all
        # the same. (Otherwise the sorter of the check is enough: another one would double the time of a plan.)
        waiting = wanted - met
        sorter = graph.prepare(
            {name: [needed for needed in definitions[name].depends_on if needed in waiting] for name in waiting}
        )
    names = graph.order(sorter, met)
    if len(names) != len(wanted - met):
        raise RuntimeError("This sorter has made a plan before, and would make an empty one: check the graph again.")
    return [
        Change(
            name,
            applies=True,
            function=definition.execute,
            is_async=definition.is_async,
            transaction=definition.transaction,
            wants_context=definition.wants_context,
            can_backfill=definition.can_backfill,
        )
        for name in names
        for definition in [definitions[name]]
    ]


def plan_rollback(definitions: Definitions, records: Records, targets: Iterable[str]) -> Plan:
    """Plan to undo the targets and all applied migrations that need them, directly or not, dependents first.

    Raises:
        IrreversibleMigrationError: Some have no rollback.
    """
    dependents = graph.reverse(_dependencies(definitions))
    names = graph.find_reachable(dependents, targets) & records.applied.keys()
    undone = [migration for migration in reversed(sort(definitions)) if migration.name in names]
    if irreversible := [migration.name for migration in undone if migration.rollback is None]:
        raise IrreversibleMigrationError(irreversible)
    return [
        Change(
            migration.name,
            applies=False,
            recorded_at=records.applied[migration.name],
            function=migration.rollback,
            is_async=is_async(migration.rollback),
            transaction=migration.transaction,
            wants_context=takes_context(migration.name, migration.rollback),
            can_backfill=migration.can_backfill,
        )
        for migration in undone
        if migration.rollback is not None
    ]


def plan_mark_applied(definitions: Definitions, records: Records, names: Collection[str]) -> Plan:
    """Plan to record these migrations, without running anything.

    Raises:
        DependencyConflictError: One would be applied while a dependency of it is pending.
    """
    recorded = records.applied.keys() | set(names)
    _check_dependencies(definitions, names, lambda needed: needed not in recorded)
    unrecorded = set(names) - records.applied.keys()
    return [
        RecordChange(migration.name, applies=True) for migration in sort(definitions) if migration.name in unrecorded
    ]


def plan_mark_pending(definitions: Definitions, records: Records, names: Collection[str]) -> Plan:
    """Plan to remove the records of these migrations, registered or not, without running anything.

    Raises:
        DependencyConflictError: One that depends on them would stay applied.
    """
    left = records.applied.keys() - set(names)
    _check_dependencies(definitions, sorted(left & definitions.keys()), lambda needed: needed in names)
    backwards = [*find_unknown(definitions, records), *(one.name for one in reversed(sort(definitions)))]
    recorded = records.applied.keys() & set(names)
    return [
        RecordChange(name, applies=False, recorded_at=records.applied[name]) for name in backwards if name in recorded
    ]


def explain(
    definitions: Definitions, names: Collection[str], targets: Collection[str] | None, *, undo: bool = False
) -> list[PlannedMigration]:
    """Say why each migration is in the plan."""
    dependencies = _dependencies(definitions)
    reasons = dependencies if undo else graph.reverse(dependencies)
    planned = set(names)

    def explain_one(name: str) -> PlannedMigration:
        if targets is None or name in targets:
            return PlannedMigration(name, asked_for=True, undo=undo)
        # A migration to undo may need a target by way of a pending one, which is named then.
        because_of = tuple(sorted(planned.intersection(reasons[name]) or reasons[name]))
        return PlannedMigration(name, asked_for=False, because_of=because_of, undo=undo)

    return [explain_one(name) for name in names]


def check_databases(plan: Plan, kinds: Collection[bool]) -> None:
    """Check that there is a database for every function of the plan, sync or async.

    Raises:
        MissingDatabaseError: Some have none.
    """
    without = [change for change in plan if isinstance(change, Change) and change.is_async not in kinds]
    if without:
        raise MissingDatabaseError(
            [change.name for change in without], "async_db" if without[0].is_async else "sync_db"
        )


def check_records(plan: Plan, records: Records) -> None:
    """Check that every migration of the plan can be recorded.

    Raises:
        RecordConflictError: The `_id`s of some belong to other records.
    """
    if taken := [change.name for change in plan if change.applies and change.name in records.taken]:
        raise RecordConflictError(taken)


def _dependencies(definitions: Definitions) -> dict[str, Collection[str]]:
    return {name: definition.depends_on for name, definition in definitions.items()}


def _check_dependencies(definitions: Definitions, names: Iterable[str], is_pending: Callable[[str], bool]) -> None:
    """Check that no dependency of these migrations would be pending after a mark."""
    pending = {name: [needed for needed in definitions[name].depends_on if is_pending(needed)] for name in names}
    if conflicts := {name: needed for name, needed in pending.items() if needed}:
        raise DependencyConflictError(conflicts)
