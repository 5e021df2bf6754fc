"""The pictures of the README and the pages (`nox -s pictures`): the demo's migrations on a real server.

What a terminal shows is kept by an emulator and written as SVG by Rich, without the web font that it would fetch.
"""

import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from examples.shop import data
from tools.mongod import NoServerError, server
from tools.terminal import Terminal, quaestor

NAME = "quaestor_demo"
FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
COLUMNS, LINES = 72, 24  # narrow, so it can be read on a phone
_WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_COLOURS = {"brown": "yellow", "default": None}  # as the emulator calls them


def main(folder: Path) -> None:
    """Load the shop, and take a picture of each."""
    folder.mkdir(parents=True, exist_ok=True)
    with server() as uri, MongoClient[dict[str, Any]](uri) as client:
        client.drop_database(NAME)
        os.environ |= {
            "QUAESTOR_REGISTRY": "examples.shop.migrations:registry",
            "QUAESTOR_URI": uri,
            "QUAESTOR_DB": NAME,
            "QUAESTOR_PREFIX": "shop",
        }
        data.load(client[NAME])
        with Terminal(quaestor("run"), COLUMNS, LINES) as terminal:
            terminal.until(lambda lines: any(re.search(r" [4-8]0%", line) for line in lines))  # order_cents tells it
            picture(terminal, folder / "run.svg", "quaestor run")
            _check(terminal)
        with Terminal(quaestor("rollback", "--yes", "daily_revenue", "unique_emails"), COLUMNS, LINES) as terminal:
            _check(terminal)
        subprocess.run(quaestor("graph", "--format", "svg", "--output", str(folder / "graph.svg")), check=True)
        client.drop_database(NAME)


def picture(terminal: Terminal, path: Path, title: str) -> None:
    """Write what the terminal shows as an SVG."""
    screen = terminal.screen
    lines = [_line(screen.buffer[row], screen.columns) for row in range(screen.lines)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=screen.columns, file=nowhere, force_terminal=True, legacy_windows=False)
        for line in lines:
            console.print(line, no_wrap=True, overflow="crop")
        svg = console.export_svg(title=title, theme=MONOKAI, unique_id=path.stem)
    path.write_text(_WEB_FONTS.sub("", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas"), encoding="utf-8")


def _line(cells: Any, columns: int) -> Text:
    """A line of the emulator's screen. Any: its type has no name."""
    line = Text()
    for (colour, bold), run in groupby((cells[column] for column in range(columns)), lambda cell: (cell.fg, cell.bold)):
        line.append("".join(cell.data for cell in run), Style(color=_colour(colour), bold=bold))
    line.rstrip()
    return line


def _colour(name: str) -> Color | None:
    named = _COLOURS.get(name, name)
    if named is None:
        return None
    return Color.parse(f"#{named}" if re.fullmatch("[0-9a-f]{6}", named) else named.replace("bright", "bright_"))


def _check(terminal: Terminal) -> None:
    if terminal.ended():
        sys.exit("\n".join(terminal.lines()))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    except NoServerError as error:
        sys.exit(str(error))
