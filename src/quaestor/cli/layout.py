"""The layout of a dependency graph: boxes in columns from left to right, and lines between them.

igraph chooses the columns and the order in each (Sugiyama's layers, few crossings). The heights are computed here,
because igraph leaves most of a large picture empty. A line is level across a column, so it is slanted only in gaps.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from math import sqrt
from statistics import fmean
from typing import NamedTuple, TypeAlias

from igraph import Graph  # it brings no types: all that comes from it is Any

HEIGHT = 30.0
"""The height of a box, in pixels, as are all lengths here."""

_ROW = HEIGHT + 12
_LANE = 12.0  # the height of a line through a column
_GAP = 64.0
_GRID_GAP = 16.0
_BREADTH = 1200.0
_ASPECT = 1.6
_SWEEPS = 24

Point: TypeAlias = tuple[float, float]
_Spot: TypeAlias = tuple[int, float]
"""The number of a column, and how far down in it a middle is."""


class Box(NamedTuple):
    """The place of a name; y grows downwards."""

    x: float
    y: float
    width: float

    @property
    def right(self) -> float:
        """The x of its right side (float)."""
        return self.x + self.width

    @property
    def middle(self) -> float:
        """The y that its lines start and end at (float)."""
        return self.y + HEIGHT / 2


class Route(NamedTuple):
    """The line from a dependency to a name that depends on it.

    Its points are corners, from the right side of the one box to the left side of the other. A level stretch starts at
    each point with an even index and ends at the next; the line from there to the one after it is slanted, in a gap.
    """

    start: str
    end: str
    points: tuple[Point, ...]


class Layout(NamedTuple):
    """A whole picture, whose upper left corner is (0, 0)."""

    boxes: Mapping[str, Box]
    routes: Sequence[Route]
    width: float
    height: float


def layout(depends_on: Mapping[str, Iterable[str]], widths: Mapping[str, float]) -> Layout:
    """Place every name once; dependencies are left of the names that depend on them.

    Unconnected groups lie below one another; names without dependencies or dependents fill a grid below them all.

    Args:
        depends_on: Each name with the names that it depends on: names of the mapping, without a circle.
        widths: The width of the box of each name.
    """
    names = list(depends_on)
    place = {name: vertex for vertex, name in enumerate(names)}
    edges = dict.fromkeys((place[needed], place[name]) for name, needs in depends_on.items() for needed in needs)
    whole = Graph(n=len(names), edges=list(edges), directed=True, vertex_attrs={"name": names})
    groups = whole.decompose(mode="weak")
    boxes, routes = _columns([group for group in groups if group.ecount()], widths)
    width, height = _extent(boxes, routes)
    alone = [group.vs["name"][0] for group in groups if not group.ecount()]
    if alone:  # rows of cells, as broad as the picture above or, without one, a well-shaped page
        top = height + _ROW if boxes else 0.0
        cell = max(widths[name] for name in alone) + _GRID_GAP
        across = max(1, round(max(sqrt(len(alone) * cell * _ROW * _ASPECT), min(width, _BREADTH)) / cell))
        for index, name in enumerate(alone):
            boxes[name] = Box(index % across * cell, top + index // across * _ROW, widths[name])
    return Layout(boxes, routes, *_extent(boxes, routes))


def _columns(groups: list[Graph], widths: Mapping[str, float]) -> tuple[dict[str, Box], list[Route]]:
    """Place groups below one another, in the same columns, each as wide as its widest box."""
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
    routes: list[Route] = []
    for (start, end), bends in lines.items():
        column, level = spots[start]
        points = [(boxes[start].right, level), (lefts[column] + breadths[column], level)]
        points += [(x, y) for bend, y in bends for x in (lefts[bend], lefts[bend] + breadths[bend])]
        routes.append(Route(start, end, (*points, (boxes[end].x, boxes[end].middle))))
    return boxes, routes


def _spots(group: Graph, top: float) -> tuple[list[_Spot], list[list[_Spot]]]:
    """Place the vertices of a connected graph, and the bends of each edge, from `top` downwards."""
    # In a graph of several parts igraph 1.0 gives bends to the wrong lines.
    drawn = group.layout_sugiyama(maxiter=1000)
    points = [(round(layer), across) for across, layer in drawn.coords]
    ways = []
    for edge, bends in zip(group.es, drawn.edge_routing or [], strict=True):
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
    """Place each vertex near the mean of its neighbours, column by column, there and back."""
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for left, right in (link for way in ways for link in pairwise(way)):
        before.setdefault(right, []).append(left)
        after.setdefault(left, []).append(right)
    stacks: list[list[float]] = []  # the middles if the vertices of a column lie close upon one another
    for column in columns:
        heights = [_ROW if vertex < named else _LANE for vertex in column]
        stacks.append([end - height / 2 for end, height in zip(accumulate(heights), heights, strict=True)])
    down: dict[int, float] = {}
    for column, stack in zip(columns, stacks, strict=True):
        down |= zip(column, stack, strict=True)
    for neighbours, step in [(before, 1), (after, -1)] * _SWEEPS:
        for column, stack in list(zip(columns, stacks, strict=True))[::step]:
            wanted = [fmean(down[other] for other in neighbours.get(vertex, [vertex])) for vertex in column]
            down |= zip(column, _settle(wanted, stack), strict=True)
    return down


def _settle(wanted: list[float], stack: list[float]) -> list[float]:
    """Return the places nearest to the wanted ones (least squares) that are at least as far apart as in the stack.

    Pooled adjacent violators: neighbours that would overlap move as one block, to the mean of their wanted places.
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


def _extent(boxes: Mapping[str, Box], routes: Iterable[Route]) -> Point:
    ends = [(box.right, box.y + HEIGHT) for box in boxes.values()]
    ends += [point for route in routes for point in route.points]
    return max((x for x, _ in ends), default=0.0), max((y for _, y in ends), default=0.0)
