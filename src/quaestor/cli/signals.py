"""How a signal ends a command: its run is interrupted, so the lease is released."""

import asyncio
import inspect
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from quaestor._text import format_list
from quaestor.cli.logs import put_message
from quaestor.cli.progress import RunProgress

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as of a shell."""

_TERMINATED: Final = {signal.SIGTERM: 143} | ({signal.SIGHUP: 129} if hasattr(signal, "SIGHUP") else {})

_GRACE: Final = 0.5
"""Seconds after which most functions that can be cancelled have ended."""

_ECHO: Final = 0.1
"""Seconds within which a signal is the same one again: `timeout` sends it to the process and then to its group."""

_EXIT_TIMEOUT: Final = 1.5
"""Seconds from the end of an interrupted run to the end of the process, which threads of the driver may hold up."""

_RELEASING: Final = "releasing the lease, for 10 s at most. A second signal ends that, and the lease expires"


class Loop:
    """The event loop of a command whose client is async."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the loop, and await what it returns."""

        async def call() -> Any:
            self._task = asyncio.current_task()
            result = function()
            return await result if inspect.isawaitable(result) else result

        try:
            return self._runner.run(call())
        finally:
            self._task = None

    def cancel(self) -> bool:
        """Cancel the call in progress, from the handler of a signal. Returns False if there is none."""
        if self._task is None:
            return False
        self._runner.get_loop().call_soon_threadsafe(self._task.cancel)
        return True

    def close(self) -> None:
        """End the loop."""
        self._runner.close()


@contextmanager
def explain_interruption(progress: RunProgress, loop: Loop | None) -> Iterator[None]:
    """Let signals end the command, and say on stderr which migrations it waits for.

    SIGTERM, as an orchestrator sends it, and SIGHUP end it as Ctrl-C does, so the lease is released. In an event loop
    a signal cancels the call, as often as it comes: an exception out of nowhere would end the loop.
    """
    ended = threading.Event()
    signals: list[int] = []  # a signal handler may interrupt anything, so it only appends

    def explain() -> None:
        while not signals:
            if ended.wait(_GRACE):
                return
        if not ended.wait(_GRACE):
            names = progress.list_running()
            waiting = f"waiting for the migrations in progress{format_list(names)}" if names else _RELEASING
            _warn(f"Interrupted: {waiting}.")

    def end(number: int) -> None:
        signals.append(number)
        if loop is None or not loop.cancel():
            _end_by([number])

    thread = threading.Thread(target=explain, daemon=True)
    thread.start()
    try:
        with _handle_signals(skip_echoes(end), signals):
            yield
    except asyncio.CancelledError:
        _end_by(signals)
        raise
    finally:
        ended.set()
        thread.join()


@contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None], received: Sequence[int]) -> Iterator[None]:
    """Set the handler of signals. Once one is received, the process ends; otherwise restore the earlier handlers."""
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # no other thread can set handlers
            for number in (signal.SIGINT, *_TERMINATED):
                if signal.getsignal(number) is not signal.SIG_IGN:  # after `nohup`, say
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        if received:
            _exit_soon(received)
        else:
            for number, earlier in before.items():
                signal.signal(number, earlier)


def _warn(text: str) -> None:
    """Write a warning to stderr, through the live display if there is one."""
    if not put_message(text, "WARNING"):
        sys.stderr.write(f"quaestor: {text}\n")
        sys.stderr.flush()


def skip_echoes(handle: Callable[[int], None]) -> Callable[[int, FrameType | None], None]:
    """Make a handler of signals that handles one at a time."""
    last = -math.inf

    def handler(number: int, _: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= _ECHO:
            handle(number)

    return handler


def _end_by(signals: Sequence[int]) -> None:
    """Raise for the first of the signals, if there is one."""
    for number in signals:
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(_TERMINATED[signal.Signals(number)])


def _exit_soon(signals: Sequence[int]) -> None:
    """End the process after a signal, even if the driver's threads, or a caller of the command, would go on."""
    for number in (signal.SIGINT, *_TERMINATED):  # another signal would only leave a traceback
        signal.signal(number, signal.SIG_IGN)
    code = _TERMINATED.get(signal.Signals(signals[-1]), INTERRUPTED)

    def exit_now() -> None:  # also in a process that called the command in Python: the signal was for the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(_EXIT_TIMEOUT, exit_now)
    timer.daemon = True
    timer.start()
