"""How the plan grows with the number of migrations, beside bare graphlib with a heap on the same graph."""

import random
import timeit
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from graphlib import TopologicalSorter
from heapq import heappop, heappush

from benchmarks.table import Row, at_most
from quaestor import MigrationDefinition
from quaestor._core import plan
from quaestor._core.catalog import Catalog
from quaestor._core.plan import Records

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = (10_000, 50_000, 200_000)
REPEATED = 5
Needs = dict[str, list[str]]


def rows() -> Iterator[Row]:
    """Time per migration at each size, for four shapes of graph."""
    for shape in (chain, layers, independent, star):
        ours, bare = {}, {}
        for size in SIZES:
            needs = shape(size)
            definitions = {name: MigrationDefinition(name, nothing, needed) for name, needed in needs.items()}
            ours[size] = fastest(partial(planned, definitions, frozenset()))
            bare[size] = fastest(partial(bare_order, needs))
            detail = f"{ours[size] / size * 1e6:.2f} µs a migration"
            yield at_most(
                f"time to plan {size:,} migrations ({shape.__name__}), against graphlib alone",
                ours[size] / bare[size],
                2.5,
                detail,
            )
            if size == SIZES[-1]:
                partly = fastest(partial(planned, definitions, frozenset(list(needs)[: size // 2])))
                yield at_most(
                    f"time to plan {size:,} migrations ({shape.__name__}), half applied, against graphlib alone",
                    partly / bare[size],
                    2.5,
                )
        what = f"planning time per migration ({shape.__name__}): {SIZES[-1]:,} migrations against {SIZES[0]:,}"
        yield at_most(what, growth(ours), 2, f"graphlib alone {growth(bare):.3f} x")


def growth(seconds: dict[int, float]) -> float:
    """The time a migration takes at the largest size, as a multiple of that at the smallest."""
    small, large = SIZES[0], SIZES[-1]
    return (seconds[large] / large) / (seconds[small] / small)


def nothing(db: object) -> None:
    """A migration that is planned and never called."""


def planned(definitions: dict[str, MigrationDefinition], applied: frozenset[str]) -> plan.Plan:
    """What a run does between reading the records and the first migration."""
    catalog, records = Catalog(definitions), Records(dict.fromkeys(applied, ()))
    return plan.plan_run(catalog, catalog.check(), catalog.view(records.applied.keys()), records, now=NOW)


def bare_order(needs: Needs) -> list[str]:
    """The same order from graphlib and heapq, with no checks of ours."""
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    ordered: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heappush(ready, name)
        name = heappop(ready)
        ordered.append(name)
        sorter.done(name)
    return ordered


def fastest(function: Callable[[], object]) -> float:
    """The shortest of several times in seconds, as timeit takes it: without the garbage collector."""
    return min(timeit.repeat(function, number=1, repeat=REPEATED))


def chain(size: int) -> Needs:
    """Each needs the one before."""
    return {name(number): [name(number - 1)] if number else [] for number in range(size)}


def layers(size: int) -> Needs:
    """Layers of 100, each migration needing three random ones of the layer before."""
    source = random.Random(0)  # noqa: S311 - the same graph every time
    return {
        name(number): [name((number // 100 - 1) * 100 + source.randrange(100)) for _ in range(3)]
        if number >= 100
        else []
        for number in range(size)
    }


def independent(size: int) -> Needs:
    """None needs another."""
    return {name(number): [] for number in range(size)}


def star(size: int) -> Needs:
    """All need the first."""
    return {name(number): [name(0)] if number else [] for number in range(size)}


def name(number: int) -> str:
    """A name that sorts like its number."""
    return f"migration_{number:06}"
