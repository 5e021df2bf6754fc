"""The events of a run on stdout: live on a terminal, otherwise as lines."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quaestor._text import format_count, format_duration
from quaestor.cli.error_report import describe_error
from quaestor.cli.event_lines import WARNINGS, write_json_lines, write_plain_lines
from quaestor.cli.live_console import FAILED, LiveConsole, bar, cut, draw_frames, labelled_bar, more, spinner
from quaestor.cli.marks import MARKS
from quaestor.cli.progress import DatabaseProgress, RunningMigration, RunProgress
from quaestor.cli.redaction import escape, format_message
from quaestor.events import (
    DatabaseFinished,
    Event,
    Hook,
    MigrationApplied,
    MigrationFailed,
    MigrationRolledBack,
    RecordsMarked,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunStarted,
)

_NOTE_WIDTH: Final = 8  # cells: of most times
_TIME_WIDTH: Final = 9
_SHORT_BAR: Final = 10
_SHORTEST: Final = 60
"""In fewer cells than this the line of a database has no bar."""

_COUNTS: Final = {
    "migrated": MARKS["applied"].style,
    "up to date": "dim",
    "failed": FAILED[1],
    "in progress": MARKS["running"].style,
    "to go": MARKS["pending"].style,
}
"""What the line below the bar counts, and the styles of the counts."""


@contextlib.contextmanager
def show_events(progress: RunProgress, *, as_json: bool = False) -> Iterator[Hook]:
    """Show the events of a run or rollback on stdout; yield the hook to pass them to, which updates the progress too.

    A terminal that can move its cursor gets a live display, anything else a line for each event. With JSON, stdout has
    only the events: what migrations print goes to stderr.
    """
    stdout, console = sys.stdout, LiveConsole()
    with contextlib.ExitStack() as stack:
        # isatty, because with FORCE_COLOR, which many CI systems set, Rich takes any file for a terminal
        if not as_json and stdout.isatty() and console.is_interactive and console.encoding.startswith("utf"):
            display = (_ManyDisplay if progress.names else _OneDisplay)(console, progress)
            stack.callback(display.end)
            stack.enter_context(draw_frames(console, display))
            show: Hook = display.update
        elif as_json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            show = write_json_lines(stdout, progress.clean)
        else:
            show = write_plain_lines(stdout, progress.clean)

        def hook(event: Event) -> None:
            show(event)
            progress.update(event)

        yield hook


class _OneDisplay:
    """The display of a run on one database.

    Finished migrations are printed and scroll up. Below them are the migrations in progress, the next ones if there is
    room, and a bar. It needs no lock of its own: each change is one assignment, and prints wait for the console's lock.
    """

    def __init__(self, console: Console, progress: RunProgress) -> None:
        self._console = console
        self._progress = progress
        self._widest = 0  # the cells of the longest name
        self._printed = 0  # lines above, on the same screen
        self._endings: list[Text] = []

    def update(self, event: Event) -> None:
        """Print what an event says."""
        message = format_message(event, self._progress.clean)
        match event:
            case RunStarted(plan=plan) | RollbackStarted(plan=plan):
                self._widest = max((cell_len(self._escape(name)) for name in plan), default=0)
                doing = "to apply to" if isinstance(event, RunStarted) else "to roll back in"
                place = self._escape(f"{event.database}/{event.prefix}")
                if plan:
                    self._print(Text(f"{format_count(len(plan))} {doing} {place}", "bold"))
            case _ if isinstance(event, WARNINGS):
                self._print(Text(f"! {message}", "yellow"))
            case MigrationApplied(name=name, seconds=seconds) | MigrationRolledBack(name=name, seconds=seconds):
                self._finish(MARKS["applied"].text, name, seconds)
            case MigrationFailed(name=name):
                self._finish(Text(*FAILED), name)
                self._endings.append(Text(message, FAILED[1]))
            case RunFinished(applied=names) | RollbackFinished(rolled_back=names):
                took = f" in {self._time_since(self._run.since)}" if names else ""
                self._endings.append(Text(f"{message}{took}", "bold green"))
            case RecordsMarked() | DatabaseFinished():
                self._endings.append(Text(message))

    def end(self) -> None:
        """Print how the run ended; if no event has said so, how far it came."""
        run = self._run
        for ending in self._endings:
            self._console.print(ending)
        if self._endings:
            return
        if run.count is not None:
            self._console.print(Text(f"Stopped after {run.done} of {run.count}", "bold red"))
        elif run.holder:
            self._console.print(Text.assemble(("Stopped. ", "bold red"), self._pause(run)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a frame."""
        run = self._run
        if run.count is None:
            yield Text.assemble(spinner(console), " ", self._pause(run))
            return
        label = Text(f"{run.done:,} of {run.count:,}, {self._time_since(run.since)}")
        total = labelled_bar(console, run.done, run.count, MARKS["applied"].style, label)
        room = options.size.height - 1 - len(console.render_lines(total, options))
        parts = [self._current(running) for running in list(run.running.values())]
        taken = 0
        for number, part in enumerate(parts):
            lines = sum(len(console.render_lines(line, options)) for line in part)
            if taken + lines > room - (number < len(parts) - 1):  # the last line counts the rest
                yield more(len(parts) - number, " in progress")
                taken = room
                break
            yield from part
            taken += lines
        shared = max(options.size.height // 2, options.size.height - 1 - self._printed)
        upcoming, rest = cut(list(run.pending.values()), shared - taken - (options.size.height - 1 - room))
        for name in upcoming:
            yield self._row(MARKS["pending"].text, name, "")
        if rest:
            yield more(rest)
        yield total

    @property
    def _run(self) -> DatabaseProgress:
        """The progress on the one database; before the first event, as if it had just started to read."""
        started = DatabaseProgress("", self._progress.started)
        return next(iter(list(self._progress.in_progress.values())), started)

    def _finish(self, sign: Text, name: str, seconds: float | None = None) -> None:
        """Print the result of a migration, and how long it took: by default until now."""
        if (running := self._run.running.get(name)) is not None:
            took = self._time_since(running.since) if seconds is None else format_duration(seconds)
            self._print(self._row(sign, running.name, took + running.attempts))

    def _current(self, running: RunningMigration) -> list[RenderableType]:
        took = self._time_since(running.since)
        row = self._row(spinner(self._console), running.name, took + running.attempts, "bold")
        lines: list[RenderableType] = [row]
        if running.trouble:
            lines.append(Text(f"  {running.trouble}", "yellow", no_wrap=True, overflow="ellipsis"))
        if (progress := running.progress) is not None:
            style, label = MARKS["running"].style, Text(str(progress))
            grid = labelled_bar(self._console, progress.done, progress.total, style, label)
            lines.append(Padding(grid, (0, 0, 0, 2)))
        return lines

    def _row(self, sign: Text, name: str, note: str, style: str = "") -> Text:
        text = Text(name, style)
        room = self._console.width - len(sign) - max(_NOTE_WIDTH, len(note)) - 3
        text.truncate(max(1, min(self._widest, room)), overflow="ellipsis", pad=True)
        return Text.assemble(sign, " ", text, "  ", (f"{note:>{_NOTE_WIDTH}}", "dim"))

    def _pause(self, run: DatabaseProgress) -> Text:
        what = f"Waiting for {run.holder}" if run.holder else "Reading what is applied"
        return Text.assemble(f"{what} … ", (self._time_since(run.since), "dim"))

    def _time_since(self, time: float) -> str:
        return self._progress.format_time_since(time)

    def _print(self, text: Text) -> None:
        self._printed += 1
        self._console.print(text)

    def _escape(self, text: str) -> str:
        return escape(self._progress.clean(text))


class _ManyDisplay:
    """The display of a run over many databases.

    Failures and warnings are printed and scroll up. Below them are the databases in progress as far as there is room, a
    bar, and how many databases have ended in which way.
    """

    def __init__(self, console: Console, progress: RunProgress) -> None:
        self._console = console
        self._progress = progress
        self._widest = max(cell_len(escape(name)) for name in progress.names)

    def update(self, event: Event) -> None:
        """Print a failure or a warning."""
        clean = self._progress.clean
        if isinstance(event, WARNINGS):
            self._console.print(Text(f"! {escape(event.database)}  {format_message(event, clean)}", "yellow"))
        if isinstance(event, DatabaseFinished) and isinstance(event.error, Exception):
            why = clean(describe_error(event.error)).replace("\n", "")
            line = Text.assemble(FAILED, " ", (escape(event.database), "bold"), "  ", escape(why))
            line.truncate(self._console.width, overflow="ellipsis")
            self._console.print(line)

    def end(self) -> None:
        """Print nothing: the command shows the results in a table."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a frame that is lower than the screen and wraps no line."""
        progress, done = self._progress, self._progress.ended.total()
        listed, rest = cut(list(progress.in_progress.values()), options.size.height - 3)
        if listed:
            yield self._table(listed, options.max_width)
        if rest:
            yield more(rest, " in progress")
        label = f"{done:,} of {len(progress.names):,} databases, {progress.format_time_since(progress.started)}"
        text = Text(label, no_wrap=True, overflow="ellipsis")
        yield labelled_bar(self._console, done, len(progress.names), MARKS["applied"].style, text)
        counts = Counter(progress.ended)
        counts["in progress"] = len(progress.in_progress)
        counts["to go"] = len(progress.names) - counts.total()
        parts = [Text(f"{counts[what]:,} {what}", style) for what, style in _COUNTS.items() if counts[what]]
        yield Text(", ", no_wrap=True, overflow="ellipsis").join(parts)

    def _table(self, databases: Sequence[DatabaseProgress], width: int) -> Table:
        """Make a line for each database: its name, its bar, the migration in progress, and the time."""
        has_bars = width >= _SHORTEST
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", width=2 + min(self._widest, max(8, width // 3)))
        if has_bars:
            grid.add_column(no_wrap=True, width=_SHORT_BAR)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_column(no_wrap=True, justify="right", width=_TIME_WIDTH)
        for one in databases:
            head = Text.assemble(spinner(self._console), " ", (one.name, "bold"))
            time = Text(self._progress.format_time_since(one.since), "dim")
            has_plan = one.count and not one.holder
            done = bar(self._console, one.done, one.count, MARKS["running"].style, _SHORT_BAR) if has_plan else ""
            grid.add_row(head, *([done] if has_bars else []), _describe(one), time)
        return grid


def _describe(database: DatabaseProgress) -> Text:
    if database.holder:
        return Text(f"Waiting for {database.holder}", "yellow")
    text = f"{database.done} of {database.count}" if database.count else ""
    running = next(iter([*database.running.values()]), None)
    if running is None:
        return Text(text)
    text += f"  {running.name}{running.attempts}"
    if running.trouble:
        return Text.assemble(text, (f"  {running.trouble}", "yellow"))
    return Text(text if running.progress is None else f"{text}  {running.progress}")
