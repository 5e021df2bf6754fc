"""The default event hook, which logs events, and the guard around every hook."""

import contextlib
import logging
import threading
from collections.abc import Callable

from quaestor._core.definition import is_async
from quaestor.errors import InvalidOptionError
from quaestor.events import (
    BackfillRestarted,
    DatabaseFinished,
    Event,
    Hook,
    LeaseNotReleased,
    MigrationFailed,
    MigrationProgressed,
    RecordsIgnored,
    RecordsUnknown,
    RollbackStarted,
    RunFailed,
    RunStarted,
    SessionsNotEnded,
)

logger = logging.getLogger("quaestor")


def log_event(event: Event) -> None:
    """Log the message of an event to the logger `quaestor`, after its `[database/prefix]`.

    It is the default of `on_event`. To keep the log, call it from your own hook.
    """
    logger.log(_level_of(event), "[%s/%s] %s", event.database, event.prefix, event)


def _level_of(event: Event) -> int:
    match event:
        case RunStarted(plan=()) | RollbackStarted(plan=()) | DatabaseFinished(error=None):
            return logging.DEBUG  # RunFinished or RollbackFinished says the same
        case MigrationProgressed(due=False):
            return logging.DEBUG
        case RecordsIgnored() | RecordsUnknown() | SessionsNotEnded() | LeaseNotReleased() | BackfillRestarted():
            return logging.WARNING
        case MigrationFailed() | RunFailed() | DatabaseFinished():
            return logging.ERROR
        case _:
            return logging.INFO


def guard(hook: Hook | None) -> Callable[[Event], None]:
    """Return the hook (`log_event` if None) as a function that never raises, but logs what the hook raises.

    Raises:
        InvalidOptionError: The hook isn't a plain function.
    """
    listener: Hook = log_event if hook is None else hook
    if not callable(listener) or is_async(listener):
        raise InvalidOptionError(
            "on_event must be a `def` function that takes the event (it is called between two steps and not awaited), "
            f"not {listener!r}."
        )

    # Concurrent migrations emit from several threads. Reentrant, because a hook may start a run of its own.
    lock = threading.RLock()

    def emit(event: Event) -> None:
        try:
            with lock:
                listener(event)
        except Exception:
            with contextlib.suppress(Exception):  # the handlers of a log can fail as well
                logger.exception("The event hook %r failed on a %s; the run goes on", listener, type(event).__name__)

    return emit
