"""The dependency graph in a terminal: a line for each migration, and lanes from it to the migrations that depend on it.

A migration keeps its lane until the last dependent is drawn. A dot below a lane continues it; a dot with an arm to its
left depends on the lanes that the arm meets (├ ┼ ╰ ┴). An arm that only passes a lane doesn't break it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.text import Text

from quaestor.cli.marks import Mark, choose_mark, count_marks, format_place
from quaestor.cli.redaction import escape
from quaestor.status import MigrationStatus, Status

_FAINT = "bright_black"
_DOT = "●"
# The character of a lane that an arm meets: does the lane go on, is there an arm to its left, to its right?
_MEETS = {
    (True, False, True): "├",
    (True, True, False): "┤",
    (True, True, True): "┼",
    (False, False, True): "╰",
    (False, True, False): "╯",
    (False, True, True): "┴",
}


@dataclass(frozen=True, slots=True)
class GraphDrawing:
    """A graph for Rich: the title, each migration on a line, in order, and the lanes beside them.

    Migrations without dependencies or dependents come last. In a terminal too narrow for the lanes, the dependencies of
    each migration follow it by name.
    """

    status: Status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw lanes if they fit."""
        status = self.status
        marks = [mark.text + f" {count} {mark.word}" for mark, count in count_marks(status)]
        yield Text.assemble((format_place(status), "bold"), "  ", Text("  ").join(marks or [Text("no migrations")]))
        yield Text()
        needed = {name for migration in status.migrations for name in migration.depends_on}
        linked = [migration for migration in status.migrations if migration.depends_on or migration.name in needed]
        lanes = list(_lanes(linked))
        margin = max(map(len, lanes), default=-2) + 2
        longest = max((cell_len(escape(migration.name)) for migration in linked), default=0)
        fits = margin + 2 + longest <= options.max_width
        for migration, line in zip(linked, lanes, strict=True):
            mark = choose_mark(migration, status)
            if fits:
                before, dot, after = line.ljust(margin).partition(_DOT)
                lane = Text.assemble((before, _FAINT), (dot, mark.style), (after, _FAINT))
                yield lane + _label(migration, mark)
                continue
            yield _label(migration, mark)
            if migration.depends_on:
                names = ", ".join(escape(name) for name in dict.fromkeys(migration.depends_on))
                yield Padding(Text(f"needs {names}", style=_FAINT, overflow="fold"), (0, 0, 0, 4))
        for migration in status.migrations:
            if not migration.depends_on and migration.name not in needed:
                yield Text(" " * margin if fits else "") + _label(migration, choose_mark(migration, status))


def _label(migration: MigrationStatus, mark: Mark) -> Text:
    return Text.assemble(mark.text, " ", escape(migration.name), overflow="fold")


def _lanes(migrations: Sequence[MigrationStatus]) -> Iterator[str]:
    """Draw the lanes beside each migration; dependencies come first."""
    waiting = Counter(name for migration in migrations for name in set(migration.depends_on))
    lanes: list[str | None] = []
    ended = None
    for migration in migrations:
        waiting.subtract(set(migration.depends_on))
        needed = {lanes.index(name) for name in migration.depends_on}
        ending = {lane for lane in needed if not waiting[lanes[lane] or ""]}
        own = _choose_lane(lanes, needed, ending, ended)
        lanes += [None] * (own + 1 - len(lanes))
        yield _draw_lanes(lanes, needed, ending, own)
        for lane in ending:
            lanes[lane] = None
        lanes[own] = migration.name if waiting[migration.name] else None
        ended = None if lanes[own] else own
        while lanes and lanes[-1] is None:
            lanes.pop()


def _choose_lane(
    lanes: Sequence[str | None], needed: AbstractSet[int], ending: AbstractSet[int], ended: int | None
) -> int:
    """Choose the lane of the next migration: that of its leftmost dependency if it ends here, otherwise a free one."""
    first = min(needed, default=-1)
    if first in ending:
        return first
    # A migration without dependencies must not be right below a dot: it would seem to depend on it.
    taken = {lane for lane, name in enumerate(lanes) if name} | ({ended} if not needed else set())
    return next(lane for lane in range(first + 1, len(lanes) + 3) if lane not in taken)


def _draw_lanes(lanes: Sequence[str | None], needed: AbstractSet[int], ending: AbstractSet[int], own: int) -> str:
    left, right = min(needed | {own}), max(needed | {own})
    line = ""
    for lane, name in enumerate(lanes):
        if lane == own:
            line += _DOT
        elif lane in needed:
            line += _MEETS[lane not in ending, left < lane, lane < right]
        elif name:
            line += "│"
        else:
            line += "─" if left < lane < right else " "
        line += "─" if left <= lane < right else " "
    return line.rstrip()
