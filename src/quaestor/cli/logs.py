"""The log of a command: what migrations and libraries write to it, on stderr."""

import logging
import sys
import time
from collections.abc import Callable

from quaestor.cli.marks import shown


class _Handler(logging.Handler):
    """Writes to what is stderr at the time: a live display takes its place, to show the lines above it."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._clean = clean
        formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        lines = self._clean(self.format(record)).split("\n")  # a traceback has several
        sys.stderr.write("\n".join(map(shown, lines)) + "\n")
        sys.stderr.flush()


def show_logs(clean: Callable[[str], str]) -> None:
    """Show warnings of all loggers, and what migrations write by `context.logger` from INFO on.

    Args:
        clean: Takes secrets out of a text.
    """
    logging.getLogger().addHandler(_Handler(clean))
    logging.getLogger("quaestor").setLevel(logging.INFO)
