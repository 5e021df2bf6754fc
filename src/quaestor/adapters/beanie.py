"""Beanie: a log that only grows, `{ts, name, is_current}`, of local times and file names.

Each step forward adds an entry for its file, and each step backward one for the file before it, or "root". The applied
files are those that sort up to the current one; without a current one, none is.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from quaestor._core.imports import Adapter, Document, Entry

_ROOT = "root"  # before the first file


@dataclass(slots=True)
class _Log:
    """What the log says."""

    current: list[str] = field(default_factory=list)  # one, or after an interruption none; sorted
    names: set[str] = field(default_factory=set)
    dates: dict[str, object] = field(default_factory=dict)  # of the last step forward to each file


def _read_log(documents: Sequence[Document]) -> _Log:
    log, position = _Log(), ""
    for document in documents:
        name = document.get("name")
        if type(name) is not str:
            continue
        file = "" if name == _ROOT else name
        if file:
            log.names.add(file)
        if file > position:
            log.dates[file] = document.get("ts")
        if document.get("is_current") is True:
            log.current = sorted({*log.current, file})
        position = file
    return log


def _read(documents: Sequence[Document]) -> Iterator[Entry]:
    log = _read_log(documents)
    if any(type(document.get("name")) is not str for document in documents):
        yield Entry(None, "unclear")
    first, last = (log.current[0], log.current[-1]) if log.current else ("", "")
    for name in log.names:
        if name > last:
            yield Entry(name, "not applied", "rolled back" if log.current else "Beanie has no current migration")
        elif name > first:
            yield Entry(name, "unclear", f"Beanie has several current migrations: {', '.join(log.current)}")
        elif name in log.dates:
            yield Entry(name, "applied", applied_at=log.dates[name])
        else:
            yield Entry(name, "unclear", "Beanie has stepped back to it, but its log doesn't say that it ever ran")


def _find(name: str, known: Collection[str]) -> list[str]:
    """Find the migration of the file's name, or of this without its suffix."""
    return next(([one] for one in (name, name.removesuffix(".py")) if one in known), [])


def _find_gaps(documents: Sequence[Document], known: Collection[str]) -> Iterator[Entry]:
    """Find the files that sort before the current one, but aren't in the log.

    They were merged late, so that Beanie never runs them, or their entries were removed. Files are recognised by as
    many digits at the beginning as the current one has.
    """
    log = _read_log(documents)
    last = log.current[-1] if log.current else ""
    for name in sorted(known):
        file = name if name.endswith(".py") else f"{name}.py"
        is_file = _count_digits(file) == _count_digits(last) > 0
        if is_file and file < last and file not in log.names:
            reason = f"it sorts before {last}, so Beanie counts it as applied, but its log doesn't have it"
            yield Entry(file, "unclear", reason)


def _count_digits(name: str) -> int:
    return len(name) - len(name.lstrip("0123456789"))


BEANIE = Adapter("beanie", "migrations_log", _read, _find, _find_gaps, is_local=True)
