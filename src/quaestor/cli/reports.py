"""What the commands that only look show: tables of migrations or of databases, and sentences that sum up."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from quaestor._core.many import DatabaseResult
from quaestor._core.plan import PlannedMigration
from quaestor.cli.course import databases, summed_up
from quaestor.cli.drawing import FAILED
from quaestor.cli.marks import MARKS, counts, mark, place, shown
from quaestor.cli.sentences import amount, counted
from quaestor.status import Lease, MigrationStatus, State, Status

_ROOM = 24
"""What a column must get to be worth its place, in cells."""

_LEAST_NAME = 8
_MOST_LISTED = 10


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


class ResultsReport:
    """What became of many databases: those with something applied, those that failed, and a line that sums up.

    Args:
        results: Of each database.
        took: How long it took, in words.
        why: Says why one failed.
    """

    def __init__(self, results: Sequence[DatabaseResult], took: str, why: Callable[[BaseException], str]) -> None:
        self._results = results
        self._took = took
        self._why = why

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Show all that failed, in full; of the others some."""
        failed = [(result, result.error) for result in self._results if result.error is not None]
        migrated = [result for result in self._results if result.error is None and result.applied]
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(_LEAST_NAME, options.max_width // 3))
        table.add_column(overflow="fold")
        listed = migrated if len(migrated) <= _MOST_LISTED else migrated[: _MOST_LISTED - 1]
        for result in listed:
            applied = f"{len(result.applied):,}: {', '.join(map(shown, result.applied))}"
            look = MARKS["applied"]
            table.add_row(
                Text(look.sign, look.style),
                Text(shown(result.database)),
                Text(applied, "dim", no_wrap=True, overflow="ellipsis"),
            )
        if len(listed) < len(migrated):
            table.add_row("", Text(f"… {len(migrated) - len(listed):,} more", "dim"))
        for result, error in failed:
            why = "\n".join(shown(line.strip()) for line in self._why(error).split("\n"))
            table.add_row(Text(*FAILED), Text(shown(result.database), "bold"), Text(why))
        if table.row_count:
            yield table
        yield Text(summed_up(self._results, self._took), FAILED[1] if failed else "bold green")


class StatusesReport:
    """A table of many databases, first those that are not up to date, and a line that sums up.

    Args:
        statuses: Of each database.
    """

    def __init__(self, statuses: Sequence[Status]) -> None:
        self._statuses = statuses

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Show as many columns as there is room for."""
        ordered = sorted(self._statuses, key=is_up_to_date)  # in each part by name, as they are given
        looks = [MARKS["applied"] if is_up_to_date(status) else MARKS["pending"] for status in ordered]
        columns = {
            "": [Text(look.sign, look.style) for look in looks],
            "database": [Text(shown(status.database)) for status in ordered],
        }
        for word in ("applied", "pending", "unknown", "interrupted"):
            numbers = [_number(status, word) for status in ordered]
            style = MARKS[word].style
            columns[word] = [Text(f"{number:,}" if number else "", style, justify="right") for number in numbers]
        columns["at work"] = [Text("" if status.lease is None else shown(str(status.lease))) for status in ordered]
        if ordered:
            yield _table(columns, options.max_width, needed={"", "applied", "pending", "unknown", "interrupted"})
            yield ""
        yield self._summary()

    def _summary(self) -> Text:
        done, number = sum(map(is_up_to_date, self._statuses)), len(self._statuses)
        line = Text.assemble((databases(number), "bold"), ": ", (f"{done:,} up to date", MARKS["applied"].style))
        return line if done == number else line + Text.assemble(", ", (f"{number - done:,} not", "bold red"), ".")


class PlansReport:
    """What would be done in many databases, and a line that sums up.

    Args:
        plans: By the name of the database, what would be done there.
    """

    def __init__(self, plans: Mapping[str, Sequence[PlannedMigration]]) -> None:
        self._plans = plans

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Show those in which something would be done."""
        plans = {database: planned for database, planned in self._plans.items() if planned}
        if plans:
            columns = {
                "database": [Text(shown(database)) for database in plans],
                "": [Text(f"{len(planned):,}", justify="right") for planned in plans.values()],
                "to apply": [Text(", ".join(shown(one.name) for one in planned)) for planned in plans.values()],
            }
            yield _table(columns, options.max_width, needed={""})
            yield ""
        number = counted(sum(map(len, plans.values())))
        yield Text(f"{number} to apply in {len(plans):,} of {databases(len(self._plans))}.", "bold")


def is_up_to_date(status: Status) -> bool:
    """Whether nothing is pending and nothing unknown or interrupted."""
    return not any(_number(status, word) for word in ("pending", "unknown", "interrupted"))


def _number(status: Status, word: str) -> int:
    """How many are in this state, or were interrupted."""
    return sum(word == ("interrupted" if one.interrupted else one.state) for one in status.migrations)


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
        needed: The columns that are there in full, if at all. Of the others the first is cut, the rest are cut or left
            out.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    wanted = {
        title: max(map(cell_len, [title, *(cell.plain for cell in cells)]))
        for title, cells in columns.items()
        if any(cells)
    }
    left = width - sum(cells + 2 for title, cells in wanted.items() if title in needed)
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
