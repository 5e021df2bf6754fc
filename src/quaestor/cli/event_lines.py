"""Events and log records as lines: plain ones for people who read a log, JSON for programs."""

import contextlib
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

from quaestor._text import message_of
from quaestor.cli.redaction import Clean, escape, format_message
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

WARNINGS: Final = (RecordsIgnored, RecordsUnknown, SessionsNotEnded, LeaseNotReleased, BackfillRestarted)
"""The events that somebody should look at though the run goes on."""

_PROGRESS_INTERVAL: Final = timedelta(seconds=30)
_JSON_PROGRESS_INTERVAL: Final = timedelta(seconds=1)
_LEFT_OUT: Final = frozenset({"sessions"})  # of a lease: binary, and of no use outside


def _now() -> datetime:
    return datetime.now(UTC)


def write_plain_lines(file: TextIO, clean: Clean, now: Callable[[], datetime] = _now) -> Hook:
    """Make a hook that writes a line for each event: the time (UTC), INFO, WARNING or ERROR, database/prefix, message.

    Progress is written after 30 s without another line.
    """
    last = datetime.min.replace(tzinfo=UTC)

    def format_line(event: Event) -> str | None:
        nonlocal last
        match event:
            case RunStarted(plan=()) | RollbackStarted(plan=()) | DatabaseFinished(error=None):
                return None  # RunFinished or RollbackFinished says the same
            case RunFailed():
                return None  # the command says the same at its end
            case MigrationProgressed() if now() - last < _PROGRESS_INTERVAL:
                return None
        last = now()
        place = escape(clean(f"{event.database}/{event.prefix}"))
        return f"{last.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {_level_of(event):7} {place} {format_message(event, clean)}"

    return _write_lines(file, format_line)


def write_json_lines(file: TextIO, clean: Clean, now: Callable[[], datetime] = _now) -> Hook:
    """Make a hook that writes each event as a JSON object in one line: its class as `event`, `time` (ISO 8601, UTC),
    and its fields as `to_json` makes them.

    Progress is written once a second for each migration, and at its end.
    """
    last: dict[tuple[str, str], datetime] = {}  # by migration: several may be in progress

    def format_line(event: Event) -> str | None:
        moment = now()
        if isinstance(event, MigrationProgressed):
            before = last.get((event.database, event.name))
            if before is not None and moment - before < _JSON_PROGRESS_INTERVAL and event.done != event.total:
                return None
            last[event.database, event.name] = moment
        return format_json_line(type(event).__name__, to_json(event, clean), moment)

    return _write_lines(file, format_line)


def format_json_line(name: str, values: dict[str, Any], moment: datetime) -> str:
    """Write an event as a JSON object in one line."""
    return json.dumps({"event": name, "time": moment.astimezone(UTC).isoformat()} | values)


def _write_lines(file: TextIO, format_line: Callable[[Event], str | None]) -> Hook:
    lock = threading.Lock()  # progress may come from another thread
    encoding = file.encoding or "utf-8"  # a file in memory has none

    def hook(event: Event) -> None:
        with lock, contextlib.suppress(BrokenPipeError):  # the reader has enough, and the migrations go on
            if (line := format_line(event)) is not None:
                file.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
                file.flush()

    return hook


def _level_of(event: Event) -> str:
    if isinstance(event, MigrationFailed | RunFailed | DatabaseFinished):
        return "ERROR"
    return "WARNING" if isinstance(event, WARNINGS) else "INFO"


def to_json(value: Any, clean: Clean) -> Any:  # noqa: PLR0911 - it is one table
    """Convert a value for JSON: an exception to its type and message, a dataclass to an object of its fields, a time to
    ISO 8601, and a value that has no JSON form to its `repr`.
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
            return {"type": type(value).__name__, "message": clean(message_of(value))}
        case Mapping():
            return {clean(str(key)): to_json(item, clean) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item, clean) for item in value]
        case _ if is_dataclass(value):
            names = [field.name for field in fields(value) if field.name not in _LEFT_OUT]
            return {name: to_json(getattr(value, name), clean) for name in names}
        case _:
            return clean(repr(value))


class _LogHandler(logging.Handler):
    """Writes to the current stderr: a live display replaces it, to show the lines above itself."""

    def __init__(self, clean: Clean) -> None:
        super().__init__()
        self._clean = clean
        formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        lines = self._clean(self.format(record)).split("\n")  # a traceback has several
        sys.stderr.write("\n".join(map(escape, lines)) + "\n")
        sys.stderr.flush()


def show_logs(clean: Clean) -> None:
    """Show the warnings of all loggers, and records of `context.logger` from INFO on, on stderr."""
    logging.getLogger().addHandler(_LogHandler(clean))
    logging.getLogger("quaestor").setLevel(logging.INFO)
