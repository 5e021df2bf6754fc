"""The layout of a dependency graph: boxes in columns from left to right, and lines between them.

fast-sugiyama chooses the columns and the place in each (Sugiyama's layers, few crossings); how wide a box is and how
far apart columns are is computed here. A line is level across a column, so it is slanted only in gaps.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import sqrt
from typing import Any, NamedTuple, TypeAlias

HEIGHT = 30.0
"""The height of a box, in pixels, as are all lengths here."""

_ROW = HEIGHT + 12
_LANE = 12.0  # the height of a line through a column
_GAP = 64.0
_GRID_GAP = 16.0
_BREADTH = 1200.0
_ASPECT = 1.6

Point: TypeAlias = tuple[float, float]


class Box(NamedTuple):
    """The place of a name; y grows downwards."""

    x: float
    middle: float  # the y that its lines start and end at
    width: float

    @property
    def y(self) -> float:
        """The y of its upper side (float)."""
        return self.middle - HEIGHT / 2

    @property
    def right(self) -> float:
        """The x of its right side (float)."""
        return self.x + self.width


class Layout(NamedTuple):
    """A whole picture, whose upper left corner is (0, 0).

    A route is the line from a dependency to a name that depends on it, as corners from the right side of the one box to
    the left side of the other. A level stretch starts at each corner with an even index and ends at the next; the line
    from there to the one after it is slanted, in a gap.
    """

    boxes: dict[str, Box]
    routes: dict[tuple[str, str], list[Point]]

    @property
    def size(self) -> Point:
        """Its width and its height."""
        ends = [(box.right, box.y + HEIGHT) for box in self.boxes.values()]
        ends += [corner for corners in self.routes.values() for corner in corners]
        return max((x for x, _ in ends), default=0.0), max((y for _, y in ends), default=0.0)


def layout(depends_on: Mapping[str, Iterable[str]], widths: Mapping[str, float]) -> Layout:
    """Place every name of a sound graph once; dependencies are left of the names that depend on them.

    Unconnected groups lie below one another; names without dependencies or dependents fill a grid below them all.
    """
    edges = list(dict.fromkeys((needed, name) for name, needs in depends_on.items() for needed in needs))
    linked = {name for edge in edges for name in edge}
    placed = _place_columns([name for name in depends_on if name in linked], edges, widths)
    alone = [name for name in depends_on if name not in linked]
    if alone:  # rows of cells, as broad as the picture above or, without one, a well-shaped page
        width, height = placed.size
        top = height + _ROW + HEIGHT / 2 if height else HEIGHT / 2
        cell = max(widths[name] for name in alone) + _GRID_GAP
        across = max(1, round(max(sqrt(len(alone) * cell * _ROW * _ASPECT), min(width, _BREADTH)) / cell))
        for index, name in enumerate(alone):
            placed.boxes[name] = Box(index % across * cell, top + index // across * _ROW, widths[name])
    return placed


def _place_columns(names: Sequence[str], edges: Iterable[tuple[str, str]], widths: Mapping[str, float]) -> Layout:
    """Place groups below one another, in the same columns, each as wide as its widest box."""
    from fast_sugiyama import from_edges  # here: only pictures need the extra `graph`

    numbers = {name: number for number, name in enumerate(names)}  # bends of lines get the numbers after these
    numbered = [(numbers[needed], numbers[name]) for needed, name in edges]
    # Any: its types say that a number may be a str. It draws from the top down, and the first names on the right, so
    # the drawing is turned by 90 degrees.
    groups: Any = from_edges(numbered, vertex_spacing=_ROW, dummy_vertices=True, dummy_size=_LANE)
    spots: dict[int, tuple[int, float]] = {}  # the column of each box or bend, and how far down its middle is
    links: list[tuple[int, int]] = []
    bottom = HEIGHT / 2 - _ROW
    for places, _, depth, group in groups:
        bottom += _ROW + max(x for _, (x, _) in places)
        spots |= {number: (round((depth - y) / _ROW), bottom - x) for number, (x, y) in places}
        links += group
    breadths = [0.0] * (1 + max((column for column, _ in spots.values()), default=0))
    for name, number in numbers.items():
        column, _ = spots[number]
        breadths[column] = max(breadths[column], widths[name])
    lefts = list(accumulate((breadth + _GAP for breadth in breadths), initial=0.0))

    def cross(number: int) -> tuple[Point, Point]:
        column, middle = spots[number]
        return (lefts[column], middle), (lefts[column] + breadths[column], middle)

    boxes = {name: Box(*cross(number)[0], widths[name]) for name, number in numbers.items()}
    following = dict(link for link in links if link[0] >= len(names))
    routes = {}
    for start, stop in (link for link in links if link[0] < len(names)):
        needed = boxes[names[start]]
        corners = [(needed.right, needed.middle), cross(start)[1]]
        end = stop
        while end >= len(names):
            corners += cross(end)
            end = following[end]
        routes[names[start], names[end]] = [*corners, cross(end)[0]]
    return Layout(boxes, routes)
