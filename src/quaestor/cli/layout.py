"""The layout of a dependency graph: boxes in columns from left to right, and lines between them.

fast-sugiyama chooses the columns and the place in each (Sugiyama's layers, few crossings); how wide a box is and how
far apart columns are is computed here. A line is level across a column, so it is slanted only in gaps.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import sqrt
from typing import Any, NamedTuple, TypeAlias, cast

HEIGHT = 30.0
"""The height of a box, in pixels, as are all lengths here."""

_ROW = HEIGHT + 12
_LANE = 12.0  # the height of a line through a column
_GAP = 64.0
_GRID_GAP = 16.0
_BREADTH = 1200.0
_ASPECT = 1.6

Point: TypeAlias = tuple[float, float]
_Key: TypeAlias = str | tuple[int, int]
"""A box by its name; a bend of a line by its group and its number there."""


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


def _place_columns(names: Sequence[str], edges: Sequence[tuple[str, str]], widths: Mapping[str, float]) -> Layout:
    """Place groups below one another, in the same columns, each as wide as its widest box."""
    from fast_sugiyama import from_edges  # here: only pictures need the extra `graph`

    spots: dict[_Key, tuple[int, float]] = {}  # the column of each box or bend, and how far down its middle is
    links: list[tuple[_Key, _Key]] = []
    bottom = HEIGHT / 2 - _ROW
    for index, group in enumerate(_split_groups(names, edges)):
        # Each group in a call of its own, numbered from 0: of several, it gives some bends the numbers of boxes.
        numbers = {name: number for number, name in enumerate(group)}
        numbered = [(numbers[needed], numbers[name]) for needed, name in edges if name in numbers]
        # Any: its types say that a number may be a str. It draws from the top down, and the first names on the right,
        # so the drawing is turned by 90 degrees.
        ((places, _, depth, steps),) = cast(
            "Any", from_edges(numbered, vertex_spacing=_ROW, dummy_vertices=True, dummy_size=_LANE)
        )
        keys: dict[int, _Key] = {number: (index, number) for number, _ in places} | dict(enumerate(group))
        bottom += _ROW + max(x for _, (x, _) in places)
        spots |= {keys[number]: (round((depth - y) / _ROW), bottom - x) for number, (x, y) in places}
        links += [(keys[start], keys[stop]) for start, stop in steps]
    breadths = [0.0] * (1 + max((column for column, _ in spots.values()), default=0))
    for name in names:
        column, _ = spots[name]
        breadths[column] = max(breadths[column], widths[name])
    lefts = list(accumulate((breadth + _GAP for breadth in breadths), initial=0.0))

    def cross(key: _Key) -> tuple[Point, Point]:
        column, middle = spots[key]
        return (lefts[column], middle), (lefts[column] + breadths[column], middle)

    boxes = {name: Box(*cross(name)[0], widths[name]) for name in names}
    following = {start: stop for start, stop in links if not isinstance(start, str)}
    routes = {}
    for start, stop in links:
        if isinstance(start, str):
            corners = [(boxes[start].right, boxes[start].middle), cross(start)[1]]
            end = stop
            while not isinstance(end, str):
                corners += cross(end)
                end = following[end]
            routes[start, end] = [*corners, cross(end)[0]]
    return Layout(boxes, routes)


def _split_groups(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Split names into the groups that edges connect; a group's place is that of the first of its names."""
    groups = {name: [name] for name in names}
    for needed, name in edges:
        group, other = groups[needed], groups[name]
        if group is not other:
            group += other
            groups |= dict.fromkeys(other, group)
    return list({id(group): group for group in groups.values()}.values())
