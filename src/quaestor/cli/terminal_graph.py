"""The dependency graph in a terminal: a line for each migration, and lanes that lead from it to those that need it.

A migration keeps its lane until the last one that needs it is drawn. A dot straight below a lane continues it; one with
an arm to its left hangs on the lanes that the arm meets (├ ┼ ╰ ┴). A lane that an arm merely passes is not broken.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

from quaestor.cli.marks import Mark, counts, mark, place, shown
from quaestor.status import MigrationStatus, Status

_FAINT = "bright_black"
_DOT = "●"
# The character of a lane that an arm meets: does it go on downwards, is there an arm to its left, to its right?
_MEETS = {
    (True, False, True): "├",
    (True, True, False): "┤",
    (True, True, True): "┼",
    (False, False, True): "╰",
    (False, True, False): "╯",
    (False, True, True): "┴",
}


def drawing(status: Status) -> RenderableType:
    """Make something for Rich to print: the title, each migration on a line, in order, and the lanes beside them.

    Migrations that have no part in a dependency come last. Where the terminal is too narrow for the lanes, each
    migration is followed by the names of those that it needs.
    """
    return _Drawing(status)


@dataclass(frozen=True, slots=True)
class _Drawing:
    status: Status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lanes if they fit."""
        yield _title(self.status)
        yield Text()
        linked, alone = _sorted(self.status)
        lanes = list(_lanes(linked))
        margin = max(map(len, lanes), default=-2) + 2
        longest = max((cell_len(shown(migration.name)) for migration in linked), default=0)
        fits = margin + 2 + longest <= options.max_width
        for migration, line in zip(linked, lanes, strict=True):
            look = mark(migration, self.status)
            if fits:
                yield _lane(line.ljust(margin), look) + _label(migration, look)
            else:
                yield _label(migration, look)
                yield from _needs(migration)
        for migration in alone:
            yield Text(" " * margin if fits else "") + _label(migration, mark(migration, self.status))


def _sorted(status: Status) -> tuple[list[MigrationStatus], list[MigrationStatus]]:
    """Those that have a part in a dependency, and the others."""
    needed = {name for migration in status.migrations for name in migration.depends_on}
    linked: list[MigrationStatus] = []
    alone: list[MigrationStatus] = []
    for migration in status.migrations:
        (linked if migration.depends_on or migration.name in needed else alone).append(migration)
    return linked, alone


def _title(status: Status) -> Text:
    found = [Text.assemble((look.sign, look.style), f" {count} {look.word}") for look, count in counts(status)] or [
        Text("no migrations")
    ]
    return Text.assemble((place(status), "bold"), "  ", Text("  ").join(found))


def _label(migration: MigrationStatus, look: Mark) -> Text:
    return Text.assemble((look.sign, look.style), " ", shown(migration.name), overflow="fold")


def _needs(migration: MigrationStatus) -> Iterator[RenderableType]:
    if migration.depends_on:
        names = ", ".join(shown(name) for name in dict.fromkeys(migration.depends_on))
        yield Padding(Text(f"needs {names}", style=_FAINT, overflow="fold"), (0, 0, 0, 4))


def _lane(line: str, look: Mark) -> Text:
    before, dot, after = line.partition(_DOT)
    return Text.assemble((before, _FAINT), (dot, look.style), (after, _FAINT))


def _lanes(migrations: Sequence[MigrationStatus]) -> Iterator[str]:
    """The lanes beside each migration; those that it needs come before it."""
    waiting = Counter(name for migration in migrations for name in set(migration.depends_on))
    lanes: list[str | None] = []
    ended = None
    for migration in migrations:
        waiting.subtract(set(migration.depends_on))
        needed = {lanes.index(name) for name in migration.depends_on}
        ending = {lane for lane in needed if not waiting[lanes[lane] or ""]}
        own = _own(lanes, needed, ending, ended)
        lanes += [None] * (own + 1 - len(lanes))
        yield _drawn(lanes, needed, ending, own)
        for lane in ending:
            lanes[lane] = None
        lanes[own] = migration.name if waiting[migration.name] else None
        ended = None if lanes[own] else own
        while lanes and lanes[-1] is None:
            lanes.pop()


def _own(lanes: Sequence[str | None], needed: AbstractSet[int], ending: AbstractSet[int], ended: int | None) -> int:
    """The lane of the next migration: that of the leftmost that it needs, if that ends here, or else a free one."""
    first = min(needed, default=-1)
    if first in ending:
        return first
    # One that needs nothing must not stand right below a dot, or it would seem to need that.
    taken = {lane for lane, name in enumerate(lanes) if name} | ({ended} if not needed else set())
    return next(lane for lane in range(first + 1, len(lanes) + 3) if lane not in taken)


def _drawn(lanes: Sequence[str | None], needed: AbstractSet[int], ending: AbstractSet[int], own: int) -> str:
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
