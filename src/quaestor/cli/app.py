"""The commands. Each asks a runner one thing, and shows the answer."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.prompt import Confirm
from rich.text import Text

from quaestor._core import overview, plan
from quaestor._core.lease import DEFAULT_TTL, Lock
from quaestor._core.many import DatabaseResult
from quaestor._core.plan import PlannedMigration, check_known
from quaestor._core.records import Records
from quaestor._hosts.sync import SyncRunner
from quaestor.cli import reports, scaffold
from quaestor.cli.course import Course, databases
from quaestor.cli.display import displayed, displayed_many
from quaestor.cli.failures import err, reported, say, sentence
from quaestor.cli.interruption import explained
from quaestor.cli.lines import json_line, jsonable
from quaestor.cli.loading import locate
from quaestor.cli.logs import show_logs
from quaestor.cli.marks import shown
from quaestor.cli.settings import CommandError, refuse_addresses
from quaestor.cli.target import Answer, Target, command, found
from quaestor.status import Status

T = TypeVar("T")

app = typer.Typer(
    name="quaestor",
    help="Migrations for MongoDB: see, apply and undo them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and a URI may be one
    context_settings={"help_option_names": ["-h", "--help"]},
)
marks = typer.Typer(name="mark", no_args_is_help=True)
app.add_typer(marks, help="Correct the records, without running anything.")

_MIGRATIONS, _DATABASES = 1, 8  # at once, unless it is said
_WIDE = 10_000  # cells: where a pipe or a file tells no width nothing is cut

out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _WIDE)


def _names(incomplete: str) -> list[str]:
    """The migrations whose names begin so, for the completion of a shell; an error would only disturb the typing."""
    with suppress(Exception, SystemExit):
        return [name for name in found().registry.migrations if name.startswith(incomplete)]
    return []


Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", autocompletion=_names, show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Ttl = Annotated[
    float, typer.Option("--lease-ttl", metavar="SECONDS", help="For how long the lease of a killed run stays.")
]
Wait = Annotated[
    float | None,
    typer.Option("--lease-timeout", metavar="SECONDS", help="For how long to wait for others.", show_default=False),
]


class Format(StrEnum):
    """How the graph is drawn."""

    TERMINAL = "terminal"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    HTML = "html"


@app.callback(invoke_without_command=True)
def _main(
    *, show_version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False
) -> None:
    if show_version:
        out.print(f"quaestor {version('mongo-quaestor')}")
        raise typer.Exit


@command(app, "status")
def _status(target: Target, *, as_json: AsJson = False) -> None:
    """Show what is applied, what is not, and who is at work."""
    if target.is_many:
        answers = target.ask_each(SyncRunner.status)
        if as_json:
            _print_statuses(answers, target)
        else:
            _print(reports.StatusesReport([one.value for one in answers if one.value is not None]))
        _tell_errors(answers, target, code=1)
        return
    seen = target.ask(SyncRunner.status)
    if as_json:
        _print_json(seen, target)
    else:
        _print(reports.StatusReport(seen))


@command(app, "check", error_code=2)
def _check(
    target: Target,
    *,
    as_json: AsJson = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Unknown ones are no fault: a newer release may have been here.")
    ] = False,
) -> None:
    """For CI and readiness: exit with 0 if nothing is pending and nothing unknown, with 1 if so, with 2 on an error."""

    def faults_of(seen: Status) -> list[str]:
        return reports.faults(seen, "pending") + ([] if allow_unknown else reports.faults(seen, "unknown"))

    if target.is_many:
        answers = target.ask_each(SyncRunner.status)
        found = {shown(one.database): faults_of(one.value) for one in answers if one.value is not None}
        complaints = [f"{name}: {' '.join(faults)}" for name, faults in found.items() if faults]
        if as_json:
            _print_statuses(answers, target)
        elif found:
            _print("\n".join(complaints) or f"Nothing is to do in {databases(len(found))}.")
        _tell_errors(answers, target, code=2)
        raise typer.Exit(1 if complaints else 0)
    seen = target.ask(SyncRunner.status)
    faults = faults_of(seen)
    if as_json:
        _print_json(seen, target)
    else:
        _print("\n".join(faults) or reports.summary(seen))
    raise typer.Exit(1 if faults else 0)


@command(app, "plan")
def _plan(target: Target, *, targets: Names = None, as_json: AsJson = False) -> None:
    """Show what a run would do, in order, and why: all that is pending, or only these and what they need."""
    _show_plan(target, partial(SyncRunner.plan, targets=targets or None), as_json=as_json)


@command(app, "run")
def _run(
    target: Target,
    *,
    targets: Names = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a database of a newer release.")] = False,
    lease_ttl: Ttl = DEFAULT_TTL,
    lease_timeout: Wait = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help=f"How many migrations at once [default: {_MIGRATIONS}]; with a pattern of databases, how many of "
            f"these [default: {_DATABASES}].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Apply what is pending: all of it, or only these and what they need."""
    plan = partial(SyncRunner.plan, targets=targets or None, strict=strict)
    if target.is_many:
        if dry_run:
            check_known(targets or (), target.registry.migrations)  # they would be unknown for each of them
            _show_plans(target, plan, as_json=as_json)
            return
        run_many = partial(
            target.registry.run_many_sync,
            prefix=target.given.settings().prefix,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
            targets=targets or None,
            strict=strict,
            concurrency=_DATABASES if concurrency is None else concurrency,
        )
        _work_on_many(target, run_many, as_json=as_json)
    elif dry_run:
        _show_plan(target, plan, as_json=as_json)
    else:
        run = partial(
            SyncRunner.run,
            targets=targets or None,
            strict=strict,
            concurrency=_MIGRATIONS if concurrency is None else concurrency,
        )
        _work(target, run, as_json=as_json, lease_ttl=lease_ttl, lease_timeout=lease_timeout)


@command(app, "rollback")
def _rollback(
    target: Target,
    *,
    targets: Annotated[list[str], typer.Argument(metavar="NAME", autocompletion=_names, show_default=False)],
    yes: Yes = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    lease_ttl: Ttl = DEFAULT_TTL,
    lease_timeout: Wait = None,
) -> None:
    """Undo these migrations, and before them every applied one that needs them."""
    if as_json and not (yes or dry_run):
        raise CommandError("--json asks nobody: say --yes.")
    if dry_run or not yes:
        planned = _show_plan(target, partial(SyncRunner.plan_rollback, targets=targets), as_json=as_json)
        if dry_run or not planned:
            return
        _confirm(f"Undo {len(planned)} in {_place(target)}?")
    rollback = partial(SyncRunner.rollback, targets=targets)
    _work(target, rollback, as_json=as_json, lease_ttl=lease_ttl, lease_timeout=lease_timeout)


All = Annotated[bool, typer.Option("--all", help="All that are registered.")]


@command(marks, "applied")
def _mark_applied(
    target: Target,
    *,
    names: Names = None,
    every: All = False,
    as_json: AsJson = False,
    lease_ttl: Ttl = DEFAULT_TTL,
    lease_timeout: Wait = None,
) -> None:
    """Record migrations as applied: to adopt a database that is migrated already."""
    mark = partial(SyncRunner.mark_applied, names=_chosen(target, names, every=every))
    _work(target, mark, as_json=as_json, lease_ttl=lease_ttl, lease_timeout=lease_timeout)


@command(marks, "pending")
def _mark_pending(
    target: Target,
    *,
    names: Names = None,
    every: All = False,
    as_json: AsJson = False,
    lease_ttl: Ttl = DEFAULT_TTL,
    lease_timeout: Wait = None,
) -> None:
    """Remove the records of migrations: the next run applies them."""
    mark = partial(SyncRunner.mark_pending, names=_chosen(target, names, every=every))
    _work(target, mark, as_json=as_json, lease_ttl=lease_ttl, lease_timeout=lease_timeout)


@command(app, "unlock")
def _unlock(target: Target, *, yes: Yes = False) -> None:
    """Free the lease, whoever holds it. It ends by itself when its holder is dead: this is for one that hangs."""
    if not yes:
        lease = target.ask(SyncRunner.status).lease
        if lease is None:
            _print("Nobody holds the lease.")
            return
        _print(f"The lease is held by {reports.holder(lease)}.")
        _confirm("Free it? Whoever holds it stops at its next step.")
    freed = target.ask(SyncRunner.unlock)
    _print("Nobody holds the lease." if freed is None else f"Freed. It was held by {shown(str(freed))}.")


@command(app, "graph")
def _graph(
    target: Target,
    *,
    form: Annotated[Format, typer.Option("--format", "-f", help="How to draw it.")] = Format.TERMINAL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file to write it to.", dir_okay=False, show_default=False)
    ] = None,
) -> None:
    """Draw the migrations and what they need. Without an address of MongoDB, without what is applied."""
    from quaestor.cli import pictures, terminal_graph  # here, for the layout takes a moment to load

    seen = _registered(target) if target.uri is None else target.ask(SyncRunner.status)
    pictured = {"mermaid": pictures.mermaid, "dot": pictures.dot, "svg": pictures.svg, "html": pictures.html}
    picture = terminal_graph.drawing(seen) if form is Format.TERMINAL else pictured[form](seen)
    if output is None:
        out.print(picture, soft_wrap=form is not Format.TERMINAL)
        return
    try:
        file = output.open("w", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}.") from error
    with file:
        if isinstance(picture, str):
            file.write(picture)
        else:
            Console(file=file, markup=False, highlight=False, emoji=False, width=_WIDE).print(picture)
    err.print(f"Written: {output}")


@command(app, "new")
def _new(
    target: Target,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    depends_on: Annotated[
        list[str] | None,
        typer.Option("--depends-on", "-d", metavar="NAME", autocompletion=_names, help="It needs this one."),
    ] = None,
    transaction: Annotated[bool, typer.Option("--transaction", help="In one transaction with its record.")] = False,
    asynchronous: Annotated[
        bool | None, typer.Option("--async/--sync", help="`async def` or `def`.", show_default="as the others")
    ] = None,
) -> None:
    """Write a module with a migration to fill in, and its rollback."""
    given = target.given
    reference, base = given.value("registry"), given.folder("registry")
    registry = target.registry
    file = scaffold.new(
        given.folder("migrations") / given.value("migrations"),
        name,
        registry,
        locate(reference, base),
        depends_on=depends_on or (),
        colour=None if asynchronous is None else "async" if asynchronous else "sync",
        transaction=transaction,
    )
    out.print(f"Written: {file}", soft_wrap=True)


@app.command("init")
def _init(
    package: Annotated[str, typer.Argument(help="The package to make, such as shop.migrations.")] = "migrations",
    prefix: Annotated[str, typer.Option("--prefix", metavar="NAME", help="The prefix of our collections.")] = "app",
) -> None:
    """Write a package for migrations, and the settings into pyproject.toml."""
    with reported(str, code=1, trace=False):
        for file in scaffold.init(Path.cwd(), package, prefix):
            out.print(f"Written: {file}", soft_wrap=True)
    out.print("Next: quaestor new NAME, and quaestor status --uri mongodb://127.0.0.1:27017/NAME")


def run() -> None:
    """Run the command that the arguments of the process say."""
    with reported(str, code=2, trace=False):
        refuse_addresses(sys.argv[1:])
    app(prog_name="quaestor")  # also as python -m quaestor


def _work(
    target: Target,
    ask: Callable[[SyncRunner], list[str]],
    *,
    as_json: bool,
    lease_ttl: float,
    lease_timeout: float | None,
) -> None:
    """Ask for something that holds the lease, and show how it goes."""
    _ = target.settings  # so that what is wrong with them is found before anything is shown
    show_logs(target.clean)
    with displayed(target.clean, as_json=as_json) as hook, explained(hook, target.clean) as tell:
        target.ask(ask, tell, lease_ttl=lease_ttl, lease_timeout=lease_timeout)


def _work_on_many(target: Target, run: Callable[..., list[DatabaseResult]], *, as_json: bool) -> None:
    """Run the migrations of many databases, and show how it goes and what became of each."""
    show_logs(target.clean)
    with target.all_matching() as (server, names):
        course = Course(len(names), target.clean)
        try:
            with (
                displayed_many(names, course, target.clean, as_json=as_json) as hook,
                explained(hook, target.clean, course) as tell,
            ):
                results = run([server.db(name) for name in names], on_event=tell, async_db=server.async_db)
        except (KeyboardInterrupt, SystemExit):
            say(course.stopped())
            raise
    if as_json:
        told = [{"database": one.database, "applied": one.applied, "error": _why(one.error)} for one in results]
        typer.echo(json_line("RunManyFinished", {"results": jsonable(told, target.clean)}, datetime.now(UTC)))
    else:
        _print(reports.ResultsReport(results, course.since(course.began), lambda error: target.clean(sentence(error))))
    if any(one.error is not None for one in results):
        raise typer.Exit(1)


def _why(error: BaseException | None) -> str | None:
    return None if error is None else sentence(error)


def _show_plan(
    target: Target, ask: Callable[[SyncRunner], list[PlannedMigration]], *, as_json: bool
) -> list[PlannedMigration]:
    planned = target.ask(ask)
    if as_json:
        _print_json(planned, target)
    else:
        descriptions = {name: migration.description for name, migration in target.registry.migrations.items()}
        _print(reports.PlanReport(planned, descriptions))
    return planned


def _show_plans(target: Target, ask: Callable[[SyncRunner], list[PlannedMigration]], *, as_json: bool) -> None:
    answers = target.ask_each(ask)
    if as_json:
        told = [{"database": one.database, "planned": one.value, "error": _why(one.error)} for one in answers]
        _print_json(told, target)
    else:
        _print(reports.PlansReport({one.database: one.value for one in answers if one.value is not None}))
    _tell_errors(answers, target, code=1)


def _print_statuses(answers: Sequence[Answer[Status]], target: Target) -> None:
    """Print them as JSON; of a database that could not be read, why."""
    told = [{"database": one.database, "error": _why(one.error)} if one.value is None else one.value for one in answers]
    _print_json(told, target)


def _tell_errors(answers: Sequence[Answer[T]], target: Target, *, code: int) -> None:
    """Say what went wrong in which of many databases, and exit if it did in any."""
    failed = [(one.database, one.error) for one in answers if one.error is not None]
    for database, error in failed:
        say(target.clean(f"{database}: {sentence(error)}"))
    if failed:
        raise typer.Exit(code)


def _registered(target: Target) -> Status:
    """The status of a database that nothing is known of."""
    return overview.status("", "", plan.ordered(target.registry.migrations), Records({}), Lock(), progress={})


def _chosen(target: Target, names: list[str] | None, *, every: bool) -> list[str]:
    if every == bool(names):
        raise CommandError("Say --all, or name them: not both." if every else "Name the migrations, or say --all.")
    return list(target.registry.migrations) if every else names or []


def _place(target: Target) -> str:
    settings = target.settings
    return f"{settings.db}/{settings.prefix}"


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("There is nobody to ask: say --yes to do it.")
    with suppress(EOFError):  # Ctrl-D
        if Confirm.ask(Text(shown(question)), console=out, default=False):
            return
    say("Nothing was done.")
    raise typer.Exit(1)


def _print(renderable: RenderableType) -> None:
    """Print a table or a sentence; for a pipe or a file without the blanks that fill its lines."""
    if sys.stdout.isatty():
        out.print(renderable)
        return
    with out.capture() as captured:
        out.print(renderable)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _print_json(value: object, target: Target) -> None:
    typer.echo(json.dumps(jsonable(value, target.clean), indent=2))
