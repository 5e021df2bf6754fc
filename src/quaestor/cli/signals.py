"""Signals end a command as Ctrl-C does, and stderr says which migrations it waits for."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final, NoReturn

from quaestor._text import format_list
from quaestor.cli.progress import RunProgress

_TERMINATED: Final = {signal.SIGTERM: 143} | ({signal.SIGHUP: 129} if hasattr(signal, "SIGHUP") else {})
"""The exit code after each signal, as of a shell."""

_GRACE: Final = 0.5
"""Seconds after which most functions that can be cancelled have ended."""


@contextmanager
def explain_interruption(progress: RunProgress) -> Iterator[None]:
    """Let signals end the command, and say on stderr which migrations it waits for.

    SIGTERM, as an orchestrator sends it, and SIGHUP end it as Ctrl-C does, so the lease is released.
    """
    signs: SimpleQueue[str] = SimpleQueue()  # the only object that a signal handler may safely use at any time

    def explain() -> None:
        if signs.get() == "ended":
            return
        with suppress(Empty):
            if signs.get(timeout=_GRACE) == "ended":
                return
        names = [
            f"{migration.name} in {database.name}" if progress.names else migration.name
            for database in list(progress.in_progress.values())
            for migration in list(database.running.values())
        ]
        if names:  # through the live display, if there is one
            sys.stderr.write(f"quaestor: Interrupted: waiting for the migrations in progress{format_list(names)}.\n")
            sys.stderr.flush()

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signs.put("interrupted")
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        sys.exit(_TERMINATED[signal.Signals(number)])

    thread = threading.Thread(target=explain, daemon=True)
    thread.start()
    try:
        for number in _TERMINATED:
            signal.signal(number, end)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise it is ignored
            signal.signal(signal.SIGINT, end)
        yield
    finally:
        signs.put("ended")
        thread.join()
