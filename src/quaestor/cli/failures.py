"""How an error ends a command: a sentence on stderr with what to do, and an exit code; never a traceback unasked."""

import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer
from pymongo.errors import ServerSelectionTimeoutError
from rich.console import Console

from quaestor.cli.loading import told
from quaestor.cli.settings import CommandError
from quaestor.errors import LeaseTimeoutError, QuaestorError

INTERRUPTED = 130
"""The exit code after Ctrl-C, as of a shell."""

TERMINATED = 143
"""After SIGTERM, likewise."""

_NOTE = "quaestor: "  # what our notes on a user's exception begin with

err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=not sys.stderr.isatty())


@contextmanager
def reported(clean: Callable[[str], str], *, code: int, trace: bool) -> Iterator[None]:
    """Report what a command raises, and exit.

    Args:
        clean: Takes secrets out of a text.
        code: The exit code of an error.
        trace: Whether to show tracebacks.
    """
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        say("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:  # noqa: BLE001 - it is told, and the exit code says it
        if trace:
            err.print(clean("".join(traceback.format_exception(error))).rstrip())
        say(clean(sentence(error)))
        raise typer.Exit(code) from None


def say(text: str) -> None:
    """Say something on stderr."""
    err.print(f"quaestor: {text}")


def sentence(error: BaseException) -> str:
    """What went wrong, where, and what to do."""
    notes = [note.removeprefix(_NOTE) for note in getattr(error, "__notes__", ())]
    return "\n  ".join([_sentence(error), *notes])


def _sentence(error: BaseException) -> str:
    if isinstance(error, LeaseTimeoutError):  # with the words of the command line
        return (
            f"Waited {error.seconds:.1f} s for the migrations of {error.holder}. Nothing has run here. Give it more "
            "time (--lease-timeout). If that process is gone its lease ends by itself; if it hangs, end it, or free "
            "the lease (quaestor unlock)."
        )
    if isinstance(error, QuaestorError | CommandError):
        return str(error)
    if isinstance(error, ServerSelectionTimeoutError):
        reason = str(error).partition(" (configured timeouts:")[0].partition(", Timeout:")[0]
        return f"No server of MongoDB answers: {reason}. Start it, or correct the address (--uri)."
    return told(error)


def exit_when_terminated() -> None:
    """Let SIGTERM, as an orchestrator sends it, end the command as Ctrl-C does: so that the lease is given back."""

    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
