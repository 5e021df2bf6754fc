"""An event loop in a thread of its own, for calling `async def` functions from sync code."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from quaestor._hosts.calls import Outcome, catch_async, current_cancellation, get_result, shield, wait_until_done

T = TypeVar("T")


class Portal:
    """The event loop of all calls: a driver's client belongs to the loop in which it was first used."""

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
        portal = self._opened.result()
        cancellation = current_cancellation.get()
        tasks: list[Any] = []  # empty until the call has started
        ended = threading.Event()

        async def run() -> Outcome[T]:
            tasks.append(asyncio.current_task())
            if cancellation.is_set():
                cancel_task()
            try:
                return await catch_async(work)  # not raised: a SystemExit that is raised in a portal ends the portal
            finally:
                ended.set()

        def cancel_task() -> None:
            for task in tasks:
                task.cancel()

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # a function may have ended the loop itself
                portal.call(cancel_task)  # the call was sent to the loop first, so it has started if it was sent

        def end() -> None:
            cancel()
            if tasks:
                ended.wait()

        try:
            with cancellation.notify(cancel):
                future = portal.start_task_soon(run)
                wait_until_done(future)
                outcome = future.result()
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
