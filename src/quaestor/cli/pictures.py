"""The dependency graph as a picture: SVG, a page of HTML around it, and the notations of Mermaid and Graphviz."""

import json
import re
from collections.abc import Iterator
from html import escape as escape_html
from importlib.resources import files
from xml.etree.ElementTree import Element, SubElement, tostring

from rich.cells import cell_len

from quaestor.cli.layout import HEIGHT, Box, Route, layout
from quaestor.cli.marks import MARKS, Mark, choose_mark, count_marks, format_place
from quaestor.cli.redaction import escape
from quaestor.status import MigrationStatus, Status

_MARGIN = 24.0
_HEAD = 86.0
_CELL = 7.8  # of a 13 px font whose characters are equally wide; `textLength` holds every other font to it
_HEADING_CELL = 10.8  # likewise, of 18 px
_SIGN = 17.0
_TEXT = 31.0
_PADDING = 13.0


def svg(status: Status) -> str:
    """Draw the graph as SVG that needs nothing beside itself: no font, no script, no network.

    It is light or dark as its reader's system is, and every box has a tooltip.
    """
    return tostring(_drawing(status), encoding="unicode") + "\n"


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
    for index, migration in enumerate(status.migrations):
        yield f"m{index}", migration, choose_mark(migration, status)


def _edges(status: Status) -> Iterator[tuple[str, str]]:
    """Yield the identifiers of each dependency and its dependent."""
    ids = {migration.name: identifier for identifier, migration, _ in _nodes(status)}
    for migration in status.migrations:
        for needed in dict.fromkeys(migration.depends_on):
            yield ids[needed], ids[migration.name]


def _title(status: Status) -> str:
    found = [f"{count} {mark.sign} {mark.word}" for mark, count in count_marks(status)]
    return f"{format_place(status)}: {', '.join(found) or 'no migrations'}"


def _drawing(status: Status) -> Element:
    ids = {migration.name: identifier for identifier, migration, _ in _nodes(status)}
    widths = {name: _TEXT + cell_len(escape(name)) * _CELL + _PADDING for name in ids}
    placed = layout({migration.name: migration.depends_on for migration in status.migrations}, widths)
    head, head_width = _head(status)
    width = max(placed.width, head_width) + 2 * _MARGIN
    height = _HEAD + placed.height + _MARGIN
    root = Element(
        "svg", xmlns="http://www.w3.org/2000/svg", width=f"{width:g}", height=f"{height:g}",
        viewBox=f"0 0 {width:g} {height:g}",
    )  # fmt: skip
    SubElement(root, "title").text = _title(status)
    SubElement(root, "style").text = _style()
    SubElement(root, "rect", {"class": "paper", "width": "100%", "height": "100%"})
    root.append(head)
    graph = SubElement(root, "g", {"class": "graph", "transform": f"translate({_MARGIN:g} {_HEAD:g})"})
    graph.extend(_edge(route, ids) for route in placed.routes)
    graph.extend(_box(migration, mark, placed.boxes[migration.name], name) for name, migration, mark in _nodes(status))
    return root


def _head(status: Status) -> tuple[Element, float]:
    """Heading and legend, and how wide they are."""
    head = Element("g", {"class": "head", "transform": f"translate({_MARGIN:g} 0)"})
    where = format_place(status)
    _text(head, "heading", 0, 40, where, cell=_HEADING_CELL)
    x = 0.0
    for mark, count in count_marks(status):
        key = SubElement(head, "g", {"class": f"key {mark.word}"})
        _text(key, "sign", x + 6, 64, mark.sign)
        label = f"{count} {mark.word}"
        _text(key, "count", x + 18, 64, label, cell=_CELL)
        x += 18 + len(label) * _CELL + 22
    return head, max(cell_len(where) * _HEADING_CELL, x)


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
    lines = [migration.name, f"{mark.word}{recorded}", migration.description, needs and f"needs {needs}"]
    return "\n".join(escape(line) for line in lines if line)


def _edge(route: Route, ids: dict[str, str]) -> Element:
    """Level stretches, and an S-curve through each gap."""
    (x, y), *points = route.points
    path = [f"M{x:g} {y:g}"]
    for (left, above), (right, below) in zip(points[::2], points[1::2], strict=True):
        middle = (left + right) / 2
        path.append(f"H{left:g}C{middle:g} {above:g} {middle:g} {below:g} {right:g} {below:g}")
    return Element(
        "path", {"class": "edge", "data-from": ids[route.start], "data-to": ids[route.end], "d": "".join(path)}
    )


def _style() -> str:
    """Return the style sheet, with the colours of each mark on light and on dark paper."""
    rule = ".{0} rect{{fill:{1};stroke:{2}}}.{0} .sign{{fill:{2};color:{2}}}\n".format
    light = "".join(rule(mark.word, mark.fill, mark.line) for mark in MARKS.values())
    dark = "".join(rule(mark.word, mark.dark_fill, mark.dark_line) for mark in MARKS.values())
    return f"{_resource('picture.css')}{light}@media (prefers-color-scheme: dark) {{{dark}}}"


def _resource(name: str) -> str:
    return files("quaestor.cli").joinpath(name).read_text(encoding="utf-8")
