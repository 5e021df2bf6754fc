"""The dependency graph as a picture: SVG, a page of HTML around it, the notations of Mermaid and Graphviz, or lines.

In a terminal a migration keeps its lane until the last dependent is drawn. A dot below a lane continues it; a dot with
an arm to its left depends on the lanes that the arm meets (├ ┼ ╰ ┴). An arm that only passes a lane doesn't break it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from html import escape as escape_html
from importlib.resources import files
from xml.etree.ElementTree import Element, SubElement, tostring

from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from quaestor.cli.layout import HEIGHT, Box, Point, layout
from quaestor.cli.marks import MARKS, Mark, choose_mark, count_marks, format_place, list_current
from quaestor.cli.redaction import escape
from quaestor.status import MigrationStatus, Status

_MARGIN = 24.0
_HEAD = 86.0
_CELL = 7.8  # of a 13 px font whose characters are equally wide; `textLength` holds every other font to it
_HEADING_CELL = 10.8  # likewise, of 18 px
_SIGN = 17.0
_TEXT = 31.0
_PADDING = 13.0

_FAINT = "bright_black"
_DOT = "●"
# The character of a lane that an arm meets: does the lane go on, is there an arm to its left, to its right?
_MEETS = {
    (True, False, True): "├",
    (True, True, False): "┤",
    (True, True, True): "┼",
    (False, False, True): "╰",
    (False, True, False): "╯",
    (False, True, True): "┴",
}


def svg(status: Status) -> str:
    """Draw the graph as SVG that needs nothing beside itself: no font, no script, no network.

    It is light or dark as its reader's system is, and every box has a tooltip.
    """
    ids = {migration.name: identifier for identifier, migration, _ in _nodes(status)}
    widths = {name: _TEXT + cell_len(escape(name)) * _CELL + _PADDING for name in ids}
    placed = layout({migration.name: migration.depends_on for migration in list_current(status)}, widths)
    head, head_width = _head(status)
    graph_width, graph_height = placed.size
    width, height = f"{max(graph_width, head_width) + 2 * _MARGIN:g}", f"{_HEAD + graph_height + _MARGIN:g}"
    root = Element("svg", xmlns="http://www.w3.org/2000/svg", width=width, height=height)
    root.set("viewBox", f"0 0 {width} {height}")
    SubElement(root, "title").text = _title(status)
    SubElement(root, "style").text = _style()
    SubElement(root, "rect", {"class": "paper", "width": "100%", "height": "100%"})
    root.append(head)
    graph = SubElement(root, "g", {"class": "graph", "transform": f"translate({_MARGIN:g} {_HEAD:g})"})
    for (needed, name), corners in placed.routes.items():
        edge = {"class": "edge", "data-from": ids[needed], "data-to": ids[name], "d": _path(corners)}
        SubElement(graph, "path", edge)
    graph.extend(_box(migration, mark, placed.boxes[migration.name], name) for name, migration, mark in _nodes(status))
    return tostring(root, encoding="unicode") + "\n"


def html(status: Status) -> str:
    """Write a page, one file, that holds the graph: to zoom, to search, and to follow from box to box."""
    head, header, body, tail = re.split("<!-- (?:title|heading|picture) -->", _resource("page.html"))
    legend = " ".join(
        f'<span class="{mark.word}"><b class="sign">{mark.sign}</b> {count} {mark.word}</span>'
        for mark, count in count_marks(status)
    )
    title = f"<title>{escape_html(_title(status))}</title>"
    heading = f"<h1>{escape_html(format_place(status))}</h1>\n<p>{legend}</p>"
    return f"{head}{title}{header}{heading}{body}{svg(status)}{tail}"


def mermaid(status: Status) -> str:
    """Write the graph as a flowchart of Mermaid, which GitHub and GitLab draw where it stands in Markdown."""
    lines = ["---", f"title: {json.dumps(_title(status), ensure_ascii=False)}", "---", "flowchart LR"]
    for identifier, migration, mark in _nodes(status):
        label = re.sub(r"[^\w .-]", lambda found: f"#{ord(found[0])};", escape(migration.name))
        lines.append(f'  {identifier}["{mark.sign} {label}"]:::{mark.word}')
    lines += [f"  {needed} --> {identifier}" for needed, identifier in _edges(status)]
    for mark, _ in count_marks(status):
        if mark.fill:
            lines.append(f"  classDef {mark.word} fill:{mark.fill},stroke:{mark.line},color:#1e293b")
    return "\n".join(lines) + "\n"


def dot(status: Status) -> str:
    """Write the graph in DOT, the language of Graphviz."""
    lines = [
        "digraph migrations {",
        f"  graph [rankdir=LR, labelloc=t, fontname=Helvetica, label={_quoted(_title(status))}]",
        '  node [shape=box, style="rounded,filled", fontname=Courier]',
    ]
    for identifier, migration, mark in _nodes(status):
        label = _quoted(f"{mark.sign} {escape(migration.name)}")
        lines.append(f'  {identifier} [label={label}, fillcolor="{mark.fill}", color="{mark.line}"]')
    lines += [f"  {needed} -> {identifier}" for needed, identifier in _edges(status)]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """Quote a label of DOT, where backslashes and entities have a meaning."""
    return '"' + escape_html(text, quote=False).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _nodes(status: Status) -> Iterator[tuple[str, MigrationStatus, Mark]]:
    """Yield each migration with its identifier: notations would need its name quoted everywhere."""
    for index, migration in enumerate(list_current(status)):
        yield f"m{index}", migration, choose_mark(migration, status)


def _edges(status: Status) -> Iterator[tuple[str, str]]:
    """Yield the identifiers of each dependency and its dependent."""
    ids = {migration.name: identifier for identifier, migration, _ in _nodes(status)}
    for migration in list_current(status):
        for needed in dict.fromkeys(migration.depends_on):
            yield ids[needed], ids[migration.name]


def _title(status: Status) -> str:
    found = [f"{count} {mark.sign} {mark.word}" for mark, count in count_marks(status)]
    return f"{format_place(status)}: {', '.join(found) or 'no migrations'}"


def _head(status: Status) -> tuple[Element, float]:
    """Heading and legend, and how wide they are."""
    head = Element("g", {"class": "head", "transform": f"translate({_MARGIN:g} 0)"})
    where = format_place(status)
    _text(head, "heading", 0, 40, where, cell=_HEADING_CELL)
    legend = SubElement(head, "text", {"class": "legend", "y": "64"})
    for mark, count in count_marks(status):
        key = SubElement(legend, "tspan", {"class": mark.word})
        SubElement(key, "tspan", {"class": "sign"}).text = mark.sign
        key.tail = f" {count} {mark.word}   "
    return head, max(cell_len(where) * _HEADING_CELL, cell_len("".join(legend.itertext())) * _CELL)


def _box(migration: MigrationStatus, mark: Mark, box: Box, identifier: str) -> Element:
    group = Element("g", {"class": f"box {mark.word}", "id": identifier})
    SubElement(group, "title").text = _tooltip(migration, mark)
    SubElement(group, "rect", x=f"{box.x:g}", y=f"{box.y:g}", width=f"{box.width:g}", height=f"{HEIGHT:g}")
    _text(group, "sign", box.x + _SIGN, box.middle + 4.5, mark.sign)
    _text(group, "name", box.x + _TEXT, box.middle + 4.5, escape(migration.name), cell=_CELL)
    return group


def _text(parent: Element, kind: str, x: float, y: float, text: str, *, cell: float | None = None) -> None:
    element = SubElement(parent, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}"})
    if cell is not None and (cells := cell_len(text)):
        element.attrib |= {"textLength": f"{cells * cell:g}", "lengthAdjust": "spacingAndGlyphs"}
    element.text = text


def _tooltip(migration: MigrationStatus, mark: Mark) -> str:
    recorded = "" if migration.applied_at is None else f", recorded {migration.applied_at:%Y-%m-%d %H:%M:%S} UTC"
    needs = ", ".join(migration.depends_on)
    failure = migration.last_failure
    why = "" if failure is None else f"{'rollback failed: ' if failure.undo else ''}{failure.error}"
    lines = [migration.name, f"{mark.word}{recorded}", why, migration.description, needs and f"needs {needs}"]
    return "\n".join(escape(line) for line in lines if line)


def _path(corners: Sequence[Point]) -> str:
    """Draw level stretches, and an S-curve through each gap."""
    (x, y), *others = corners
    path = f"M{x:g} {y:g}"
    for (left, above), (right, below) in zip(others[::2], others[1::2], strict=True):
        middle = (left + right) / 2
        path += f"H{left:g}C{middle:g} {above:g} {middle:g} {below:g} {right:g} {below:g}"
    return path


def _style() -> str:
    """Return the style sheet, with the colours of each mark on light and on dark paper."""
    rule = ".{0} rect{{fill:{1};stroke:{2}}}.{0} .sign{{fill:{2};color:{2}}}\n".format
    drawn = [mark for mark in MARKS.values() if mark.fill]
    light = "".join(rule(mark.word, mark.fill, mark.line) for mark in drawn)
    dark = "".join(rule(mark.word, mark.dark_fill, mark.dark_line) for mark in drawn)
    return f"{_resource('picture.css')}{light}@media (prefers-color-scheme: dark) {{{dark}}}"


def _resource(name: str) -> str:
    return files("quaestor.cli").joinpath(name).read_text(encoding="utf-8")


def terminal(status: Status, width: int) -> Iterator[RenderableType]:
    """Draw the title, each migration on a line, in order, and the lanes beside them.

    Unconnected migrations come last. If the lanes don't fit into the width, dependencies follow each one by name.
    """
    marks = [mark.text + f" {count} {mark.word}" for mark, count in count_marks(status)]
    yield Text.assemble((format_place(status), "bold"), "  ", Text("  ").join(marks or [Text("no migrations")]))
    yield ""
    shown = list_current(status)
    needed = {name for migration in shown for name in migration.depends_on}
    linked = [migration for migration in shown if migration.depends_on or migration.name in needed]
    lanes = list(_lanes(linked))
    margin = max(map(len, lanes), default=-2) + 2
    fits = margin + 2 + max((cell_len(escape(migration.name)) for migration in linked), default=0) <= width
    for migration, line in zip(linked, lanes, strict=True):
        mark = choose_mark(migration, status)
        before, dot, after = line.ljust(margin).partition(_DOT) if fits else ("", "", "")
        lane = Text.assemble((before, _FAINT), (dot, mark.style), (after, _FAINT))
        yield lane + _label(migration, mark)
        if migration.depends_on and not fits:
            names = ", ".join(escape(name) for name in dict.fromkeys(migration.depends_on))
            yield Padding(Text(f"needs {names}", style=_FAINT, overflow="fold"), (0, 0, 0, 4))
    for migration in shown:
        if not migration.depends_on and migration.name not in needed:
            yield Text(" " * margin if fits else "") + _label(migration, choose_mark(migration, status))


def _label(migration: MigrationStatus, mark: Mark) -> Text:
    return Text.assemble(mark.text, " ", escape(migration.name), overflow="fold")


def _lanes(migrations: Sequence[MigrationStatus]) -> Iterator[str]:
    """Draw the lanes beside each migration; dependencies come first."""
    waiting = Counter(name for migration in migrations for name in set(migration.depends_on))
    lanes: list[str | None] = []
    ended = None
    for migration in migrations:
        waiting.subtract(set(migration.depends_on))
        needed = {lanes.index(name) for name in migration.depends_on}
        ending = {lane for lane in needed if not waiting[lanes[lane] or ""]}
        own = _choose_lane(lanes, needed, ending, ended)
        lanes += [None] * (own + 1 - len(lanes))
        yield _draw_lanes(lanes, needed, ending, own)
        for lane in ending:
            lanes[lane] = None
        lanes[own] = migration.name if waiting[migration.name] else None
        ended = None if lanes[own] else own
        while lanes and lanes[-1] is None:
            lanes.pop()


def _choose_lane(
    lanes: Sequence[str | None], needed: AbstractSet[int], ending: AbstractSet[int], ended: int | None
) -> int:
    """Choose the lane of the next migration: that of its leftmost dependency if it ends here, otherwise a free one."""
    first = min(needed, default=-1)
    if first in ending:
        return first
    # A migration without dependencies must not be right below a dot: it would seem to depend on it.
    taken = {lane for lane, name in enumerate(lanes) if name} | ({ended} if not needed else set())
    return next(lane for lane in range(first + 1, len(lanes) + 3) if lane not in taken)


def _draw_lanes(lanes: Sequence[str | None], needed: AbstractSet[int], ending: AbstractSet[int], own: int) -> str:
    left, right = min(needed | {own}), max(needed | {own})
    line = ""
    for lane, name in enumerate(lanes):
        if lane == own:
            line += _DOT
        elif lane in needed:
            line += _MEETS[lane not in ending, left < lane, lane < right]
        elif name:
            line += "│"
        else:
            line += "─" if left < lane < right else " "
        line += "─" if left <= lane < right else " "
    return line.rstrip()
