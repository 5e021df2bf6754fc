"""Texts of messages: times, counts, lists and errors (a driver's without values), and similar names."""

import contextlib
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from traceback import walk_tb
from typing import Any, Final, NamedTuple, cast

_LIST_LIMIT: Final = 20
_MINUTE: Final = 60
_HOUR: Final = 3600
_SLOW: Final = 10
_LONGEST: Final = 2000  # characters of an error's message

_DRIVERS: Final = {"bson", "gridfs", "mongomock", "mongomock_motor", "motor", "pymongo"}
_WITHOUT_VALUES: Final = {"ConnectionFailure", "ConfigurationError"}
"""Classes of drivers' errors that show addresses and options, and nothing of a document."""

_SAFE: Final = re.compile(
    r"""(?: (?:field|path|type|run)\ '[\w$.]+'           # a name and no value
        | 's\b | 't\b | 'utf-8'                        # $size's, can't
        | [^\W\d][\w$]*(?:[./-][\w$]+)* | \$\w*       # words, namespaces, operators
        | (?<![\w.])\d{1,2}(?![\w.])
        | :: | [ ,;.!?]
        )*""",
    re.VERBOSE,
)
_DUPLICATE_KEY: Final = 11000
_CODE_NAMES: Final = {
    2: "BadValue",
    9: "FailedToParse",
    14: "TypeMismatch",
    28: "PathNotViable",
    66: "ImmutableField",
    112: "WriteConflict",
    121: "DocumentValidationFailure",
    241: "ConversionFailure",
    _DUPLICATE_KEY: "DuplicateKey",
}
"""Server's error codes of single writes, which come without their names."""


def format_duration(seconds: float) -> str:
    """Format a duration: 0.03 s, 3.2 s, 2 min 5 s, 1 h 7 min."""
    if seconds < _MINUTE:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE // 1:.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"


def format_count(number: int, noun: str = "migration") -> str:
    """Format a number with its noun: 1 migration, 2,000 migrations."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_amount(done: int, total: int | None) -> str:
    """Format how much is done, and of how much, if known."""
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def format_rate(done: int, total: int | None, rate: float) -> str:
    """Format the rate per second, and the time left at this rate, if known."""
    text = f"{rate:,.1f}/s" if rate < _SLOW else f"{rate:,.0f}/s"
    if total is None or total <= done or rate <= 0:
        return text
    left = ceil((total - done) / rate)  # an estimate: tenths of a second would be too precise
    return f"{text}, {f'{left} s' if left < _MINUTE else format_duration(left)} left"


def format_list(values: Sequence[object]) -> str:
    """Format the values after a colon, at most 20 of them; "" if there are none."""
    if not values:
        return ""
    more = f" and {len(values) - _LIST_LIMIT:,} more" if len(values) > _LIST_LIMIT else ""
    return ": " + ", ".join(str(value) for value in values[:_LIST_LIMIT]) + more


def find_similar(name: str, names: Iterable[str]) -> str | None:
    """Find the most similar name; None if none is similar."""
    import difflib  # late: only a mistake needs it

    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def find_misspelled(name: str, names: Iterable[str]) -> str | None:
    """Find the only name of which this may be a misspelling; None if there is none.

    Names that differ only in numbers or hexadecimal ids, or are similar to several others, belong to tenants.
    """
    import difflib  # late, likewise

    def without_ids(text: str) -> str:
        return re.sub("[0-9a-f]*[0-9][0-9a-f]*", "", text)

    others = [one for one in names if abs(len(one) - len(name)) <= 1 and without_ids(one) != without_ids(name)]
    similar = difflib.get_close_matches(name, others, n=2, cutoff=0.75)
    return similar[0] if len(similar) == 1 else None


class ErrorFacts(NamedTuple):
    """The parts of an error that are shown: of a driver's error, no document and no value of one."""

    type: str
    message: str
    code: int | None = None
    """The server's; of a bulk write, that of its first error."""
    code_name: str | None = None
    write_errors: int | None = None
    """The number of errors in a bulk write."""

    def __str__(self) -> str:
        code = "" if self.code is None else f" {self.code}"
        return self.type + code + (f" ({self.code_name})" if self.code_name else "")


def format_error(error: BaseException) -> str:
    """Format the class of an error, its code and its message."""
    facts = read_error(error)
    return f"{facts}: {facts.message}" if facts.message else str(facts)


def read_error(error: BaseException) -> ErrorFacts:
    """Read the parts of an error that are shown. A private class of a driver is shown as its public base."""
    classes = [cls.__name__ for cls in type(error).__mro__]
    name = next(cls for cls in classes if not cls.startswith("_"))
    message = message_of(error)
    if not _is_of_driver(error):
        return ErrorFacts(name, message if len(message) <= _LONGEST else message[:_LONGEST] + "…")
    details = getattr(error, "details", None)
    found: Mapping[str, Any] = details if isinstance(details, Mapping) else {}
    if isinstance(cause := found.get("error"), Exception):  # of `client.bulk_write`
        return read_error(cause)
    if failed := [*found.get("writeErrors", ()), *found.get("writeConcernErrors", ())]:  # of a bulk write
        first = failed[0]
        facts = _read_reply(name, str(first.get("errmsg", "")), first.get("code"), first.get("codeName"))
        if number := len(found.get("writeErrors", ())):
            text = f"{format_count(number, 'write error')}{', the first' if number > 1 else ''}: {facts.message}"
            facts = facts._replace(message=text, write_errors=number)
        return facts
    message = re.sub(r" \(configured timeouts: .*?\)", "", message)  # the user hasn't configured these
    message = re.split(", full error: |, Topology Description: ", message)[0]
    if not _WITHOUT_VALUES.isdisjoint(classes) and name != "InvalidURI":
        return ErrorFacts(name, message.partition(", Timeout: ")[0])  # what follows describes the whole topology
    return _read_reply(name, message, getattr(error, "code", None), found.get("codeName"))


def _read_reply(name: str, message: str, code: int | None, code_name: str | None) -> ErrorFacts:
    if code == _DUPLICATE_KEY and " dup key: " in message:  # the values come last, after collection and index
        message = message.partition(" dup key: ")[0]
        message = message[max(0, message.find("E11000")) :]
    else:
        message = cut_values(message)
    if code_name is None or code_name.startswith("Location"):  # followed by the code
        code_name = None if code is None else _CODE_NAMES.get(code)
    return ErrorFacts(name, message, code, code_name)


def cut_values(message: str) -> str:
    """Cut the message of a driver or a server where a value may begin.

    A value has quotes or braces around it, which may be in it as well, or follows a colon: what comes later is unsafe.
    """
    if unknown := re.fullmatch(r"(?s)(?:Invalid document: )?cannot encode object: .*, of type: (\S+ \S+)", message):
        return f"cannot encode an object of type {unknown[1]}"  # of Python, so nothing comes later
    safe = cast("re.Match[str]", _SAFE.match(message))[0]
    return safe if safe == message else safe.rstrip(" ,;.") + "…"


def _is_of_driver(error: BaseException) -> bool:
    """Say whether a driver's code raised it, as a TypeError that shows a document, or its class is a driver's."""
    modules = [cls.__module__ for cls in type(error).__mro__]
    if trace := error.__traceback__:
        while trace.tb_next:
            trace = trace.tb_next
        modules.append(trace.tb_frame.f_globals.get("__name__", ""))
    return any(module.partition(".")[0] in _DRIVERS for module in modules)


def format_traceback(error: BaseException) -> str:
    """Format the traceback of an error and of its causes, with messages by `format_error`."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is one for one in chain):
        chain.insert(0, cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join("".join(traceback.format_tb(one.__traceback__)) + format_error(one) for one in chain)


def is_interruption(error: BaseException) -> bool:
    """Say whether an exception is an interruption, such as Ctrl-C or a cancellation, and not a failure of the function.

    A SystemExit is one if the handler of a signal raised it: `sys.exit()` in a migration is a failure.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_interruption, error.exceptions))
    return is_of_signal(error) if isinstance(error, SystemExit) else not isinstance(error, Exception)


def is_of_signal(error: BaseException) -> bool:
    """Say whether the handler of a signal raised it."""
    raised = [error] if error.__cause__ is None else [error, error.__cause__]  # concurrent functions get a copy
    for frame, _ in (entry for one in raised for entry in walk_tb(one.__traceback__)):
        # Python gives a handler the frame that the signal interrupted, which is also the one that calls it.
        values = [item for value in frame.f_locals.values() for item in (value if type(value) is tuple else (value,))]
        if any(value is frame.f_back for value in values if value is not None):
            return True
    return False


def add_note(error: BaseException, note: str) -> None:
    """Add a note, unless the exception refuses it, as a frozen dataclass does: the exception itself matters more."""
    with contextlib.suppress(Exception):
        error.add_note(f"quaestor: {note}")


def message_of(error: BaseException) -> str:
    """Return the message of an error; "" if its `__str__` raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the class of the error is shown in any case
        return ""
