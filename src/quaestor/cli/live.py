"""The live display of a run: what runs, what waits and how much is done, below what has been."""

import contextlib
from collections.abc import Iterator
from typing import Final, assert_never

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quaestor.cli.drawing import FAILED, WholeConsole, bar, drawn, more, spinner
from quaestor.cli.marks import MARKS, shown
from quaestor.cli.running import Running
from quaestor.cli.sentences import Clean, counted, duration, sentence
from quaestor.events import (
    DatabaseFinished,
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

_NOTE_WIDTH: Final = 8  # cells: of most times


@contextlib.contextmanager
def live(console: WholeConsole, clean: Clean) -> Iterator[Hook]:
    """Show events as they come, and when the context ends how the run ended; yields the hook to give them to.

    What is done is printed and scrolls up. Below it stand what runs, what waits, as far as there is room, and a bar
    over all.

    Args:
        console: The terminal.
        clean: Takes secrets out of a text.
    """
    display = _Display(console, clean)
    try:
        with drawn(console, display):
            yield display.tell
    finally:
        display.end()


class _Display:
    """All that is shown, drawn anew for each frame.

    It has no lock: the thread that draws holds the console's, which whoever prints waits for. Every change is one
    assignment.
    """

    def __init__(self, console: Console, clean: Clean) -> None:
        self._console = console
        self._clean = clean
        self._began = console.get_time()
        self._awaited: tuple[str, float] | None = None  # for whom, since when
        self._total: int | None = None  # of the plan
        self._waiting: dict[str, str] = {}  # as they are shown
        self._widest = 0  # of its names, in cells
        self._done = 0
        self._printed = 0  # lines above, which share the screen
        self._running: dict[str, Running] = {}
        self._endings: list[Text] = []

    def tell(self, event: Event) -> None:  # noqa: C901 - it is one table
        """Take an event up."""
        said = sentence(event, self._clean)
        match event:
            case RunStarted(plan=plan) | RollbackStarted(plan=plan):
                self._start(event, {name: self._shown(name) for name in plan})
            case RecordsIgnored() | RecordsUnknown() | SessionsNotEnded() | LeaseNotReleased() | PassChanged():
                self._print(Text(f"! {said}", "yellow"))
            case LeaseAwaited(holder=holder, seconds=seconds):
                self._awaited = (self._shown(f"Waiting for {holder}"), self._console.get_time() - seconds)
            case MigrationStarted(name=name):
                self._running[name] = Running(self._shown(name), self._console.get_time())
                self._waiting.pop(name, None)
            case MigrationRetried() | MigrationProgressed() | PassStarted() | ReplicasAwaited():
                if (running := self._running.get(event.name)) is not None:  # else late, from a thread left behind
                    running.tell(event, self._console.get_time(), self._clean)
            case MigrationApplied(name=name, seconds=seconds) | MigrationRolledBack(name=name, seconds=seconds):
                self._done += 1
                self._settle(Text(MARKS["applied"].sign, MARKS["applied"].style), name, seconds)
            case MigrationFailed(name=name):
                self._settle(Text(*FAILED), name)
                self._endings.append(Text(said, FAILED[1]))
            case RunFinished(applied=names) | RollbackFinished(rolled_back=names):
                took = f" in {duration(self._console.get_time() - self._began)}" if names else ""
                self._endings.append(Text(f"{said}{took}", "bold green"))
            case RecordsMarked() | DatabaseFinished():
                self._endings.append(Text(said))
            case _:
                assert_never(event)

    def end(self) -> None:
        """Print how it ended; where no event has said so, how far it came."""
        for ending in self._endings:
            self._console.print(ending)
        if self._endings:
            return
        if self._total is not None:
            self._console.print(Text(f"Stopped after {self._done} of {self._total}", "bold red"))
        elif self._awaited is not None:
            self._console.print(Text.assemble(("Stopped. ", "bold red"), *self._pause(*self._awaited)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a frame, which Rich does several times a second."""
        if self._total is None:
            pause = self._pause(*(self._awaited or ("Reading what is applied", self._began)))
            yield Text.assemble(spinner(console), " ", *pause)
            return
        total = self._overall(self._total)
        room = options.size.height - 1 - len(console.render_lines(total, options))
        parts = [self._current(running) for running in list(self._running.values())]
        taken = 0
        for number, part in enumerate(parts):
            lines = sum(len(console.render_lines(line, options)) for line in part)
            if taken + lines > room - (number < len(parts) - 1):  # the last line is for those that do not fit
                yield more(len(parts) - number, " under way")
                taken = room
                break
            yield from part
            taken += lines
        taken += options.size.height - 1 - room
        shared = max(options.size.height // 2, options.size.height - 1 - self._printed)
        yield from self._upcoming(list(self._waiting.values()), shared - taken)
        yield total

    def _start(self, event: RunStarted | RollbackStarted, plan: dict[str, str]) -> None:
        self._began = self._console.get_time()
        if plan:
            doing = "to apply to" if isinstance(event, RunStarted) else "to undo in"
            place = self._shown(f"{event.database}/{event.prefix}")
            self._print(Text(f"{counted(len(plan))} {doing} {place}", "bold"))
        self._widest = max(map(cell_len, plan.values()), default=0)
        self._waiting = plan
        self._total = len(plan)

    def _settle(self, sign: Text, name: str, seconds: float | None = None) -> None:
        """Print what became of a migration, and how long it took: until now, unless it is told."""
        running = self._running.pop(name, None)
        if running is not None:
            took = duration(self._console.get_time() - running.since if seconds is None else seconds)
            self._print(self._row(sign, running.name, took + running.attempts))

    def _current(self, running: Running) -> list[RenderableType]:
        took = duration(self._console.get_time() - running.since)
        row = self._row(spinner(self._console), running.name, took + running.attempts, "bold")
        lines: list[RenderableType] = [row]
        if running.trouble:
            lines.append(Text(f"  {running.trouble}", "yellow", no_wrap=True, overflow="ellipsis"))
        if running.pace is not None:
            grid = self._bar(running.pace.done, running.pace.whole, str(running.pace), MARKS["running"].style)
            lines.append(Padding(grid, (0, 0, 0, 2)))
        return lines

    def _upcoming(self, names: list[str], room: int) -> Iterator[Text]:
        if room <= 0:
            return
        fitting = names if len(names) <= room else names[: room - 1]
        for name in fitting:
            yield self._row(Text(MARKS["pending"].sign, MARKS["pending"].style), name, "")
        if len(fitting) < len(names):
            yield more(len(names) - len(fitting))

    def _overall(self, total: int) -> Table:
        elapsed = duration(self._console.get_time() - self._began)
        return self._bar(self._done, total, f"{self._done:,} of {total:,}, {elapsed}", MARKS["applied"].style)

    def _bar(self, done: int, whole: int | None, words: str, style: str) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(bar(self._console, done, whole, style), Text(words))
        return grid

    def _row(self, sign: Text, name: str, note: str, style: str = "") -> Text:
        text = Text(name, style)
        room = self._console.width - len(sign) - max(_NOTE_WIDTH, len(note)) - 3
        text.truncate(max(1, min(self._widest, room)), overflow="ellipsis", pad=True)
        return Text.assemble(sign, " ", text, "  ", (f"{note:>{_NOTE_WIDTH}}", "dim"))

    def _pause(self, what: str, since: float) -> tuple[str, tuple[str, str]]:
        return f"{what} … ", (duration(self._console.get_time() - since), "dim")

    def _print(self, text: Text) -> None:
        self._printed += 1
        self._console.print(text)

    def _shown(self, text: str) -> str:
        return shown(self._clean(text))
