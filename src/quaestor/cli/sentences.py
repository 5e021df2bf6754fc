"""What an event says, in one sentence."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Final, TypeAlias, assert_never

from quaestor.cli.marks import shown
from quaestor.events import (
    DatabaseFinished,
    Event,
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

Clean: TypeAlias = Callable[[str], str]
"""Takes out of a text what must not be shown: the password of a URI."""

WARNINGS: Final = (RecordsIgnored, RecordsUnknown, SessionsNotEnded, LeaseNotReleased, PassChanged)
"""The events that somebody should look at though the run goes on."""

_LONGEST: Final = 2000
_MOST_LISTED: Final = 20
_MINUTE: Final = 60
_HOUR: Final = 3600
_SLOW: Final = 10


def sentence(event: Event, clean: Clean) -> str:
    """What happened, in one line of at most 2001 characters that are safe to print (str)."""
    text = shown(clean(_told(event, clean)))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def duration(seconds: float) -> str:
    """A time as people say it (str): 0.03 s, 3.2 s, 2 min 5 s, 1 h 7 min."""
    if seconds < _MINUTE:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE // 1:.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"


def counted(number: int, what: str = "migration") -> str:
    """So many migrations (str), or whatever it is."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def amount(done: int, whole: int | None) -> str:
    """How far a migration is (str), in whatever it counts."""
    return f"{done:,}" if whole is None else f"{done:,} of {whole:,}"


def speed(done: int, whole: int | None, rate: float) -> str:
    """How fast it goes, and how long it may still take (str)."""
    text = f"{rate:,.1f}/s" if rate < _SLOW else f"{rate:,.0f}/s"
    if whole is None or whole <= done or rate <= 0:
        return text
    return f"{text}, {duration(ceil((whole - done) / rate))} left"


def reason(error: BaseException, clean: Clean) -> str:
    """The class of an error and its message, in one line (str)."""
    text = " ".join(clean(message(error)).split())  # cleaned first: there may be blanks in what is to go
    return type(error).__name__ + (f": {text}" if text else "")


def message(error: BaseException) -> str:
    """What an error says (str); nothing, where saying it raises another."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its class is told in any case
        return ""


def _told(event: Event, clean: Clean) -> str:  # noqa: C901, PLR0911, PLR0912 - it is one table
    match event:
        case RunStarted(plan=plan):
            return f"{counted(len(plan))} to apply{listed(plan)}"
        case RollbackStarted(plan=plan):
            return f"{counted(len(plan))} to undo{listed(plan)}"
        case RecordsIgnored(ids=ids):
            return f"Left alone: {len(ids):,} of the records, whose name is missing or not a str; _id{listed(ids)}"
        case RecordsUnknown(names=names):
            return f"Recorded, but not in the code, which may be an older release{listed(names)}"
        case LeaseAwaited(holder=holder, seconds=seconds):
            return f"Waiting for {holder}; {duration(seconds)} so far"
        case SessionsNotEnded(error=error):
            return (
                "An instance was killed, and the server refused to end its transactions: what they touched may be "
                f"blocked for a minute. {reason(error, clean)}"
            )
        case LeaseNotReleased(seconds=seconds, error=error):
            return (
                "The lease could not be given back: other instances wait until it ends by itself, in "
                f"{duration(seconds)} at most. {reason(error, clean)}"
            )
        case MigrationStarted(undo=undo):
            return f"{'Undoing' if undo else 'Applying'} {_place(event)}"
        case MigrationRetried(attempt=attempt, error=error):
            return f"Attempt {attempt} at {_place(event)}" + ("" if error is None else f": {reason(error, clean)}")
        case MigrationProgressed(done=done, whole=whole, rate=rate):
            pace = "" if rate is None else f", {speed(done, whole, rate)}"
            return f"In {_place(event)}: {amount(done, whole)}{pace}"
        case PassStarted(collection=collection, done=0, whole=whole):
            about = "" if whole is None else f", about {whole:,} documents"
            return f"In {_place(event)}: going over '{collection}'{about}"
        case PassStarted(collection=collection, done=done, whole=whole):
            return f"In {_place(event)}: going on over '{collection}', after {amount(done, whole)} documents"
        case PassChanged(collection=collection):
            return (
                f"In {_place(event)}: beginning anew over '{collection}', for the earlier attempt was in a pass over "
                "something else. The filter or the collection has changed since; documents that are done may be seen "
                "again"
            )
        case ReplicasAwaited(lag=lag, seconds=seconds):
            return (
                f"In {_place(event)}: waiting for replicas that are {duration(lag)} behind; {duration(seconds)} so far"
            )
        case MigrationApplied(seconds=seconds):
            return f"Applied {_place(event)} in {duration(seconds)}"
        case MigrationRolledBack(seconds=seconds):
            return f"Undone {_place(event)} in {duration(seconds)}"
        case MigrationFailed(error=error, undo=undo):
            what = "Failed" if isinstance(error, Exception) else "Interrupted"
            doing = "undoing" if undo else "in"
            why = f": {reason(error, clean)}" if isinstance(error, Exception) else ""
            return f"{what} {doing} {_place(event)}{why}"
        case RunFinished(applied=applied):
            return f"Applied {counted(len(applied))}" if applied else "Nothing to do: all that was asked for is applied"
        case RollbackFinished(rolled_back=names):
            return f"Undone {counted(len(names))}" if names else "Nothing to do: nothing that was asked for is applied"
        case RecordsMarked(names=names, applied=applied):
            state = "applied" if applied else "pending"
            if not names:
                return f"Nothing to do: all that was named is {state}"
            return f"Marked {counted(len(names))} as {state}, without running anything{listed(names)}"
        case DatabaseFinished(error=error):
            return "Ended well" if error is None else f"Ended with an error: {reason(error, clean)}"
        case _:
            assert_never(event)


def _place(
    event: MigrationStarted
    | MigrationRetried
    | MigrationProgressed
    | PassStarted
    | PassChanged
    | ReplicasAwaited
    | MigrationApplied
    | MigrationRolledBack
    | MigrationFailed,
) -> str:
    return f"'{event.name}' ({event.position} of {event.total})"


def listed(values: Sequence[object]) -> str:
    """The values after a colon (str), the first of them if they are many; nothing, where there are none."""
    if not values:
        return ""
    more = f" and {len(values) - _MOST_LISTED:,} more" if len(values) > _MOST_LISTED else ""
    return ": " + ", ".join(str(value) for value in values[:_MOST_LISTED]) + more
