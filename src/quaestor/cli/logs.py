"""The log on stderr: lines for people, or with `--log-format json` a JSON object for everything, one per line."""

import contextlib
import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from quaestor._text import format_traceback
from quaestor.cli.redaction import Clean, escape, format_message
from quaestor.events import Event, HistoryNotWritten, MigrationEvent, MigrationFailed, level_of

KEYS = ("time", "level", "logger", "event", "message", "database", "prefix", "migration", "run")
"""The keys of every object, null where there is nothing to say."""


class JsonStderr(io.TextIOBase):
    """A stderr on which every line is a JSON object with the same keys.

    Each event, log record, warning and error is one object; other output is one per line, of the logger `output`.

    Attributes:
        clean: Removes secrets; set as soon as the settings are known.
        find_place: Returns the database, prefix, run and migration that the calling function belongs to, if any.
        place: The prefix that the command works on, and the database if there is only one, as far as they are known.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._rests: dict[tuple[int, tuple[tuple[str, str], ...]], str] = {}  # begun lines, by thread and place
        self.find_place: Callable[[], Mapping[str, str]] = dict
        self.clean: Clean = str
        self.place: dict[str, str | None] = {}
        self._places: dict[
            str | None, dict[str, str | None]
        ] = {}  # by database: its run, and the migration that failed

    def write(self, text: str) -> int:
        """Write each line as an object."""
        key = threading.get_ident(), tuple(self.find_place().items())  # several migrations may print at once
        with self._lock:
            *lines, rest = f"{self._rests.pop(key, '')}{text}".split("\n")
            if rest:
                self._rests[key] = rest
            for line in filter(str.strip, lines):
                self.put("INFO", "output", line)
        return len(text)

    def end_lines(self, migration: Mapping[str, str | None] | None = None) -> None:
        """Write the lines that were begun but not ended, in this migration (its place) or everywhere."""
        with self._lock:
            for key in list(self._rests):
                place = dict(key[1])
                if migration is None or place == migration:
                    line = self._rests.pop(key)
                    if line.strip():
                        self.put("INFO", "output", line, **place)

    def put(self, level: str, logger: str, message: str, event: str | None = None, **place: str | None) -> None:
        """Write an object. `place` may have its database, prefix, migration and run."""
        now = datetime.now(UTC).isoformat()
        values: dict[str, str | None] = {"time": now, "level": level, "logger": logger, "event": event}
        last = self._places.get(place.get("database", self.place.get("database")), {})
        values |= {"message": self.clean(message), **self.place, **last, **self.find_place(), **place}
        with self._lock, contextlib.suppress(BrokenPipeError):  # the reader has enough, and the migrations go on
            self._file.write(json.dumps(dict.fromkeys(KEYS) | values) + "\n")
            self._file.flush()

    def put_event(self, event: Event) -> None:
        """Write an event, if it is one for the log."""
        migration = event.name if isinstance(event, MigrationEvent | HistoryNotWritten) else None
        place = {"database": event.database, "prefix": event.prefix, "run": event.run, "migration": migration}
        if migration is not None:
            self.end_lines(place)
        # What comes last is the error of the command.
        failed = (
            event.name if isinstance(event, MigrationFailed) else self._places.get(event.database, {}).get("migration")
        )
        self._places[event.database] = place | {"migration": failed}
        if (level := level_of(event)) != "DEBUG":
            self.put(level, "quaestor", format_message(event, self.clean), type(event).__name__, **place)


def put_message(text: str, level: str = "ERROR", **place: str) -> bool:
    """Write what the command itself says as JSON. Returns False if stderr is for people."""
    if isinstance(sys.stderr, JsonStderr):
        sys.stderr.put(level, "quaestor", text, **place)
        return True
    return False


@contextlib.contextmanager
def show_logs(clean: Clean = str, find_place: Callable[[], Mapping[str, str]] = dict) -> Iterator[None]:
    """Show the warnings of all loggers, and records of `context.logger` from INFO on, on stderr, during the context.

    `find_place` is as in `JsonStderr`.
    """
    root, logger = logging.getLogger(), logging.getLogger("quaestor")
    handlers, level, replaced = root.handlers, logger.level, dict[logging.Logger, tuple[list[logging.Handler], bool]]()
    handler = _Handler(clean, find_place)
    root.handlers = [*handlers, handler]
    logger.setLevel(logging.INFO)
    if isinstance(sys.stderr, JsonStderr):
        root.handlers = [handler]  # those that the application configured would write other lines
        sys.stderr.find_place = find_place
        replaced = _replace_handlers()
        logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        root.handlers = handlers
        logger.setLevel(level)
        for other, (others, propagate) in replaced.items():
            other.handlers, other.propagate = others, propagate


def _replace_handlers() -> dict[logging.Logger, tuple[list[logging.Handler], bool]]:
    """Let the root logger write the records that other loggers write to stdout or stderr themselves, as Django's do.

    Returns what these loggers had.
    """
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    replaced = {}
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.PlaceHolder):
            continue
        kept = [
            handler
            for handler in logger.handlers
            if not (isinstance(handler, logging.StreamHandler) and handler.stream in streams)
        ]
        if kept != logger.handlers:
            replaced[logger] = logger.handlers, logger.propagate
            logger.handlers, logger.propagate = kept, True
    return replaced


class _Handler(logging.Handler):
    """Writes a record, with the migration that it comes from."""

    def __init__(self, clean: Clean, find_place: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self.setFormatter(_Formatter())
        self._clean = clean
        self._find_place = find_place

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record).strip()
        except Exception:  # noqa: BLE001 - as all handlers do: its arguments may not fit
            self.handleError(record)
            return
        if isinstance(sys.stderr, JsonStderr):
            sys.stderr.put(record.levelname, record.name, message)
            return
        place = {} if hasattr(record, "migration") else self._find_place()  # context.logger names it
        where = "[{database}/{prefix}] In {migration!r}: ".format_map(place) if place else ""
        head = f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%SZ} {record.levelname:7} "
        lines = self._clean(f"{head}{where}{message}").split("\n")  # a traceback has several
        sys.stderr.write("".join(f"{escape(line)}\n" for line in lines))
        sys.stderr.flush()


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return format_traceback(ei[1])  # the driver's messages show documents
