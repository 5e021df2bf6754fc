"""The events of a run on stdout: live on a terminal, otherwise as lines."""

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final, Self, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from quaestor._text import format_count, format_duration, is_interruption, read_error
from quaestor.cli.event_lines import write_json_lines, write_plain_lines
from quaestor.cli.logs import JsonStderr
from quaestor.cli.marks import FAILED, MARKS
from quaestor.cli.progress import DatabaseProgress, RunningMigration, RunProgress
from quaestor.cli.redaction import escape, format_message
from quaestor.events import (
    ChangesAccepted,
    DatabaseFinished,
    Event,
    HistoryImported,
    Hook,
    LeaseAwaited,
    MigrationApplied,
    MigrationFailed,
    MigrationRetried,
    MigrationRolledBack,
    MigrationsWaiting,
    RecordsMarked,
    ReplacementRecorded,
    ReplicasAwaited,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    level_of,
)

T = TypeVar("T")

_FRAMES_PER_SECOND: Final = 10
_NOTE_WIDTH: Final = 8  # cells: of most times
_TIME_WIDTH: Final = 9
_WIDEST_BAR: Final = 30
_UPCOMING: Final = 8  # lines


@contextlib.contextmanager
def show_events(progress: RunProgress, *, as_json: bool = False, on_event: Hook | None = None) -> Iterator[Hook]:
    """Show the events of a run or rollback; yield the hook to pass them to, which updates the progress too.

    A terminal that can move its cursor gets a live display, anything else a line for each event. With JSON, stdout has
    only the events: what migrations print goes to stderr. With a log in JSON, the events are there instead.
    """
    stdout, console = sys.stdout, _LiveConsole()
    stream: Hook | None = write_json_lines(stdout, progress.clean) if as_json else None
    show: Hook | None = sys.stderr.put_event if isinstance(sys.stderr, JsonStderr) else None
    with contextlib.ExitStack() as stack:
        if stream is not None or show is not None:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        # isatty, because with FORCE_COLOR, which many CI systems set, Rich takes any file for a terminal
        elif stdout.isatty() and console.is_interactive and console.encoding.startswith("utf"):
            display = (_ManyDisplay if progress.names else _OneDisplay)(console, progress)
            stack.enter_context(_draw_frames(console, display))
            show = display.update
        else:
            show = write_plain_lines(stdout, progress.clean)

        def hook(event: Event) -> None:
            if stream is not None:
                stream(event)
            if show is not None:
                show(event)
            progress.update(event)
            if on_event is not None:
                on_event(event)

        yield hook if on_event is None else functools.wraps(on_event)(hook)  # the log names it if it fails


class _LiveConsole(Console):
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
def _draw_frames(console: _LiveConsole, frame: RenderableType) -> Iterator[None]:
    """Draw frames at the bottom of a terminal, below what the process prints, and erase them at the end."""
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


class _OneDisplay:
    """The display of a run on one database.

    Finished migrations are printed and scroll up. Below them are the migrations in progress, the next ones if there is
    room, and a bar. It needs no lock of its own: each change is one assignment, and prints wait for the console's lock.
    """

    def __init__(self, console: Console, progress: RunProgress) -> None:
        self._console = console
        self._progress = progress
        self._widest = 0  # the cells of the longest name

    def update(self, event: Event) -> None:
        """Print what an event says."""
        run, message = self._run, format_message(event, self._progress.clean)
        match event:
            case RunStarted(plan=plan) | RollbackStarted(plan=plan):
                self._widest = max((cell_len(self._escape(name)) for name in plan), default=0)
                doing = "to apply to" if isinstance(event, RunStarted) else "to roll back in"
                place = self._escape(f"{event.database}/{event.prefix}")
                if plan:
                    self._console.print(Text(f"{format_count(len(plan))} {doing} {place}", "bold"))
            case MigrationApplied(name=name, seconds=seconds) | MigrationRolledBack(name=name, seconds=seconds):
                self._finish(MARKS["applied"].text, name, seconds)
            case MigrationFailed(name=name):
                self._finish(FAILED.text, name)
                self._console.print(Text(message, FAILED.style))
            case RunFinished(applied=names) | RollbackFinished(rolled_back=names):
                took = f" in {self._time_since(run.since)}" if names else ""
                sys.stdout.flush()  # a line without an end, which a migration printed, comes before this one
                self._console.print(Text(f"{message}{took}", "bold green"))
            case ReplacementRecorded() | MigrationsWaiting() | RecordsMarked() | ChangesAccepted() | HistoryImported():
                self._console.print(message)
            case RunFailed() if run.count is not None:
                self._console.print(Text(f"Stopped after {run.done} of {run.count}", FAILED.style))
            case RunFailed() if run.holder:
                self._console.print(Text.assemble(("Stopped. ", FAILED.style), self._pause(run)))
            case _ if _is_unusual(event):
                self._console.print(Text(f"! {message}", "yellow"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a frame that is lower than the screen."""
        run = self._run
        if run.count is None:
            yield Text.assemble(_spinner(console), " ", self._pause(run))
            return
        label = Text(f"{run.done:,} of {run.count:,}, {self._time_since(run.since)}")
        total = _bar(console, run.done, run.count, MARKS["applied"].style, label)
        parts = [Group(*self._describe(running)) for running in list(run.running.values())]
        heights = [len(console.render_lines(part, options)) for part in parts]
        room, fitting = options.size.height - 1 - len(console.render_lines(total, options)), len(parts)
        while fitting and sum(heights[:fitting]) + (fitting < len(parts)) > room:
            fitting -= 1
        yield from parts[:fitting]
        if fitting < len(parts):
            yield _more(len(parts) - fitting, " in progress")
        else:
            upcoming, rest = _cut(list(run.pending.values()), min(_UPCOMING, room // 2, room - sum(heights)))
            yield from (self._row(MARKS["pending"].text, name, "") for name in upcoming)
            if rest:
                yield _more(rest)
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
            self._console.print(self._row(sign, running.name, took))

    def _describe(self, running: RunningMigration) -> Iterator[RenderableType]:
        yield self._row(_spinner(self._console), running.name, self._time_since(running.since), "bold")
        if (progress := running.progress) is not None:
            style, label = MARKS["running"].style, Text(str(progress))
            yield Padding(_bar(self._console, progress.done, progress.total, style, label), (0, 0, 0, 2))

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

    def _escape(self, text: str) -> str:
        return escape(self._progress.clean(text))


class _ManyDisplay:
    """The display of a run, rollback or mark over many databases.

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
        if _is_unusual(event):
            self._console.print(Text(f"! {escape(event.database)}  {format_message(event, clean)}", "yellow"))
        if isinstance(event, DatabaseFinished) and event.error is not None and not is_interruption(event.error):
            line = Text.assemble(FAILED.text, " ", (escape(event.database), "bold"), f"  {read_error(event.error)}")
            line.truncate(self._console.width, overflow="ellipsis")
            self._console.print(line)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a frame that is lower than the screen and wraps no line."""
        progress, done = self._progress, self._progress.ended.total()
        running = list(progress.in_progress.values())  # once, so the numbers agree with the lines
        listed, rest = _cut(running, options.size.height - 3)
        if listed:
            yield self._table(listed, options.max_width)
        if rest:
            yield _more(rest, " in progress")
        label = f"{done:,} of {len(progress.names):,} databases, {progress.format_time_since(progress.started)}"
        text = Text(label, no_wrap=True, overflow="ellipsis")
        yield _bar(console, done, len(progress.names), MARKS["applied"].style, text)
        to_go = len(progress.names) - done - len(running)
        counts = {**progress.ended, "in progress": len(running), "to go": to_go}
        parts = [f"{number:,} {what}" for what, number in counts.items() if number]
        yield Text(", ".join(parts), no_wrap=True, overflow="ellipsis")

    def _table(self, databases: Sequence[DatabaseProgress], width: int) -> Table:
        """Make a line for each database: its name, its progress, and the time."""
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", width=2 + min(self._widest, max(8, width // 3)))
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_column(no_wrap=True, justify="right", width=_TIME_WIDTH)
        for one in databases:
            head = Text.assemble(_spinner(self._console), " ", (one.name, "bold"))
            grid.add_row(head, _describe(one), Text(self._progress.format_time_since(one.since), "dim"))
        return grid


def _describe(database: DatabaseProgress) -> Text:
    if database.holder:
        return Text(f"Waiting for {database.holder}", "yellow")
    words = [f"{database.done} of {database.count}"] if database.count else []
    for running in [*database.running.values()][:1]:
        words += [running.name, *([] if running.progress is None else [str(running.progress)])]
    return Text("  ".join(words))


def _is_unusual(event: Event) -> bool:
    """Say whether a live display prints the message of an event."""
    if isinstance(event, LeaseAwaited):  # it is shown while it lasts
        return False
    return level_of(event) == "WARNING" or isinstance(event, MigrationRetried | ReplicasAwaited)


def _spinner(console: Console) -> Text:
    frames = Spinner("dots").frames
    return Text(frames[int(console.get_time() * _FRAMES_PER_SECOND) % len(frames)], MARKS["running"].style)


def _bar(console: Console, done: int, total: int | None, style: str, label: Text) -> Table:
    """Make a bar with a text beside it; it pulses if the total is unknown."""
    width = min(_WIDEST_BAR, console.width // 3)
    bar = ProgressBar(total, max(0, done), width, complete_style=style, finished_style=style, pulse_style=style)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(bar, label)
    return grid


def _cut(items: Sequence[T], room: int) -> tuple[Sequence[T], int]:
    """Return the items that fit in so many lines, and how many others the last line mentions, if there is a line."""
    if room <= 0:
        return (), 0
    fitting = items if len(items) <= room else items[: room - 1]
    return fitting, len(items) - len(fitting)


def _more(number: int, what: str = "") -> Text:
    """Make the '... N more' line."""
    return Text(f"  … {number:,} more{what}", "dim", no_wrap=True, overflow="ellipsis")
