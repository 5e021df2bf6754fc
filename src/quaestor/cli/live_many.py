"""The live display of a run over many databases: a line for each that is under way, and a bar over all."""

import contextlib
from collections.abc import Iterator
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from quaestor.cli.course import Course, UnderWay
from quaestor.cli.drawing import FAILED, WholeConsole, bar, drawn, more, spinner
from quaestor.cli.failures import sentence as sentence_of
from quaestor.cli.marks import MARKS, shown
from quaestor.cli.sentences import WARNINGS, Clean, sentence
from quaestor.events import DatabaseFinished, Event, Hook

_SHORT_BAR: Final = 10
_SHORTEST: Final = 60
"""In fewer cells than this a line has no bar."""

_TIME: Final = 9


@contextlib.contextmanager
def live_many(console: WholeConsole, course: Course, names: list[str], clean: Clean) -> Iterator[Hook]:
    """Show events as they come; yields the hook to give them to.

    What has failed, and warnings, are printed and scroll up. Below them stand the databases under way, as far as there
    is room, a bar over all, and how many have ended in which way.

    Args:
        console: The terminal.
        course: How far it is; whoever tells the events tells it, too.
        names: The names of all databases.
        clean: Takes secrets out of a text.
    """
    display = _Display(console, course, names, clean)
    with drawn(console, display):
        yield display.tell


class _Display:
    """All that is shown, drawn anew for each frame. It has no lock, as that of a single run."""

    def __init__(self, console: Console, course: Course, names: list[str], clean: Clean) -> None:
        self._console = console
        self._course = course
        self._clean = clean
        self._widest = max(cell_len(shown(name)) for name in names)

    def tell(self, event: Event) -> None:
        """Take an event up."""
        if isinstance(event, WARNINGS):
            self._console.print(Text(f"! {shown(event.database)}  {sentence(event, self._clean)}", "yellow"))
        if isinstance(event, DatabaseFinished) and isinstance(event.error, Exception):
            why = self._clean(sentence_of(event.error)).replace("\n", "")
            line = Text.assemble(FAILED, " ", (shown(event.database), "bold"), "  ", shown(why))
            line.truncate(self._console.width, overflow="ellipsis")
            self._console.print(line)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a frame, which is lower than the screen and has no line that is wrapped."""
        under_way = list(self._course.under_way.values())
        room = max(0, options.size.height - 3)
        fitting = under_way if len(under_way) <= room else under_way[: max(0, room - 1)]
        for one in fitting:
            yield self._line(one, options)
        if len(fitting) < len(under_way) and room:
            yield more(len(under_way) - len(fitting), " under way")
        yield self._total()
        yield self._counts()

    def _line(self, one: UnderWay, options: ConsoleOptions) -> RenderableType:
        """A database: its name, how many of its migrations are done, in which one it is, and since when."""
        name = Text(one.name, "bold")
        name.truncate(min(self._widest, max(8, options.max_width // 3)), overflow="ellipsis", pad=True)
        head = Text.assemble(spinner(self._console), " ", name)
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True, width=head.cell_len)
        cells: list[RenderableType] = [head]
        if one.total and not one.awaited and options.max_width >= _SHORTEST:
            grid.add_column(no_wrap=True, width=_SHORT_BAR)
            cells.append(bar(self._console, one.done, one.total, MARKS["running"].style, _SHORT_BAR))
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_column(no_wrap=True, justify="right", width=_TIME)
        grid.add_row(*cells, self._doing(one), Text(self._course.since(one.since), "dim"))
        return grid

    def _doing(self, one: UnderWay) -> Text:
        if one.awaited:
            return Text(f"Waiting for {one.awaited}", "yellow")
        if one.running is None:
            return Text(f"{one.done} of {one.total}" if one.total else "")
        running = one.running
        said = f"{one.done} of {one.total}  {running.name}{running.attempts}"
        if running.trouble:
            return Text.assemble(said, (f"  {running.trouble}", "yellow"))
        return Text(said if running.pace is None else f"{said}  {running.pace}")

    def _total(self) -> Table:
        course = self._course
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column()
        grid.add_column(no_wrap=True, overflow="ellipsis")
        words = f"{course.ended:,} of {course.number:,} databases, {course.since(course.began)}"
        grid.add_row(bar(self._console, course.ended, course.number, MARKS["applied"].style), Text(words))
        return grid

    def _counts(self) -> Text:
        course = self._course
        counts = {
            "migrated": (course.migrated, MARKS["applied"].style),
            "nothing to do": (course.idle, "dim"),
            "failed": (course.failed, FAILED[1]),
            "under way": (len(course.under_way), MARKS["running"].style),
            "to go": (course.number - course.ended - len(course.under_way), MARKS["pending"].style),
        }
        said = [Text(f"{number:,} {what}", style) for what, (number, style) in counts.items() if number]
        line = Text(", ").join(said)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line
