"""The live display: what runs, what waits and how much is done, below what has been."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self, assert_never

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from quaestor.cli.marks import MARKS, shown
from quaestor.cli.pace import Pace, begun
from quaestor.cli.sentences import Clean, counted, duration, reason, sentence
from quaestor.core.events import (
    Event,
    Hook,
    LeaseAwaited,
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationProgressed,
    MigrationRetried,
    MigrationRolledBack,
    MigrationStarted,
    PassChanged,
    PassStarted,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    ReplicasAwaited,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
)

_FRAMES_PER_SECOND: Final = 10
_WIDEST_BAR: Final = 30
_NOTE_WIDTH: Final = 8  # cells: of most times


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
def live(console: WholeConsole, clean: Clean) -> Iterator[Hook]:
    """Show events as they come, and when the context ends how the run ended; yields the hook to give them to.

    What is done is printed and scrolls up. Below it stand what runs, what waits, as far as there is room, and a bar
    over all. What the process prints in the meantime goes above.

    Args:
        console: The terminal.
        clean: Takes secrets out of a text.
    """
    display = _Display(console, clean)
    area = Live(display, console=console, auto_refresh=False, transient=True)
    ended = threading.Event()
    drawing = threading.Thread(target=_draw, args=(console, area, ended), daemon=True)
    try:
        area.start(refresh=True)
        drawing.start()
        yield display.tell
    finally:
        ended.set()
        sys.stdout.flush()  # else Rich would forget a line that was printed without its end
        sys.stderr.flush()
        with console:  # its lock comes before that of Rich, as everywhere
            area.stop()
        display.end()


def _draw(console: Console, area: Live, ended: threading.Event) -> None:
    """Draw a frame now and then: Rich's own thread would take Rich's lock before that of the console."""
    while not ended.wait(1 / _FRAMES_PER_SECOND):
        with console:
            if not ended.is_set():
                area.refresh()


@dataclass(slots=True)
class _Running:
    """The migration that runs.

    Attributes:
        name: As it is shown (str).
        since: When it began (float, seconds of the console's clock).
        attempt: Which attempt at its transaction, or that of a batch, this is (int, from 1).
        trouble: Why the attempt before came to nothing, or what it waits for, as it is shown (str).
        pace: What it has said about how far it is (Pace); None before it has.
        passes: Whether it goes over a collection (bool): what is attempted again is a batch then.
    """

    name: str
    since: float
    attempt: int = 1
    trouble: str = ""
    pace: Pace | None = None
    passes: bool = False


class _Display:
    """All that is shown, drawn anew for each frame.

    It has no lock: the thread that draws holds the console's, which whoever prints waits for. Every change is one
    assignment.
    """

    def __init__(self, console: Console, clean: Clean) -> None:
        self._console = console
        self._clean = clean
        self._frames = Spinner("dots").frames
        self._began = console.get_time()
        self._awaited: tuple[str, float] | None = None  # for whom, since when
        self._plan: list[str] | None = None
        self._widest = 0  # of its names, in cells
        self._started = 0  # of the plan: how many; so for the next
        self._done = 0
        self._printed = 0  # lines above, which share the screen
        self._running: _Running | None = None
        self._ending: Text | None = None

    def tell(self, event: Event) -> None:  # noqa: C901, PLR0912 - it is one table
        """Take an event up."""
        said = sentence(event, self._clean)
        match event:
            case RunStarted(plan=plan) | RollbackStarted(plan=plan):
                self._start(event, [self._shown(name) for name in plan])
            case RecordsIgnored() | RecordsUnknown() | SessionsNotEnded() | LeaseNotReleased() | PassChanged():
                self._print(Text(f"! {said}", "yellow"))
            case LeaseAwaited(holder=holder, seconds=seconds):
                self._awaited = (self._shown(f"Waiting for {holder}"), self._console.get_time() - seconds)
            case MigrationStarted(name=name, position=position):
                self._running = _Running(self._shown(name), self._console.get_time())
                self._started = position
            case MigrationRetried(attempt=attempt, error=error):
                self._retry(attempt, "" if error is None else shown(reason(error, self._clean)))
            case MigrationProgressed(name=name, done=done, whole=whole):
                self._progress(self._shown(name), done, whole)
            case PassStarted(name=name, done=done, whole=whole):
                self._progress(self._shown(name), done, whole, anew=True)
            case ReplicasAwaited(lag=lag):
                self._trouble(f"Waiting for replicas that are {duration(lag)} behind")
            case MigrationApplied(seconds=seconds) | MigrationRolledBack(seconds=seconds):
                self._done = event.position
                self._settle(Text(MARKS["applied"].sign, MARKS["applied"].style), seconds)
            case MigrationFailed():
                self._settle(Text("✗", "bold red"))
                self._ending = Text(said, "bold red")
            case RunFinished(applied=names) | RollbackFinished(rolled_back=names):
                took = f" in {duration(self._console.get_time() - self._began)}" if names else ""
                self._ending = Text(f"{said}{took}", "bold green")
            case RecordsMarked():
                self._ending = Text(said)
            case _:
                assert_never(event)

    def end(self) -> None:
        """Print how it ended; where no event has said so, how far it came."""
        if self._ending is not None:
            self._console.print(self._ending)
        elif self._plan is not None:
            self._console.print(Text(f"Stopped after {self._done} of {len(self._plan)}", "bold red"))
        elif self._awaited is not None:
            self._console.print(Text.assemble(("Stopped. ", "bold red"), *self._pause(*self._awaited)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a frame, which Rich does several times a second."""
        running, plan = self._running, self._plan
        if plan is None:
            pause = self._pause(*(self._awaited or ("Reading what is applied", self._began)))
            yield Text.assemble(self._frame(), " ", *pause)
            return
        current = [] if running is None else self._current(running)
        total = self._total(len(plan))
        taken = sum(len(console.render_lines(part, options)) for part in (*current, total))
        room = max(options.size.height // 2, options.size.height - 1 - self._printed) - taken
        yield from current
        yield from self._upcoming(plan[self._started :], room)
        yield total

    def _start(self, event: RunStarted | RollbackStarted, plan: list[str]) -> None:
        self._began = self._console.get_time()
        if plan:
            doing = "to apply to" if isinstance(event, RunStarted) else "to undo in"
            place = self._shown(f"{event.database}/{event.prefix}")
            self._print(Text(f"{counted(len(plan))} {doing} {place}", "bold"))
        self._widest = max(map(cell_len, plan), default=0)
        self._plan = plan

    def _retry(self, attempt: int, trouble: str) -> None:
        if self._running is not None:
            self._running.attempt, self._running.trouble = attempt, trouble
            if not self._running.passes:
                self._running.pace = None

    def _trouble(self, what: str) -> None:
        if self._running is not None:
            self._running.trouble = what

    def _progress(self, name: str, done: int, whole: int | None, *, anew: bool = False) -> None:
        running, now = self._running, self._console.get_time()
        if running is not None and running.name == name:  # else it is late, from a thread that was left behind
            pace = None if anew else running.pace
            running.pace = begun(done, whole, now) if pace is None else pace.then(done, whole, now)
            running.passes = running.passes or anew
            if running.passes:
                running.attempt, running.trouble = 1, ""

    def _settle(self, sign: Text, seconds: float | None = None) -> None:
        """Print what became of the migration that ran, and how long that took: until now, unless it is told."""
        running, self._running = self._running, None
        if running is not None:
            took = duration(self._console.get_time() - running.since if seconds is None else seconds)
            self._print(self._row(sign, running.name, took + _attempts(running)))

    def _current(self, running: _Running) -> list[RenderableType]:
        took = duration(self._console.get_time() - running.since)
        lines: list[RenderableType] = [self._row(self._frame(), running.name, took + _attempts(running), "bold")]
        if running.trouble:
            lines.append(Text(f"  {running.trouble}", "yellow", no_wrap=True, overflow="ellipsis"))
        if running.pace is not None:
            bar = self._bar(running.pace.done, running.pace.whole, str(running.pace), MARKS["running"].style)
            lines.append(Padding(bar, (0, 0, 0, 2)))
        return lines

    def _upcoming(self, names: list[str], room: int) -> Iterator[Text]:
        if room <= 0:
            return
        fitting = names if len(names) <= room else names[: room - 1]
        for name in fitting:
            yield self._row(Text(MARKS["pending"].sign, MARKS["pending"].style), name, "")
        if len(fitting) < len(names):
            yield Text(f"  … {len(names) - len(fitting):,} more", "dim")

    def _total(self, total: int) -> Table:
        elapsed = duration(self._console.get_time() - self._began)
        return self._bar(self._done, total, f"{self._done:,} of {total:,}, {elapsed}", MARKS["applied"].style)

    def _bar(self, done: int, whole: int | None, words: str, style: str) -> Table:
        width = min(_WIDEST_BAR, self._console.width // 3)
        bar = ProgressBar(whole, max(0, done), width, complete_style=style, finished_style=style, pulse_style=style)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(bar, Text(words))
        return grid

    def _row(self, sign: Text, name: str, note: str, style: str = "") -> Text:
        text = Text(name, style)
        room = self._console.width - len(sign) - max(_NOTE_WIDTH, len(note)) - 3
        text.truncate(max(1, min(self._widest, room)), overflow="ellipsis", pad=True)
        return Text.assemble(sign, " ", text, "  ", (f"{note:>{_NOTE_WIDTH}}", "dim"))

    def _frame(self) -> Text:
        frame = int(self._console.get_time() * _FRAMES_PER_SECOND) % len(self._frames)
        return Text(self._frames[frame], MARKS["running"].style)

    def _pause(self, what: str, since: float) -> tuple[str, tuple[str, str]]:
        return f"{what} … ", (duration(self._console.get_time() - since), "dim")

    def _print(self, text: Text) -> None:
        self._printed += 1
        self._console.print(text)

    def _shown(self, text: str) -> str:
        return shown(self._clean(text))


def _attempts(running: _Running) -> str:
    return f" ({running.attempt} attempts)" if running.attempt > 1 else ""
