"""The command import."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from quaestor import ImportResult, SyncRunner
from quaestor._text import format_count
from quaestor.cli.answers import out, show
from quaestor.cli.command import command
from quaestor.cli.endings import FAILED, print_error
from quaestor.cli.options import DryRun, argument, option
from quaestor.cli.target import Target
from quaestor.cli.work import follow
from quaestor.status import Tool

app: typer.Typer = typer.Typer()


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
    tool: Annotated[str, argument(f"The tool: {', '.join(get_args(Tool))}.", "TOOL")],
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
        str | None, option("--collection", "NAME", "The tool's collection. Defaults to the tool's default.")
    ] = None,
    timezone: Annotated[
        str | None,
        option(
            "--timezone",
            "ZONE",
            "The time zone of its dates, such as Europe/Berlin, if it stores local time (beanie, "
            "mongodb-migrations). Defaults to UTC.",
        ),
    ] = None,
    dry_run: DryRun = False,
    allow_unplaced: Annotated[
        bool, typer.Option("--allow-unplaced", help="Import the rest if some migrations can't be placed.")
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

    def perform(runner: SyncRunner) -> ImportResult:
        return runner.import_history(kind, **options)

    result = target.ask(lambda runner: runner.plan_import(kind, **options))
    is_refused = is_incomplete(result) and not dry_run
    is_done = not (is_refused or dry_run)
    if is_done and target.as_json:
        result = target.ask(perform)
    elif is_done:
        with follow(target) as (_, hook):
            result = target.ask(perform, hook)
    shown = replace(result, imported=()) if is_refused and target.as_json else result
    show(shown, import_reports.report_import(result, out.width, is_done=is_done), target)
    if is_incomplete(result):
        undone = " Nothing was imported." if is_refused else ""
        print_error(
            f"{format_count(len(result.unplaced))} of {tool} can't be placed. Register or retire these names, or map "
            f"them (--map), or import the rest (--allow-unplaced).{undone}"
        )
        raise typer.Exit(FAILED)
