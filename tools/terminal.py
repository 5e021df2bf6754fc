"""A real pseudo-terminal with a process in it, whose screen an emulator keeps: to see what a user would."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

PATIENCE = 60  # seconds until what is awaited counts as never coming

_UNSET = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_INTERACTIVE", "TTY_COMPATIBLE"}
"""The variables that programs would take for a terminal's properties, in place of the real ones."""


class Terminal:
    """A terminal, in which a command runs.

    Args:
        command: The command.
        columns: The width in cells.
        lines: The height in cells.
        folder: Where the command starts; None: here.
        environ: What its environment has beside that of this process.
        pass_fds: File descriptors that it keeps.
    """

    def __init__(
        self,
        command: Sequence[str],
        columns: int,
        lines: int,
        *,
        folder: Path | None = None,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=1000, ratio=1)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (lines, columns))
        inherited = {key: value for key, value in os.environ.items() if key not in _UNSET}
        self.child = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            pass_fds=pass_fds,
            cwd=folder,
            env=inherited | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | dict(environ or {}),
            preexec_fn=partial(_controlled, slave),  # noqa: PLW1509 - nothing else runs in this process by then
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.kill()
        self.child.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)

    def press(self, keys: str) -> None:
        """Send what a user types; the character 3 is Ctrl-C."""
        os.write(self._master, keys.encode())

    def lines(self) -> list[str]:
        """What has scrolled off the screen, and what is on it, without empty lines."""
        width = range(self.screen.columns)
        above = ["".join(line[column].data for column in width) for line in self.screen.history.top]
        return [line.rstrip() for line in (*above, *self.screen.display) if line.strip()]

    def shows(self, *texts: str, without: str | None = None) -> list[str]:
        """Wait until the screen shows all of these, and not that; returns its lines."""

        def fits(lines: list[str]) -> bool:
            screen = "\n".join(lines)
            return all(text in screen for text in texts) and (without is None or without not in screen)

        return self.until(fits)

    def until(self, fits: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the lines of the screen fit; returns them."""
        deadline = time.monotonic() + PATIENCE
        while not fits(lines := [line.rstrip() for line in self.screen.display]):
            if time.monotonic() > deadline or not self._read():
                raise TimeoutError("\n".join(lines))
        return lines

    def ended(self) -> int:
        """Wait for the command's end; returns its exit code."""
        while self._read():
            pass
        return self.child.wait(PATIENCE)

    def _read(self) -> bool:
        """Wait for what the command writes; False when it has ended."""
        if not select.select([self._master], [], [], PATIENCE)[0]:
            raise TimeoutError("\n".join(self.screen.display))
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that nobody has the terminal open any more
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)


def quaestor(*arguments: str) -> list[str]:
    """The command, of this Python."""
    return [sys.executable, "-m", "quaestor", *arguments]


def _controlled(slave: int) -> None:
    """Make the terminal that of the process, so that Ctrl-C comes to it, and isn't ignored (see a shell's `&`)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
