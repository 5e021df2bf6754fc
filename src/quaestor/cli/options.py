"""The options that several commands have."""

import inspect
from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Any

import typer

from quaestor.cli.settings import LOG_FORMATS, VARIABLES
from quaestor.cli.target import Target
from quaestor.status import DEFAULT_PATIENCE, DEFAULT_PATIENCE_OF_MANY, Phase


def complete_names(incomplete: str) -> list[str]:
    """Complete the name of a migration for a shell; an error would only disturb the typing."""
    with suppress(Exception, SystemExit):
        return [name for name in Target().registry.migrations if name.startswith(incomplete)]
    return []


def argument(text: str, metavar: str = "NAME") -> Any:
    """Make an argument of a command, by default the name of a migration."""
    complete = complete_names if metavar == "NAME" else None
    return typer.Argument(metavar=metavar, help=text, autocompletion=complete, show_default=False)


def option(name: str, metavar: str, text: str, *, completes: bool = False) -> Any:
    """Make an option with a value; `completes`: with the name of a migration."""
    complete = complete_names if completes else None
    return typer.Option(name, metavar=metavar, help=text, autocompletion=complete, show_default=False)


Names = Annotated[
    list[str] | None, argument("The migrations to apply; their dependencies come first. Defaults to all.")
]
Retry = Annotated[
    list[str] | None,
    option(
        "--retry",
        "NAME",
        "Repeat a migration with after_crash='stop' that was interrupted or failed halfway; repeat the option "
        "for several.",
        completes=True,
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
Steps = Annotated[int | None, option("--steps", "NUMBER", "Apply only the first NUMBER of the plan. Defaults to all.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")]
Confirmed = Annotated[
    str | None,
    option(
        "--confirm", "DATABASE", "Name the database to confirm, in place of --yes. A protected database requires it."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, without doing it.")]
Databases = Annotated[
    int | None, option("--concurrency", "NUMBER", "With a pattern, in how many databases at once. Defaults to 8.")
]


def to_phase(option: Phases | None) -> Phase | None:
    """Return the phase that an option names."""
    return {None: None, Phases.DEPLOY: "deploy", Phases.POST_DEPLOY: "post_deploy"}[option]


_PLACE, _WAITING, _OUTPUT = "Project and database", "Waiting", "Output and errors"  # panels of the help


def _option(
    name: str, kind: Any, panel: str, text: str, *names: str, default: object = None, metavar: str | None = None
) -> inspect.Parameter:
    option = typer.Option(*names, help=text, metavar=metavar, show_default=False, rich_help_panel=panel)
    annotation: Any = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _setting(name: str, metavar: str, text: str, panel: str = _PLACE) -> inspect.Parameter:
    """Make an option for a setting that the environment can give, too."""
    text = f"{text} Environment: {', '.join(VARIABLES[name])}."
    return _option(name, str | None, panel, text, metavar=metavar)


def _seconds(name: str, text: str, default: float | None = None) -> inspect.Parameter:
    return _option(name, float | None, _WAITING, text, default=default, metavar="SECONDS")


def make_shared_options(*, takes_pattern: bool) -> list[inspect.Parameter]:
    """Make the options that commands share. With a pattern, some say something else."""
    pattern = ", or a pattern such as 'tenant_*'" if takes_pattern else ""
    patience = f"{DEFAULT_PATIENCE:.0f}" + (
        f"; with a pattern, {DEFAULT_PATIENCE_OF_MANY:.0f}" if takes_pattern else ""
    )
    formats = f"{' or '.join(LOG_FORMATS)}: with json, every line on stderr is an object, and events are there, too."
    everything = "Show the whole traceback of an error, not only your own code. It may show documents."
    return [
        _setting("registry", "MODULE:NAME", "Your registry, such as shop.migrations:registry, or FILE:NAME."),
        _setting("uri", "URI", "The MongoDB URI, or mongomock:// for an empty database in memory."),
        _setting("client", "MODULE:NAME", "Your application's own client, or a function for it, in place of a URI."),
        _setting("db", "NAME", f"The database{pattern}. Defaults to the one in the URI."),
        _setting("prefix", "NAME", "The prefix of quaestor's collections, as in app_migrations. Defaults to app."),
        _setting("release", "NAME", "The release of your application, for the records and the history."),
        _seconds("lease_ttl", "How long the lease of a killed run blocks other instances. Defaults to 30.", 30),
        _seconds("lease_timeout", "How long to wait while another instance holds the lease. Defaults to no limit."),
        _seconds(
            "patience",
            "How long to wait for an unreachable server or a missing majority, once the command has started. Defaults "
            f"to {patience}.",
        ),
        _option("as_json", bool, _OUTPUT, "Write the answer to stdout as JSON.", "--json", default=False),
        _setting("log_format", "FORMAT", formats, _OUTPUT),
        _setting("on_event", "MODULE:NAME", "A function of yours to call with every event.", _OUTPUT),
        _option("traceback", bool, _OUTPUT, everything, "--traceback", default=False),
    ]
