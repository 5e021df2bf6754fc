"""What is registered, and what that means in a database with certain records.

A migration can replace others (`replaces`). Then a database is in one of five states, which `Standing` lists. In all of
them but one, the replaced migrations are out of the graph, and a dependency on one means its replacement. The exception
is a database where some of them are applied and the rest can be: there the rest run first, as if nothing replaced them.

Names that were retired are known, and are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from quaestor._core.definition import MigrationDefinition
from quaestor._core.graph import Graph, make_sorter, order
from quaestor._text import find_similar
from quaestor.errors import MissingDependencyError, PartlyReplacedError, UnknownMigrationError

if TYPE_CHECKING:
    from graphlib import TopologicalSorter

Definitions: TypeAlias = Mapping[str, MigrationDefinition]
"""All registered migrations by name."""


class Standing(Enum):
    """What a replacement is in a database."""

    APPLIED = auto()  # recorded
    COUNTS = auto()  # all that it replaces is applied, so it counts as applied
    PENDING = auto()  # nothing that it replaces is applied: it runs
    COMPLETED = auto()  # some are applied, and the rest are registered: these run first, and then it counts
    PARTLY = auto()  # some are applied, and the rest aren't registered: nobody knows what to do


@dataclass(frozen=True, slots=True)
class Catalog:
    """The migrations of a registry, at one time."""

    definitions: Definitions
    retired: frozenset[str] = frozenset()
    replaced: Mapping[str, str] = field(init=False)  # each replaced name, registered or not, with what replaces it

    def __post_init__(self) -> None:
        replaced = {old: name for name, one in self.definitions.items() if one.replaces for old in one.replaces}
        object.__setattr__(self, "replaced", replaced)

    def check(self) -> TopologicalSorter[str]:
        """Check the graphs of all databases, as `graph.make_sorter` does. Returns the sorter of a new database."""
        try:
            if self.replaced:
                make_sorter({name: list(self._find_all_dependencies(one)) for name, one in self.definitions.items()})
            return make_sorter(self.view({}).graph)
        except MissingDependencyError as error:
            error.is_retired = error.dependency in self.retired
            raise

    def sort(self) -> list[MigrationDefinition]:
        """Put the migrations in the order in which a new database gets them, without what is replaced there.

        A dependency on a replaced one becomes one on its replacement.
        """
        ordered = [self.definitions[name] for name in order(self.check())]
        if not self.replaced:
            return ordered
        graph = self.view({}).graph
        return [replace(one, depends_on=list(graph[one.name])) for one in ordered]

    def check_known(self, names: Iterable[str], more: Collection[str] = ()) -> None:
        """Check that there are migrations with these names, if only as replaced ones, or that `more` has them."""
        known = {*self.definitions, *self.replaced, *more}
        if unknown := {name: find_similar(name, known) for name in names if name not in known}:
            raise UnknownMigrationError(unknown, self.retired.intersection(unknown))

    def find_unknown(self, applied: Iterable[str]) -> list[str]:
        """Find the applied migrations that the code doesn't know, alphabetically."""
        return sorted({*applied} - self.definitions.keys() - self.replaced.keys() - self.retired)

    def list_replaced(self, name: str) -> list[str]:
        """List the names that a migration replaces, directly or by a chain of replacements."""
        found: list[str] = []
        ahead = list(reversed(self._replaces(name)))
        while ahead:
            found.append(old := ahead.pop())
            ahead.extend(reversed(self._replaces(old)))
        return found

    def view(self, applied: Collection[str]) -> View:
        """Say what the migrations mean in a database where these are recorded."""
        if not self.replaced:  # a plan may have 200,000 migrations
            return View({name: one.depends_on for name, one in self.definitions.items()}, applied)
        return _Reader(self, applied).read()

    def _find_all_dependencies(self, definition: MigrationDefinition) -> Iterator[str]:
        """Find what it depends on where all that is registered runs, and replacements count as applied after that."""
        replaced = self.list_replaced(definition.name)
        for name in definition.depends_on:
            if name in self.definitions or name not in self.replaced:
                yield name
            if name in replaced:  # by a chain: where this one runs, it is what it depends on
                yield definition.name
        yield from (old for old in definition.replaces if old in self.definitions)

    def _replaces(self, name: str) -> tuple[str, ...]:
        return self.definitions[name].replaces if name in self.definitions else ()


@dataclass(frozen=True, slots=True)
class View:
    """What the registered migrations mean in one database."""

    graph: Graph  # what is applied or may run, with its dependencies; without what is replaced
    applied: Collection[str]  # what is recorded, or counts as applied
    standings: Mapping[str, Standing] = field(default_factory=dict)  # of the replacements in the graph
    replaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of these, chains included
    unrecorded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of those applied: names without a record
    errors: Mapping[str, PartlyReplacedError] = field(default_factory=dict)  # of those that are PARTLY
    stand_ins: Mapping[str, str] = field(default_factory=dict)  # names outside the graph, with those that they mean

    def find(self, names: Iterable[str]) -> list[str]:
        """Find what these names mean in the graph. One that is applied and gone means nothing."""
        found = (self.stand_ins.get(name, name) for name in names)
        return [name for name in dict.fromkeys(found) if name in self.graph]


class _Reader:
    """Makes a view of a catalog with replacements."""

    def __init__(self, catalog: Catalog, applied: Collection[str]) -> None:
        self._catalog = catalog
        self._definitions = catalog.definitions
        self._applied = applied
        self._standings: dict[str, Standing] = {}

    def read(self) -> View:
        live = [name for name in self._definitions if self._is_live(name)]
        standings = {name: self._find_standing(name) for name in live if self._definitions[name].replaces}
        replaces = {name: tuple(self._catalog.list_replaced(name)) for name in standings}
        counting = [name for name, standing in standings.items() if standing is Standing.COUNTS]
        unrecorded = {
            name: missing
            for name, standing in standings.items()
            if standing in {Standing.APPLIED, Standing.COUNTS}
            if (missing := tuple(one for one in (name, *replaces[name]) if one not in self._applied))
        }
        return View(
            graph={name: list(dict.fromkeys(self._find_dependencies(name))) for name in live},
            applied={*self._applied, *counting},
            standings=standings,
            replaces=replaces,
            unrecorded=unrecorded,
            errors={
                name: self._make_error(name, replaces[name])
                for name, standing in standings.items()
                if standing is Standing.PARTLY
            },
            stand_ins={
                old: stand_in
                for old in self._catalog.replaced
                if (stand_in := self._find_stand_in(old)) is not None and stand_in != old
            },
        )

    def _find_standing(self, name: str) -> Standing:
        """Find the standing of a replacement, also of one that is replaced itself."""
        if name not in self._standings:
            self._standings[name] = self._compute_standing(name)
        return self._standings[name]

    def _compute_standing(self, name: str) -> Standing:
        if name in self._applied:
            return Standing.APPLIED
        missing = [old for old in self._definitions[name].replaces if not self._counts(old)]
        if not missing:
            return Standing.COUNTS
        if not any(old in self._applied for old in self._catalog.list_replaced(name)):
            return Standing.PENDING
        return Standing.COMPLETED if all(old in self._definitions for old in missing) else Standing.PARTLY

    def _counts(self, name: str) -> bool:
        """Say whether a migration is recorded, or counts as applied."""
        if name in self._applied:
            return True
        is_replacement = name in self._definitions and bool(self._definitions[name].replaces)
        return is_replacement and self._find_standing(name) is Standing.COUNTS

    def _is_live(self, name: str) -> bool:
        """Say whether a registered migration is in the graph."""
        by = self._catalog.replaced.get(name)
        return by is None or (self._is_live(by) and self._find_standing(by) is Standing.COMPLETED)

    def _find_stand_in(self, name: str) -> str | None:
        """Find what a dependency on this name means. None: something that is applied and gone."""
        by = self._catalog.replaced.get(name)
        if by is None or (name in self._definitions and self._is_live(name)):
            return name
        if self._is_live(by):
            return None if self._find_standing(by) is Standing.COMPLETED else by
        return self._find_stand_in(by)

    def _find_dependencies(self, name: str) -> Iterator[str]:
        definition = self._definitions[name]
        for needed in definition.depends_on:
            if (stand_in := self._find_stand_in(needed)) is not None:
                yield stand_in
        if definition.replaces and self._find_standing(name) is Standing.COMPLETED:
            yield from (old for old in definition.replaces if old in self._definitions)

    def _make_error(self, name: str, replaced: Iterable[str]) -> PartlyReplacedError:
        recorded = [old for old in replaced if old in self._applied]
        missing = [old for old in replaced if not self._counts(old) and old not in self._definitions]
        return PartlyReplacedError(name, recorded, missing)
