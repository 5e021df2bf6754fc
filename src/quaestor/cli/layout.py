"""Where the boxes and lines of a dependency graph go: in columns, from left to right.

Which column, and in which order within it, is igraph's answer (Sugiyama's layers, few crossings). How far down is ours,
for igraph leaves most of a large picture empty. A line is level wherever it crosses a column, so nothing but the gaps
between columns holds slanted ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from math import sqrt
from statistics import fmean
from typing import TypeAlias

from igraph import Graph  # it brings no types: all that comes from it is Any

HEIGHT = 30.0
"""Of every box, in pixels, as are all lengths here."""

_ROW = HEIGHT + 12
_LANE = 12.0  # that a line through a column takes up of its height
_GAP = 64.0
_GRID_GAP = 16.0
_BREADTH = 1200.0
_ASPECT = 1.6
_SWEEPS = 24

Point: TypeAlias = tuple[float, float]
_Spot: TypeAlias = tuple[int, float]
"""The number of a column, and how far down in it a middle is."""


@dataclass(frozen=True, slots=True)
class Box:
    """Where one name stands.

    Attributes:
        x: Its left side (float).
        y: Its upper side (float); y grows downwards.
        width: As it was asked for (float).
    """

    x: float
    y: float
    width: float

    @property
    def right(self) -> float:
        """Its right side (float)."""
        return self.x + self.width

    @property
    def middle(self) -> float:
        """The y that its lines start and end at (float)."""
        return self.y + HEIGHT / 2


@dataclass(frozen=True, slots=True)
class Route:
    """The line from a dependency to one that depends on it.

    Attributes:
        start: The name of the dependency (str).
        end: The name of the dependent (str).
        points: Corners, from the right side of the one to the left side of the other (tuple of points); those at even
            places begin a level stretch that the next one ends, and a slanted one, through a gap, follows that.
    """

    start: str
    end: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole picture, whose upper left corner is (0, 0).

    Attributes:
        boxes: Each name with its box (mapping of str to Box).
        routes: One for each dependency (tuple of Route).
        width: What boxes and routes take up (float).
        height: Likewise (float).
    """

    boxes: Mapping[str, Box]
    routes: tuple[Route, ...]
    width: float
    height: float


def layout(depends_on: Mapping[str, Iterable[str]], widths: Mapping[str, float]) -> Layout:
    """Place every name once; dependencies stand left of what depends on them.

    Groups that have nothing to do with one another lie below one another; names that have no part in a dependency fill
    a grid below them all.

    Args:
        depends_on: Each name with the names that it depends on, which are names of the mapping, without a circle.
        widths: How wide the box of each name is to be, in pixels.
    """
    names = list(depends_on)
    place = {name: vertex for vertex, name in enumerate(names)}
    edges = dict.fromkeys((place[needed], place[name]) for name, needs in depends_on.items() for needed in needs)
    whole = Graph(n=len(names), edges=list(edges), directed=True, vertex_attrs={"name": names})
    groups = whole.decompose(mode="weak")
    boxes, routes = _columns([group for group in groups if group.ecount()], widths)
    width, height = _extent(boxes, routes)
    alone = [group.vs["name"][0] for group in groups if not group.ecount()]
    boxes |= _grid(alone, widths, top=height + _ROW if boxes else 0.0, breadth=width)
    return Layout(boxes, routes, *_extent(boxes, routes))


def _columns(groups: list[Graph], widths: Mapping[str, float]) -> tuple[dict[str, Box], tuple[Route, ...]]:
    """Groups below one another, in the same columns, each of which is as wide as its widest box."""
    spots: dict[str, _Spot] = {}
    lines: dict[tuple[str, str], list[_Spot]] = {}
    top = 0.0
    for group in groups:
        names = group.vs["name"]
        own, bent = _spots(group, top)
        spots |= zip(names, own, strict=True)
        lines |= zip(((names[edge.source], names[edge.target]) for edge in group.es), bent, strict=True)
        top = max(y for _, y in (*own, *chain.from_iterable(bent))) + _ROW - HEIGHT / 2
    breadths = [0.0] * (1 + max((column for column, _ in spots.values()), default=0))
    for name, (column, _) in spots.items():
        breadths[column] = max(breadths[column], widths[name])
    lefts = list(accumulate((breadth + _GAP for breadth in breadths), initial=0.0))
    boxes = {name: Box(lefts[column], y - HEIGHT / 2, widths[name]) for name, (column, y) in spots.items()}
    routes = []
    for (start, end), bends in lines.items():
        (column, level), into = spots[start], boxes[end]
        through = [(x, y) for bend, y in bends for x in (lefts[bend], lefts[bend] + breadths[bend])]
        out = (boxes[start].right, level), (lefts[column] + breadths[column], level)
        routes.append(Route(start, end, (*out, *through, (into.x, into.middle))))
    return boxes, tuple(routes)


def _spots(group: Graph, top: float) -> tuple[list[_Spot], list[list[_Spot]]]:
    """Where the vertices of a connected graph stand, and the bends of each edge, from `top` downwards."""
    # Of a graph in several parts igraph 1.0 gives bends to the wrong lines.
    drawn = group.layout_sugiyama(maxiter=1000)
    points = [(round(layer), across) for across, layer in drawn.coords]
    ways = []
    for edge, bends in zip(group.es, drawn.edge_routing, strict=True):
        ways.append([edge.source, *range(len(points), len(points) + len(bends)), edge.target])
        points += [(round(layer), across) for across, layer in bends]
    columns: list[list[int]] = [[] for _ in range(1 + max(points)[0])]
    for vertex in sorted(range(len(points)), key=points.__getitem__):
        columns[points[vertex][0]].append(vertex)
    middles = _middles(columns, ways, group.vcount())
    shift = top + HEIGHT / 2 - min(middles.values())
    spots: list[_Spot] = [(column, middles[vertex] + shift) for vertex, (column, _) in enumerate(points)]
    return spots[: group.vcount()], [[spots[vertex] for vertex in way[1:-1]] for way in ways]


def _middles(columns: list[list[int]], ways: list[list[int]], named: int) -> dict[int, float]:
    """How far down each vertex is: near the mean of its neighbours, found column by column, there and back."""
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for left, right in (link for way in ways for link in pairwise(way)):
        before.setdefault(right, []).append(left)
        after.setdefault(left, []).append(right)
    stacks = [_stacked([_ROW if vertex < named else _LANE for vertex in column]) for column in columns]
    down: dict[int, float] = {}
    for column, stack in zip(columns, stacks, strict=True):
        down |= zip(column, stack, strict=True)
    for neighbours, step in [(before, 1), (after, -1)] * _SWEEPS:
        for column, stack in list(zip(columns, stacks, strict=True))[::step]:
            wanted = [fmean(down[other] for other in neighbours.get(vertex, [vertex])) for vertex in column]
            down |= zip(column, _settled(wanted, stack), strict=True)
    return down


def _stacked(heights: list[float]) -> list[float]:
    """The middles of things that lie close upon one another."""
    return [end - height / 2 for end, height in zip(accumulate(heights), heights, strict=True)]


def _settled(wanted: list[float], stack: list[float]) -> list[float]:
    """The places nearest to those wanted (least squares) that are as far apart as in the stack, or farther.

    Pooled adjacent violators: neighbours who want to overlap move as one block, to the mean of what they want.
    """
    blocks: list[tuple[float, int]] = []
    for want, place in zip(wanted, stack, strict=True):
        mean, size = want - place, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, size = (mean * size + other * others) / (size + others), size + others
        blocks.append((mean, size))
    shifts = (mean for mean, size in blocks for _ in range(size))
    return [place + shift for place, shift in zip(stack, shifts, strict=True)]


def _grid(names: list[str], widths: Mapping[str, float], top: float, breadth: float) -> dict[str, Box]:
    """Rows of equally wide cells, as broad as what stands above them or, without that, a well-shaped page."""
    if not names:
        return {}
    cell = max(widths[name] for name in names) + _GRID_GAP
    wanted = max(sqrt(len(names) * cell * _ROW * _ASPECT), min(breadth, _BREADTH))
    across = max(1, round(wanted / cell))
    return {
        name: Box(index % across * cell, top + index // across * _ROW, widths[name]) for index, name in enumerate(names)
    }


def _extent(boxes: Mapping[str, Box], routes: Iterable[Route]) -> Point:
    ends = [(box.right, box.y + HEIGHT) for box in boxes.values()]
    ends += [point for route in routes for point in route.points]
    return max((x for x, _ in ends), default=0.0), max((y for _, y in ends), default=0.0)
