"""Work under the lease, in one database or in many: its events, results and interruptions."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, TypeAlias

import typer

from quaestor import SyncRunner
from quaestor.cli import endings, reports, signals
from quaestor.cli.answers import out, print_report
from quaestor.cli.display import show_events
from quaestor.cli.endings import print_error
from quaestor.cli.event_lines import format_json_line, to_json
from quaestor.cli.logs import JsonStderr, put_message, show_logs
from quaestor.cli.progress import RunProgress
from quaestor.cli.target import Target
from quaestor.events import Hook
from quaestor.status import Work

Part: TypeAlias = tuple[Sequence[str], dict[str, Any]]
"""Names of databases, and options for these alone."""


def work_on_one(target: Target, ask: Callable[[SyncRunner], list[str]]) -> list[str]:
    """Run something that acquires the lease, and show its events."""
    _ = target.db  # reports wrong settings before anything is shown
    with follow(target) as (_, hook):
        return target.ask(ask, hook)


def work_on_each(target: Target, work: Work, *parts: Part, **options: Any) -> None:
    """Run, roll back or mark in many databases, and show the events and results. The options are the registry's.

    By default there is one part, of all databases that match the pattern.
    """
    with follow(target, target.names, work) as (progress, hook):
        results = [
            result
            for names, more in parts or [(target.names, {})]
            for result in target.work_on_each(work, hook, names, **options, **more)
        ]
    results.sort(key=attrgetter("database"))
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
        print_report(
            reports.report_results(
                results, summary, lambda error: target.clean(endings.describe_error(error, source)), out.width
            )
        )
    if errors:
        raise typer.Exit(endings.choose_code(list(errors.values())))


@contextmanager
def follow(target: Target, names: Sequence[str] = (), work: Work = "run") -> Iterator[tuple[RunProgress, Hook]]:
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
