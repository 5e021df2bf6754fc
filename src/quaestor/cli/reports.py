"""The reports of read-only commands: tables of migrations or databases, and sentences that sum up."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from quaestor import DatabaseResult, Lease, MigrationDefinition, PlannedMigration
from quaestor._text import format_amount, format_count, format_list
from quaestor.cli.marks import FAILED, MARKS, choose_mark, count_marks, find_state, format_place, list_current
from quaestor.cli.progress import WORDS
from quaestor.cli.redaction import escape
from quaestor.status import BackfillStatus, MigrationStatus, Phase, State, Status, Work

_ROOM = 24
"""The least width of a column, in cells."""

NO_MIGRATIONS = (
    "No migration is registered. Write one (quaestor new NAME), name the right registry (--registry), or import the "
    "modules that use it."
)

PROTECTED = "yellow"
"""The style of the label of a protected database."""

_MOST_PAIRS = 3
_LEAST_NAME = 8
_OUTDATED = ("pending", "unknown", "interrupted", "failed")


def report_status(status: Status, width: int) -> Iterator[RenderableType]:
    """Report the migrations: as many columns as there is room for, the name and the state always.

    Replaced and retired ones are only counted.
    """
    if shown := list_current(status):
        marks = [choose_mark(one, status) for one in shown]
        dates = [_format_since(one) for one in shown]
        columns = {
            "": [mark.text for mark in marks],
            "migration": make_column(one.name for one in shown),
            "state": [Text(mark.word, mark.style) for mark in marks],
            "progress": make_column(_describe_progress(one) for one in shown),
            "since (UTC)": make_column(dates),
            "depends on": make_column((", ".join(one.depends_on) for one in shown), "dim"),
            "kind": make_column(map(_describe_kind, shown), "dim"),
            "description": make_column((one.description for one in shown), "dim"),
        }
        yield make_table(columns, width, needed={"", "state"})
        yield ""
    yield summarize(status)
    yield from find_warnings(status)


def report_statuses(statuses: Collection[Status], width: int) -> Iterator[RenderableType]:
    """Report many databases, those that aren't up to date first: as many columns as there is room for."""
    ordered = sorted(statuses, key=_is_up_to_date)  # in each part sorted by name, as given
    marks = [MARKS["applied" if _is_up_to_date(status) else "pending"] for status in ordered]
    columns = {"": [mark.text for mark in marks], "database": make_column(status.database for status in ordered)}
    for word in ("applied", *_OUTDATED, "waiting"):
        numbers = [_count(status, word) for status in ordered]
        columns[word] = make_column((f"{number:,}" if number else "" for number in numbers), MARKS[word].style, "right")
    columns["protected as"] = make_column((status.protected_as or "" for status in ordered), PROTECTED)
    columns["lease"] = make_column(str(status.lease or "") for status in ordered)
    yield make_table(columns, width, needed={"", "applied", *_OUTDATED})
    yield ""
    done = sum(map(_is_up_to_date, statuses))
    line = Text.assemble((format_count(len(statuses), "database"), "bold"), ": ", (f"{done:,} up to date", "green"))
    yield (
        line + Text.assemble(", ", (f"{len(statuses) - done:,} not", "bold red"), ".") if done < len(statuses) else line
    )
    yield from (f"{escape(status.database)}: {warning}" for status in ordered for warning in find_warnings(status))


def report_plan(
    planned: Sequence[PlannedMigration], registered: Mapping[str, MigrationDefinition], width: int
) -> Iterator[RenderableType]:
    """Report planned migrations in order, and why they are planned; then those that wait, and for what."""
    todo = [one for one in planned if not one.is_waiting]
    waiting = [one for one in planned if one.is_waiting]
    if todo:
        yield _report_planned("to roll back" if todo[0].undo else "to apply", todo, registered, width)
    if todo and waiting:
        yield ""
    if waiting:
        yield _report_planned("waiting", waiting, registered, width)


def _report_planned(
    title: str, planned: Sequence[PlannedMigration], registered: Mapping[str, MigrationDefinition], width: int
) -> RenderableType:
    names = [one.name for one in planned]
    numbers = itertools.count(1)
    columns = {
        "": make_column(("" if _is_extra(one) else f"{next(numbers)}" for one in planned), "dim", "right"),
        title: make_column(names),
        # Left out if all were asked for.
        "why": [] if all(one.reason == "asked for" for one in planned) else make_column(one.reason for one in planned),
        "description": make_column(
            (registered[name].description if name in registered else "" for name in names), "dim"
        ),
    }
    return make_table(columns, width, needed={""})


def list_work(planned: Iterable[PlannedMigration]) -> list[str]:
    """List the migrations of a plan whose function would be called."""
    return [one.name for one in planned if not _is_extra(one)]


def _is_extra(planned: PlannedMigration) -> bool:
    """Say whether no function would be called for it."""
    return planned.is_waiting or planned.is_recorded_only


def report_plans(
    plans: Mapping[str, Sequence[str]], width: int, what: str = "to apply", *, is_counted: bool = False
) -> Iterator[RenderableType]:
    """Report the databases with something to do, and the names of the migrations.

    `is_counted`: say of each migration in how many databases, for a question after a table that is long.
    """
    named = {database: names for database, names in plans.items() if names}
    if named:
        columns = {
            "database": make_column(named),
            "": make_column((f"{len(names):,}" for names in named.values()), justify="right"),
            what: make_column(", ".join(names) for names in named.values()),
        }
        yield make_table(columns, width, needed={""})
        yield ""
    counted = Counter(name for names in named.values() for name in names) if is_counted else {}
    each = format_list([f"{escape(name)} ({number:,})" for name, number in counted.items()])
    number = format_count(sum(map(len, named.values())))
    yield Text(f"{number} {what} in {len(named):,} of {format_count(len(plans), 'database')}{each}.", "bold")


def report_lease(lease: Lease | None) -> Iterator[RenderableType]:
    """Report who holds the lease, before it is released."""
    if lease is None:
        yield "Nobody holds the lease, or it has expired. Pass --yes to release it anyway."
    else:
        yield f"The lease is held by {_describe_lease(lease)}."


def report_leases(leases: Mapping[str, Lease | None]) -> Iterator[RenderableType]:
    """Report the databases whose lease is held, and by whom, before these are released."""
    for database, lease in leases.items():
        if lease is not None:
            yield f"{escape(database)}: held by {_describe_lease(lease)}."
    if not any(leases.values()):
        total = format_count(len(leases), "database")
        yield f"Nobody holds the lease of {total}, or it has expired. Pass --yes to release it anyway."


def _describe_lease(lease: Lease) -> str:
    return f"{escape(str(lease))}; last renewed at {lease.renewed_at:%H:%M:%S} UTC"


def report_release(released: Lease | None) -> Iterator[RenderableType]:
    """Report whether the lease was released, and who held it."""
    yield "Nobody holds the lease." if released is None else f"Released. It was held by {escape(str(released))}."


def report_released(released: Mapping[str, Lease | None]) -> Iterator[RenderableType]:
    """Report the databases whose lease was released, and who held it."""
    held = {database: lease for database, lease in released.items() if lease is not None}
    yield from (
        f"{escape(database)}: released. It was held by {escape(str(lease))}." for database, lease in held.items()
    )
    total = format_count(len(released), "database")
    yield f"Released in {len(held):,} of {total}." if held else f"Nobody holds the lease of {total}."


def report_results(
    results: Sequence[DatabaseResult], summary: str, describe: Callable[[BaseException], str], width: int
) -> Iterator[RenderableType]:
    """Report a run, rollback or mark over many databases: every failure in full, and the summary."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(_LEAST_NAME, width // 3))
    table.add_column(overflow="fold")
    for result in results:
        if result.error is not None:
            why = "\n".join(escape(line.strip()) for line in describe(result.error).split("\n"))
            table.add_row(FAILED.text, Text(escape(result.database), "bold"), Text(why))
    if table.row_count:
        yield table
    yield Text(summary, FAILED.style if table.row_count else "bold green")


def summarize_results(results: Sequence[DatabaseResult], took: str, work: Work = "run") -> str:
    """Summarize the results of a run, rollback or mark over many databases in a sentence."""
    words = WORDS[work]
    counts = [len(getattr(result, words.field)) for result in results]
    failed = sum(result.error is not None for result in results)
    changed = sum(map(bool, counts))
    idle = sum(not count and result.error is None for count, result in zip(counts, results, strict=True))
    total = format_count(len(results), "database")
    if idle == len(results):
        return f"{'Up to date: nothing' if work == 'run' else 'Nothing'} to {words.verb} in {total}."
    clauses = {
        f"failed in {failed:,}": failed,
        f"{words.done} {format_count(sum(counts))} in {changed:,}": changed,
        f"nothing to {words.verb} in {idle:,}": idle,
    }
    first, *others = (clause for clause, number in clauses.items() if number)
    return f"{', '.join([f'{first.capitalize()} of {total}', *others])}; it took {took}"


def summarize(status: Status) -> Text:
    """Summarize a status in a line: where, how many in each state, and who holds the lease."""
    numbers = [Text(f"{number} {mark.word}", mark.style) for mark, number in count_marks(status)]
    label = Text() if status.protected_as is None else Text(f", protected as {escape(status.protected_as)}", PROTECTED)
    counts = Text(", ").join(numbers or [Text("no migrations")])
    line = Text.assemble((format_place(status), "bold"), label, ": ", counts)
    return line + Text("." if status.lease is None else f". Lease held by {escape(str(status.lease))}.")


def find_faults(
    status: Status, states: Iterable[State], *, strict: bool = False, phase: Phase | None = None
) -> list[str]:
    """Return the complaints of a check about the migrations in these states; a strict one's also about changed ones."""
    found: dict[str, list[str]] = {state: status.names(state, phase=phase) for state in states}
    if strict:
        found["changed"] = _find_changed(status)
    return [f"{len(names)} {state}: {', '.join(map(escape, names))}." for state, names in found.items() if names]


def find_late(status: Status, phase: Phase | None) -> list[str]:
    """Say which pending migrations a check of this phase accepts."""
    needed = status.names("pending", phase=phase)
    late = [name for name in status.names("pending") if name not in needed]
    return [f"Not needed for the rollout: {', '.join(map(escape, late))}."] if late else []


def find_failed(failed: Mapping[str, str]) -> list[str]:
    """Return the complaints of a check about the migrations whose verification failed, and why."""
    return [f"The verification of {escape(name)} failed: {escape(why.rstrip('.'))}." for name, why in failed.items()]


def summarize_verified(statuses: Iterable[Status], registered: Mapping[str, MigrationDefinition]) -> str:
    """Say how many applied migrations have a verification, because without one nothing was verified."""
    applied = [name for status in statuses for name in status.names("applied")]
    return f"Verified: {format_count(sum(bool(registered[name].verifications) for name in applied))}."


def find_warnings(status: Status) -> Iterator[str]:
    """Find what may be wrong, although nothing is pending or unknown, and why migrations failed."""
    for one in status.migrations:
        if (failure := one.last_failure) is not None:
            subject = f"The rollback of {one.name}" if failure.undo else one.name
            release = f" in release {failure.release}" if failure.release else ""
            when = f" at {failure.at:%Y-%m-%d %H:%M} UTC" if failure.at else ""
            yield escape(f"{subject} failed{when}{release}: {failure.error or 'why is unknown'}")
    if all(one.state in {"unknown", "retired"} for one in status.migrations):
        yield NO_MIGRATIONS
    pending = {*status.names("pending"), *status.names("waiting")}
    for one in status.migrations:
        if one.state == "applied" and (needed := [name for name in one.depends_on if name in pending]):
            yield escape(f"Warning: {one.name} is applied, and depends on pending migrations{format_list(needed)}.")
    if changed := _find_changed(status):
        yield escape(
            f"Warning: changed since they were applied{format_list(changed)}. If the data is right all the same, "
            "accept the change: quaestor mark accepted NAME."
        )
    if pairs := [f"{one.first} before {one.second}" for one in status.order_conflicts]:
        more = f", and {len(pairs) - _MOST_PAIRS:,} more" if len(pairs) > _MOST_PAIRS else ""
        yield escape(
            f"Warning: a new database applies these the other way round: {'; '.join(pairs[:_MOST_PAIRS])}{more}. If "
            "that makes a difference, correct this database, or let the second depend on the first."
        )


def _find_changed(status: Status) -> list[str]:
    return [one.name for one in status.migrations if one.changed]


def _count(status: Status, word: str) -> int:
    """Count the migrations in this state."""
    return sum(word == find_state(one) for one in status.migrations)


def _is_up_to_date(status: Status) -> bool:
    return not any(_count(status, word) for word in _OUTDATED)


def _format_since(migration: MigrationStatus) -> str:
    date, failure = migration.applied_at or migration.interrupted_since, migration.last_failure
    if find_state(migration) == "failed" and failure is not None:
        date = failure.at
    return "" if date is None else f"{date:%Y-%m-%d %H:%M}"


def make_column(texts: Iterable[str], style: str = "", justify: Literal["left", "right"] = "left") -> list[Text]:
    """Make the cells of a column."""
    return [Text(escape(text), style, justify=justify) for text in texts]


def make_table(columns: Mapping[str, Sequence[Text]], width: int, *, needed: Collection[str]) -> Table:
    """Make a table without rules, one line per row; an empty column is left out.

    If they don't fit, the needed columns stay, the first of the others is cut, and the rest are cut or left out.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    wanted = {
        title: max(map(cell_len, [title, *(cell.plain for cell in cells)]))
        for title, cells in columns.items()
        if any(cells)
    }
    left = width - sum(cells + 2 for title, cells in wanted.items() if title in needed)
    first = next((title for title in wanted if title not in needed), None)
    for title, cells in wanted.items():
        if title in needed:
            table.add_column(title, no_wrap=True)
        elif title == first or left >= min(cells, _ROOM):
            table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=max(1, min(cells, left)))
            left -= cells + 2
    for row in zip(*(columns[str(column.header)] for column in table.columns), strict=True):
        table.add_row(*row)
    return table


def _describe_kind(migration: MigrationStatus) -> str:
    kinds = {"transaction": migration.transaction, "has rollback": migration.has_rollback}
    return ", ".join(kind for kind, is_so in kinds.items() if is_so)


def _describe_progress(migration: MigrationStatus) -> str:
    """Describe until when it is delayed, or its last backfill (earlier ones are finished).

    It is that of the rollback if the migration is applied.
    """
    if migration.delayed_until is not None:
        return f"delayed until {migration.delayed_until:%Y-%m-%d %H:%M}"
    backfills = [one for one in migration.backfills if one.undo == (migration.state == "applied")]
    if not backfills:
        return ""
    return describe_backfill(backfills[-1])


def describe_backfill(backfill: BackfillStatus) -> str:
    """Describe how much of a backfill is done."""
    percent = f"{100 * backfill.done // backfill.total}%, " if backfill.total else ""
    amount = format_amount(backfill.done, backfill.total)
    return f"{'rollback of ' if backfill.undo else ''}{backfill.name}: {percent}{amount}"
