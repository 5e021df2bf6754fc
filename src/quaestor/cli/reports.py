"""What the commands that only look show: tables with a line for each migration, and sentences that sum up."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from quaestor.cli.marks import Mark, counts, mark, place, shown
from quaestor.core.lease import Lease
from quaestor.core.plan import PlannedMigration
from quaestor.core.status import MigrationStatus, State, Status

_ROOM = 24
"""What a column must get to be worth its place, in cells."""


class StatusReport:
    """A table of all migrations, and a line that sums up.

    Args:
        status: What to show.
    """

    def __init__(self, status: Status) -> None:
        self._status = status

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Show as many columns as there is room for; the name and the state in any case."""
        migrations = self._status.migrations
        looks = [mark(migration, self._status) for migration in migrations]
        columns = {
            "migration": [Text(shown(one.name)) for one in migrations],
            "state": [Text(_state(look, one), look.style) for look, one in zip(looks, migrations, strict=True)],
            "since (UTC)": [Text(_date(one.applied_at)) for one in migrations],
            "needs": [Text(shown(", ".join(one.depends_on)), "dim") for one in migrations],
            "kind": [Text(_kind(one), "dim") for one in migrations],
            "what it does": [Text(shown(one.description), "dim") for one in migrations],
        }
        if migrations:
            yield _table({"": [Text(look.sign, look.style) for look in looks]} | columns, options.max_width)
            yield ""
        yield summary(self._status)


class PlanReport:
    """A numbered list of what would be done, and why.

    Args:
        planned: What to show.
        descriptions: What each migration does, by its name.
    """

    def __init__(self, planned: Sequence[PlannedMigration], descriptions: Mapping[str, str]) -> None:
        self._planned = planned
        self._descriptions = descriptions

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Show what there is room for."""
        if not self._planned:
            yield Text("Nothing to do.")
            return
        columns = {
            "": [Text(str(position), "dim", justify="right") for position in range(1, len(self._planned) + 1)],
            "to undo" if self._planned[0].undo else "to apply": [Text(shown(one.name)) for one in self._planned],
            "why": [Text(shown(one.reason), "" if one.asked_for else "dim") for one in self._planned],
            "what it does": [Text(shown(self._descriptions.get(one.name, "")), "dim") for one in self._planned],
        }
        yield _table(columns, options.max_width)


def summary(status: Status) -> Text:
    """One line: where, how many of each, and who is at work."""
    where = Text.assemble((place(status), "bold"), ": ")
    numbers = [Text(f"{number} {look.word}", look.style) for look, number in counts(status)]
    line = where + (Text(", ").join(numbers) if numbers else Text("no migrations"))
    return line + Text("." if status.lease is None else f". At work: {shown(str(status.lease))}.")


def faults(status: Status, state: State) -> list[str]:
    """What a check complains of, as sentences: the migrations in this state; empty where there are none."""
    names = status.names(state)
    return [f"{len(names)} {state}: {', '.join(map(shown, names))}."] if names else []


def holder(lease: Lease) -> str:
    """Who holds the lease, and until when, in words."""
    return f"{shown(str(lease))}; it ends at {lease.expires_at:%H:%M:%S} UTC unless it is renewed"


def _table(columns: Mapping[str, Sequence[Text]], width: int) -> Table:
    """A table without lines, a line for each row: the last columns are cut, or left out where there is no room."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    left, fitting = width, []
    for title, cells in columns.items():
        wanted = max(map(cell_len, [title, *(cell.plain for cell in cells)]))
        if any(cells) and left >= min(wanted, _ROOM):
            table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=min(wanted, left))
            fitting.append(cells)
            left -= wanted + 2
    for row in zip(*fitting, strict=True):
        table.add_row(*row)
    return table


def _state(look: Mark, migration: MigrationStatus) -> str:
    if look.word == "interrupted":
        return "half undone" if migration.state == "applied" else "half done"
    return look.word


def _kind(migration: MigrationStatus) -> str:
    kinds = {"transaction": migration.transaction, "can be undone": migration.has_rollback}
    return ", ".join(kind for kind, is_so in kinds.items() if is_so)


def _date(date: datetime | None) -> str:
    return "" if date is None else f"{date:%Y-%m-%d %H:%M}"
