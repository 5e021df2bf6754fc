"""Interrupt a run from a function or a hook: by Ctrl-C where it is sync, by cancellation where it is async."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any


class Interruption:
    """Calls sync code that Ctrl-C ends with KeyboardInterrupt, even in a process that ignores the signal."""

    def __init__(self) -> None:
        self.is_raised = threading.Event()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call what `interrupt` is to interrupt."""

        def handle(number: int, frame: object) -> None:
            self.is_raised.set()
            raise KeyboardInterrupt

        self._thread = threading.get_ident()
        before = signal.signal(signal.SIGINT, handle)
        try:
            return function()
        finally:
            signal.signal(signal.SIGINT, before)

    def interrupt(self) -> None:
        """Send Ctrl-C, from any thread."""
        signal.pthread_kill(self._thread, signal.SIGINT)


class InterruptionAsync:
    """Awaits what cancellation ends with CancelledError."""

    async def call_async(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Await what `interrupt` is to interrupt."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(function())
        try:
            return await self._task
        except asyncio.CancelledError:
            assert self._task.cancelled()
            raise

    def interrupt(self) -> None:
        """Cancel it, from any thread."""
        self._loop.call_soon_threadsafe(self._task.cancel)


interruption, interruption_async = Interruption, InterruptionAsync

recorded_when_interrupted = ["a"]
"""What `run_many_sync` records in a database whose `def` function ends after the interruption."""
recorded_when_interrupted_async: list[str] = []
"""The same for `run_many`: a cancelled task records no more."""
