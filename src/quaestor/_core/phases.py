"""Which of the pending migrations a run applies, and which wait: for their phase, for a delay, or for one that does."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from quaestor._core.catalog import Catalog, Standing, View
from quaestor._core.definition import check_names
from quaestor._core.graph import Graph, find_reachable, make_sorter, order, reverse
from quaestor.errors import InvalidOptionError, MigrationDelayedError
from quaestor.status import Phase

Dates: TypeAlias = Callable[[str], datetime | None]
"""Finds when a migration was applied; None: it isn't, or nobody knows."""

_END = datetime.max.replace(tzinfo=UTC)  # people may have stored it, or later


@dataclass(frozen=True, slots=True)
class Selection:
    """The arguments of `MigrationRegistry.run` that choose what it applies. Making one checks them.

    Raises:
        InvalidOptionError: One of them isn't valid.
    """

    targets: Collection[str] | None = None  # None: all
    strict: bool = False
    retry: Collection[str] = ()
    phase: Phase | None = None
    steps: int | None = None
    ignore_delays: bool = False

    def __post_init__(self) -> None:
        if self.targets is not None:
            object.__setattr__(self, "targets", check_names("targets", self.targets))
        object.__setattr__(self, "retry", check_names("retry", self.retry))
        if self.phase not in (None, "deploy", "post_deploy"):  # a tuple, because it may be unhashable
            raise InvalidOptionError(f"phase must be 'deploy', 'post_deploy' or None, not {self.phase!r:.40}.")
        if self.steps is not None:
            check_number("steps", self.steps)

    def check(self, catalog: Catalog) -> None:
        """Check that there are migrations with these names, and that the targets are of the phase."""
        targets = self.targets or ()
        catalog.check_known([*targets, *self.retry])
        if self.phase == "deploy" and (late := [name for name in targets if _find_phase(catalog, name) != "deploy"]):
            raise InvalidOptionError(
                f"phase is 'deploy', but the targets {', '.join(map(repr, late))} are of phase 'post_deploy'. Leave "
                "these out, or run without a phase."
            )


EVERYTHING = Selection()


def check_number(argument: str, value: object) -> None:
    """Check a number of migrations."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOptionError(f"{argument} must be a whole number, at least 1, not {value!r:.40}.")


def _find_phase(catalog: Catalog, name: str) -> Phase:
    while name in catalog.replaced:
        name = catalog.replaced[name]
    return catalog.definitions[name].phase


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pending migrations that a run doesn't apply yet, in the order of a plan. Each is in one of the three."""

    delayed: Mapping[str, datetime | None] = field(default_factory=dict)  # until when; None: a dependency is pending
    dependents: tuple[str, ...] = ()  # of the delayed ones
    post_deploy: tuple[str, ...] = ()  # of this phase, in a run of the other one

    def __bool__(self) -> bool:
        return bool(self.delayed or self.dependents or self.post_deploy)


NOTHING_WAITS = Waiting()


def find_asked_for(catalog: Catalog, view: View, selection: Selection) -> Collection[str] | None:
    """Find the migrations that a run wants for themselves; the rest of the plan is what these need. None: all."""
    if selection.targets is not None:
        return view.find(selection.targets)
    if selection.phase == "deploy":
        return [name for name in view.graph if catalog.definitions[name].phase == "deploy"]
    return None


def select(
    catalog: Catalog, view: View, find_date: Dates, selection: Selection, now: datetime | None
) -> tuple[Collection[str], Waiting]:
    """Find the migrations to apply, and those that wait. Without `now`, delays don't count.

    Raises:
        MigrationDelayedError: A target is delayed, or needs one that is.
    """
    graph, pending = view.graph, view.graph.keys() - view.applied
    asked_for = find_asked_for(catalog, view, selection)
    wanted = pending if asked_for is None else find_reachable(graph, asked_for, stop=view.applied)
    delayed = {} if now is None else _find_delayed(catalog, view, find_date, wanted, now)
    if delayed and selection.targets is not None:
        raise MigrationDelayedError(dict(sorted(delayed.items())))
    if len(wanted) == len(pending) and not delayed:  # nearly always
        return pending, NOTHING_WAITS
    needed_by = reverse({name: [needed for needed in graph[name] if needed in pending] for name in pending})
    stopped = find_reachable(needed_by, delayed)
    ready = wanted - stopped
    if asked_for is not None:  # what only a waiting migration needs isn't needed yet
        ready = find_reachable(graph, ready.intersection(asked_for), stop=view.applied)
    chosen = complete(catalog, view, ready)
    if selection.targets is not None:
        return chosen, NOTHING_WAITS
    left = pending - chosen
    ordered = order(make_sorter({name: [needed for needed in graph[name] if needed in left] for name in left}))
    late = left - stopped | left.difference(wanted)
    return chosen, Waiting(
        {name: delayed[name] for name in ordered if name in delayed},
        tuple(name for name in ordered if name not in delayed and name not in late),
        tuple(name for name in ordered if name in late),
    )


def complete(catalog: Catalog, view: View, chosen: Iterable[str]) -> set[str]:
    """Add the replacements that are only recorded, because these migrations are the rest of what they replace."""
    found = set(chosen)

    def is_done(name: str) -> bool:
        return name in found or name in view.applied or is_completed(name)

    def is_completed(name: str) -> bool:
        is_only_recorded = view.standings.get(name) is Standing.COMPLETED
        return is_only_recorded and all(map(is_done, catalog.definitions[name].replaces))

    return found.union(filter(is_completed, view.standings))


def _find_delayed(
    catalog: Catalog, view: View, find_date: Dates, names: Iterable[str], now: datetime
) -> dict[str, datetime | None]:
    """Find which of these pending migrations are delayed, and until when; None: a dependency is pending."""
    found: dict[str, datetime | None] = {}
    definitions = catalog.definitions
    delays = {name: delay for name in names if (delay := definitions[name].delay) is not None}
    for name, delay in delays.items():
        if view.standings.get(name) in {Standing.COMPLETED, Standing.PARTLY}:
            continue  # without a function to call, there is nothing to wait for
        # Not those of the graph: what is applied and gone isn't there. Without a date, it was long ago.
        dependencies = [view.stand_ins.get(needed, needed) for needed in definitions[name].depends_on]
        dates = [date for needed in dependencies if (date := find_date(needed)) is not None]
        if any(needed not in view.applied for needed in view.graph[name]):
            found[name] = None
        elif dates and (until := max(dates) + min(delay, _END - max(dates))) > now:
            found[name] = until
    return found


def find_causes(graph: Graph, waiting: Waiting) -> dict[str, list[str]]:
    """Find the delayed migrations that each dependent of one waits for, directly or by way of other dependents."""
    causes: dict[str, set[str]] = {}
    for name in waiting.dependents:  # dependencies first
        direct = waiting.delayed.keys() & graph[name]
        causes[name] = direct.union(*(causes[needed] for needed in graph[name] if needed in causes))
    return {name: sorted(found) for name, found in causes.items()}
