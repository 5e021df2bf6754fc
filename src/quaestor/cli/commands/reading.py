"""The commands that only read: status, history, show, check, graph."""

import sys
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import redirect_stdout
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from quaestor import HistoryEntry, SyncRunner
from quaestor._text import format_count
from quaestor.cli import reports, scaffold
from quaestor.cli.answers import WIDE, accept_unknown, make_console, out, read_status, show, show_answers
from quaestor.cli.command import command
from quaestor.cli.endings import MISUSED, err
from quaestor.cli.options import Phases, argument, option, to_phase
from quaestor.cli.redaction import escape
from quaestor.cli.settings import CommandError
from quaestor.cli.target import Target
from quaestor.status import MigrationStatus, State, Status

app: typer.Typer = typer.Typer()

Format = StrEnum("Format", ["TERMINAL", "MERMAID", "DOT", "SVG", "HTML"])
_SUFFIXES: Mapping[str, Format] = dict(zip((".txt", ".mmd", ".dot", ".svg", ".html"), Format, strict=True))


@command(app, "status", "quaestor status", "quaestor status --db 'tenant_*' --json", takes_pattern=True)
def _status(target: Target) -> None:
    """Show what is applied, what is pending, and who holds the lease."""
    show_answers(
        target,
        target.ask_each(read_status),
        lambda seen: reports.report_status(seen, out.width),
        lambda found: reports.report_statuses(found.values(), out.width),
    )


@command(
    app,
    "history",
    "quaestor history",
    "quaestor history split_names",
    "quaestor history --failed --since 7d --db 'tenant_*'",
    takes_pattern=True,
)
def _history(
    target: Target,
    *,
    names: Annotated[list[str] | None, argument("Only these migrations. Defaults to all.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failures.")] = False,
    since: Annotated[
        str | None,
        option(
            "--since",
            "AGE",
            "Only what has happened since: 30m, 12h, 7d or 2w ago, or since a date such as 2026-11-30 (UTC).",
        ),
    ] = None,
) -> None:
    """Show who applied, rolled back or marked what and when, and what failed, newest first."""
    from quaestor.cli import history_reports  # here: few commands need it

    start = None if since is None else history_reports.parse_since(since, datetime.now(UTC))

    def ask(runner: SyncRunner) -> list[HistoryEntry]:
        return runner.history(names or None)

    def choose(entries: Iterable[HistoryEntry]) -> list[HistoryEntry]:
        return [
            entry
            for entry in entries
            if (entry.what == "failed" or not failed)
            and (start is None or (entry.at is not None and entry.at >= start))
        ]

    answers = accept_unknown(target.ask_each(ask), [])
    found = {name: one if isinstance(one, Exception) else choose(one) for name, one in answers.items()}
    show_answers(
        target,
        found,
        partial(history_reports.report_history, width=out.width),
        partial(history_reports.report_histories, width=out.width),
        key="history",
    )


@command(app, "show", "quaestor show split_names", "quaestor show split_names --json")
def _show_migration(
    target: Target, *, name: Annotated[str, argument("The migration, registered, recorded or in the history.")]
) -> None:
    """Show everything about a migration: its code, what it needs, its record, failures and backfills."""
    from quaestor.cli import history_reports  # here: few commands need it

    entries = target.ask(lambda runner: runner.history([name]))
    status, definition = target.ask(read_status), target.registry.migrations.get(name)
    known = history_reports.collect(name, status, definition, entries)
    show(known, history_reports.report_migration(known, status, out.width), target)


@command(app, "check", "quaestor check --phase deploy", "quaestor check --verify", takes_pattern=True, failed=MISUSED)
def _check(
    target: Target,
    *,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Accept unknown migrations: a newer release may have applied them.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse migrations that have changed since they were applied.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also call the verifications of applied migrations, which should only read."),
    ] = False,
    phase: Annotated[
        Phases | None,
        typer.Option(
            "--phase",
            help="Of the pending migrations, report only those that `run` with this phase applies: with deploy, the "
            "gate of a rollout.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check that a database is up to date: no migration is pending or unknown. Report those that have changed.

    For CI and startup probes, not readiness or liveness. The exit code is 0 if it is up to date and 1 if it isn't, or
    a verification fails; after an error it is 2, or 75 if the server can't be reached.
    """
    states: list[State] = ["pending"] if allow_unknown else ["pending", "unknown"]
    failed: dict[str, Mapping[str, str]] = {}  # verifications, by database

    def find_faults(database: str, seen: Status) -> list[str]:
        found = reports.find_faults(seen, states, strict=strict, phase=to_phase(phase))
        return [*found, *reports.find_failed(failed.get(database, {}))]

    def find_notes(statuses: Iterable[Status]) -> list[str]:
        return [reports.summarize_verified(statuses, target.registry.migrations)] if verify else []

    def report(seen: Status) -> list[RenderableType]:
        lines: list[RenderableType] = [*find_faults(seen.database, seen)]
        lines = lines or [reports.summarize(seen), *reports.find_late(seen, to_phase(phase))]
        return [*lines, *find_notes([seen]), *reports.find_warnings(seen)]

    def report_many(statuses: Mapping[str, Status]) -> list[str]:
        faults = {database: find_faults(database, seen) for database, seen in statuses.items()}
        lines = [f"{escape(database)}: {' '.join(found)}" for database, found in faults.items() if found]
        lines = lines or [f"Up to date: {format_count(len(statuses), 'database')}."]
        warnings = [f"{escape(one)}: {said}" for one in statuses for said in reports.find_warnings(statuses[one])]
        return [*lines, *find_notes(statuses.values()), *warnings]

    def to_value(database: str, seen: Status) -> object:
        if not verify:
            return seen
        values = {field.name: getattr(seen, field.name) for field in fields(seen)}
        return {**values, "failed_verifications": failed.get(database, {})}

    if not target.registry.migrations:
        raise CommandError(reports.NO_MIGRATIONS)
    answers = target.ask_each(read_status)
    failed |= _verify(target, answers) if verify else {}
    statuses = show_answers(target, answers, report, report_many, to_value, code=MISUSED)
    raise typer.Exit(1 if any(find_faults(database, seen) for database, seen in statuses.items()) else 0)


def _verify(target: Target, answers: MutableMapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Call the verifications in the database, or in each. Returns those that fail; errors go to the answers."""
    with redirect_stdout(sys.stderr):  # a verification may print, and stdout is for the answer
        found = target.ask_each(lambda runner: runner.verify())
    answers.update({database: error for database, error in found.items() if isinstance(error, Exception)})
    return {database: failed for database, failed in found.items() if not isinstance(failed, Exception)}


@command(app, "graph", "quaestor graph", "quaestor graph -o graph.svg", has_json=False)
def _graph(
    target: Target,
    *,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help=f"{', '.join(Format)}. Defaults to the one of the file's suffix, or terminal.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"The file to write. Its suffix chooses the format: {', '.join(_SUFFIXES)}.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw the dependency graph, with the state of each migration if a database is configured."""
    from quaestor.cli import pictures  # here: only this command needs it

    form = _choose_format(form, output)
    if form in {Format.SVG, Format.HTML} and find_spec("fast_sugiyama") is None:
        raise CommandError(f'{form.name} needs fast-sugiyama: pip install "mongo-quaestor[graph]"')
    seen = target.ask(read_status) if target.has_server else _build_status(target)
    file = StringIO()
    console = out if output is None else make_console(file=file, width=WIDE)
    if form is Format.TERMINAL:
        console.print(Group(*pictures.terminal(seen, console.width)))
    else:
        pictured = {"mermaid": pictures.mermaid, "dot": pictures.dot, "svg": pictures.svg, "html": pictures.html}
        console.print(pictured[form](seen), soft_wrap=True, end="")
    if output is not None:
        scaffold.write(output, file.getvalue())
        err.print(f"Written: {output}")


def _build_status(target: Target) -> Status:
    """Build a status without a database: every migration is pending."""
    migrations = [
        MigrationStatus(one.name, "pending", depends_on=tuple(one.depends_on), description=one.description)
        for one in target.registry.sort()
    ]
    return Status("", "", tuple(migrations))


def _choose_format(form: Format | None, output: Path | None) -> Format:
    """Choose the format of a graph: the one of the file's suffix, or the one that is named."""
    if output is None:
        return form or Format.TERMINAL
    suffix = output.suffix.lower()
    if form is None and suffix not in _SUFFIXES:
        raise CommandError(
            f"The suffix of {output} names no format. Use one of {', '.join(_SUFFIXES)}, or pass --format as well."
        )
    found = _SUFFIXES.get(suffix, form)
    if form not in {None, found}:
        raise CommandError(f"--format {form} doesn't fit {output}, which would be {found}. Leave out --format.")
    return found or Format.TERMINAL
