"""What the commands that only look show: tables with a line for each migration, and sentences that sum up."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from quaestor.cli.marks import counts, mark, place, shown
from quaestor.cli.sentences import amount
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
            "state": [Text(look.word, look.style) for look in looks],
            "progress": [Text(shown(_progress(one))) for one in migrations],
            "since (UTC)": [Text(_date(one.applied_at)) for one in migrations],
            "needs": [Text(shown(", ".join(one.depends_on)), "dim") for one in migrations],
            "kind": [Text(_kind(one), "dim") for one in migrations],
            "what it does": [Text(shown(one.description), "dim") for one in migrations],
        }
        if migrations:
            yield _table(
                {"": [Text(look.sign, look.style) for look in looks]} | columns, options.max_width, needed={"", "state"}
            )
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
            # Where all are asked for nobody need say so.
            "why": [] if all(one.asked_for for one in self._planned) else [Text(one.reason) for one in self._planned],
            "what it does": [Text(shown(self._descriptions.get(one.name, "")), "dim") for one in self._planned],
        }
        yield _table(columns, options.max_width, needed={""})


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


def _table(columns: Mapping[str, Sequence[Text]], width: int, *, needed: Collection[str]) -> Table:
    """A table without lines, a line for each row.

    Args:
        columns: The cells by the title of their column; a column without any is left out.
        width: What there is room for, in cells.
        needed: The columns that are there in full. Of the others the first is cut, the rest are cut or left out.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    wanted = {
        title: max(map(cell_len, [title, *(cell.plain for cell in cells)]))
        for title, cells in columns.items()
        if any(cells)
    }
    left = width - sum(wanted[title] + 2 for title in needed)
    first = next(title for title in wanted if title not in needed)
    for title, cells in wanted.items():
        if title in needed:
            table.add_column(title, no_wrap=True)
        elif title == first or left >= min(cells, _ROOM):
            table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=max(1, min(cells, left)))
            left -= cells + 2
    for row in zip(*(columns[str(column.header)] for column in table.columns), strict=True):
        table.add_row(*row)
    return table


def _kind(migration: MigrationStatus) -> str:
    kinds = {"transaction": migration.transaction, "can be undone": migration.has_rollback}
    return ", ".join(kind for kind, is_so in kinds.items() if is_so)


def _progress(migration: MigrationStatus) -> str:
    """Of its last pass, for those before are finished: of the function if it is to be applied, else of the rollback."""
    passes = [one for one in migration.passes if one.undo == (migration.state == "applied")]
    if not passes:
        return ""
    last = passes[-1]
    estimated = None if last.total is None else max(last.done, last.total)
    whole = last.done if last.finished else estimated
    percent = f"{100 * last.done // whole}%, " if whole else ""
    return f"{'undoing ' if last.undo else ''}{last.collection}: {percent}{amount(last.done, whole)}"


def _date(date: datetime | None) -> str:
    return "" if date is None else f"{date:%Y-%m-%d %H:%M}"
