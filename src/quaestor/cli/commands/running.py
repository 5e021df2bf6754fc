"""The commands plan and run."""

import sys
from typing import Annotated, Any

import typer

from quaestor.cli.answers import WIDE, make_console, print_report, report_plan, show, show_plans
from quaestor.cli.command import command
from quaestor.cli.options import DryRun, Names, NoDelay, PhaseOption, Phases, Retry, Steps, option, to_phase
from quaestor.cli.settings import CommandError
from quaestor.cli.target import Target
from quaestor.cli.work import work_on_each, work_on_one

app: typer.Typer = typer.Typer()


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
        show_plans(target, lambda runner: runner.plan(**options))
        return
    _check_one_database(target, "--pin")
    pinned = target.ask(lambda runner: runner.pin(**options))
    if not target.as_json:
        console = make_console(width=None if sys.stderr.isatty() else WIDE, stderr=True)
        print_report(report_plan(target, pinned.migrations, console.width), console, sys.stderr)
    show(pinned, [pinned.id], target)


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
        str | None, option("--plan", "ID", "Refuse any plan but the one with this id, as `plan --pin` printed it.")
    ] = None,
    concurrency: Annotated[
        int | None,
        option(
            "--concurrency",
            "NUMBER",
            "How many migrations to run at once; with a pattern, in how many databases. Defaults to 1; with a "
            "pattern, 8.",
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
        show_plans(target, lambda runner: runner.plan(**options))
        return
    if plan_id is not None:
        _check_one_database(target, "--plan")
        options["plan_id"] = plan_id
    options |= {} if concurrency is None else {"concurrency": concurrency}
    if target.is_many:
        work_on_each(target, "run", **options)
    else:
        work_on_one(target, lambda runner: runner.run(**options))


def _make_options(
    targets: list[str] | None, retry: list[str] | None, phase: Phases | None, steps: int | None, *, ignore_delays: bool
) -> dict[str, Any]:
    """Make the options of a run and of its plan."""
    return {
        "targets": targets or None,
        "retry": retry or (),
        "phase": to_phase(phase),
        "steps": steps,
        "ignore_delays": ignore_delays,
    }


def _check_one_database(target: Target, option: str) -> None:
    if target.is_many:
        raise CommandError(f"{option} works on one database. Name it (--db).")
