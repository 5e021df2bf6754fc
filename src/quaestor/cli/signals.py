"""How a signal ends a command: its run is interrupted, so the lease is released."""

import asyncio
import inspect
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
    if threading.current_thread() is not threading.main_thread():  # no other thread can set handlers
        yield
        return
    before: dict[signal.Signals, Any] = {}
    with repeat_unhandled(handler) as handle:
        try:
            for number in (signal.SIGINT, *_TERMINATED):
                if signal.getsignal(number) is not signal.SIG_IGN:  # after `nohup`, say
                    before[number] = signal.signal(number, handle)
            yield
        finally:
            if received:
                _exit_soon(received)
            else:
                for number, earlier in before.items():
                    signal.signal(number, earlier)


@contextmanager
def repeat_unhandled(
    handler: Callable[[int, FrameType | None], None],
) -> Iterator[Callable[[int, FrameType | None], None]]:
    """Make a handler of signals to which a signal is sent again until it is called.

    Python calls it between two steps of the main thread. When a signal comes while that thread waits for the GIL, the
    next step is done first. If that is a call that waits for the network, say, only another signal interrupts it.
    """
    if not hasattr(signal, "pthread_kill"):  # on Windows no signal interrupts a call
        yield handler
        return
    unhandled, arriving = socket.socketpair()  # Python writes the number of a signal to it when the signal comes
    arriving.settimeout(0)
    main_thread, ended = threading.get_ident(), threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            unhandled.recv(4096, socket.MSG_DONTWAIT)
        handler(number, frame)

    def repeat() -> None:
        while unhandled.recv(1, socket.MSG_PEEK) and not ended.wait(_ECHO):
            with suppress(BlockingIOError):  # the usual case: it has been handled
                number = unhandled.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)[0]
                if signal.getsignal(number) is handle:
                    signal.pthread_kill(main_thread, number)
                else:  # a function has set a handler of its own
                    unhandled.recv(1)

    with unhandled, arriving:
        before = signal.set_wakeup_fd(arriving.fileno(), warn_on_full_buffer=False)
        # A signal to a process that a function forks isn't one to this process.
        os.register_at_fork(after_in_child=lambda: None if ended.is_set() else signal.set_wakeup_fd(-1))
        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield handle
        finally:
            ended.set()
            signal.set_wakeup_fd(before)
            arriving.shutdown(socket.SHUT_RDWR)  # which ends `recv`; `close` would not if a forked process has it too
            thread.join()


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
