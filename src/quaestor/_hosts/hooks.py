"""Telling facts: the default hook, which logs them, and the guard around everybody's hooks."""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import assert_never

from quaestor._core.definition import colour_of
from quaestor.errors import InvalidOptionError
from quaestor.events import (
    DatabaseFinished,
    Event,
    Hook,
    LeaseAwaited,
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationProgressed,
    MigrationRetried,
    MigrationRolledBack,
    MigrationStarted,
    PassChanged,
    PassStarted,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    ReplicasAwaited,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
)

logger = logging.getLogger("quaestor")


def log_event(event: Event) -> None:  # noqa: C901, PLR0912, PLR0915 - it is one table
    """Log a fact to the logger `quaestor`: progress as INFO, oddities as WARNING, failures as ERROR.

    It is the default of `on_event`; call it from a hook of your own to keep the log beside it.
    """
    where = f"[{event.database}/{event.prefix}]"
    match event:
        case RunStarted(plan=()):
            pass  # the end of the run says it
        case RunStarted(plan=plan):
            logger.info("%s %d to apply: %s", where, len(plan), _listed(plan))
        case RecordsIgnored(ids=ids):
            logger.warning("%s Ignored %d record(s) whose name is not a str, _id: %s", where, len(ids), _listed(ids))
        case RecordsUnknown(names=names):
            logger.warning(
                "%s %d recorded migration(s) are not in the code, which may be an older release: %s",
                where,
                len(names),
                _listed(names),
            )
        case LeaseAwaited(holder=holder, seconds=seconds):
            logger.info("%s Waiting, for %.0f s by now, for the migrations of %s", where, seconds, holder)
        case SessionsNotEnded(error=error):
            logger.warning(
                "%s The last holder of the lease was killed, and the server refused to end its transactions; "
                "what they touched may be blocked for a minute. %s",
                where,
                _reason(error),
            )
        case LeaseNotReleased(seconds=seconds, error=error):
            logger.warning(
                "%s The lease could not be given back and ends by itself in %.0f s. %s", where, seconds, _reason(error)
            )
        case MigrationStarted(name=name, position=position, total=total, undo=undo):
            logger.info("%s %s %r (%d of %d)", where, "Undoing" if undo else "Applying", name, position, total)
        case MigrationRetried(name=name, position=position, total=total, attempt=attempt, error=error):
            why = "" if error is None else f": {_reason(error)}"
            logger.info("%s Attempt %d at %r (%d of %d)%s", where, attempt, name, position, total, why)
        case MigrationProgressed(name=name, done=done, whole=whole, rate=rate, due=due):
            pace = "" if rate is None else f", {rate:,.0f} a second"
            logger.log(logging.INFO if due else logging.DEBUG, "%s %r: %s%s", where, name, _amount(done, whole), pace)
        case PassStarted(name=name, collection=collection, done=0, whole=whole):
            about = "" if whole is None else f", about {whole:,} documents"
            logger.info("%s %r goes over %r%s", where, name, collection, about)
        case PassStarted(name=name, collection=collection, done=done, whole=whole):
            logger.info("%s %r goes on over %r, after %s documents", where, name, collection, _amount(done, whole))
        case PassChanged(name=name, collection=collection):
            logger.warning(
                "%s %r begins anew over %r: an earlier attempt was in a pass over something else. The filter or the "
                "collection has changed since; documents that are done may be seen again",
                where,
                name,
                collection,
            )
        case ReplicasAwaited(name=name, lag=lag, seconds=seconds):
            logger.info(
                "%s %r waits, for %.0f s by now, for replicas that are %.0f s behind", where, name, seconds, lag
            )
        case MigrationApplied(name=name, position=position, total=total, seconds=seconds):
            logger.info("%s Applied %r (%d of %d) in %.2f s", where, name, position, total, seconds)
        case MigrationRolledBack(name=name, position=position, total=total, seconds=seconds):
            logger.info("%s Undone %r (%d of %d) in %.2f s", where, name, position, total, seconds)
        case MigrationFailed(name=name, position=position, total=total, error=error):
            logger.error("%s Failed in %r (%d of %d): %s", where, name, position, total, _reason(error))
        case RunFinished(applied=()):
            logger.info("%s Nothing to do: it is all applied", where)
        case RunFinished(applied=applied):
            logger.info("%s Done: %d applied", where, len(applied))
        case RollbackStarted(plan=()):
            pass  # as above
        case RollbackStarted(plan=plan):
            logger.info("%s %d to undo: %s", where, len(plan), _listed(plan))
        case RollbackFinished(rolled_back=()):
            logger.info("%s Nothing to undo: none of these is applied", where)
        case RollbackFinished(rolled_back=names):
            logger.info("%s Done: %d undone", where, len(names))
        case RecordsMarked(names=names, applied=applied):
            state = "applied" if applied else "pending"
            logger.info("%s %d marked as %s, nothing was run: %s", where, len(names), state, _listed(names))
        case DatabaseFinished(error=error):
            if error is not None:  # else the end of its run has said it
                logger.error("%s Ended with an error. %s", where, _reason(error))
        case _:
            assert_never(event)


def guarded(hook: Hook | None) -> Callable[[Event], None]:
    """The hook (None: `log_event`) as a function that never fails: what a hook raises is logged.

    Raises:
        InvalidOptionError: It is not a plain function.
    """
    listener: Hook = log_event if hook is None else hook
    if not callable(listener) or colour_of(listener) == "async":
        raise InvalidOptionError(
            f"on_event must be a `def` function that takes the event (it is called between two steps and not awaited), "
            f"not {listener!r}."
        )

    # Functions that run side by side tell how far they are. (One that tells something from a hook is told at once.)
    telling = threading.RLock()

    def tell(event: Event) -> None:
        try:
            with telling:
                listener(event)
        except Exception:
            with contextlib.suppress(Exception):  # the handlers of a log can fail as well
                logger.exception("The event hook %r failed on a %s; the run goes on", listener, type(event).__name__)

    return tell


def _amount(done: int, whole: int | None) -> str:
    return f"{done:,}" if whole is None else f"{done:,} of {whole:,}"


def _reason(error: BaseException) -> str:
    return type(error).__name__ + (f": {error}" if str(error) else "")


def _listed(values: Sequence[object], limit: int = 20) -> str:
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(str(value) for value in values[:limit]) + more
