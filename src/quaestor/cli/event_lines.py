"""Events as lines: plain ones for people who read a log, JSON for programs."""

import contextlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

from quaestor._text import read_error
from quaestor.cli.redaction import FALLBACK, Clean, escape, format_message
from quaestor.events import Event, Hook, MigrationProgressed, RunFailed, level_of

_JSON_PROGRESS_INTERVAL: Final = timedelta(seconds=1)
_LEFT_OUT: Final = frozenset({"sessions"})  # of a lease: binary, and of no use outside


def _now() -> datetime:
    return datetime.now(UTC)


def write_plain_lines(file: TextIO, clean: Clean, now: Callable[[], datetime] = _now) -> Hook:
    """Make a hook that writes a line for each event that is logged: time (UTC), level, database/prefix, message."""

    def format_line(event: Event) -> str | None:
        level = level_of(event)
        if level == "DEBUG" or isinstance(event, RunFailed):  # whose error the command reports at its end
            return None
        place = escape(clean(f"{event.database}/{event.prefix}"))
        return f"{now().astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {level:7} {place} {format_message(event, clean)}"

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
                file.write(line.encode(encoding, FALLBACK).decode(encoding) + "\n")
                file.flush()

    return hook


def to_json(value: Any, clean: Clean) -> Any:  # noqa: PLR0911 - it is one table
    """Convert a value for JSON. What has no form there becomes its `repr`."""
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
            return to_json(read_error(value)._asdict(), clean)
        case Mapping():
            return {clean(str(key)): to_json(item, clean) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item, clean) for item in value]
        case _ if is_dataclass(value):
            names = [field.name for field in fields(value) if field.name not in _LEFT_OUT]
            return {name: to_json(getattr(value, name), clean) for name in names}
        case _:
            return clean(repr(value))
