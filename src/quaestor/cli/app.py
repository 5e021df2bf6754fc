"""The commands. Each asks a runner for one thing and shows the answer."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.prompt import Confirm
from rich.text import Text

from quaestor import DatabaseResult, PlannedMigration, SyncRunner
from quaestor._text import format_count
from quaestor.cli import reports, scaffold
from quaestor.cli.display import show_events
from quaestor.cli.error_report import describe_error, err, print_error, report_errors
from quaestor.cli.event_lines import format_json_line, show_logs, to_json
from quaestor.cli.loader import locate
from quaestor.cli.progress import RunProgress
from quaestor.cli.redaction import escape
from quaestor.cli.settings import CommandError, find_similar, refuse_addresses
from quaestor.cli.signals import explain_interruption
from quaestor.cli.target import Target, command
from quaestor.errors import UnknownMigrationError
from quaestor.status import MigrationStatus, State, Status

T = TypeVar("T")

app: typer.Typer = typer.Typer(
    name="quaestor",
    help="Migrations for MongoDB: show them, apply them, roll them back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and a URI may be one
    context_settings={"help_option_names": ["-h", "--help"]},
)
marks: typer.Typer = typer.Typer(name="mark", no_args_is_help=True)
app.add_typer(marks, help="Mark migrations as applied or pending, without running anything.")

_MIGRATIONS, _DATABASES = 1, 8  # the default concurrency
_UP_TO_DATE, _NOT_APPLIED = "Up to date: nothing to apply.", "Nothing to roll back: not applied."
_WIDE = 10_000  # cells: a pipe or a file has no width, so nothing is cut

out: Console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _WIDE)


def _names(incomplete: str) -> list[str]:
    """Complete the name of a migration for a shell; an error would only disturb the typing."""
    with suppress(Exception, SystemExit):
        return [name for name in Target().registry.migrations if name.startswith(incomplete)]
    return []


Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", autocompletion=_names, show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, without doing it.")]
All = Annotated[bool, typer.Option("--all", help="All registered migrations.")]


Format = StrEnum("Format", ["TERMINAL", "MERMAID", "DOT", "SVG", "HTML"])


@app.callback(invoke_without_command=True)
def _main(
    *, show_version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False
) -> None:
    if show_version:
        out.print(f"quaestor {version('mongo-quaestor')}")
        raise typer.Exit


@command(app, "status")
def _status(target: Target) -> None:
    """Show what is applied, what is pending, and who holds the lease."""
    if target.is_many:
        _show_statuses(target, lambda found: reports.report_statuses(found.values(), out.width))
    else:
        seen = target.ask(SyncRunner.status)
        _show(seen, reports.report_status(seen, out.width), target)


@command(app, "check", error_code=2)
def _check(
    target: Target,
    *,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Accept unknown migrations: a newer release may have applied them.")
    ] = False,
) -> None:
    """For CI and startup probes: exit with 1 if a migration is pending or unknown, with 2 on an error."""
    states: list[State] = ["pending"] if allow_unknown else ["pending", "unknown"]

    def check_each(statuses: Mapping[str, Status]) -> list[str]:
        faults = {database: reports.find_faults(seen, states) for database, seen in statuses.items()}
        return [f"{escape(database)}: {' '.join(found)}" for database, found in faults.items() if found]

    def report(statuses: Mapping[str, Status]) -> list[str]:
        return check_each(statuses) or [f"Up to date: {format_count(len(statuses), 'database')}."]

    if target.is_many:
        faults = check_each(_show_statuses(target, report, error_code=2))
    else:
        seen = target.ask(SyncRunner.status)
        faults = reports.find_faults(seen, states)
        _show(seen, faults or [reports.summarize(seen)], target)
    raise typer.Exit(1 if faults else 0)


@command(app, "plan")
def _plan(target: Target, *, targets: Names = None) -> None:
    """Show what `run` would apply, in order, and why: everything, or only NAME and their dependencies."""
    _show_plan(target, partial(SyncRunner.plan, targets=targets or None), _UP_TO_DATE)


@command(app, "run", has_lease=True)
def _run(
    target: Target,
    *,
    targets: Names = None,
    dry_run: DryRun = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a database with unknown migrations.")] = False,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="How many migrations at once; with a pattern, how many databases.",
            show_default=f"{_MIGRATIONS}; with a pattern, {_DATABASES}",
        ),
    ] = None,
) -> None:
    """Apply what is pending: everything, or only NAME and their dependencies."""
    plan = partial(SyncRunner.plan, targets=targets or None, strict=strict)
    if target.is_many and dry_run:
        _show_plans(target, plan, targets or [])
    elif dry_run:
        _show_plan(target, plan, _UP_TO_DATE)
    elif target.is_many:
        concurrency = _DATABASES if concurrency is None else concurrency
        _run_many(target, targets=targets or None, strict=strict, concurrency=concurrency)
    else:
        concurrency = _MIGRATIONS if concurrency is None else concurrency
        run = partial(SyncRunner.run, targets=targets or None, strict=strict, concurrency=concurrency)
        _work(target, run)


@command(app, "rollback", has_lease=True)
def _rollback(
    target: Target,
    *,
    targets: Annotated[list[str], typer.Argument(metavar="NAME", autocompletion=_names, show_default=False)],
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Roll back these migrations, and before them the applied ones that depend on them."""
    if target.as_json and not (yes or dry_run):
        raise CommandError("--json can't ask for confirmation: pass --yes.")
    if dry_run or not yes:
        planned = _show_plan(target, partial(SyncRunner.plan_rollback, targets=targets), _NOT_APPLIED)
        if dry_run or not planned:
            return
        _confirm(f"Roll back {len(planned)} in {target.db}/{target.settings.value('prefix')}?")
    _work(target, partial(SyncRunner.rollback, targets=targets))


@command(marks, "applied", has_lease=True)
def _mark_applied(target: Target, *, names: Names = None, every: All = False) -> None:
    """Mark migrations as applied, to adopt a database that is migrated already."""
    _work(target, partial(SyncRunner.mark_applied, names=_choose(target, names, every=every)))


@command(marks, "pending", has_lease=True)
def _mark_pending(target: Target, *, names: Names = None, every: All = False) -> None:
    """Mark migrations as pending: the next run applies them."""
    _work(target, partial(SyncRunner.mark_pending, names=_choose(target, names, every=every)))


@command(app, "unlock", has_json=False)
def _unlock(target: Target, *, yes: Yes = False) -> None:
    """Release the lease of an instance that hangs. The lease of a dead one expires."""
    if not yes:
        lease = target.ask(SyncRunner.status).lease
        if lease is None:
            _print(["Nobody holds the lease."])
            return
        until = f"it expires at {lease.expires_at:%H:%M:%S} UTC unless renewed"
        _print([f"The lease is held by {escape(str(lease))}; {until}."])
        _confirm("Release it? Its holder stops at its next step.")
    released = target.ask(SyncRunner.unlock)
    _print(["Nobody holds the lease." if released is None else f"Released. It was held by {escape(str(released))}."])


@command(app, "graph", has_json=False)
def _graph(
    target: Target,
    *,
    form: Annotated[Format, typer.Option("--format", "-f", help="The format.")] = Format.TERMINAL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.", dir_okay=False, show_default=False)
    ] = None,
) -> None:
    """Draw the dependency graph; without a MongoDB URI, without the states of the migrations."""
    from quaestor.cli import pictures, terminal_graph  # here: the layout takes a moment to load

    seen = _build_status(target) if target.uri is None else target.ask(SyncRunner.status)
    pictured = {"mermaid": pictures.mermaid, "dot": pictures.dot, "svg": pictures.svg, "html": pictures.html}
    picture = terminal_graph.GraphDrawing(seen) if form is Format.TERMINAL else pictured[form](seen)
    if output is None:
        out.print(picture, soft_wrap=form is not Format.TERMINAL)
        return
    if not isinstance(picture, str):
        file = StringIO()
        Console(file=file, markup=False, highlight=False, emoji=False, width=_WIDE).print(picture)
        picture = file.getvalue()
    scaffold.write(output, picture)
    err.print(f"Written: {output}")


@command(app, "new", has_json=False)
def _new(
    target: Target,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    depends_on: Annotated[
        list[str] | None,
        typer.Option("--depends-on", "-d", metavar="NAME", autocompletion=_names, help="A migration it depends on."),
    ] = None,
    transaction: Annotated[bool, typer.Option("--transaction", help="Run it in a transaction.")] = False,
    is_async: Annotated[
        bool | None, typer.Option("--async/--sync", help="`async def` or `def`.", show_default="like the others")
    ] = None,
) -> None:
    """Write a module for a new migration and its rollback."""
    settings = target.settings
    file = scaffold.new(
        settings.folder("migrations") / settings.value("migrations"),
        name,
        target.registry,
        locate(settings.value("registry"), settings.folder("registry")),
        depends_on=depends_on or (),
        is_async=is_async,
        transaction=transaction,
    )
    out.print(f"Written: {file}", soft_wrap=True)


@app.command("init")
def _init(
    package: Annotated[str, typer.Argument(help="The package to create.")] = "migrations",
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="NAME", help="The prefix of quaestor's collections.")
    ] = "app",
) -> None:
    """Create a package for migrations, and add the settings to pyproject.toml."""
    with report_errors(str, code=1, trace=False):
        for file in scaffold.init(Path.cwd(), package, prefix):
            out.print(f"Written: {file}", soft_wrap=True)
    out.print("Next: quaestor new NAME, and quaestor status --uri mongodb://127.0.0.1:27017/NAME")


def run() -> None:
    """Run the command line."""
    with report_errors(str, code=2, trace=False):
        refuse_addresses(sys.argv[1:])
    app(prog_name="quaestor")  # also as python -m quaestor


def _work(target: Target, ask: Callable[[SyncRunner], list[str]]) -> None:
    """Run something that acquires the lease, and show its events."""
    _ = target.db  # reports wrong settings before anything is shown
    show_logs(target.clean)
    progress = RunProgress(target.clean)
    with show_events(progress, as_json=target.as_json) as hook, explain_interruption(progress):
        target.ask(ask, hook)


def _run_many(target: Target, **options: Any) -> None:
    """Run the migrations of many databases, and show the events and results."""
    show_logs(target.clean)
    with target.connect_all() as (server, names):
        progress = RunProgress(target.clean, names)
        try:
            with show_events(progress, as_json=target.as_json) as hook, explain_interruption(progress):
                results: list[DatabaseResult] = target.registry.run_many_sync(
                    [server.db(name) for name in names],
                    server.prefix,
                    async_db=server.async_db,
                    on_event=hook,
                    **target.lease,
                    **options,
                )
        except (KeyboardInterrupt, SystemExit):
            print_error(progress.summarize_interruption())
            raise
    if target.as_json:
        values = [
            {
                "database": one.database,
                "applied": one.applied,
                "error": None if one.error is None else describe_error(one.error),
            }
            for one in results
        ]
        typer.echo(format_json_line("RunManyFinished", {"results": to_json(values, target.clean)}, datetime.now(UTC)))
    else:
        took = progress.format_time_since(progress.started)
        _print(reports.report_results(results, took, lambda error: target.clean(describe_error(error)), out.width))
    if any(one.error is not None for one in results):
        raise typer.Exit(1)


def _show_plan(
    target: Target, ask: Callable[[SyncRunner], list[PlannedMigration]], nothing: str
) -> list[PlannedMigration]:
    planned = target.ask(ask)
    report = reports.report_plan(planned, target.registry.migrations, out.width) if planned else nothing
    _show(planned, [report], target)
    return planned


def _show_plans(target: Target, ask: Callable[[SyncRunner], list[PlannedMigration]], names: Sequence[str]) -> None:
    known = target.registry.migrations
    if unknown := {name: find_similar(name, known) for name in names if name not in known}:
        raise UnknownMigrationError(unknown)  # otherwise each database would report the same error

    def to_value(database: str, planned: list[PlannedMigration] | None, error: str | None) -> object:
        return {"database": database, "planned": planned, "error": error}

    _show_each(target, ask, to_value, lambda plans: reports.report_plans(plans, out.width))


def _show_statuses(
    target: Target, report: Callable[[Mapping[str, Status]], Iterable[RenderableType]], error_code: int = 1
) -> Mapping[str, Status]:
    def to_value(database: str, status: Status | None, error: str | None) -> object:
        return status or {"database": database, "error": error}

    return _show_each(target, SyncRunner.status, to_value, report, error_code)


def _show_each(
    target: Target,
    ask: Callable[[SyncRunner], T],
    to_value: Callable[[str, T | None, str | None], object],
    report: Callable[[Mapping[str, T]], Iterable[RenderableType]],
    error_code: int = 1,
) -> Mapping[str, T]:
    """Show the answer for each database; exit if there are errors. For JSON, `to_value` gets an answer or an error."""
    answers = target.ask_each(ask)
    found = {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}
    failed = {name: describe_error(answer) for name, answer in answers.items() if isinstance(answer, Exception)}
    values = [to_value(name, found.get(name), failed.get(name)) for name in answers]
    _show(values, report(found) if found else [], target)
    for name, why in failed.items():
        print_error(target.clean(f"{name}: {why}"))
    if failed:
        raise typer.Exit(error_code)
    return found


def _build_status(target: Target) -> Status:
    """Build a status without a database: every migration is pending."""
    migrations = [
        MigrationStatus(one.name, "pending", depends_on=tuple(one.depends_on), description=one.description)
        for one in target.registry.sort()
    ]
    return Status("", "", tuple(migrations))


def _choose(target: Target, names: list[str] | None, *, every: bool) -> list[str]:
    if every == bool(names):
        raise CommandError("Pass --all or names, not both." if every else "Pass the names of migrations, or --all.")
    return list(target.registry.migrations) if every else names or []


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("Not a terminal: pass --yes to confirm.")
    with suppress(EOFError):  # Ctrl-D
        if Confirm.ask(Text(escape(question)), console=out, default=False):
            return
    print_error("Nothing was done.")
    raise typer.Exit(1)


def _show(value: object, report: Iterable[RenderableType], target: Target) -> None:
    """Show an answer as JSON or as a report."""
    if target.as_json:
        typer.echo(json.dumps(to_json(value, target.clean), indent=2))
    else:
        _print(report)


def _print(report: Iterable[RenderableType]) -> None:
    """Print tables and sentences; to a pipe or a file without trailing blanks."""
    if sys.stdout.isatty():
        out.print(Group(*report))
        return
    with out.capture() as captured:
        out.print(Group(*report))
    typer.echo("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()), nl=False)
