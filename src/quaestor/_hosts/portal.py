"""An event loop in a thread of its own, for calling `async def` functions from synchronous code."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from quaestor._hosts.calls import Cancellation, Outcome, catch_async, get_cancellation, get_result, shield

T = TypeVar("T")


class Portal:
    """The event loop. It serves all calls: a driver's client belongs to the loop in which it was first used.

    Args:
        close_client: Called in the loop when it ends, if given.
    """

    def __init__(self, close_client: Callable[[], Awaitable[None]] | None) -> None:
        self._close_client = close_client
        self._opened: Future[BlockingPortal] = Future()
        # anyio's start_blocking_portal() would wait forever when Ctrl-C meets it while the loop starts.
        self._thread = threading.Thread(target=self._serve, name="quaestor", daemon=True)

    def start(self) -> None:
        """Start the thread, if it isn't running. Not to be called by two threads at once."""
        if self._thread.ident is None:
            self._thread.start()

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call an `async def` function in the loop, and wait for its end."""
        cancellation = get_cancellation() or Cancellation()
        call = _Call(work, cancellation)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # a function may have ended the loop itself
                portal.call(call.cancel)  # the call was sent to the loop first, so it has started if it was sent

        def end() -> None:
            portal.call(call.cancel)
            call.wait()

        portal = self._opened.result()
        try:
            with cancellation.notify(cancel):
                outcome = portal.call(call.run)
        except BaseException:  # Ctrl-C, at any time
            shield(end)
            raise
        return get_result(outcome)

    def close(self) -> None:
        """End the loop. No function is running in it any more. May be called again after an interruption."""
        if self._thread.ident is None or self._opened.exception() is not None:
            return
        portal = self._opened.result()
        with contextlib.suppress(RuntimeError):  # it has ended, or a function has ended it
            portal.call(portal.stop)
        self._thread.join()

    def _serve(self) -> None:
        async def serve() -> None:
            async with BlockingPortal() as portal:
                self._opened.set_result(portal)
                await portal.sleep_until_stopped()
            if self._close_client is not None:
                await self._close_client()

        try:
            anyio.run(serve)
        except BaseException as error:  # noqa: BLE001 - the threads that wait for the loop get it
            if not self._opened.done():
                self._opened.set_exception(error)  # there can't be a loop: too many open files, say
            # Otherwise a function has ended the loop: the next call raises that it isn't running.


class _Call(Generic[T]):
    """A call of an `async def` function in the loop of a portal."""

    def __init__(self, work: Callable[[], Awaitable[T]], cancellation: Cancellation) -> None:
        self._work = work
        self._cancellation = cancellation
        self._task: asyncio.Task[Any] | None = None
        self._done = threading.Event()

    async def run(self) -> Outcome[T]:
        """Call it. What it raises is returned, because a SystemExit that is raised in a portal ends the portal."""
        self._task = asyncio.current_task()
        if self._cancellation.is_set():
            self.cancel()
        try:
            return await catch_async(self._work)
        finally:
            self._done.set()

    def cancel(self) -> None:
        """Cancel it, in the loop, if it has started."""
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> None:
        """Wait for its end, if it has started."""
        if self._task is not None:
            self._done.wait()
