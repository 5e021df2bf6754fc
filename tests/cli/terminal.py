"""A terminal that shows the events a test sends.

As a program this file is what runs in it: it shows the events that it is sent, as the command line would.
"""

import contextlib
import os
import pickle
import signal
import sys
import termios
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import rich.console

from quaestor.cli.display import show_events
from quaestor.cli.progress import RunProgress
from quaestor.events import Event, MigrationFailed, MigrationStarted, RunFailed
from tools.terminal import Terminal


class Display(Terminal):
    """A terminal that shows the events it reads from a pipe."""

    def __init__(self, columns: int, lines: int, **environ: str) -> None:
        orders, self._orders = os.pipe()
        command = [sys.executable, "-m", "tests.cli.terminal", str(orders)]
        super().__init__(command, columns, lines, environ=environ, pass_fds=[orders])
        os.close(orders)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        with contextlib.suppress(OSError):
            os.close(self._orders)

    def tell(self, *orders: Any) -> None:
        """Have the child show events, print a str, or (a float) move its clock on by so many seconds."""
        for order in orders:
            os.write(self._orders, pickle.dumps(order))

    def end(self) -> list[str]:
        """Tell the child that it was all, and wait for its end; returns all lines."""
        os.close(self._orders)
        self.ended()
        return self.lines()


def _orders(descriptor: int) -> Iterator[Any]:
    with open(descriptor, "rb", buffering=0) as pipe, contextlib.suppress(EOFError):
        while True:
            yield pickle.load(pipe)


def _main(descriptor: int) -> None:
    modes = termios.tcgetattr(0)
    modes[3] |= termios.NOFLSH  # so that it does not throw away what is not yet on the screen
    termios.tcsetattr(0, termios.TCSANOW, modes)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    passed = 0.0
    rich.console.monotonic = lambda: passed  # what consoles that are made from now on take for the time
    running: Event | None = None
    progress = RunProgress(lambda text: text.replace("hunter2", "***"), clock=lambda: passed)
    with show_events(progress) as hook:
        try:
            for order in _orders(descriptor):
                if isinstance(order, float):
                    passed += order
                elif isinstance(order, str):
                    print(order, end="")
                else:
                    running = order if isinstance(order, MigrationStarted) else running
                    hook(order)
        except KeyboardInterrupt as error:  # as a run does
            if running is not None:
                place = (running.name, running.position, running.count)
                hook(MigrationFailed(running.database, running.prefix, running.run, *place, error))
            hook(RunFailed("shop", "app", "r1", error))
            sys.exit(130)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
