"""What is to be done, as changes in order: to apply what is pending, to undo, or to correct the records."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import TypeAlias

from quaestor._core import graph
from quaestor._core.definition import Colour, MigrationDefinition, colour_of, wants_context
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

Definitions: TypeAlias = Mapping[str, MigrationDefinition]
"""All registered migrations by name."""


@dataclass(frozen=True, slots=True)
class RecordChange:
    """What becomes of the record of one migration.

    Attributes:
        name: The migration.
        applies: Whether it is recorded afterwards (it counts as applied), or not any more (as pending).
        recorded_at: What the records to remove say; one that was written since is another's and stays.
    """

    name: str
    applies: bool
    recorded_at: tuple[object, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Change(RecordChange):
    """A migration that is applied, or undone, before that.

    Attributes:
        function: What is called.
        colour: Its colour.
        transaction: Whether function and record are one transaction.
        wants_context: Whether the function takes the context.
        keeps_progress: Whether something may be kept of the passes of the migration or its rollback.
    """

    function: Callable[..., object]
    colour: Colour
    transaction: bool = False
    wants_context: bool = False
    keeps_progress: bool = False


Plan: TypeAlias = Sequence[RecordChange]
"""What to do, in order."""


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """A migration that would be applied, or undone, and why.

    Attributes:
        name: The migration (str).
        asked_for: Whether it is one of the targets (bool); without targets all are.
        because_of: Where it is not: the migrations of the plan that need it, or, in a rollback, that it needs (tuple of
            str).
        undo: Whether it would be undone (bool).
    """

    name: str
    asked_for: bool
    because_of: tuple[str, ...] = ()
    undo: bool = False

    @property
    def reason(self) -> str:
        """The reason in words (str)."""
        if self.asked_for:
            return "asked for"
        return f"{'needs' if self.undo else 'needed by'} {', '.join(self.because_of)}"


def checked_names(argument: str, names: object) -> list[str]:
    """The names that a caller gave, each once.

    Raises:
        InvalidOptionError: It is not a list of names.
    """
    if isinstance(names, str):
        raise InvalidOptionError(f"{argument} must be a list of names, not a str: write [{names!r}].")
    given = list(names) if isinstance(names, Iterable) else [names]
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in given):
        raise InvalidOptionError(f"{argument} must be a list of names (str), not {names!r:.80}.")
    return list(dict.fromkeys(map(str.__str__, given)))


def check_known(names: Iterable[str], known: Collection[str]) -> None:
    """Check that there are such migrations.

    Raises:
        UnknownMigrationError: Names those that there are not, each with the closest that there is.
    """
    if unknown := {name: graph.closest(name, known) for name in names if name not in known}:
        raise UnknownMigrationError(unknown)


def unknown_records(definitions: Definitions, records: Records) -> list[str]:
    """The names that are recorded and not registered, alphabetically."""
    return sorted(records.applied.keys() - definitions.keys())


def check_unknown_records(definitions: Definitions, records: Records) -> None:
    """Check that all that is recorded is registered.

    Raises:
        UnknownRecordsError: Names the records that are not.
    """
    if unknown := unknown_records(definitions, records):
        raise UnknownRecordsError(unknown)


def validated(definitions: Definitions) -> TopologicalSorter[str]:
    """Check the graph of all migrations, applied or not, and make the sorter that `pending` uses up.

    Raises:
        MissingDependencyError: A dependency is not registered.
        CircularDependencyError: Migrations wait for each other.
    """
    return graph.prepare(_dependencies(definitions))


def ordered(definitions: Definitions) -> list[MigrationDefinition]:
    """All migrations in the order of a plan for all of them. Raises as `validated`."""
    return [definitions[name] for name in graph.order(validated(definitions))]


def pending(
    definitions: Definitions,
    sorter: TopologicalSorter[str],
    records: Records,
    targets: Iterable[str] | None = None,
) -> Plan:
    """Apply what is not recorded, in order: all of it, or only the targets and what they need.

    A dependency that is recorded counts as met.

    Raises:
        RuntimeError: The sorter was used before.
    """
    met = definitions.keys() & records.applied.keys()
    wanted = definitions.keys() if targets is None else graph.reachable(_dependencies(definitions), targets, stop=met)
    if targets is not None or any(needed not in met for name in met for needed in definitions[name].depends_on):
        # Of these a part only is wanted; or a recorded migration, which is met all the same, was given a new dependency
        # later. (Else the sorter of the check serves: a second one would double the time of a plan.)
        waiting = wanted - met
        sorter = graph.prepare(
            {name: [needed for needed in definitions[name].depends_on if needed in waiting] for name in waiting}
        )
    names = graph.order(sorter, met)
    if len(names) != len(wanted - met):
        raise RuntimeError("This sorter has made a plan before, and would now make an empty one: validate again.")
    return [
        Change(
            name,
            applies=True,
            function=definition.execute,
            colour=definition.colour,
            transaction=definition.transaction,
            wants_context=definition.wants_context,
            keeps_progress=definition.keeps_progress,
        )
        for name in names
        for definition in [definitions[name]]
    ]


def rollback(definitions: Definitions, records: Records, targets: Iterable[str]) -> Plan:
    """Undo the targets and all applied migrations that need them, directly or not; those that need others first.

    Raises:
        IrreversibleMigrationError: Names those for which no rollback is registered.
    """
    dependents = graph.reversed_graph(_dependencies(definitions))
    names = graph.reachable(dependents, targets) & records.applied.keys()
    undone = [migration for migration in reversed(ordered(definitions)) if migration.name in names]
    if irreversible := [migration.name for migration in undone if migration.rollback is None]:
        raise IrreversibleMigrationError(irreversible)
    return [
        Change(
            migration.name,
            applies=False,
            recorded_at=records.applied[migration.name],
            function=migration.rollback,
            colour=colour_of(migration.rollback),
            transaction=migration.transaction,
            wants_context=wants_context(migration.name, migration.rollback),
            keeps_progress=migration.keeps_progress,
        )
        for migration in undone
        if migration.rollback is not None
    ]


def mark_applied(definitions: Definitions, records: Records, names: Collection[str]) -> Plan:
    """Record these migrations, without running anything.

    Raises:
        DependencyConflictError: One would be recorded before a migration that it depends on.
    """
    recorded = records.applied.keys() | set(names)
    if conflicts := {
        name: missing
        for name in names
        if (missing := [needed for needed in definitions[name].depends_on if needed not in recorded])
    }:
        raise DependencyConflictError(conflicts)
    unrecorded = set(names) - records.applied.keys()
    return [
        RecordChange(migration.name, applies=True) for migration in ordered(definitions) if migration.name in unrecorded
    ]


def mark_pending(definitions: Definitions, records: Records, names: Collection[str]) -> Plan:
    """Remove the records of these migrations, without running anything. They need not be registered.

    Raises:
        DependencyConflictError: One would stay recorded that depends on one of these.
    """
    left = records.applied.keys() - set(names)
    if conflicts := {
        name: missing
        for name in sorted(left & definitions.keys())
        if (missing := [needed for needed in definitions[name].depends_on if needed in names])
    }:
        raise DependencyConflictError(conflicts)
    backwards = [*unknown_records(definitions, records), *(one.name for one in reversed(ordered(definitions)))]
    recorded = records.applied.keys() & set(names)
    return [
        RecordChange(name, applies=False, recorded_at=records.applied[name]) for name in backwards if name in recorded
    ]


def explained(
    definitions: Definitions, names: Collection[str], targets: Collection[str] | None, *, undo: bool = False
) -> list[PlannedMigration]:
    """Say of each name of a plan why it is there."""
    dependencies = _dependencies(definitions)
    reasons = dependencies if undo else graph.reversed_graph(dependencies)
    planned = set(names)

    def explain(name: str) -> PlannedMigration:
        if targets is None or name in targets:
            return PlannedMigration(name, asked_for=True, undo=undo)
        # What is undone may need a target by way of one that is not applied: then that one is named.
        because_of = tuple(sorted(planned.intersection(reasons[name]) or reasons[name]))
        return PlannedMigration(name, asked_for=False, because_of=because_of, undo=undo)

    return [explain(name) for name in names]


def check_databases(plan: Plan, colours: Collection[Colour]) -> None:
    """Check that there is a database of the right colour for every function of the plan.

    Raises:
        MissingDatabaseError: Names the migrations that have none, and the argument to pass.
    """
    without = [change for change in plan if isinstance(change, Change) and change.colour not in colours]
    if without:
        raise MissingDatabaseError([change.name for change in without], f"{without[0].colour}_db")


def check_records(plan: Plan, records: Records) -> None:
    """Check that every migration of the plan can be recorded.

    Raises:
        RecordConflictError: Names the migrations whose `_id` belongs to a record of something else.
    """
    if taken := [change.name for change in plan if change.applies and change.name in records.taken]:
        raise RecordConflictError(taken)


def _dependencies(definitions: Definitions) -> dict[str, Collection[str]]:
    return {name: definition.depends_on for name, definition in definitions.items()}
