"""The command line: its commands, its mistakes, and how it runs."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from quaestor.cli import endings
from quaestor.cli.answers import out
from quaestor.cli.command import Commands
from quaestor.cli.commands import importing, reading, running, undoing, writing
from quaestor.cli.endings import FAILED, MISUSED, TRY_LATER
from quaestor.cli.logs import JsonStderr, show_logs
from quaestor.cli.settings import LOG_FORMATS, VARIABLES, CommandError, Setting, find, refuse_addresses

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
for _part in (reading, running, undoing, importing, writing):  # in the order of the help
    app.add_typer(_part.app)


@app.callback(invoke_without_command=True)
def _main(
    *, show_version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.", is_eager=True)] = False
) -> None:
    if show_version:
        out.print(f"quaestor {version('mongo-quaestor')}")
        raise typer.Exit


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
