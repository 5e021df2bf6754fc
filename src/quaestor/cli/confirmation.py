"""The question before a command does something, and the confirmation that a protected database requires."""

import sys
from contextlib import suppress
from shlex import quote

import typer
from rich.prompt import Confirm
from rich.text import Text

from quaestor._text import format_count
from quaestor.cli.answers import out
from quaestor.cli.endings import print_error
from quaestor.cli.redaction import escape
from quaestor.cli.settings import CommandError
from quaestor.cli.target import Target


def check_confirmation(target: Target, confirm: str | None, *, is_needed: bool = True) -> None:
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


def check_can_ask(target: Target) -> None:
    """Check that a question can be asked."""
    if target.as_json:
        raise CommandError("--json can't ask for confirmation: pass --yes.")


def ask_to_confirm(target: Target, action: str, number: int = 1) -> None:
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
