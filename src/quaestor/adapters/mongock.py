"""Mongock and its successor Flamingock (Java): logs that only grow, `{changeId, state, timestamp}`.

The newest entry of a change says what it is; of several with one date, the later state in the table below.

- Mongock: entries with the state IGNORED (it was applied already) don't count, nor those of its own changes
  (`systemChange`) and of what runs before a change (`BEFORE_EXECUTION`). Version 3 had no `state`.
- Flamingock: each change has an entry STARTED first.

This follows their documentation and source; they aren't run in the tests.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from quaestor._core.imports import Adapter, Document, Entry, EntryState

_LONG_AGO = datetime.min  # noqa: DTZ901 - as the dates that are read
_STATES: Mapping[str, tuple[EntryState, str]] = {  # Flamingock's order
    "STARTED": ("unclear", "it was started, and never ended"),
    "EXECUTED": ("applied", ""),
    "APPLIED": ("applied", ""),
    "FAILED": ("unclear", "it has failed, and may be half done"),
    "EXECUTION_FAILED": ("unclear", "it has failed, and may be half done"),
    "ROLLED_BACK": ("not applied", "rolled back"),
    "ROLLBACK_FAILED": ("unclear", "its rollback has failed, and it may be half undone"),
    "MANUAL_MARKED_AS_EXECUTED": ("applied", ""),
    "MANUAL_MARKED_AS_APPLIED": ("applied", ""),
    "MANUAL_MARKED_AS_ROLLED_BACK": ("not applied", "marked as rolled back"),
}
_RANKS = {state: rank for rank, state in enumerate(_STATES)}


def _read_mongock(documents: Sequence[Document]) -> Iterator[Entry]:
    return _read([one for one in documents if one.get("state") != "IGNORED"])


def _read(documents: Sequence[Document]) -> Iterator[Entry]:
    newest: dict[str | None, Document] = {}
    for document in documents:
        is_own = document.get("systemChange") is True
        is_before = document.get("type") in ("BEFORE_EXECUTION", "MONGOCK_BEFORE")
        name = name if type(name := document.get("changeId")) is str else None
        if not (is_own or is_before) and (name not in newest or _rank(document) >= _rank(newest[name])):
            newest[name] = document
    for name, document in newest.items():
        state, reason = _STATES.get(_find_state(document), ("unclear", "its state isn't a known one"))
        yield Entry(name, state, reason, document.get("timestamp"))


def _find_state(document: Document) -> str:
    return str(document.get("state") or "EXECUTED")


def _rank(document: Document) -> tuple[datetime, int]:
    date = document.get("timestamp")
    return (date if isinstance(date, datetime) else _LONG_AGO), _RANKS.get(_find_state(document), len(_RANKS))


MONGOCK = Adapter("mongock", "mongockChangeLog", _read_mongock)
FLAMINGOCK = Adapter("flamingock", "flamingockAuditLog", _read)
