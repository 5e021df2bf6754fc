"""Which migrations a rollback undoes: those that are named, the last ones, or everything after one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from math import inf
from typing import TypeAlias

from quaestor._core.catalog import Catalog, View
from quaestor._core.definition import check_names, check_text
from quaestor._core.graph import find_reachable, make_sorter, order, reverse
from quaestor._core.phases import Dates, check_number
from quaestor.errors import InvalidOptionError, UnknownRecordsError

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

_Place: TypeAlias = tuple[datetime, float]  # when it was recorded, and its place in a plan for all


@dataclass(frozen=True, slots=True)
class Undo:
    """The arguments of `AsyncRunner.rollback`. Making one checks them.

    Raises:
        InvalidOptionError: One of them isn't valid, or there isn't exactly one.
    """

    targets: Collection[str] | None = None
    last: int | None = None
    to: str | None = None
    with_dependents: bool = True

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.targets, self.last, self.to)) != 1:
            raise InvalidOptionError("Pass what to roll back, as exactly one of targets, last and to.")
        if self.targets is not None:
            object.__setattr__(self, "targets", check_names("targets", self.targets))
        if self.last is not None:
            check_number("last", self.last)
        if self.to is not None:
            object.__setattr__(self, "to", check_text("to", self.to, InvalidOptionError))

    @property
    def names(self) -> Collection[str]:
        """The names of migrations in it."""
        return [self.to] if self.to is not None else self.targets or ()


def find_undone(catalog: Catalog, view: View, find_date: Dates, recorded: Collection[str], undo: Undo) -> list[str]:
    """Find the migrations to undo. Those that depend on them come along.

    Records of migrations that were replaced or retired don't count, because their code is gone.

    Raises:
        InvalidOptionError: The migration that should stay isn't applied.
        UnknownRecordsError: Some of them aren't registered. Nobody knows what depends on them.
    """
    if undo.targets is not None:
        return view.find(undo.targets)
    places: dict[str, _Place] = {
        name: (find_date(name) or _LONG_AGO, place)
        for place, name in enumerate(order(make_sorter(view.graph)))
        if name in view.applied
    }
    unknown = catalog.find_unknown(recorded)
    places |= {name: (find_date(name) or _LONG_AGO, inf) for name in unknown}
    newest = sorted(places, key=places.__getitem__, reverse=True)
    found = _find_last(view, newest, undo.last) if undo.to is None else _find_after(view, newest, undo.to)
    if among := [name for name in unknown if name in found]:
        raise UnknownRecordsError(among, undo=True)
    return found


def _find_last(view: View, newest: Sequence[str], count: int | None) -> list[str]:
    """Find the last ones: again and again the newest that no other applied one needs. `newest` is in this order."""
    ranks = {name: rank for rank, name in enumerate(newest)}
    free = [rank for name, rank in ranks.items() if name not in view.graph]  # a heap
    sorter = make_sorter(reverse(view.graph))
    found: list[str] = []
    while count is None or len(found) < count:
        while new := sorter.get_ready():
            for name in new:
                if name in ranks:
                    heappush(free, ranks[name])
                else:  # it is pending, and what it needs may be applied all the same
                    sorter.done(name)
        if not free:
            break
        found.append(name := newest[heappop(free)])
        if name in view.graph:
            sorter.done(name)
    return found


def _find_after(view: View, newest: Sequence[str], to: str) -> list[str]:
    """Find what was recorded after this one, without what it needs."""
    if to not in newest:
        raise InvalidOptionError(
            f"Migration {to!r} isn't applied, or its code is gone, so nobody knows what was applied after it. Name "
            "one that is applied."
        )
    needed = find_reachable(view.graph, [to])
    return [name for name in newest[: newest.index(to)] if name not in needed]
