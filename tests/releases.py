"""Registries with replacements of replacements, and what a run makes of a database, found the slow way."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from hypothesis import strategies as st

from quaestor._core.catalog import Catalog
from quaestor._core.definition import MigrationDefinition
from tests.functions import nothing


@dataclass
class Unit:
    """A migration, and those that it replaces. It comes after what is before it in the order of all units."""

    name: str
    parts: "list[Unit]" = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    is_registered: bool = True
    parent: "Unit | None" = None

    def walk(self) -> "Iterator[Unit]":
        """The unit and all that it replaces, by a chain, too."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def names(self) -> set[str]:
        return {unit.name for unit in self.walk()}


@st.composite
def units(draw: st.DrawFn) -> list[Unit]:
    """Units in an order in which they can be applied. Those that are replaced may be gone."""
    labels = iter(draw(st.permutations("abcdefghijklmnopqrstuvwxyz")))
    found: list[Unit] = []

    def make(depth: int, before: list[str], parent: Unit | None) -> Unit:
        unit = Unit(next(labels), parent=parent)
        unit.needs = draw(st.lists(st.sampled_from(before), max_size=2, unique=True)) if before else []
        if depth and draw(st.booleans()):
            inside = list(before)
            for _ in range(draw(st.integers(1, 3 if depth == 2 else 2))):
                unit.parts.append(make(depth - 1, inside, unit))
                inside += sorted(unit.parts[-1].names())
        elif parent is not None:
            unit.is_registered = draw(st.booleans())
        return unit

    for _ in range(draw(st.integers(1, 3))):
        found.append(make(2, [name for unit in found for name in sorted(unit.names())], None))
    return found


def make_catalog(found: Collection[Unit], order: Collection[str] | None = None) -> Catalog:
    """The catalog of these units, whose migrations are registered in this order."""
    known = {
        unit.name: MigrationDefinition(
            unit.name, nothing, unit.needs, rollback=nothing, replaces=tuple(part.name for part in unit.parts)
        )
        for top in found
        for unit in top.walk()
        if unit.is_registered
    }
    return Catalog({name: known[name] for name in order or known}, frozenset({"retired"}))


class Model:
    """What a database and its migrations mean, found the slow way."""

    def __init__(self, found: list[Unit], recorded: Collection[str]) -> None:
        self.top = found
        self.units = {unit.name: unit for one in found for unit in one.walk()}
        self.recorded = set(recorded)
        self.ran: list[str] = []
        self.stuck: set[str] = set()

    def counts(self, unit: Unit) -> bool:
        return unit.name in self.recorded or (bool(unit.parts) and all(map(self.counts, unit.parts)))

    def is_new(self, unit: Unit) -> bool:
        """Whether nothing of it is applied."""
        return self.recorded.isdisjoint(unit.names())

    def is_completed(self, unit: Unit) -> bool:
        """Whether its parts run instead of it."""
        missing = [part for part in unit.parts if not self.counts(part)]
        is_some = not self.counts(unit) and not self.is_new(unit)
        return is_some and bool(missing) and all(part.is_registered for part in missing)

    def is_current(self, unit: Unit) -> bool:
        """Whether it's in the graph."""
        parent = unit.parent
        return unit.is_registered and (parent is None or (self.is_current(parent) and self.is_completed(parent)))

    def find(self, name: str) -> Unit | None:
        """What a name means. None: it is applied and gone."""
        unit = self.units[name]
        while not self.is_current(unit) and unit.parent is not None:
            if self.is_current(unit.parent) and self.is_completed(unit.parent):
                return None
            unit = unit.parent
        return unit

    def find_needed(self, names: Collection[str]) -> set[str]:
        """What has to run for these migrations, or only to be recorded at its end."""
        needed: set[str] = set()
        ahead = [unit for name in names if (unit := self.find(name)) is not None]
        while ahead:
            unit = ahead.pop()
            if self.counts(unit) or unit.name in needed:
                continue
            needed.add(unit.name)
            ahead += [one for name in unit.needs if (one := self.find(name)) is not None]
            if self.is_completed(unit):
                ahead += [part for part in unit.parts if part.is_registered]
        return needed

    def find_completed(self, names: Collection[str]) -> set[str]:
        """What counts as applied once these are, because they're the rest of what it replaces."""

        def is_done(unit: Unit) -> bool:
            is_completed = self.is_completed(unit) and all(map(is_done, unit.parts))
            return is_completed or unit.name in names or self.counts(unit)

        return {unit.name for unit in self.units.values() if self.is_completed(unit) and is_done(unit)}

    def run(self) -> None:
        """Apply everything. Afterwards all names are recorded, or some are stuck."""
        for unit in self.top:
            self._apply(unit)

    def _apply(self, unit: Unit) -> None:
        if self.counts(unit):
            self.recorded |= unit.names()
        elif self.is_new(unit):
            self.ran.append(unit.name)
            self.recorded |= unit.names()
        elif self.is_completed(unit):
            for part in unit.parts:
                self._apply(part)
            self.recorded |= unit.names()
        else:
            self.stuck.add(unit.name)
