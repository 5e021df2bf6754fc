"""Parts of the live displays: a console for several threads, frames at its bottom, bars and a spinner."""

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final, Self, TypeVar

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from quaestor.cli.marks import MARKS

T = TypeVar("T")

FAILED: Final = ("✗", "bold red")
"""The sign of a failure, and its style."""

_FRAMES_PER_SECOND: Final = 10
_WIDEST_BAR: Final = 30
_SPINNER: Final = Spinner("dots").frames


class LiveConsole(Console):
    """A console on which several threads print without tearing each other's output.

    Rich computes how much to erase when a print starts and erases it when the print ends. If another thread draws a
    frame in between, it erases the wrong height, and lines above with it. So a print is one step here.
    """

    def __init__(self) -> None:
        self._print_lock = threading.RLock()
        super().__init__(markup=False, highlight=False, emoji=False)  # the texts are not ours

    def __enter__(self) -> Self:
        self._print_lock.acquire()
        super().__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._print_lock.release()


@contextlib.contextmanager
def draw_frames(console: LiveConsole, frame: RenderableType) -> Iterator[None]:
    """Draw frames at the bottom of a terminal until the context ends, then erase them. What the process prints in the
    meantime goes above.
    """
    area = Live(frame, console=console, auto_refresh=False, transient=True)
    ended = threading.Event()

    def draw() -> None:  # Rich's own thread would take Rich's lock before ours
        while not ended.wait(1 / _FRAMES_PER_SECOND):
            with console:
                if not ended.is_set():
                    area.refresh()

    try:
        area.start(refresh=True)
        threading.Thread(target=draw, daemon=True).start()
        yield
    finally:
        ended.set()
        sys.stdout.flush()  # otherwise Rich drops a line without an end
        sys.stderr.flush()
        with console:  # our lock first, then Rich's, as everywhere
            area.stop()


def spinner(console: Console) -> Text:
    """Make a spinner."""
    return Text(_SPINNER[int(console.get_time() * _FRAMES_PER_SECOND) % len(_SPINNER)], MARKS["running"].style)


def bar(console: Console, done: int, total: int | None, style: str, width: int = _WIDEST_BAR) -> ProgressBar:
    """Make a bar, at most this many cells wide; it pulses if the total is unknown."""
    width = min(width, console.width // 3)
    return ProgressBar(total, max(0, done), width, complete_style=style, finished_style=style, pulse_style=style)


def labelled_bar(console: Console, done: int, total: int | None, style: str, label: Text) -> Table:
    """Make a bar with a text beside it."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(bar(console, done, total, style), label)
    return grid


def cut(items: Sequence[T], room: int) -> tuple[Sequence[T], int]:
    """Return the items that fit in so many lines, and how many others the last line mentions, if there is a line."""
    if room <= 0:
        return (), 0
    fitting = items if len(items) <= room else items[: room - 1]
    return fitting, len(items) - len(fitting)


def more(number: int, what: str = "") -> Text:
    """Make the '... N more' line."""
    return Text(f"  … {number:,} more{what}", "dim", no_wrap=True, overflow="ellipsis")
