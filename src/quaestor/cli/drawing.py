"""What live displays are made of: a console for several threads, frames drawn at its bottom, bars and a spinner."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.text import Text

from quaestor.cli.marks import MARKS

FAILED: Final = ("✗", "bold red")
"""The sign of what has failed, and its style."""

_FRAMES_PER_SECOND: Final = 10
_WIDEST_BAR: Final = 30
_SPINNER: Final = Spinner("dots").frames


class WholeConsole(Console):
    """A console on which several threads print without tearing each other's output.

    Rich reckons what to erase when a print begins and writes it when the print ends; a frame that another thread draws
    in between is erased by the wrong height, and lines above it with it. So a print is one step here.
    """

    def __init__(self) -> None:
        self._whole = threading.RLock()
        super().__init__(markup=False, highlight=False, emoji=False)  # what is printed is not ours

    def __enter__(self) -> Self:
        self._whole.acquire()
        super().__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._whole.release()


@contextlib.contextmanager
def drawn(console: WholeConsole, frame: RenderableType) -> Iterator[None]:
    """Draw this again and again at the bottom of a terminal until the context ends, and then wipe it out. What the
    process prints in the meantime goes above.

    Args:
        console: The terminal.
        frame: What to draw.
    """
    area = Live(frame, console=console, auto_refresh=False, transient=True)
    ended = threading.Event()
    drawing = threading.Thread(target=_draw, args=(console, area, ended), daemon=True)
    try:
        area.start(refresh=True)
        drawing.start()
        yield
    finally:
        ended.set()
        sys.stdout.flush()  # else Rich would forget a line that was printed without its end
        sys.stderr.flush()
        with console:  # its lock comes before that of Rich, as everywhere
            area.stop()


def _draw(console: Console, area: Live, ended: threading.Event) -> None:
    """Draw a frame now and then: Rich's own thread would take Rich's lock before that of the console."""
    while not ended.wait(1 / _FRAMES_PER_SECOND):
        with console:
            if not ended.is_set():
                area.refresh()


def spinner(console: Console) -> Text:
    """A sign that turns while something runs."""
    return Text(_SPINNER[int(console.get_time() * _FRAMES_PER_SECOND) % len(_SPINNER)], MARKS["running"].style)


def bar(console: Console, done: int, whole: int | None, style: str, width: int = _WIDEST_BAR) -> ProgressBar:
    """A bar, at most so many cells wide; where nobody knows how much there is to do it moves."""
    width = min(width, console.width // 3)
    return ProgressBar(whole, max(0, done), width, complete_style=style, finished_style=style, pulse_style=style)


def more(number: int, what: str = "") -> Text:
    """That there are so many others for which there is no room."""
    return Text(f"  … {number:,} more{what}", "dim", no_wrap=True, overflow="ellipsis")
