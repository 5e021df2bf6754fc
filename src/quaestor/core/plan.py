"""What a run is to do: which migrations, in which order."""

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter
from typing import TypeAlias

from quaestor.core import graph
from quaestor.core.migration import Colour, MigrationDefinition
from quaestor.core.records import Records
from quaestor.errors import MissingDatabaseError, RecordConflictError

Definitions: TypeAlias = Mapping[str, MigrationDefinition]
"""All registered migrations by name."""

Plan: TypeAlias = list[MigrationDefinition]
"""The migrations to apply, in order."""


def validated(definitions: Definitions) -> TopologicalSorter[str]:
    """Check the graph of all migrations, applied or not, and make the sorter that `pending` uses up.

    Raises:
        MissingDependencyError: A dependency is not registered.
        CircularDependencyError: Migrations wait for each other.
    """
    return graph.prepare({name: definition.depends_on for name, definition in definitions.items()})


def pending(definitions: Definitions, sorter: TopologicalSorter[str], records: Records) -> Plan:
    """The migrations that are not recorded, in order. A dependency that is recorded counts as met.

    Raises:
        RuntimeError: The sorter was used before.
    """
    met = definitions.keys() & records.applied
    if any(needed not in met for name in met for needed in definitions[name].depends_on):
        # A recorded migration was given a new dependency later. It is met all the same: sort without it. (Else the
        # sorter of the check serves: a second one would double the time of a plan.)
        waiting = definitions.keys() - met
        sorter = graph.prepare(
            {name: [needed for needed in definitions[name].depends_on if needed in waiting] for name in waiting}
        )
    ordered = graph.order(sorter, met)
    if len(ordered) != len(definitions) - len(met):
        raise RuntimeError("This sorter has made a plan before, and would now make an empty one: validate again.")
    return [definitions[name] for name in ordered]


def check_databases(plan: Plan, colours: Collection[Colour]) -> None:
    """Check that there is a database of the right colour for every migration of the plan.

    Raises:
        MissingDatabaseError: Names the migrations that have none, and the argument to pass.
    """
    without = [migration for migration in plan if migration.colour not in colours]
    if without:
        raise MissingDatabaseError([migration.name for migration in without], f"{without[0].colour}_db")


def check_records(plan: Plan, records: Records) -> None:
    """Check that every migration of the plan can be recorded once it has run.

    Raises:
        RecordConflictError: Names the migrations whose `_id` belongs to a record of something else.
    """
    if taken := [migration.name for migration in plan if migration.name in records.taken]:
        raise RecordConflictError(taken)
