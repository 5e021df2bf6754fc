"""The history as a table, and everything that is known about one migration."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from quaestor import HistoryEntry, Lease, MigrationDefinition, MigrationStatus, Status
from quaestor._source import locate
from quaestor._text import format_duration
from quaestor.cli.marks import MARKS, Mark, choose_mark
from quaestor.cli.redaction import escape
from quaestor.cli.reports import describe_backfill, make_column, make_table
from quaestor.cli.settings import CommandError

_UNITS: Mapping[str, str] = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_STATES: Mapping[str, str] = {
    **dict.fromkeys(("applied", "marked_applied", "accepted", "imported"), "applied"),
    **dict.fromkeys(("rolled_back", "marked_pending", "restarted", "unlocked"), "pending"),
    "failed": "failed",
}
"""The state whose mark an entry gets."""

_RECORDS = {"applied", "marked_applied", "imported"}
_UNRECORDED = {"pending", "waiting", "replaced"}
_GONE = {"replaced", "retired", "unknown"}
_NO_FILE = "not in a file"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_LEAST_DETAILS = 24
_MOST_SHOWN = 20


def parse_since(text: str, now: datetime) -> datetime:
    """Parse an age, such as 7d, or a date, in UTC unless it says otherwise."""
    try:
        if age := re.fullmatch(r"([0-9]+)([mhdw])", text):
            return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        date = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise CommandError(
            f"--since must be an age such as 30m, 12h, 7d or 2w, or a date such as 2026-11-30, not {text!r}."
        ) from None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def report_histories(histories: Mapping[str, Sequence[HistoryEntry]], width: int) -> Iterator[RenderableType]:
    """Report the entries of many databases as one history, newest first."""
    placed = [(database, entry) for database, entries in histories.items() for entry in entries]
    placed.sort(key=lambda one: one[1].at or _LONG_AGO, reverse=True)
    yield from report_history([entry for _, entry in placed], width, databases=[database for database, _ in placed])


def report_history(
    entries: Sequence[HistoryEntry], width: int, *, names: bool = True, databases: Sequence[str] = ()
) -> Iterator[RenderableType]:
    """Report entries, a line for each; with or without the names of the migrations, and of the entries' databases."""
    if not entries:
        yield "The history has no such entry."
        return
    marks = [_choose_mark(entry) for entry in entries]
    columns = {
        "": [mark.text for mark in marks],
        "when (UTC)": make_column(_format_date(entry.at) for entry in entries),
        "database": make_column(databases),
        "migration": make_column(entry.name or "" for entry in entries) if names else [],
        "what": [Text(_describe(entry), mark.style) for entry, mark in zip(entries, marks, strict=True)],
        "details": [],
        "by": make_column((_describe_author(entry) for entry in entries), "dim"),
        "release": make_column((entry.release or "" for entry in entries), "dim"),
    }
    # The details get what the others leave, because a long one would leave nothing for those after it.
    left = width - sum(
        max(map(cell_len, [title, *(cell.plain for cell in cells)])) + 2 for title, cells in columns.items() if cells
    )
    limit = max(_LEAST_DETAILS, left - 2)
    columns["details"] = make_column(_cut(_describe_details(entry), limit) for entry in entries)
    yield make_table(columns, width, needed={"", "when (UTC)", "what"})


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that is known about a migration, which may be in the code, the records or the history alone."""

    name: str
    state: str  # the word of its mark; "absent" if it's neither registered nor recorded
    code: str | None  # as "path:line"
    rollback: str | None
    preconditions: tuple[str | None, ...]
    verifications: tuple[str | None, ...]
    after_crash: str | None
    delay: float | None  # seconds
    status: MigrationStatus | None
    needed_by: tuple[str, ...]
    lease: Lease | None  # of the run that it's in progress in
    record: HistoryEntry | None  # who recorded it
    history: tuple[HistoryEntry, ...]


def collect(
    name: str, status: Status, definition: MigrationDefinition | None, entries: Sequence[HistoryEntry]
) -> Known:
    """Collect everything that is known about a migration. The entries are its own, newest first."""
    migration = next((one for one in status.migrations if one.name == name), None)
    is_recorded = migration is not None and migration.state != "pending"
    is_in_progress = status.lease is not None and name in status.lease.migrations
    rollback = None if definition is None else definition.rollback
    return Known(
        name,
        "absent" if migration is None else choose_mark(migration, status).word,
        None if definition is None else locate(definition.execute),
        None if rollback is None else locate(rollback),
        () if definition is None else tuple(map(locate, definition.preconditions)),
        () if definition is None else tuple(map(locate, definition.verifications)),
        None if definition is None else definition.after_crash,
        None if definition is None or definition.delay is None else definition.delay.total_seconds(),
        migration,
        tuple(one.name for one in status.migrations if name in one.depends_on),
        status.lease if is_in_progress else None,
        next((entry for entry in entries if is_recorded and entry.what in _RECORDS), None),
        tuple(entries),
    )


def report_migration(known: Known, status: Status, width: int) -> Iterator[RenderableType]:
    """Report everything that is known about a migration."""
    mark = MARKS.get(known.state)
    heading = Text(escape(known.name), "bold")
    yield heading if mark is None else Text.assemble(mark.text, " ", heading, ": ", (mark.word, mark.style))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, fact in _find_facts(known, status).items():
        if fact:
            table.add_row(title, Text("\n".join(map(escape, fact.split("\n")))))
    yield table
    if known.history:
        yield ""
        yield from report_history(known.history[:_MOST_SHOWN], width, names=False)
    if (more := len(known.history) - _MOST_SHOWN) > 0:
        yield f"And {more:,} more: quaestor history {escape(known.name)}"


def _find_facts(known: Known, status: Status) -> dict[str, str | None]:
    one, record = known.status, known.record
    words = {migration.name: choose_mark(migration, status).word for migration in status.migrations}

    def with_states(names: Sequence[str]) -> str:
        return ", ".join(f"{name} ({words[name]})" for name in names)

    if one is None:
        return {"code": "not registered", "needed by": with_states(known.needed_by)}
    failure, is_registered = one.last_failure, known.code is not None or one.state not in _GONE
    delay = None if known.delay is None else str(timedelta(seconds=known.delay)).removesuffix(", 0:00:00")
    return {
        "description": one.description,
        "code": known.code or (_NO_FILE if is_registered else "not registered"),
        "rollback": (known.rollback or _NO_FILE if one.has_rollback else "none") if is_registered else None,
        "preconditions": "\n".join(place or _NO_FILE for place in known.preconditions),
        "verifications": "\n".join(place or _NO_FILE for place in known.verifications),
        "kind": "in a transaction with its record" if one.transaction else None,
        "after a crash": "runs stop until you say how to continue" if known.after_crash == "stop" else None,
        "phase": "post_deploy" if one.phase == "post_deploy" else None,
        "delay": None if delay is None else f"{delay} after what it needs",
        "delayed until": None if one.delayed_until is None else _format_time(one.delayed_until),
        "interrupted": None if one.interrupted_since is None else f"started {_format_time(one.interrupted_since)}",
        "replaces": ", ".join(one.replaces),
        "replaced by": one.replaced_by,
        "needs": with_states(one.depends_on),
        "needed by": with_states(known.needed_by),
        "in progress": str(known.lease) if known.lease else None,
        "recorded": _format_time(one.applied_at) if one.state not in _UNRECORDED or one.applied_at else None,
        "by": None if record is None else _describe_author(record),
        "release": one.release,
        "run": None if record is None else record.run,
        "quaestor": None if record is None else record.quaestor,
        "took": None if one.duration is None else format_duration(one.duration),
        "checksum": record.record.checksum if record and record.record else None,
        "changed": "since it was applied" if one.changed else None,
        "failed": None if failure is None else f"{_format_time(failure.at)}: {failure.error or 'why is unknown'}",
        "backfills": "\n".join(f"{describe_backfill(each)}; {_format_time(each.updated_at)}" for each in one.backfills),
    }


def _choose_mark(entry: HistoryEntry) -> Mark:
    return MARKS[_STATES.get(entry.what, "unknown")]


def _describe(entry: HistoryEntry) -> str:
    if entry.what == "applied" and entry.record is not None and entry.record.source == "replaces":
        return "recorded"  # with a replacement: its function wasn't called
    return "rollback failed" if entry.what == "failed" and entry.undo else entry.what.replace("_", " ")


def _describe_details(entry: HistoryEntry) -> str:
    details = [
        None if entry.error is None else str(entry.error),
        f"backfill {entry.backfill}" if entry.backfill else None,
        None if entry.duration_ms is None else format_duration(entry.duration_ms / 1000),
        f"was applied {_format_date(entry.record.applied_at):.10}"
        if entry.record and entry.what != "applied"
        else None,
    ]
    return "; ".join(detail for detail in details if detail)


def _describe_author(entry: HistoryEntry) -> str:
    return "@".join(part for part in (entry.user, entry.host) if part)


def _format_date(date: datetime | None) -> str:
    return "" if date is None else f"{date:%Y-%m-%d %H:%M}"


def _format_time(date: datetime | None) -> str:
    return "at an unknown time" if date is None else f"{date:%Y-%m-%d %H:%M:%S} UTC"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
