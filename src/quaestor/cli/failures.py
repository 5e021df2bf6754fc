"""How an error ends a command: a sentence on stderr with what to do, and an exit code; never a traceback unasked."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from rich.console import Console

from quaestor.cli.loading import told
from quaestor.cli.marks import shown
from quaestor.cli.settings import CommandError
from quaestor.errors import LeaseTimeoutError, QuaestorError

INTERRUPTED = 130
"""The exit code after Ctrl-C, as of a shell."""

BROKEN_PIPE = 141
"""After SIGPIPE, likewise."""

TERMINATED = {signal.SIGTERM: 143} | ({signal.SIGHUP: 129} if hasattr(signal, "SIGHUP") else {})
"""After other signals, likewise."""

_REFUSED = {
    13: "The user of the URI lacks a right; docs/reliability.md lists those that are needed.",
    18: "Check the user, the password and the authSource in the URI.",
}
"""What to do about the server's error codes Unauthorized and AuthenticationFailed."""

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
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except BaseException as error:
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            raise
        if trace:
            err.print(clean("".join(traceback.format_exception(error))).rstrip())
        say(clean(sentence(error)))
        raise SystemExit(code) from None


def say(text: str) -> None:
    """Say something on stderr."""
    err.print("\n".join(map(shown, f"quaestor: {text}".split("\n"))))


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
    if isinstance(error, BaseExceptionGroup):
        return f"{error.message}: {'; '.join(map(sentence, error.exceptions))}"
    if isinstance(error, OperationFailure) and error.code in _REFUSED:
        said = str((error.details or {}).get("errmsg", "")).partition(" to execute command")[0].rstrip(".")
        return f"The server refuses: {said}. {_REFUSED[error.code]}"
    return told(error)


def exit_when_terminated(tell: Callable[[], None]) -> None:
    """Let SIGTERM, as an orchestrator sends it, and the end of the terminal end the command as Ctrl-C does: so that the
    lease is given back.

    Args:
        tell: Called first at each of these signals, and at Ctrl-C.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        tell()
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        sys.exit(TERMINATED[signal.Signals(number)])

    for number in TERMINATED:
        signal.signal(number, end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, end)
