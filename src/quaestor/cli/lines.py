"""Events as lines: for people who read a log, and for programs."""

import contextlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

from quaestor.cli.marks import shown
from quaestor.cli.sentences import WARNINGS, Clean, message, sentence
from quaestor.events import (
    DatabaseFinished,
    Event,
    Hook,
    MigrationFailed,
    MigrationProgressed,
    RollbackStarted,
    RunStarted,
)

_PROGRESS_EVERY: Final = timedelta(seconds=30)
_JSON_PROGRESS_EVERY: Final = timedelta(seconds=1)
_LEFT_OUT: Final = frozenset({"sessions"})  # of a lease: binary, and nobody's business


def _now() -> datetime:
    return datetime.now(UTC)


def plain_lines(file: TextIO, clean: Clean, now: Callable[[], datetime] = _now) -> Hook:
    """A hook that writes a line for each event: the time (UTC), INFO, WARNING or ERROR, database/prefix, a sentence.

    Progress is told where nothing else was for 30 s.

    Args:
        file: Written and flushed; what its encoding lacks is written as Python would (a backslash and a number).
        clean: Takes secrets out of a text.
        now: The time (datetime, aware).
    """
    lock = threading.Lock()  # progress may come from another thread
    last = datetime.min.replace(tzinfo=UTC)

    def tell(event: Event) -> None:
        nonlocal last
        if isinstance(event, RunStarted | RollbackStarted) and not event.plan:
            return  # the end of it says that there is nothing to do
        if isinstance(event, DatabaseFinished) and event.error is None:
            return  # the end of its run has said so
        with lock:
            time = now()
            if isinstance(event, MigrationProgressed) and time - last < _PROGRESS_EVERY:
                return
            last = time
            place = shown(clean(f"{event.database}/{event.prefix}"))
            line = f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {_level(event):7} {place} {sentence(event, clean)}"
            _write(file, line)

    return tell


def json_lines(file: TextIO, clean: Clean, now: Callable[[], datetime] = _now) -> Hook:
    """A hook that writes a JSON object for each event in one line: its class as `event`, `time` (ISO 8601, UTC), and
    its fields.

    The fields are written as `jsonable` does. Progress is told once a second for each migration, and when it has come
    to its end.

    Args:
        file: Written and flushed.
        clean: Takes secrets out of a text.
        now: The time (datetime, aware).
    """
    lock = threading.Lock()
    last: dict[tuple[str, str], datetime] = {}  # of each migration: several may be under way at once

    def tell(event: Event) -> None:
        with lock:
            time = now()
            if isinstance(event, MigrationProgressed):
                told = last.get((event.database, event.name))
                if told is not None and time - told < _JSON_PROGRESS_EVERY and event.done != event.whole:
                    return
                last[event.database, event.name] = time
            _write(file, json_line(type(event).__name__, jsonable(event, clean), time))

    return tell


def json_line(name: str, fields: dict[str, Any], time: datetime) -> str:
    """What has happened at a time (datetime, aware), as a JSON object in one line (str)."""
    return json.dumps({"event": name, "time": time.astimezone(UTC).isoformat()} | fields)


def _write(file: TextIO, line: str) -> None:
    encoding = file.encoding or "utf-8"  # a file in memory has none
    with contextlib.suppress(BrokenPipeError):  # who read it has enough, and the migrations go on
        file.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        file.flush()


def _level(event: Event) -> str:
    if isinstance(event, MigrationFailed | DatabaseFinished):
        return "ERROR"
    return "WARNING" if isinstance(event, WARNINGS) else "INFO"


def jsonable(value: Any, clean: Clean) -> Any:  # noqa: PLR0911 - it is one table
    """A value as JSON has it: an exception as its type and message, a dataclass as an object of its fields, a time by
    ISO 8601, and what has no form there as Python's `repr` writes it.

    Args:
        value: An event, a status, or any value in one; the `_id` of a record may be anything.
        clean: Takes secrets out of a text.
    """
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str():
            return clean(value)
        case datetime():
            return value.isoformat()
        case BaseException():
            return {"type": type(value).__name__, "message": clean(message(value))}
        case Mapping():
            return {clean(str(key)): jsonable(item, clean) for key, item in value.items()}
        case list() | tuple():
            return [jsonable(item, clean) for item in value]
        case _ if is_dataclass(value):
            names = [field.name for field in fields(value) if field.name not in _LEFT_OUT]
            return {name: jsonable(getattr(value, name), clean) for name in names}
        case _:
            return clean(repr(value))
