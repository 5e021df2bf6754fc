"""A real pseudo-terminal with a child process in it, whose screen an emulator keeps.

As a program this file is that child: it shows the events that it is sent, as the command line would.
"""

import contextlib
import fcntl
import os
import pickle
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import pyte
import rich.console

from quaestor.cli.display import displayed
from quaestor.core.events import Event, MigrationFailed, MigrationStarted

PATIENCE = 30  # seconds until what is awaited counts as never coming


class Terminal:
    """The child's terminal, and the pipe by which it is told what to do."""

    def __init__(self, columns: int, lines: int, **environ: str) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=1000, ratio=1)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (lines, columns))
        orders, self._orders = os.pipe()
        unset = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_INTERACTIVE", "TTY_COMPATIBLE"}
        inherited = {key: value for key, value in os.environ.items() if key not in unset}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.terminal", str(orders)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            pass_fds=[orders],
            start_new_session=True,
            env=inherited | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | environ,
        )
        os.close(slave)
        os.close(orders)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self._master)
        with contextlib.suppress(OSError):
            os.close(self._orders)

    def tell(self, *orders: Any) -> None:
        """Have the child show events, print a str, or (a float) move its clock on by so many seconds."""
        for order in orders:
            os.write(self._orders, pickle.dumps(order))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def lines(self) -> list[str]:
        """What has scrolled off the screen, and what is on it, without empty lines."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns)) for line in self.screen.history.top
        ]
        return [line.rstrip() for line in (*above, *self.screen.display) if line.strip()]

    def shows(self, *texts: str, without: str | None = None) -> list[str]:
        """Wait until the screen shows all of these; returns its lines."""
        return self._until(
            lambda lines: (
                all(text in "\n".join(lines) for text in texts) and (without is None or without not in "\n".join(lines))
            )
        )

    def end(self) -> list[str]:
        """Tell the child that it was all, and wait for its end; returns all lines."""
        os.close(self._orders)
        self.ended()
        return self.lines()

    def ended(self) -> int:
        """Wait for the child's end; returns its code."""
        while self._read():
            pass
        return self.child.wait(PATIENCE)

    def _until(self, fits: Callable[[list[str]], bool]) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while not fits(lines := [line.rstrip() for line in self.screen.display]):
            assert time.monotonic() < deadline, "\n".join(lines)
            assert self._read(), "\n".join(lines)
        return lines

    def _read(self) -> bool:
        """Wait for what the child writes; False when it has ended."""
        assert select.select([self._master], [], [], PATIENCE)[0], "\n".join(self.screen.display)
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that nobody has the terminal open any more
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)


def _orders(descriptor: int) -> Iterator[Any]:
    with open(descriptor, "rb", buffering=0) as pipe, contextlib.suppress(EOFError):
        while True:
            yield pickle.load(pipe)


def _main(descriptor: int) -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C comes here
    modes = termios.tcgetattr(0)
    modes[3] |= termios.NOFLSH  # so that it does not throw away what is not yet on the screen
    termios.tcsetattr(0, termios.TCSANOW, modes)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    passed = 0.0
    rich.console.monotonic = lambda: passed  # what consoles that are made from now on take for the time
    running: Event | None = None
    with displayed(lambda text: text.replace("hunter2", "***")) as hook:
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
                hook(
                    MigrationFailed(
                        running.database, running.prefix, running.name, running.position, running.total, error
                    )
                )
            sys.exit(130)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
