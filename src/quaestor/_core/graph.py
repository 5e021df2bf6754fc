"""Directed graphs of names: their order, their cycles, and what can be reached in them."""

from collections.abc import Collection, Container, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from itertools import chain
from typing import TypeAlias

from quaestor._text import find_similar
from quaestor.errors import CircularDependencyError, MissingDependencyError

Graph: TypeAlias = Mapping[str, Collection[str]]
"""Each name with the names that it depends on."""


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
