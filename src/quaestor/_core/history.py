"""The history: what is written to it, and how it is read together with the records.

It is written after the fact, once, and never gets in the way: whatever goes wrong is an event.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from quaestor._core.plan import Records
from quaestor._core.store import HistoryFact, OutcomeUnknown, Store
from quaestor._text import message_of, read_error
from quaestor.errors import InvalidOptionError
from quaestor.events import HistoryNotWritten
from quaestor.status import HistoryEntry, RecordedError

TIMEOUT = 2.0
"""The time limit for writing what has just happened, in seconds."""

_LONGEST = 500  # characters of an error's message
_PRIVATE = {
    r"\s*(?:\{| dup key: ).*": "…",  # a document
    r"://\S*@": "://***@",
    r"\binput_value=.*": "input_value=…",  # of pydantic
    r"(?i)(\w*(?:password|passwd|pwd|token|secret|authorization)\w*['\"]?\s*[=:]\s*)"
    r"(?:'[^']*'?|\"[^\"]*\"?|(?:basic |bearer )?\S+)": r"\1***",
}
"""What isn't stored of a message, as patterns, and what is there instead."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Entry:
    """A fact that isn't known to be written."""

    fact: HistoryFact
    error: Exception | None = None
    is_sent: bool = False


class History:
    """The facts of one operation, on their way to the history."""

    def __init__(self, store: Store, is_from_outside: Callable[[BaseException], bool]) -> None:
        self._store = store
        self._is_from_outside = is_from_outside
        self._entries: list[_Entry] = []

    def note(self, fact: HistoryFact) -> None:
        """Note what has happened, to be written by the next `write`."""
        self._entries.append(_Entry(fact))

    async def write(self, seconds: float) -> None:
        """Write what was noted, within a time limit. Nothing is sent twice."""
        ahead = [entry for entry in self._entries if not entry.is_sent]
        if not ahead:
            return
        try:
            with self._store.limit(seconds):
                for entry in ahead:
                    entry.is_sent = True
                    await self._store.add_history(entry.fact)
                    self._entries.remove(entry)
        except OutcomeUnknown as unknown:
            _fail(ahead, unknown.error)
        except Exception as error:
            if self._is_from_outside(error):
                raise
            _fail(ahead, error)

    async def write_now(self) -> None:
        """Write what has just happened, and report if that fails."""
        await self.write(TIMEOUT)
        self.report()

    def report(self, reason: Exception | None = None) -> None:
        """Emit what couldn't be written, once. The reason is that of facts that weren't sent."""
        entries, self._entries = self._entries, []
        for entry in entries:
            error = entry.error or reason or TimeoutError("It took too long, or a second signal ended it.")
            self._store.emit(HistoryNotWritten(*self._store.where, entry.fact.what, entry.fact.name, error))


def _fail(entries: Iterable[_Entry], error: Exception) -> None:
    for entry in entries:
        entry.is_sent, entry.error = True, error


def describe_error(error: BaseException) -> RecordedError:
    """Describe an error in one line, without documents and passwords.

    `read_error` removes the values from a driver's error. Another error may quote that one, or show a document.
    """
    shown = read_error(error)
    message = shown.message
    for cause in _list_causes(error):
        if quoted := message_of(cause):
            message = message.replace(quoted, read_error(cause).message)
    line = next(iter(message.splitlines()), "")
    for pattern, instead in _PRIVATE.items():
        line = re.sub(pattern, instead, line)
    return RecordedError(shown.type, line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…")


def _list_causes(error: BaseException) -> list[BaseException]:
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and all(cause is not one for one in causes):
        causes.append(cause)
    return causes[1:]


def check_limit(limit: object) -> None:
    """Check how many entries to return."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidOptionError(f"limit must be a whole number, at least 1, or None, not {limit!r:.40}.")


def merge(
    records: Records, entries: Sequence[HistoryEntry], names: Collection[str] | None, limit: int | None
) -> list[HistoryEntry]:
    """Make one list of the records and the entries of these migrations, newest first."""
    # A mark writes a record and an entry: the entry alone is listed.
    listed = {(entry.name, entry.run) for entry in entries if entry.what in {"marked_applied", "imported"}}
    applied = [
        HistoryEntry(
            "applied",
            name,
            record.applied_at,
            duration_ms=record.duration_ms,
            run=record.run,
            host=record.host,
            user=record.user,
            release=record.release,
            quaestor=record.quaestor,
            record=record,
        )
        for name, record in records.newest.items()
        if (names is None or name in names) and (name, record.run) not in listed
    ]
    merged = sorted([*entries, *applied], key=lambda entry: entry.at or _LONG_AGO, reverse=True)
    return merged[:limit]
