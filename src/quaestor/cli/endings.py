"""How an error ends a command: a message on stderr and an exit code.

Exit codes: 0 done; 1 failed; 2 a mistake in usage or configuration; 75 (EX_TEMPFAIL of sysexits.h) try again later.
"""

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import typer
from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, ServerSelectionTimeoutError
from rich.console import Console

from quaestor import errors
from quaestor._text import is_interruption, read_error
from quaestor.cli.loader import list_frames, locate_error
from quaestor.cli.logs import put_message
from quaestor.cli.redaction import Clean, escape
from quaestor.cli.settings import CommandError
from quaestor.cli.signals import INTERRUPTED
from quaestor.errors import LeaseTimeoutError, QuaestorError

FAILED: Final = 1
MISUSED: Final = 2
TRY_LATER: Final = 75
_BROKEN_PIPE: Final = 141  # after SIGPIPE, likewise

_BOTH: Final = "Let the function of --client return a tuple that also has"

_REFUSED: Final = {
    13: "docs/deploy/privileges.md lists the privileges that are needed. The user is that of the URI",
    18: "Check the user, the password and the authSource in the URI",
}
"""What to do about the server's error codes Unauthorized and AuthenticationFailed."""

_USAGE: Final = typer.BadParameter.__base__ or Exception
"""The base of Typer's errors about arguments and options, which older releases take from Click."""

_MISUSES: Final = (
    CommandError,
    _USAGE,
    errors.DuplicateMigrationError,
    errors.GraphError,
    errors.InvalidDatabaseError,
    errors.InvalidMigrationError,
    errors.InvalidOptionError,
    errors.InvalidPrefixError,
    errors.MissingDatabaseError,
    errors.PrimaryRequiredError,
    errors.ServerUnsupportedError,
    errors.UnknownMigrationError,
)
_PLACES: Final = ("quaestor: in migration ", "quaestor: while rolling back migration ")
"""How the note of an error begins that a migration raised."""

err: Console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=not sys.stderr.isatty())


@contextmanager
def report_errors(clean: Clean, *, failed: int = FAILED, trace: bool = False, source: str = "--uri") -> Iterator[None]:
    """Report what a command raises, and exit.

    `failed` is the exit code of an error that is no misuse and not temporary; `source` is where the URI was set.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        _print_cause(error, clean)
        print_error("Interrupted.")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None
    except BaseException as error:
        # A command's own exit. One that a migration raised is an error, and has a note.
        is_own = isinstance(error, typer.Exit | SystemExit) and not hasattr(error, "__notes__")
        if is_own or (isinstance(error, SystemExit) and is_interruption(error)):
            _print_cause(error, clean)
            raise
        if trace and not put_message(clean(text := "".join(traceback.format_exception(error)).rstrip())):
            err.print(clean(text))
        print_error(clean(describe_error(error, source) + ("" if trace else _format_frames(error))))
        raise SystemExit(choose_code([error], failed)) from None


def choose_code(errors: Sequence[BaseException], failed: int = FAILED) -> int:
    """Choose the exit code for these errors: that of all of them, or `failed`."""
    codes = {_choose_code(error, failed) for error in errors}
    return codes.pop() if len(codes) == 1 else failed


def _choose_code(error: BaseException, failed: int) -> int:
    if isinstance(error, BaseExceptionGroup):
        return choose_code(error.exceptions, failed)
    if isinstance(error, errors.LeaseError | errors.OutageError | errors.DatabaseSkippedError):
        return TRY_LATER
    if _is_of_migration(error):
        return failed
    if isinstance(error, _MISUSES):
        return MISUSED
    if isinstance(error, ConnectionFailure) or (_is_of_dns(error) and "Timeout" in type(error.__cause__).__name__):
        return TRY_LATER
    is_refused = isinstance(error, OperationFailure) and error.code in _REFUSED
    return MISUSED if is_refused or isinstance(error, ConfigurationError) else failed


def _is_of_migration(error: BaseException) -> bool:
    return any(note.startswith(_PLACES) for note in getattr(error, "__notes__", ()))


def _is_of_dns(error: BaseException) -> bool:
    return isinstance(error, ConfigurationError) and type(error.__cause__).__module__.startswith("dns.")


def _format_frames(error: BaseException) -> str:
    """Write the user's own frames of the traceback of a migration; nothing of any other error."""
    if isinstance(error, BaseExceptionGroup):
        return "".join(map(_format_frames, error.exceptions))
    if not _is_of_migration(error):
        return ""
    # The same in every Python: without the columns, and the frames that comprehensions have before 3.12.
    kept = [frame for frame in list_frames(error) if not frame.name.endswith("comp>")]
    frames = [traceback.FrameSummary(frame.filename, frame.lineno, frame.name) for frame in kept]
    return "\n" + "".join(traceback.format_list(frames)).rstrip() if frames else ""


def _print_cause(interruption: BaseException, clean: Clean) -> None:
    """Report the failure of a migration that came to its end after the interruption."""
    if isinstance(interruption.__cause__, Exception):
        print_error(clean(describe_error(interruption.__cause__)))


def print_error(text: str, **place: str) -> None:
    """Print a message to stderr. `place` may have the database that it is about, for the log."""
    if not put_message(text, **place):
        err.print("\n".join(map(escape, f"quaestor: {text}".split("\n"))))


def describe_error(error: BaseException, source: str = "--uri") -> str:
    """Say what went wrong, where, and what to do. `source` is where the URI was set."""
    notes = [note.removeprefix("quaestor: ") for note in getattr(error, "__notes__", ())]
    return "\n  ".join([_describe(error, source), *notes])


def describe_as_json(error: BaseException, source: str) -> dict[str, object]:
    """Return the same as an object for JSON, with the error's class and code."""
    return read_error(error)._asdict() | {"message": describe_error(error, source)}


def _describe(error: BaseException, source: str) -> str:  # noqa: PLR0911 - it is one table
    if isinstance(error, LeaseTimeoutError):  # with the options and commands of the command line
        return (
            f"Waited {error.seconds:.1f} s for the lease, held by {error.holder}. Nothing has run here. Wait longer "
            "(--lease-timeout). If that process is gone, its lease expires; if it hangs, kill it, or release the lease "
            "(quaestor unlock)."
        )
    if isinstance(error, QuaestorError | CommandError):
        return re.sub("Pass a?sync_db=, the same database opened with", _BOTH, str(error))  # a URI gives both
    if isinstance(error, ServerSelectionTimeoutError):
        reason = read_error(error).message
        separator = " at " if re.match(r"\S+:\d+: ", reason) else ": "  # the driver's reason may have no address
        return f"Can't reach MongoDB{separator}{reason}. Start it, or correct the address ({source})."
    if _is_of_dns(error):
        return (
            f"Can't look up the servers of the mongodb+srv:// address in DNS: {str(error).rstrip('.')}. Correct its "
            f"host name ({source}), or check the name servers."
        )
    if isinstance(error, BaseExceptionGroup):
        return f"{error.message}: {'; '.join(describe_error(one, source) for one in error.exceptions)}"
    if isinstance(error, _USAGE) and not _is_of_migration(error):
        wrong: Any = error
        text = str(wrong.format_message()).rstrip(".")
        # Click doesn't say in which command an option has no value.
        command = "quaestor" if wrong.ctx is None else wrong.ctx.command_path
        return text + (" " if text.endswith("?") else ". ") + f"See `{command} --help`."
    if isinstance(error, OperationFailure) and error.code in _REFUSED:
        reason = read_error(error).message.partition(" to execute command")[0].rstrip(".…")
        return f"The server refused: {reason}. {_REFUSED[error.code]} ({source})."
    hint = " Return instead: a migration that calls sys.exit() has failed." if isinstance(error, SystemExit) else ""
    return f"{locate_error(error)}{hint}"
