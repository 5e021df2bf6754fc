"""Performing the flow that keeps the lease alive, beside the run: in a thread, or in a task."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable

from quaestor._core.effects import Effect, Flow, Sleep, Unknown
from quaestor._hosts.drive import drive, drive_async
from quaestor._hosts.shield import ended, insist


class _Stopped(Exception):  # noqa: N818 - it is no error
    """The keeper is to end; thrown into its flow where it sleeps."""


class ThreadKeeper:
    """Performs a flow in a thread of its own, until it is stopped.

    Args:
        flow: The flow (`leasing.keep`).
        perform: The table of the runner.
    """

    def __init__(self, flow: Flow[None], perform: Callable[[Effect], object]) -> None:
        self._flow = flow
        self._performed = perform
        self._stopped, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._keep, name="quaestor-lease", daemon=True).start()

    def stop(self) -> None:
        """End the thread; a renewal that is under way is waited for."""
        self._stopped.set()
        insist(self._ended.wait)  # not thread.join: see `interrupts.apart`

    def _keep(self) -> None:
        try:
            with contextlib.suppress(_Stopped):
                drive(self._flow, self._perform)
        finally:
            self._ended.set()

    def _perform(self, effect: Effect) -> object:
        if not isinstance(effect, Sleep):
            try:
                return self._performed(effect)
            except Exception as error:  # noqa: BLE001 - whatever it is, another renewal may succeed
                return Unknown(error)
        if self._stopped.wait(effect.longest):
            raise _Stopped
        return None


class TaskKeeper:
    """The same in a task of the running event loop."""

    def __init__(self, flow: Flow[None], perform: Callable[[Effect], Awaitable[object]]) -> None:
        self._flow = flow
        self._performed = perform
        self._stopped = asyncio.get_running_loop().create_future()
        # A context of its own: neither a deadline nor a session of the caller is for the renewals.
        self._task = asyncio.create_task(self._keep(), name="quaestor-lease", context=contextvars.Context())

    async def stop(self) -> None:
        """End the task; a renewal that is under way is waited for."""
        self.let_go()
        await ended(self._task)

    def let_go(self) -> None:
        """Have the task end, without waiting for it."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def _keep(self) -> None:
        with contextlib.suppress(_Stopped):
            await drive_async(self._flow, self._perform)

    async def _perform(self, effect: Effect) -> object:
        while True:
            try:
                if not isinstance(effect, Sleep):
                    return await self._performed(effect)
                await asyncio.wait([self._stopped], timeout=effect.longest)
                break
            except asyncio.CancelledError:
                continue  # the end of an event loop cancels all its tasks, but the run itself stops this one
            except Exception as error:  # noqa: BLE001 - as above
                return Unknown(error)
        if self._stopped.done():
            raise _Stopped
        return None
