"""Plans that correct the records of one database, and call no function: marks, and accepted changes."""

from collections.abc import Callable, Collection, Iterable
from itertools import chain

from quaestor._core.catalog import Catalog, Definitions, View
from quaestor._core.graph import find_reachable, make_sorter, order
from quaestor._core.plan import (
    Acceptance,
    Compute,
    Marks,
    Plan,
    RecordChange,
    Records,
    check_not_replaced,
    find_marks,
    find_pending,
    find_records,
    has_stops,
)
from quaestor.errors import DependencyConflictError


def plan_mark_applied(
    catalog: Catalog, records: Records, marks: Marks, names: Collection[str], *, with_dependencies: bool = False
) -> Plan:
    """Plan to record these migrations, without running anything. They may be replaced ones, registered or not."""
    if with_dependencies:
        view = catalog.view(records.applied.keys())
        needed = (one for name in names if name in catalog.definitions for one in catalog.definitions[name].depends_on)
        names = [*names, *sorted(find_reachable(view.graph, view.find(needed), stop=view.applied).difference(names))]
    replaced = {name: catalog.list_replaced(name) for name in names}
    after = catalog.view({*records.applied, *names, *chain.from_iterable(replaced.values())})
    _check_dependencies(after, names, lambda needed: needed not in after.applied)
    written = [name for name in names if name not in records.applied]
    others, ordered = sort_names(after, {*written}.difference(*(replaced[name] for name in written)))
    return Plan(
        [
            RecordChange(
                name,
                applies=True,
                replaces={old: () for old in replaced[name] if old not in records.applied},
                stops=has_stops(catalog, [name]),
                marks=find_marks((name, *replaced[name]), marks),
            )
            for name in [*others, *ordered]
        ]
    )


def plan_mark_pending(catalog: Catalog, records: Records, marks: Marks, names: Collection[str]) -> Plan:
    """Plan to remove the records of these migrations, registered or not, and their start marks."""
    view = catalog.view(records.applied.keys())
    check_not_replaced(catalog, {*view.applied} - {*names}, names)
    replaced = {name: catalog.list_replaced(name) for name in names}
    after = catalog.view(records.applied.keys() - {*names, *chain.from_iterable(replaced.values())})
    left = sorted(after.graph.keys() & after.applied)
    _check_dependencies(
        after, left, lambda needed: needed not in after.applied and (needed in names or needed in view.applied)
    )
    removed = [name for name in names if name in view.applied or find_marks((name, *replaced[name]), marks)]
    others, ordered = sort_names(view, {*removed}.difference(*(replaced[name] for name in removed)))
    return Plan(
        [
            RecordChange(
                name,
                applies=False,
                recorded_at=records.applied.get(name, ()),
                record=records.newest.get(name),
                replaces=find_records(replaced[name], records),
                marks=find_marks((name, *replaced[name]), marks),
            )
            for name in [*others, *reversed(ordered)]
        ]
    )


def find_changed(definitions: Definitions, records: Records, compute: Compute) -> set[str]:
    """Find the applied migrations whose function isn't the recorded one. Without a checksum, nobody knows."""
    return {
        name
        for name, record in records.newest.items()
        if name in definitions
        and record.checksum is not None
        and compute(definitions[name].execute) not in {None, record.checksum}
    }


def plan_mark_accepted(catalog: Catalog, records: Records, _: Marks, names: Collection[str], compute: Compute) -> Plan:
    """Plan to record the present checksums of these migrations. Those that aren't applied are left out."""
    known = {name for name in names if name in catalog.definitions and name in records.newest}
    others, ordered = sort_names(catalog.view(records.applied.keys()), known)
    applied = [catalog.definitions[name] for name in [*others, *ordered]]
    return Plan(
        [
            Acceptance(one.name, applies=False, recorded_at=records.applied[one.name], record=record, checksum=checksum)
            for one in applied
            for record in [records.newest[one.name]]
            if (checksum := compute(one.execute)) is not None and checksum != record.checksum
        ]
    )


def sort_names(view: View, names: Collection[str]) -> tuple[list[str], list[str]]:
    """Sort names: alphabetically those outside the graph, and in the order of a plan the others."""
    return sorted({*names} - view.graph.keys()), [name for name in order(make_sorter(view.graph)) if name in names]


def _check_dependencies(view: View, names: Iterable[str], is_pending: Callable[[str], bool]) -> None:
    """Check that no dependency of these migrations would be pending after a mark."""
    if conflicts := find_pending(view, names, is_pending):
        raise DependencyConflictError(conflicts)
