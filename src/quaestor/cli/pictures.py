"""The dependency graph as a picture: SVG, a page of HTML around it, and the notations of Mermaid and Graphviz."""

import json
import re
from html import escape
from importlib.resources import files
from xml.etree.ElementTree import Element, SubElement, tostring

from rich.cells import cell_len

from quaestor.cli.layout import HEIGHT, Box, Route, layout
from quaestor.cli.marks import MARKS, Mark, counts, mark, place, shown
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
        f'<span class="{look.word}"><b class="sign">{look.sign}</b> {count} {look.word}</span>'
        for look, count in counts(status)
    )
    title = f"<title>{escape(_title(status))}</title>"
    heading = f"<h1>{escape(place(status))}</h1>\n<p>{legend}</p>"
    return f"{head}{title}{header}{heading}{body}{svg(status)}{tail}"


def mermaid(status: Status) -> str:
    """Write the graph as a flowchart of Mermaid, which GitHub and GitLab draw where it stands in Markdown."""
    ids = _ids(status)
    lines = ["---", f"title: {json.dumps(_title(status), ensure_ascii=False)}", "---", "flowchart LR"]
    for migration in status.migrations:
        look = mark(migration, status)
        label = re.sub(r"[^\w .-]", lambda found: f"#{ord(found[0])};", shown(migration.name))
        lines.append(f'  {ids[migration.name]}["{look.sign} {label}"]:::{look.word}')
    lines += [f"  {ids[needed]} --> {ids[name]}" for needed, name in _pairs(status)]
    lines += [f"  classDef {look.word} fill:{look.fill},stroke:{look.line},color:#1e293b" for look, _ in counts(status)]
    return "\n".join(lines) + "\n"


def dot(status: Status) -> str:
    """Write the graph in DOT, the language of Graphviz."""
    ids = _ids(status)
    lines = [
        "digraph migrations {",
        f"  graph [rankdir=LR, labelloc=t, fontname=Helvetica, label={_quoted(_title(status))}]",
        '  node [shape=box, style="rounded,filled", fontname=Courier]',
    ]
    for migration in status.migrations:
        look = mark(migration, status)
        label = _quoted(f"{look.sign} {shown(migration.name)}")
        lines.append(f'  {ids[migration.name]} [label={label}, fillcolor="{look.fill}", color="{look.line}"]')
    lines += [f"  {ids[needed]} -> {ids[name]}" for needed, name in _pairs(status)]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """A label of DOT, where backslashes and entities have a meaning."""
    return '"' + escape(text, quote=False).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _ids(status: Status) -> dict[str, str]:
    """For notations in which a name would have to be quoted at every place."""
    return {migration.name: f"m{index}" for index, migration in enumerate(status.migrations)}


def _pairs(status: Status) -> list[tuple[str, str]]:
    return [
        (needed, migration.name) for migration in status.migrations for needed in dict.fromkeys(migration.depends_on)
    ]


def _title(status: Status) -> str:
    found = [f"{count} {look.sign} {look.word}" for look, count in counts(status)]
    return f"{place(status)}: {', '.join(found) or 'no migrations'}"


def _drawing(status: Status) -> Element:
    ids = _ids(status)
    widths = {name: _TEXT + cell_len(shown(name)) * _CELL + _PADDING for name in ids}
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
    graph.extend(
        _box(migration, mark(migration, status), placed.boxes[migration.name], ids[migration.name])
        for migration in status.migrations
    )
    return root


def _head(status: Status) -> tuple[Element, float]:
    """Heading and legend, and how wide they are."""
    head = Element("g", {"class": "head", "transform": f"translate({_MARGIN:g} 0)"})
    where = place(status)
    _text(head, "heading", 0, 40, where, cell=_HEADING_CELL)
    x = 0.0
    for look, count in counts(status):
        key = SubElement(head, "g", {"class": f"key {look.word}"})
        _text(key, "sign", x + 6, 64, look.sign)
        label = f"{count} {look.word}"
        _text(key, "count", x + 18, 64, label, cell=_CELL)
        x += 18 + len(label) * _CELL + 22
    return head, max(cell_len(where) * _HEADING_CELL, x)


def _box(migration: MigrationStatus, look: Mark, box: Box, identifier: str) -> Element:
    group = Element("g", {"class": f"box {look.word}", "id": identifier})
    SubElement(group, "title").text = _tooltip(migration, look)
    SubElement(group, "rect", x=f"{box.x:g}", y=f"{box.y:g}", width=f"{box.width:g}", height=f"{HEIGHT:g}")
    _text(group, "sign", box.x + _SIGN, box.middle + 4.5, look.sign)
    _text(group, "name", box.x + _TEXT, box.middle + 4.5, shown(migration.name), cell=_CELL)
    return group


def _text(parent: Element, kind: str, x: float, y: float, text: str, *, cell: float | None = None) -> None:
    element = SubElement(parent, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}"})
    if cell is not None and (cells := cell_len(text)):
        element.attrib |= {"textLength": f"{cells * cell:g}", "lengthAdjust": "spacingAndGlyphs"}
    element.text = text


def _tooltip(migration: MigrationStatus, look: Mark) -> str:
    recorded = "" if migration.applied_at is None else f", recorded {migration.applied_at:%Y-%m-%d %H:%M:%S} UTC"
    needs = ", ".join(migration.depends_on)
    lines = [migration.name, f"{look.word}{recorded}", migration.description, needs and f"needs {needs}"]
    return "\n".join(shown(line) for line in lines if line)


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
    light = "".join(_colours(look.word, look.fill, look.line) for look in MARKS.values())
    dark = "".join(_colours(look.word, look.dark_fill, look.dark_line) for look in MARKS.values())
    return f"{_resource('picture.css')}{light}@media (prefers-color-scheme: dark) {{{dark}}}"


def _colours(word: str, fill: str, line: str) -> str:
    return f".{word} rect{{fill:{fill};stroke:{line}}}.{word} .sign{{fill:{line};color:{line}}}\n"


def _resource(name: str) -> str:
    return files("quaestor.cli").joinpath(name).read_text(encoding="utf-8")
