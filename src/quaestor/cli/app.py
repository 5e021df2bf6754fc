"""The commands. Each asks a runner for one thing and shows the answer."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, TextIO, TypeVar, get_args

import typer
from rich.console import Console, Group, RenderableType
from rich.prompt import Confirm
from rich.text import Text

from quaestor import HistoryEntry, ImportResult, Lease, PlannedMigration, SyncRunner
from quaestor._text import find_similar, format_count
from quaestor.cli import endings, reports, scaffold, signals
from quaestor.cli.display import show_events
from quaestor.cli.endings import FAILED, MISUSED, TRY_LATER, err, print_error
from quaestor.cli.event_lines import format_json_line, to_json
from quaestor.cli.loader import locate
from quaestor.cli.logs import JsonStderr, put_message, show_logs
from quaestor.cli.progress import RunProgress
from quaestor.cli.redaction import escape
from quaestor.cli.settings import LOG_FORMATS, VARIABLES, CommandError, Setting, find, refuse_addresses
from quaestor.cli.target import Command, Commands, Target, command
from quaestor.errors import UnknownMigrationError
from quaestor.events import Hook
from quaestor.status import MigrationStatus, Phase, State, Status, Tool, Work

T = TypeVar("T")

_LOG_FORMAT = "--log-format"
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(("up", "upgrade", "migrate", "apply"), "run"),
    **dict.fromkeys(("down", "downgrade", "undo"), "rollback"),
    **dict.fromkeys(("create", "generate", "makemigrations", "revision"), "new"),
    **dict.fromkeys(("list", "showmigrations"), "status"),
    **dict.fromkeys(("log", "audit"), "history"),
    **dict.fromkeys(("fake", "stamp"), "mark"),
    **dict.fromkeys(("squashmigrations", "merge"), "squash"),
}
"""The commands of other tools, and ours that do the same."""


_EPILOG = (
    "Options come after the command: `quaestor COMMAND --help` explains them.\n\n"
    f"Exit codes: 0 done; {FAILED} failed, or for `check` not up to date; {MISUSED} a mistake in usage or "
    f"configuration; {TRY_LATER} try again later, because another instance holds the lease or the server can't be "
    "reached. After a signal: 130 (Ctrl-C), 143 (SIGTERM), 129 (SIGHUP)."
)


app: typer.Typer = typer.Typer(
    name="quaestor",
    cls=Commands,
    help="Migrations for MongoDB: see them, apply them, roll them back.",
    epilog=_EPILOG,
    pretty_exceptions_enable=False,  # they show local variables, and a URI may be one
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RECORDED = {"applied", "unknown", "retired"}
_REFUSED = "Nothing was done. To go on with the other databases, pass --yes."
_UP_TO_DATE, _NOT_APPLIED = "Up to date: nothing to apply.", "Nothing to roll back: not applied."
_WIDE = 10_000  # cells: a pipe or a file has no width, so nothing is cut

_make_console = partial(Console, highlight=False, markup=False, emoji=False)
out: Console = _make_console(width=None if sys.stdout.isatty() else _WIDE)


def _names(incomplete: str) -> list[str]:
    """Complete the name of a migration for a shell; an error would only disturb the typing."""
    with suppress(Exception, SystemExit):
        return [name for name in Target().registry.migrations if name.startswith(incomplete)]
    return []


def _argument(text: str, metavar: str = "NAME") -> Any:
    complete = _names if metavar == "NAME" else None
    return typer.Argument(metavar=metavar, help=text, autocompletion=complete, show_default=False)


Names = Annotated[
    list[str] | None, _argument("The migrations to apply; their dependencies come first. Defaults to all.")
]
Retry = Annotated[
    list[str] | None,
    typer.Option(
        "--retry",
        metavar="NAME",
        autocompletion=_names,
        help="Repeat a migration with after_crash='stop' that was interrupted or failed halfway; repeat the option "
        "for several.",
        show_default=False,
    ),
]
Phases = StrEnum("Phases", ["DEPLOY", "POST_DEPLOY"])
PhaseOption = Annotated[
    Phases | None,
    typer.Option(
        "--phase",
        help="Leave the pending migrations of phase post_deploy for later, except for those that the others depend on "
        "(deploy). Defaults to both phases, as does post_deploy.",
        show_default=False,
    ),
]
NoDelay = Annotated[bool, typer.Option("--no-delay", help="Apply delayed migrations, too.")]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="NUMBER",
        help="Apply only the first so many of the plan. Defaults to all.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")]
Confirmed = Annotated[
    str | None,
    typer.Option(
        "--confirm",
        metavar="DATABASE",
        help="Name the database to confirm, in place of --yes. A protected database requires it.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, without doing it.")]
Databases = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        metavar="NUMBER",
        help="With a pattern, in how many databases at once. Defaults to 8.",
        show_default=False,
    ),
]

Format = StrEnum("Format", ["TERMINAL", "MERMAID", "DOT", "SVG", "HTML"])
Marked = StrEnum("Marked", ["APPLIED", "PENDING", "ACCEPTED"])

_SUFFIXES: Mapping[str, Format] = dict(zip((".txt", ".mmd", ".dot", ".svg", ".html"), Format, strict=True))


@app.callback(invoke_without_command=True)
def _main(
    *, show_version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.", is_eager=True)] = False
) -> None:
    if show_version:
        out.print(f"quaestor {version('mongo-quaestor')}")
        raise typer.Exit


@command(app, "status", "quaestor status", "quaestor status --db 'tenant_*' --json", takes_pattern=True)
def _status(target: Target) -> None:
    """Show what is applied, what is pending, and who holds the lease."""
    if target.is_many:
        _show_each(
            target, target.ask_each(_read_status), lambda found: reports.report_statuses(found.values(), out.width)
        )
    else:
        seen = target.ask(_read_status)
        _show(seen, reports.report_status(seen, out.width), target)


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
    names: Annotated[list[str] | None, _argument("Only these migrations. Defaults to all.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only failures.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="AGE",
            help="Only what has happened since: 30m, 12h, 7d or 2w ago, or since a date such as 2026-11-30 (UTC).",
            show_default=False,
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

    if not target.is_many:
        entries = choose(target.ask(ask))
        _show(entries, history_reports.report_history(entries, out.width), target)
        return
    answers = _accept_unknown(target.ask_each(ask), [])
    found = {name: one if isinstance(one, Exception) else choose(one) for name, one in answers.items()}
    _show_each(target, found, partial(history_reports.report_histories, width=out.width), key="history")


@command(app, "show", "quaestor show split_names", "quaestor show split_names --json")
def _show_migration(
    target: Target, *, name: Annotated[str, _argument("The migration, registered, recorded or in the history.")]
) -> None:
    """Show everything about a migration: its code, what it needs, its record, failures and backfills."""
    from quaestor.cli import history_reports  # here: few commands need it

    entries = target.ask(lambda runner: runner.history([name]))
    status, definition = target.ask(_read_status), target.registry.migrations.get(name)
    known = history_reports.collect(name, status, definition, entries)
    _show(known, history_reports.report_migration(known, status, out.width), target)


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
        found = reports.find_faults(seen, states, strict=strict, phase=_to_phase(phase))
        return [*found, *reports.find_failed(failed.get(database, {}))]

    def find_notes(statuses: Iterable[Status]) -> list[str]:
        return [reports.summarize_verified(statuses, target.registry.migrations)] if verify else []

    def report(statuses: Mapping[str, Status]) -> list[str]:
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
    if target.is_many:
        answers = target.ask_each(_read_status)
        failed |= _verify(target, answers) if verify else {}
        statuses = _show_each(target, answers, report, to_value, code=MISUSED)
    else:
        seen = target.ask(_read_status)
        statuses = {target.db: seen}
        failed |= _verify(target) if verify else {}
        lines: list[RenderableType] = [*find_faults(target.db, seen)]
        lines = [*(lines or [reports.summarize(seen)]), *find_notes([seen]), *reports.find_warnings(seen)]
        _show(to_value(target.db, seen), lines, target)
    raise typer.Exit(1 if any(find_faults(database, seen) for database, seen in statuses.items()) else 0)


@command(
    app,
    "plan",
    "quaestor plan",
    "quaestor plan split_names --db 'tenant_*'",
    "quaestor run --plan $(quaestor plan --pin)",
    takes_pattern=True,
)
def _plan(
    target: Target,
    *,
    targets: Names = None,
    retry: Retry = None,
    phase: PhaseOption = None,
    steps: Steps = None,
    no_delay: NoDelay = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="Write the id of the plan to stdout, for `run --plan`; the plan to stderr.")
    ] = False,
) -> None:
    """Show what `run` would apply, in order, and why, and what would wait. Nothing is changed."""
    options = _make_options(targets, retry, phase, steps, ignore_delays=no_delay)
    if not pin:
        _show_run(target, options)
        return
    _check_one_database(target, "--pin")
    pinned = target.ask(lambda runner: runner.pin(**options))
    if not target.as_json:
        console = _make_console(width=None if sys.stderr.isatty() else _WIDE, stderr=True)
        _print(_report_plan(target, pinned.migrations, console.width), console, sys.stderr)
    _show(pinned, [pinned.id], target)


@command(
    app,
    "run",
    "quaestor run",
    "quaestor run split_names --dry-run",
    "quaestor run --db 'tenant_*' --concurrency 16",
    "quaestor run --phase deploy",
    "quaestor run --lease-timeout 120 --log-format json",
    "quaestor run --plan 4c1f0a9d53b2e867",
    has_lease=True,
    takes_pattern=True,
)
def _run(
    target: Target,
    *,
    targets: Names = None,
    dry_run: DryRun = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a database with unknown migrations.")] = False,
    retry: Retry = None,
    phase: PhaseOption = None,
    steps: Steps = None,
    no_delay: NoDelay = False,
    plan_id: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="ID",
            help="Refuse any plan but the one with this id, as `plan --pin` printed it.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="How many migrations to run at once; with a pattern, in how many databases. Defaults to 1; with a "
            "pattern, 8.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Apply the pending migrations, dependencies first.

    If another instance is migrating, this one waits for it. An interrupted run is safe to repeat.
    """
    if dry_run and plan_id is not None:
        raise CommandError("Pass --plan or --dry-run, not both: `plan --pin` shows the plan and its id.")
    options: dict[str, Any] = {**_make_options(targets, retry, phase, steps, ignore_delays=no_delay), "strict": strict}
    if dry_run:
        _show_run(target, options)
        return
    if plan_id is not None:
        _check_one_database(target, "--plan")
        options["plan_id"] = plan_id
    options |= {} if concurrency is None else {"concurrency": concurrency}
    if target.is_many:
        _work_on_each(target, "run", **options)
    else:
        _work(target, lambda runner: runner.run(**options))


@command(
    app,
    "rollback",
    "quaestor rollback split_names --dry-run",
    "quaestor rollback --last 1",
    "quaestor rollback --to split_names --yes",
    "quaestor rollback split_names --confirm shop",
    "quaestor rollback split_names --db 'tenant_*'",
    has_lease=True,
    takes_pattern=True,
)
def _rollback(
    target: Target,
    *,
    targets: Annotated[
        list[str] | None, _argument("The migrations to roll back. Applied migrations that depend on them go first.")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--last",
            metavar="NUMBER",
            help="Roll back the last so many, by the dates in their records.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="NAME",
            autocompletion=_names,
            help="Roll back everything that was applied after this migration, which stays, with what it needs.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    confirm: Confirmed = None,
    dry_run: DryRun = False,
    concurrency: Databases = None,
) -> None:
    """Roll back migrations, and before them the applied ones that depend on them.

    It shows the plan and asks. If one of them has no rollback, nothing runs; with a pattern, nothing in that database.
    """
    if sum([bool(targets), last is not None, to is not None]) != 1:
        raise CommandError("Pass what to roll back: the names of migrations, --last or --to.")
    options: dict[str, Any] = {"targets": targets or None, "last": last, "to": to}
    yes = yes or confirm is not None
    at_once = _check_concurrency(target, concurrency)
    _check_confirmation(target, confirm, is_needed=not dry_run)
    if not (yes or dry_run):
        _check_can_ask(target)
    if dry_run or not yes:
        plans = _show_plans(
            target,
            lambda runner: runner.plan_rollback(**options),
            _NOT_APPLIED,
            names=(*(targets or ()), *([] if to is None else [to])),
            what="to roll back",
            hint="" if dry_run else _REFUSED,
        )
        counts = [len(planned) for planned in plans.values() if planned]
        if dry_run or not counts:
            return
        _confirm(target, f"Roll back {sum(counts)}", len(counts))
    if target.is_many:
        _work_on_each(target, "rollback", **options, **at_once)
    else:
        _work(target, lambda runner: runner.rollback(**options))


@command(
    app,
    "mark",
    "quaestor mark applied --all",
    "quaestor mark applied split_names --with-dependencies",
    "quaestor mark pending split_names",
    "quaestor mark applied --all --db 'tenant_*'",
    has_lease=True,
    takes_pattern=True,
)
def _mark(
    target: Target,
    *,
    state: Annotated[
        Marked,
        _argument(
            "`applied`, to adopt a database that is migrated already; `pending`, to run again; or `accepted`, if a "
            "change of the function since it was applied is all right.",
            "STATE",
        ),
    ],
    names: Annotated[list[str] | None, _argument("The migrations to mark.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Mark all registered migrations.")] = False,
    with_dependencies: Annotated[
        bool, typer.Option("--with-dependencies", help="With `applied`: mark what they depend on as well.")
    ] = False,
    yes: Yes = False,
    confirm: Confirmed = None,
    concurrency: Databases = None,
) -> None:
    """Mark migrations as applied or pending, or accept their changes, without running anything.

    Before it deletes records of all migrations, or in many databases, it asks.
    """
    yes = yes or confirm is not None
    if every == bool(names):
        raise CommandError("Pass --all or names, not both." if every else "Pass the names of migrations, or --all.")
    if with_dependencies and state is not Marked.APPLIED:
        raise CommandError(f"--with-dependencies is for `mark applied`, not for `mark {state}`.")
    at_once = _check_concurrency(target, concurrency)
    _check_confirmation(target, confirm, is_needed=state is Marked.PENDING)
    marked = names or list(target.registry.migrations)
    if (every or target.is_many) and state is Marked.PENDING and not yes:
        _check_can_ask(target)
        counts = [len(recorded) for recorded in _show_recorded(target, marked) if recorded]
        if counts:
            _confirm(target, f"Mark {sum(counts)} as pending", len(counts))
    if target.is_many:
        options = {"names": marked, "state": state.value, "with_dependencies": with_dependencies}
        _work_on_each(target, "mark", **options, **at_once)
        return

    def mark(runner: SyncRunner) -> list[str]:
        match state:
            case Marked.APPLIED:
                return runner.mark_applied(marked, with_dependencies=with_dependencies)
            case Marked.PENDING:
                return runner.mark_pending(marked)
            case Marked.ACCEPTED:
                return runner.mark_accepted(marked)

    _work(target, mark)


@command(
    app,
    "import",
    "quaestor import mongrator --dry-run",
    "quaestor import migrate-mongo --map names.json",
    "quaestor import beanie --timezone Europe/Berlin",
    has_lease=True,
)
def _import(
    target: Target,
    *,
    tool: Annotated[str, _argument(f"The tool: {', '.join(get_args(Tool))}.", "TOOL")],
    names: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="FILE",
            help='A JSON file with its names, each with the name here: {"theirs": "ours"}. Defaults to the same names.',
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The tool's collection. Defaults to the tool's default.", show_default=False),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            metavar="ZONE",
            help="The time zone of its dates, such as Europe/Berlin, if it stores local time (beanie, "
            "mongodb-migrations). Defaults to UTC.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    allow_unplaced: Annotated[
        bool,
        typer.Option("--allow-unplaced", help="Import the rest if some migrations can't be placed."),
    ] = False,
) -> None:
    """Record as applied what another migration tool has applied, with its dates. Nothing is run.

    Stop the other tool first. If something can't be placed, nothing is imported, and the exit code is 1.
    """
    from quaestor.cli import import_reports  # here: only this command needs it

    options: Any = {"collection": collection, "timezone": timezone}
    options["names"] = None if names is None else import_reports.read_names(names)
    kind: Any = tool  # the runner checks it

    def is_incomplete(result: ImportResult) -> bool:
        return bool(result.unplaced) and not allow_unplaced

    result = target.ask(lambda runner: runner.plan_import(kind, **options))
    is_done = not (dry_run or is_incomplete(result))
    if is_done and target.as_json:
        result = target.ask(lambda runner: runner.import_history(kind, **options))
    elif is_done:
        with _follow(target) as (_, hook):
            result = target.ask(lambda runner: runner.import_history(kind, **options), hook)
    is_refused = not (dry_run or is_done)
    shown = replace(result, imported=()) if is_refused and target.as_json else result
    _show(shown, import_reports.report_import(result, out.width, is_done=is_done), target)
    if is_incomplete(result):
        undone = " Nothing was imported." if is_refused else ""
        print_error(
            f"{format_count(len(result.unplaced))} of {tool} can't be placed. Register or retire these names, or map "
            f"them (--map), or import the rest (--allow-unplaced).{undone}"
        )
        raise typer.Exit(FAILED)


@command(app, "restart-backfill", "quaestor restart-backfill order_cents --yes", has_lease=True)
def _restart_backfill(
    target: Target,
    *,
    name: Annotated[str, _argument("The migration.")],
    backfill: Annotated[
        str | None, typer.Option("--backfill", metavar="NAME", help="The backfill, if the migration has several.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Remove the checkpoint of a migration's backfill, so the next run starts it over.

    It processes all documents again, from the first.
    """
    if not yes:
        _check_can_ask(target)
        _confirm(target, f"Process the documents of {name} again, from the first, in its next run")
    restarted = _work(target, lambda runner: runner.restart_backfill(name, backfill=backfill))
    if not restarted and not target.as_json:
        _print([f"Nothing to restart: no backfill of {escape(name)} has a checkpoint."])


@command(
    app,
    "unlock",
    "quaestor unlock",
    "quaestor unlock --yes",
    "quaestor unlock --confirm shop",
    "quaestor unlock --db 'tenant_*'",
    has_json=False,
    takes_pattern=True,
)
def _unlock(target: Target, *, yes: Yes = False, confirm: Confirmed = None) -> None:
    """Release the lease of an instance that hangs.

    The lease of a dead instance expires by itself. An instance that loses its lease stops at its next step.
    """
    _check_confirmation(target, confirm)
    names = None  # all
    if not yes and confirm is None:
        held = _show_leases(target)
        if not held:
            return
        _confirm(target, "Its holder stops at its next step. Release it", len(held))
        names = list(held)  # no lease that was acquired since
    if target.is_many:
        _show_each(target, target.ask_each(lambda runner: runner.unlock(), names), reports.report_released)
        return
    released = target.ask(lambda runner: runner.unlock())
    _print(["Nobody holds the lease." if released is None else f"Released. It was held by {escape(str(released))}."])


@command(
    app,
    "protect",
    "quaestor protect --as production",
    "quaestor protect --off --confirm shop",
    "quaestor protect --db 'tenant_*' --as production",
    has_json=False,
    takes_pattern=True,
)
def _protect(
    target: Target,
    *,
    label: Annotated[
        str | None,
        typer.Option("--as", metavar="LABEL", help="The label to show, such as production.", show_default=False),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End the protection.")] = False,
    confirm: Confirmed = None,
) -> None:
    """Protect a database: `rollback`, `mark pending` and `unlock` then require --confirm with its name.

    It restricts commands only, not the API.
    """
    if off is (label is not None) or label == "":
        raise CommandError("Pass --as LABEL, or --off.")
    _check_confirmation(target, confirm, is_needed=off)
    said = "No longer protected" if off else f"Protected as {escape(label or '')}"

    def protect(runner: SyncRunner) -> None:
        return runner.protect(label)

    if target.is_many:
        _show_each(target, target.ask_each(protect), lambda found: [f"{said}: {format_count(len(found), 'database')}."])
    else:
        target.ask(protect)
        _print([f"{said}: {escape(target.place)}."])


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
    seen = target.ask(_read_status) if target.has_server else _build_status(target)
    file = StringIO()
    console = out if output is None else _make_console(file=file, width=_WIDE)
    if form is Format.TERMINAL:
        console.print(Group(*pictures.terminal(seen, console.width)))
    else:
        pictured = {"mermaid": pictures.mermaid, "dot": pictures.dot, "svg": pictures.svg, "html": pictures.html}
        console.print(pictured[form](seen), soft_wrap=True, end="")
    if output is not None:
        scaffold.write(output, file.getvalue())
        err.print(f"Written: {output}")


@command(app, "new", "quaestor new split_names", "quaestor new order_cents -d split_names", has_json=False)
def _new(
    target: Target,
    *,
    name: Annotated[str, _argument("The name of the migration, such as split_names.")],
    depends_on: Annotated[
        list[str] | None,
        typer.Option(
            "--depends-on",
            "-d",
            metavar="NAME",
            autocompletion=_names,
            help="A migration that it depends on; repeat the option for several. Defaults to all migrations that no "
            "other depends on.",
            show_default=False,
        ),
    ] = None,
    independent: Annotated[bool, typer.Option("--independent", help="Let it depend on no other migration.")] = False,
    transaction: Annotated[bool, typer.Option("--transaction", help="Run it in a transaction.")] = False,
    is_async: Annotated[
        bool | None,
        typer.Option(
            "--async/--sync",
            help="Write `async def` or `def` functions. Defaults to those of the other migrations.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a module for a new migration and its rollback, to fill in."""
    if independent and depends_on:
        raise CommandError("Pass --depends-on or --independent, not both.")
    settings = target.settings
    file = scaffold.new(
        settings.folder("migrations") / settings.value("migrations"),
        name,
        target.registry,
        locate(settings.value("registry"), settings.folder("registry")),
        depends_on=[] if independent else depends_on,
        is_async=is_async,
        transaction=transaction,
    )
    out.print(f"Written: {file}", soft_wrap=True)
    if file.stem != name:
        out.print(f"It is recorded as {name!r}; its function is {file.stem}.", soft_wrap=True)


@command(
    app,
    "squash",
    "quaestor squash split_first_name split_last_name --into split_names",
    "quaestor squash --prove split_names",
    has_json=False,
)
def _squash(
    target: Target,
    *,
    names: Annotated[list[str] | None, _argument("The migrations to replace, in any order.")] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="NAME", help="The name of the migration to write.", show_default=False),
    ] = None,
    proved: Annotated[
        str | None,
        typer.Option(
            "--prove",
            metavar="NAME",
            autocompletion=_names,
            help="Prove this migration, which replaces others, again. Nothing is written.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a migration that replaces several, for you to finish, and prove that it does the same.

    The proof calls the functions of the old migrations in an empty database, and that of the new one in another.
    Both are dropped afterwards. The exit code is 1 if they differ; the new module stays.
    """
    from quaestor.cli.squash import squash  # here: only this command needs it

    if proved is not None:
        if names or into is not None:
            raise CommandError("Pass --prove alone, or the names of migrations and --into.")
        _prove(target, proved)
        return
    if not names or into is None:
        raise CommandError("Pass the names of the migrations to replace, and --into with that of the new one.")
    settings = target.settings
    _ = target.db if target.has_server else ""  # reports wrong settings before anything is written
    written = squash(
        target.registry,
        names,
        into,
        settings.folder("migrations") / settings.value("migrations"),
        locate(settings.value("registry"), settings.folder("registry")),
    )
    _print([escape(line) for line in (f"Written: {written.file}", *written.notes)])
    prove = f"quaestor squash --prove {quote(into)}"
    if target.has_server:
        _prove(target, into)
    else:
        _print([f"Not proved, because no server is configured: {prove} --uri URI"])
    _print([f"Next: simplify the new module, and prove it again ({prove}). Deploy it beside the old modules."])
    _print([f"Remove those when every database has a record of {escape(into)}."])


def _prove(target: Target, name: str) -> None:
    """Prove a replacement, or exit."""
    from quaestor.cli.proof import prove  # here: only this command needs it

    differences, found = prove(target, name)
    if differences:
        _print(
            [escape(f"{name} doesn't do the same as what it replaces:"), *(f"  {escape(one)}" for one in differences)]
        )
        raise typer.Exit(FAILED)
    said = f"{name} does the same as what it replaces ({found})"
    _print([escape(f"Proved: in an empty database, {said if found else f'{name} runs. It changes nothing there'}.")])


@app.command("init", cls=Command, epilog="Examples:\n\nquaestor init\n\nquaestor init shop.migrations --prefix shop")
def _init(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="The package to create, such as shop.migrations.")
    ] = "migrations",
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="NAME", help="The prefix of quaestor's collections.")
    ] = "app",
) -> None:
    """Create a package for migrations, and add the settings to pyproject.toml."""
    with endings.report_errors(str):
        for file in scaffold.init(Path.cwd(), package, prefix):
            out.print(f"Written: {file}", soft_wrap=True)
    out.print("Next: quaestor new NAME, and quaestor status --uri mongodb://127.0.0.1:27017/NAME")


def run(arguments: Sequence[str], prog_name: str, settings: Mapping[str, Setting], mistake: str = "") -> None:
    """Run the command line under the name that its user called, with these settings of a framework."""
    stderr = JsonStderr(sys.stderr) if _logs_json(arguments) else sys.stderr
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(stderr))
        if isinstance(stderr, JsonStderr):
            stack.enter_context(show_logs())  # of the application's modules, too
            stack.callback(stderr.end_lines)
        stack.enter_context(endings.report_errors(str))
        if mistake:
            raise CommandError(mistake)
        refuse_addresses(arguments)
        _suggest(arguments, prog_name)
        code = app(arguments or ["--help"], prog_name=prog_name, obj=settings, standalone_mode=False)
        raise SystemExit(code if arguments else MISUSED)


def _logs_json(arguments: Sequence[str]) -> bool:
    """Say whether the log is JSON, before the arguments are parsed: the errors in them are in it."""
    passed = [after for before, after in pairwise(arguments) if before == _LOG_FORMAT]
    passed += [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{_LOG_FORMAT}=")]
    with suppress(CommandError):  # the command reports it
        return find({"log_format": next(iter(passed), None)}, os.environ, Path.cwd()).value("log_format") == "json"
    given = [*passed[:1], *(os.environ.get(name) for name in VARIABLES["log_format"])]
    return next((one for one in given if one in LOG_FORMATS), None) == "json"


def _suggest(arguments: Sequence[str], prog_name: str) -> None:
    """Refuse the commands of other tools, and options before the command, and name the right ones."""
    first = arguments[0] if arguments else ""
    if first in _MEANT:
        raise CommandError(f"There is no command {first!r}. Did you mean `{prog_name} {_MEANT[first]}`?")
    group: Any = typer.main.get_command(app)
    commands: Mapping[str, Any] = group.commands
    option = first.partition("=")[0]
    if any(option in parameter.opts for one in commands.values() for parameter in one.params):
        name = next((argument for argument in arguments if argument in commands), "COMMAND")
        raise CommandError(f"Options come after the command: {prog_name} {name} {option} ...")


@contextmanager
def _follow(target: Target, names: Sequence[str] = (), work: Work = "run") -> Iterator[tuple[RunProgress, Hook]]:
    """Show the events of a run, the logs, and what an interruption waits for."""
    progress, loop, on_event = RunProgress(target.clean, names, work=work), target.server.loop, target.on_event
    try:
        with (
            show_events(progress, as_json=target.as_json, on_event=on_event) as hook,
            signals.explain_interruption(progress, loop),
            show_logs(target.clean, progress.find_place),
        ):
            yield progress, hook
    except (KeyboardInterrupt, SystemExit):
        if summary := progress.summarize_interruption():
            print_error(summary)
        raise


def _work(target: Target, ask: Callable[[SyncRunner], list[str]]) -> list[str]:
    """Run something that acquires the lease, and show its events."""
    _ = target.db  # reports wrong settings before anything is shown
    with _follow(target) as (_, hook):
        return target.ask(ask, hook)


def _work_on_each(target: Target, work: Work, **options: Any) -> None:
    """Run, roll back or mark in many databases, and show the events and results. The options are the registry's."""
    with _follow(target, target.names, work) as (progress, hook):
        results = target.work_on_each(work, hook, **options)
    errors = {one.database: one.error for one in results if one.error is not None}
    source = target.settings.source
    if target.as_json:
        found = {database: endings.describe_as_json(error, source) for database, error in errors.items()}
        field = progress.words.field
        values = [
            {"database": one.database, field: getattr(one, field), "error": found.get(one.database)} for one in results
        ]
        name = f"{work.capitalize()}ManyFinished"
        typer.echo(format_json_line(name, {"results": to_json(values, target.clean)}, datetime.now(UTC)))
    took = progress.format_time_since(progress.started)
    summary = reports.NO_MIGRATIONS if progress.is_empty else reports.summarize_results(results, took, work)
    if isinstance(sys.stderr, JsonStderr):
        for database, error in errors.items():
            print_error(target.clean(endings.describe_error(error, source)), database=database)
        put_message(summary, "ERROR" if errors else "INFO")
    elif not target.as_json:
        _print(
            reports.report_results(
                results, summary, lambda error: target.clean(endings.describe_error(error, source)), out.width
            )
        )
    if errors:
        raise typer.Exit(endings.choose_code(list(errors.values())))


def _make_options(
    targets: list[str] | None,
    retry: list[str] | None,
    phase: Phases | None,
    steps: int | None,
    *,
    ignore_delays: bool,
) -> dict[str, Any]:
    """Make the options of a run and of its plan."""
    return {
        "targets": targets or None,
        "retry": retry or (),
        "phase": _to_phase(phase),
        "steps": steps,
        "ignore_delays": ignore_delays,
    }


def _to_phase(option: Phases | None) -> Phase | None:
    return {None: None, Phases.DEPLOY: "deploy", Phases.POST_DEPLOY: "post_deploy"}[option]


def _show_run(target: Target, options: Mapping[str, Any]) -> None:
    """Show the plan of a run, on one database or many."""
    _show_plans(
        target,
        lambda runner: runner.plan(**options),
        _UP_TO_DATE,
        names=(*(options["targets"] or ()), *options["retry"]),
        what="to apply",
    )


def _show_plans(
    target: Target,
    ask: Callable[[SyncRunner], list[PlannedMigration]],
    nothing: str,
    *,
    names: Collection[str],
    what: str,
    hint: str = "",
) -> Mapping[str, list[PlannedMigration]]:
    """Show the plan of a command that takes these names, on one database or many. Returns the plan of each."""
    if not target.is_many:
        planned = target.ask(ask)
        _show(planned, _report_plan(target, planned, out.width, nothing), target)
        return {target.db: planned}
    known = target.registry.migrations
    if unknown := {name: find_similar(name, known) for name in names if name not in known}:
        raise UnknownMigrationError(unknown)  # otherwise each database would report the same error
    if not known:
        print_error(reports.NO_MIGRATIONS)

    def report(plans: Mapping[str, Sequence[PlannedMigration]]) -> Iterator[RenderableType]:
        planned = {database: reports.list_work(plan) for database, plan in plans.items()}
        return reports.report_plans(planned, out.width, what, is_counted=what != "to apply")

    return _show_each(target, target.ask_each(ask), report, key="planned", hint=hint)


def _report_plan(
    target: Target, planned: Sequence[PlannedMigration], width: int, nothing: str = _UP_TO_DATE
) -> Iterator[RenderableType]:
    if all(one.is_waiting for one in planned):
        yield nothing if target.registry.migrations else reports.NO_MIGRATIONS
    yield from reports.report_plan(planned, target.registry.migrations, width)


def _show_each(
    target: Target,
    answers: Mapping[str, T | Exception],
    report: Callable[[Mapping[str, T]], Iterable[RenderableType]],
    describe: Callable[[str, T], object] = lambda _, answer: answer,
    *,
    key: str = "",
    code: int = FAILED,
    hint: str = "",
) -> Mapping[str, T]:
    """Show the answer of each database; exit if there are errors, by default with this code, and show the hint.

    `describe` makes the value for JSON; with a key, this is the answer's in an object that says of which database.
    """
    source = target.settings.source
    found = {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}
    failed = {name: answer for name, answer in answers.items() if isinstance(answer, Exception)}

    def to_value(name: str) -> object:
        error = endings.describe_as_json(failed[name], source) if name in failed else None
        if key:
            return {"database": name, key: found.get(name), "error": error}
        return describe(name, found[name]) if error is None else {"database": name, "error": error}

    _show([to_value(name) for name in answers], report(found) if found else [], target)
    for name, error in failed.items():
        print_error(target.clean(f"{name}: {endings.describe_error(error, source)}"), database=name)
    if failed:
        if hint and found:
            print_error(hint)
        raise typer.Exit(endings.choose_code(list(failed.values()), code))
    return found


def _show_recorded(target: Target, names: Collection[str]) -> Iterable[Sequence[str]]:
    """Show the records of these migrations, in one database or many. Returns their names in each of them."""

    def list_recorded(status: Status) -> list[str]:
        return [one.name for one in status.migrations if one.state in _RECORDED and one.name in names]

    if target.is_many:
        answers = target.ask_each(_read_status)
        recorded = {name: one if isinstance(one, Exception) else list_recorded(one) for name, one in answers.items()}
        what = "to mark as pending"
        report = partial(reports.report_plans, width=out.width, what=what, is_counted=True)
        return _show_each(target, recorded, report, hint=_REFUSED).values()
    found = list_recorded(target.ask(_read_status))
    if found:
        _print([f"To mark as pending, which deletes the record of each: {', '.join(map(escape, found))}."])
    return [found]


def _show_leases(target: Target) -> Mapping[str, Lease]:
    """Show who holds the lease, in one database or many. Returns the leases that are held."""
    if target.is_many:
        answers = target.ask_each(_read_status)
        leases = {name: one if isinstance(one, Exception) else one.lease for name, one in answers.items()}
        found = _show_each(target, leases, reports.report_leases, hint=_REFUSED)
    else:
        lease = target.ask(_read_status).lease
        found = {target.db: lease}
        _print(reports.report_lease(lease))
    return {name: lease for name, lease in found.items() if lease is not None}


def _accept_unknown(answers: Mapping[str, T | Exception], instead: T) -> dict[str, T | Exception]:
    """Accept that some databases don't know a migration. If none of them does, raise the error."""
    unknown = [error for error in answers.values() if isinstance(error, UnknownMigrationError)]
    if len(unknown) == len(answers):
        raise unknown[0]
    return {name: instead if isinstance(one, UnknownMigrationError) else one for name, one in answers.items()}


def _read_status(runner: SyncRunner) -> Status:
    return runner.status()


def _verify(target: Target, answers: MutableMapping[str, Any] | None = None) -> dict[str, Mapping[str, str]]:
    """Call the verifications in the database, or in each. Returns those that fail; errors go to the answers."""
    with redirect_stdout(sys.stderr):  # a verification may print, and stdout is for the answer
        if answers is None:
            return {target.db: target.ask(lambda runner: runner.verify())}
        found = target.ask_each(lambda runner: runner.verify())
    answers.update({database: error for database, error in found.items() if isinstance(error, Exception)})
    return {database: failed for database, failed in found.items() if not isinstance(failed, Exception)}


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


def _check_one_database(target: Target, option: str) -> None:
    if target.is_many:
        raise CommandError(f"{option} works on one database. Name it (--db).")


def _check_concurrency(target: Target, concurrency: int | None) -> dict[str, int]:
    """Check the option of a command that works on several databases at once. Returns it for the registry."""
    if concurrency is None:
        return {}
    if not target.is_many:
        raise CommandError("--concurrency is for many databases. Pass a pattern (--db), or leave it out.")
    return {"concurrency": concurrency}


def _check_confirmation(target: Target, confirm: str | None, *, is_needed: bool = True) -> None:
    """Check that the database, or the pattern, was confirmed by its name if it must be: if any of them is protected."""
    target.settings.check()
    name = target.settings.value("db")
    if confirm is not None and confirm != name:
        raise CommandError(f"--confirm names {confirm!r}, but the database is {name!r}. Nothing was done.")
    if confirm is not None or not is_needed:
        return
    if (found := target.find_protection()) is not None:
        database, label = found
        raise CommandError(
            f"{database}/{target.settings.value('prefix')} is protected as {label!r}. To do it all the same, pass "
            f"--confirm {quote(name)}. Nothing was done."
        )


def _check_can_ask(target: Target) -> None:
    if target.as_json:
        raise CommandError("--json can't ask for confirmation: pass --yes.")


def _confirm(target: Target, action: str, number: int = 1) -> None:
    """Ask whether to do it in the database of the target, or in this number of those that match, or exit."""
    if not sys.stdin.isatty():
        raise CommandError("Not a terminal: pass --yes to confirm.")
    if target.is_many:
        question = f"{action} in {number:,} of {format_count(len(target.names), 'database')} ({target.place})?"
    else:
        question = f"{action} in {target.place}?"
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


def _print(report: Iterable[RenderableType], console: Console = out, file: TextIO | None = None) -> None:
    """Print tables and sentences, without the blanks that fill the last column. The file defaults to stdout."""
    with console.capture() as captured:
        console.print(Group(*report))
    # To the file, because without one Click takes ASCII for a mistake, and writes UTF-8.
    text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    typer.echo(text, file=sys.stdout if file is None else file, nl=False)
