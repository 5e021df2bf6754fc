"""The commands. Each asks a runner one thing, and shows the answer."""

import json
import sys
from contextlib import suppress
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.prompt import Confirm

from quaestor.cli import reports, scaffold
from quaestor.cli.display import displayed
from quaestor.cli.failures import err, exit_when_terminated, reported, say
from quaestor.cli.lines import jsonable
from quaestor.cli.loading import locate
from quaestor.cli.settings import CommandError
from quaestor.cli.target import Target, command, found
from quaestor.core import plan
from quaestor.core.lease import DEFAULT_TTL, Lock
from quaestor.core.plan import PlannedMigration
from quaestor.core.records import Records
from quaestor.core.status import Status, status
from quaestor.runners.sync import SyncRunner

app = typer.Typer(
    name="quaestor",
    help="Migrations for MongoDB: see, apply and undo them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and a URI may be one
    context_settings={"help_option_names": ["-h", "--help"]},
)
marks = typer.Typer(no_args_is_help=True)
app.add_typer(marks, name="mark", help="Correct the records, without running anything.")

_WIDE = 160  # cells, where a pipe or a log tells no width

out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _WIDE)


def _names(incomplete: str) -> list[str]:
    """The migrations whose names begin so, for the completion of a shell; an error would only disturb the typing."""
    with suppress(Exception, SystemExit):
        return [name for name in found().registry().migrations if name.startswith(incomplete)]
    return []


Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", autocompletion=_names, show_default=False)]
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
    seen = target.ask(SyncRunner.status)
    if as_json:
        _print_json(seen, target)
    else:
        out.print(reports.StatusReport(seen))


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
    seen = target.ask(SyncRunner.status)
    faults = reports.faults(seen, "pending") + ([] if allow_unknown else reports.faults(seen, "unknown"))
    if as_json:
        _print_json(seen, target)
    else:
        out.print("\n".join(faults) or reports.summary(seen), soft_wrap=True)
    raise typer.Exit(1 if faults else 0)


@command(app, "plan")
def _plan(target: Target, *, targets: Names = None, as_json: AsJson = False) -> None:
    """Show what a run would do, in order, and why: all that is pending, or only these and what they need."""
    planned = target.ask(partial(SyncRunner.plan, targets=targets or None))
    if as_json:
        _print_json(planned, target)
    else:
        _print_plan(planned, target)


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
) -> None:
    """Apply what is pending: all of it, or only these and what they need."""
    if dry_run:
        _plan(target, targets=targets, as_json=as_json)
        return
    exit_when_terminated()
    with displayed(target.clean, as_json=as_json) as hook:
        run = partial(SyncRunner.run, targets=targets or None, strict=strict)
        target.ask(run, hook, lease_ttl=lease_ttl, lease_timeout=lease_timeout)


@command(app, "rollback")
def _rollback(
    target: Target,
    *,
    targets: Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=_names, show_default=False)],
    yes: Yes = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    lease_ttl: Ttl = DEFAULT_TTL,
    lease_timeout: Wait = None,
) -> None:
    """Undo these migrations, and before them every applied one that needs them."""
    if dry_run or not yes:
        planned = target.ask(partial(SyncRunner.plan_rollback, targets=targets))
        if dry_run and as_json:
            _print_json(planned, target)
        else:
            _print_plan(planned, target)
        if dry_run or not planned:
            return
        _confirm(f"Undo {len(planned)} in {_place(target)}?")
    exit_when_terminated()
    with displayed(target.clean, as_json=as_json) as hook:
        rollback = partial(SyncRunner.rollback, targets=targets)
        target.ask(rollback, hook, lease_ttl=lease_ttl, lease_timeout=lease_timeout)


All = Annotated[bool, typer.Option("--all", help="All that are registered.")]


@command(marks, "applied")
def _mark_applied(target: Target, *, names: Names = None, every: All = False) -> None:
    """Record migrations as applied: to adopt a database that is migrated already."""
    marked = target.ask(partial(SyncRunner.mark_applied, names=_chosen(target, names, every=every)))
    out.print(
        f"Marked as applied: {', '.join(marked)}." if marked else "Nothing to do: they are recorded already.",
        soft_wrap=True,
    )


@command(marks, "pending")
def _mark_pending(target: Target, *, names: Names = None, every: All = False) -> None:
    """Remove the records of migrations: the next run applies them."""
    marked = target.ask(partial(SyncRunner.mark_pending, names=_chosen(target, names, every=every)))
    out.print(
        f"Marked as pending: {', '.join(marked)}." if marked else "Nothing to do: none of these is recorded.",
        soft_wrap=True,
    )


@command(app, "unlock")
def _unlock(target: Target, *, yes: Yes = False) -> None:
    """Free the lease, whoever holds it. It ends by itself when its holder is dead: this is for one that hangs."""
    if not yes:
        lease = target.ask(SyncRunner.status).lease
        if lease is None:
            out.print("Nobody holds the lease.")
            return
        out.print(f"The lease is held by {reports.holder(lease)}.", soft_wrap=True)
        _confirm("Free it? Whoever holds it stops at its next step.")
    freed = target.ask(SyncRunner.unlock)
    out.print("Nobody holds the lease." if freed is None else f"Freed. It was held by {freed}.", soft_wrap=True)


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
    if form is Format.TERMINAL:
        drawing = terminal_graph.drawing(seen)
        if output is None:
            out.print(drawing)
            return
        with output.open("w", encoding="utf-8") as file:
            Console(file=file, markup=False, highlight=False, emoji=False, width=200).print(drawing)
        return
    picture = {
        Format.MERMAID: pictures.mermaid,
        Format.DOT: pictures.dot,
        Format.SVG: pictures.svg,
        Format.HTML: pictures.html,
    }[form](seen)
    if output is None:
        typer.echo(picture)
    else:
        output.write_text(picture, encoding="utf-8")
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
    registry = target.registry()
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


def _registered(target: Target) -> Status:
    """The status of a database that nothing is known of."""
    return status("", "", plan.ordered(target.registry().migrations), Records({}), Lock())


def _chosen(target: Target, names: list[str] | None, *, every: bool) -> list[str]:
    if every == bool(names):
        raise CommandError("Name the migrations, or say --all; not both.")
    return list(target.registry().migrations) if every else names or []


def _place(target: Target) -> str:
    settings = target.given.settings()
    return f"{settings.db}/{settings.prefix}"


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("There is nobody to ask: say --yes to do it.")
    if not Confirm.ask(question, console=out, default=False):
        say("Nothing was done.")
        raise typer.Exit(1)


def _print_plan(planned: list[PlannedMigration], target: Target) -> None:
    descriptions = {name: migration.description for name, migration in target.registry().migrations.items()}
    out.print(reports.PlanReport(planned, descriptions))


def _print_json(value: object, target: Target) -> None:
    typer.echo(json.dumps(jsonable(value, target.clean), indent=2))
