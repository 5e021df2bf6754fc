"""The commands that undo, mark, or override what protects a database. They ask first."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from quaestor import Lease, MigrationStatus
from quaestor._text import format_count
from quaestor.cli import reports
from quaestor.cli.answers import REFUSED, out, print_report, read_status, show_answers, show_plans
from quaestor.cli.command import command
from quaestor.cli.confirmation import ask_to_confirm, check_can_ask, check_confirmation
from quaestor.cli.options import Confirmed, Databases, DryRun, Yes, argument, option
from quaestor.cli.redaction import escape
from quaestor.cli.settings import CommandError
from quaestor.cli.target import Target
from quaestor.cli.work import Part, work_on_each, work_on_one
from quaestor.status import Status, Work

app: typer.Typer = typer.Typer()

_RECORDED = {"applied", "unknown", "retired"}

Marked = StrEnum("Marked", ["APPLIED", "PENDING", "ACCEPTED"])


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
        list[str] | None, argument("The migrations to roll back. Applied migrations that depend on them go first.")
    ] = None,
    last: Annotated[
        int | None, option("--last", "NUMBER", "Roll back the last NUMBER, by the dates in their records.")
    ] = None,
    to: Annotated[
        str | None,
        option(
            "--to",
            "NAME",
            "Roll back everything that was applied after this migration, which stays, with what it needs.",
            completes=True,
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
        raise CommandError("Pass what to roll back, as one of three: the names of migrations, --last or --to.")
    options: dict[str, Any] = {"targets": targets or None, "last": last, "to": to}
    yes = yes or confirm is not None
    at_once = _check_concurrency(target, concurrency)
    check_confirmation(target, confirm, is_needed=not dry_run)
    if not (yes or dry_run):
        check_can_ask(target)
    parts: list[Part] = []
    if dry_run or not yes:
        plans = show_plans(
            target,
            lambda runner: runner.plan_rollback(**options),
            "to roll back",
            "Nothing to roll back: not applied.",
            hint="" if dry_run else REFUSED,
        )
        counts = [len(planned) for planned in plans.values() if planned]
        if dry_run or not counts:
            return
        ask_to_confirm(target, f"Roll back {sum(counts)}", len(counts))
        planned = {database: [one.name for one in plan] for database, plan in plans.items()}
        parts = [(found, {"targets": names, "with_dependents": False}) for names, found in _group(planned)]
    _carry_out(target, "rollback", "rollback", options, parts, **at_once)


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
        argument(
            "`applied`, to adopt a database that is migrated already; `pending`, to run again; or `accepted`, if a "
            "change of the function since it was applied is all right.",
            "STATE",
        ),
    ],
    names: Annotated[list[str] | None, argument("The migrations to mark.")] = None,
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
    check_confirmation(target, confirm, is_needed=state is Marked.PENDING)
    marked = names or list(target.registry.migrations)
    options: dict[str, Any] = {"names": marked, **({"with_dependencies": True} if with_dependencies else {})}
    parts: list[Part] = []
    if (every or target.is_many) and state is Marked.PENDING and not yes:
        check_can_ask(target)
        recorded = _show_recorded(target, marked)
        if counts := [len(found) for found in recorded.values() if found]:
            ask_to_confirm(target, f"Mark {sum(counts)} as pending", len(counts))
        parts = [(found, {"names": shown}) for shown, found in _group(recorded)]
    _carry_out(target, "mark", f"mark_{state}", options, parts, state=state.value, **at_once)


@command(app, "restart-backfill", "quaestor restart-backfill order_cents --yes", has_lease=True)
def _restart_backfill(
    target: Target,
    *,
    name: Annotated[str, argument("The migration.")],
    backfill: Annotated[
        str | None, typer.Option("--backfill", metavar="NAME", help="The backfill, if the migration has several.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Remove the checkpoint of a migration's backfill, so the next run starts it over.

    It processes all documents again, from the first.
    """
    if not yes:
        check_can_ask(target)
        ask_to_confirm(target, f"Process the documents of {name} again, from the first, in its next run")
    restarted = work_on_one(target, lambda runner: runner.restart_backfill(name, backfill=backfill))
    if not restarted and not target.as_json:
        print_report([f"Nothing to restart: no backfill of {escape(name)} has a checkpoint."])


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
    check_confirmation(target, confirm)
    names = None  # all
    if not yes and confirm is None:
        held = _show_leases(target)
        if not held:
            return
        ask_to_confirm(target, "Its holder stops at its next step. Release it", len(held))
        names = list(held)  # no lease that was acquired since
    answers = target.ask_each(lambda runner: runner.unlock(), names)
    show_answers(target, answers, reports.report_release, reports.report_released)


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
    label: Annotated[str | None, option("--as", "LABEL", "The label to show, such as production.")] = None,
    off: Annotated[bool, typer.Option("--off", help="End the protection.")] = False,
    confirm: Confirmed = None,
) -> None:
    """Protect a database: `rollback`, `mark pending` and `unlock` then require --confirm with its name.

    It restricts commands only, not the API.
    """
    if off is (label is not None) or label == "":
        raise CommandError("Pass --as LABEL, or --off.")
    check_confirmation(target, confirm, is_needed=off)
    said = "No longer protected" if off else f"Protected as {escape(label or '')}"

    show_answers(
        target,
        target.ask_each(lambda runner: runner.protect(label)),
        lambda _: [f"{said}: {escape(target.place)}."],
        lambda found: [f"{said}: {format_count(len(found), 'database')}."],
    )


def _carry_out(
    target: Target, work: Work, method: str, options: dict[str, Any], parts: Sequence[Part], **of_many: Any
) -> None:
    """Do what was confirmed, or if nothing had to be, the same in every database."""
    if target.is_many:
        work_on_each(target, work, *(parts or [(target.names, options)]), **of_many)
    else:
        ((_, confirmed),) = parts or [([], options)]
        work_on_one(target, lambda runner: getattr(runner, method)(**confirmed))


def _group(names: Mapping[str, Iterable[str]]) -> list[tuple[list[str], list[str]]]:
    """Group databases with the same names: these are what a person confirms.

    Another instance may apply more meanwhile.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for database, shown in names.items():
        found.setdefault(tuple(shown), []).append(database)
    return [([*shown], databases) for shown, databases in found.items()]


def _check_concurrency(target: Target, concurrency: int | None) -> dict[str, int]:
    """Check the option of a command that works on several databases at once. Returns it for the registry."""
    if concurrency is None:
        return {}
    if not target.is_many:
        raise CommandError("--concurrency is for many databases. Pass a pattern (--db), or leave it out.")
    return {"concurrency": concurrency}


def _show_recorded(target: Target, names: Collection[str]) -> Mapping[str, Sequence[str]]:
    """Show what is recorded of these migrations, or interrupted, in one database or many. Returns it for each."""

    def is_shown(one: MigrationStatus) -> bool:
        return one.state in _RECORDED or one.applied_at is not None or one.interrupted_since is not None

    def list_recorded(status: Status) -> list[str]:
        return [one.name for one in status.migrations if one.name in names and is_shown(one)]

    def report(found: Sequence[str]) -> list[str]:
        shown = f"To mark as pending, which deletes the record of each: {', '.join(map(escape, found))}."
        return [shown] if found else []

    answers = target.ask_each(read_status)
    recorded = {name: one if isinstance(one, Exception) else list_recorded(one) for name, one in answers.items()}
    report_many = partial(reports.report_plans, width=out.width, what="to mark as pending", is_counted=True)
    return show_answers(target, recorded, report, report_many, hint=REFUSED)


def _show_leases(target: Target) -> Mapping[str, Lease]:
    """Show who holds the lease, in one database or many. Returns the leases that are held."""
    answers = target.ask_each(read_status)
    leases = {name: one if isinstance(one, Exception) else one.lease for name, one in answers.items()}
    found = show_answers(target, leases, reports.report_lease, reports.report_leases, hint=REFUSED)
    return {name: lease for name, lease in found.items() if lease is not None}
