"""The answers of commands, of one database or of many: asked for, and shown."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TextIO, TypeVar

import typer
from rich.console import Console, Group, RenderableType

from quaestor import PlannedMigration, SyncRunner
from quaestor.cli import endings, reports
from quaestor.cli.endings import FAILED, print_error
from quaestor.cli.event_lines import to_json
from quaestor.cli.target import Target
from quaestor.errors import UnknownMigrationError
from quaestor.status import Status

T = TypeVar("T")

REFUSED = "Nothing was done. To go on with the other databases, pass --yes."
_UP_TO_DATE = "Up to date: nothing to apply."
WIDE = 10_000  # cells: a pipe or a file has no width, so nothing is cut

make_console: Callable[..., Console] = partial(Console, highlight=False, markup=False, emoji=False)
out: Console = make_console(width=None if sys.stdout.isatty() else WIDE)


def show(value: object, report: Iterable[RenderableType], target: Target) -> None:
    """Show an answer as JSON or as a report."""
    if target.as_json:
        typer.echo(json.dumps(to_json(value, target.clean), indent=2))
    else:
        print_report(report)


def print_report(report: Iterable[RenderableType], console: Console = out, file: TextIO | None = None) -> None:
    """Print tables and sentences, without the blanks that fill the last column. The file defaults to stdout."""
    with console.capture() as captured:
        console.print(Group(*report))
    # To the file, because without one Click takes ASCII for a mistake, and writes UTF-8.
    text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    typer.echo(text, file=sys.stdout if file is None else file, nl=False)


def show_answers(
    target: Target,
    answers: Mapping[str, T | Exception],
    report: Callable[[T], Iterable[RenderableType]],
    report_many: Callable[[Mapping[str, T]], Iterable[RenderableType]],
    describe: Callable[[str, T], object] = lambda _, answer: answer,
    *,
    key: str = "",
    code: int = FAILED,
    hint: str = "",
) -> Mapping[str, T]:
    """Show the answer of the database, or of each; exit if there are errors, by default with this code, and show the
    hint. Returns the answers.

    `describe` makes the value for JSON. With a key it is that of an answer among many, beside its database.
    """
    source = target.settings.source
    found = {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}
    if not target.is_many:
        for name, answer in found.items():
            show(describe(name, answer), report(answer), target)
        return found
    failed = {name: answer for name, answer in answers.items() if isinstance(answer, Exception)}

    def to_value(name: str) -> object:
        error = endings.describe_as_json(failed[name], source) if name in failed else None
        if key:
            return {"database": name, key: found.get(name), "error": error}
        return describe(name, found[name]) if error is None else {"database": name, "error": error}

    show([to_value(name) for name in answers], report_many(found) if found else [], target)
    for name, error in failed.items():
        print_error(target.clean(f"{name}: {endings.describe_error(error, source)}"), database=name)
    if failed:
        if hint and found:
            print_error(hint)
        raise typer.Exit(endings.choose_code(list(failed.values()), code))
    return found


def accept_unknown(answers: Mapping[str, T | Exception], instead: T) -> dict[str, T | Exception]:
    """Accept that some databases don't know a migration. If none of them does, raise the error."""
    unknown = [error for error in answers.values() if isinstance(error, UnknownMigrationError)]
    if len(unknown) == len(answers):
        raise unknown[0]
    return {name: instead if isinstance(one, UnknownMigrationError) else one for name, one in answers.items()}


def read_status(runner: SyncRunner) -> Status:
    """Ask a runner for the status."""
    return runner.status()


def show_plans(
    target: Target,
    ask: Callable[[SyncRunner], list[PlannedMigration]],
    what: str = "to apply",
    nothing: str = _UP_TO_DATE,
    hint: str = "",
) -> Mapping[str, list[PlannedMigration]]:
    """Show the plan of a command, in one database or many. Returns the plan of each."""
    answers = accept_unknown(target.ask_each(ask), [])
    if target.is_many and not target.registry.migrations:
        print_error(reports.NO_MIGRATIONS)

    def report_many(plans: Mapping[str, Sequence[PlannedMigration]]) -> Iterator[RenderableType]:
        planned = {database: reports.list_work(plan) for database, plan in plans.items()}
        return reports.report_plans(planned, out.width, what, is_counted=what != "to apply")

    def report(planned: Sequence[PlannedMigration]) -> Iterator[RenderableType]:
        return report_plan(target, planned, out.width, nothing)

    return show_answers(target, answers, report, report_many, key="planned", hint=hint)


def report_plan(
    target: Target, planned: Sequence[PlannedMigration], width: int, nothing: str = _UP_TO_DATE
) -> Iterator[RenderableType]:
    """Report a plan, or that there is nothing to do."""
    if all(one.is_waiting for one in planned):
        yield nothing if target.registry.migrations else reports.NO_MIGRATIONS
    yield from reports.report_plan(planned, target.registry.migrations, width)
