"""How messages write times, counts, lists and errors, and what they suggest."""

import re
from collections.abc import Iterable, Sequence
from math import ceil
from traceback import walk_tb
from typing import Final

_LIST_LIMIT: Final = 20
_MINUTE: Final = 60
_HOUR: Final = 3600
_SLOW: Final = 10


def format_duration(seconds: float) -> str:
    """Write a time as people do: 0.03 s, 3.2 s, 2 min 5 s, 1 h 7 min."""
    if seconds < _MINUTE:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE // 1:.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"


def format_count(number: int, noun: str = "migration") -> str:
    """Write a number with its noun: 1 migration, 2,000 migrations."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_amount(done: int, total: int | None) -> str:
    """Write how much is done, of how much if that is known."""
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def format_rate(done: int, total: int | None, rate: float) -> str:
    """Write how many a second, and how long the rest takes at this rate if that is known."""
    text = f"{rate:,.1f}/s" if rate < _SLOW else f"{rate:,.0f}/s"
    if total is None or total <= done or rate <= 0:
        return text
    left = ceil((total - done) / rate)  # an estimate: tenths of a second would claim too much
    return f"{text}, {f'{left} s' if left < _MINUTE else format_duration(left)} left"


def format_list(values: Sequence[object]) -> str:
    """Write the values after a colon, the first 20 if there are more; nothing if there are none."""
    if not values:
        return ""
    more = f" and {len(values) - _LIST_LIMIT:,} more" if len(values) > _LIST_LIMIT else ""
    return ": " + ", ".join(str(value) for value in values[:_LIST_LIMIT]) + more


def find_similar(name: str, names: Iterable[str]) -> str | None:
    """Find the most similar name; None if none is similar."""
    import difflib  # late: only a mistake needs it

    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def format_error(error: BaseException) -> str:
    """Write the class of an error and its message. A private class of a driver is written as its public base."""
    message = message_of(error)
    message = re.sub(r" \(configured timeouts: .*?\)", "", message)  # of a driver: nobody has configured these
    name = next(cls.__name__ for cls in type(error).__mro__ if not cls.__name__.startswith("_"))
    return name + (f": {message}" if message else "")


def is_interruption(error: BaseException) -> bool:
    """Say whether an exception comes from outside, as Ctrl-C and cancellation do, and isn't the function's own failure.

    A SystemExit is one if the handler of a signal raised it: `sys.exit()` in a migration is a failure.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_interruption, error.exceptions))
    if not isinstance(error, SystemExit):
        return not isinstance(error, Exception)
    raised = [error] if error.__cause__ is None else [error, error.__cause__]  # concurrent functions get a copy
    for frame, _ in (entry for one in raised for entry in walk_tb(one.__traceback__)):
        # Python gives a handler the frame that the signal interrupted, which is also the one that calls it.
        values = [item for value in frame.f_locals.values() for item in (value if type(value) is tuple else (value,))]
        if any(value is frame.f_back for value in values if value is not None):
            return True
    return False


def message_of(error: BaseException) -> str:
    """Return the message of an error; nothing if its `__str__` raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the class of the error is shown in any case
        return ""
