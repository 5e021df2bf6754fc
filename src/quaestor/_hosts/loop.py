"""The host of async runs: the running event loop, tasks beside it, and a thread for each `def` function."""

import asyncio
import contextlib
import contextvars
import math
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

from quaestor._core.store import Step, Supervisor
from quaestor._hosts.calls import (
    LONGEST_CLEANUP,
    Cancellation,
    Outcome,
    catch,
    catch_async,
    current_cancellation,
    get_result,
    is_from_outside,
    shield,
    start_thread,
    wait_for_end,
)
from quaestor._hosts.threads import run_to_completion

R = TypeVar("R")
S = TypeVar("S")


class LoopHost:
    """`quaestor._core.store.Host` for the running event loop. An `async def` function and its backfills use one too."""

    is_from_outside = staticmethod(is_from_outside)

    def __init__(self) -> None:
        self._workers: _TaskWorkers | None = None
        self._stop: asyncio.Future[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, step: Step[R], *, is_async: bool, interruptible: bool = True) -> R:
        """Run a step here, or in a thread of its own."""
        workers = self._workers if interruptible else None
        if workers is not None:
            workers.cancellation.check()
        if not is_async:
            return await self._call_in_thread(step, workers)
        return await (step() if workers is None else workers.call(step))

    def check_interruption(self) -> None:
        """Do nothing: a task can be cancelled."""

    async def both(self, first: Step[R], second: Step[S], stop: Callable[[], None]) -> tuple[R, S]:
        """Run the second step in a task, in an empty context."""
        task = asyncio.create_task(second(), context=contextvars.Context())
        try:
            result = await first()
            return result, await asyncio.shield(task)
        except BaseException as error:
            if is_from_outside(error):
                stop()
                asyncio.get_running_loop().call_later(LONGEST_CLEANUP, task.cancel)
            await wait_for_end(task)
            if not task.cancelled():
                task.exception()  # so Python doesn't warn that nobody has seen it
            raise

    async def shield(self, step: Step[None], seconds: float, repeats: float = math.inf) -> None:
        """Run a step in a task, in an empty context: cancellations and deadlines of the caller don't apply."""
        interruption: BaseException | None = None
        while True:
            task = asyncio.create_task(_limit(step, seconds), context=contextvars.Context())
            interruption = await wait_for_end(task) or interruption
            # The end of the event loop (Ctrl-C twice, say) cancels all tasks; a signal's handler may raise in any.
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is None or not repeats or not is_from_outside(error):
                break
            if not task.cancelled():
                interruption = error
            repeats -= 1
        if interruption is not None:
            raise interruption
        task.result()

    def start_heartbeat(self, beat: Callable[[Callable[[float], Awaitable[bool]]], Coroutine[Any, Any, None]]) -> None:
        """Run it in a task."""
        stop = self._stop = asyncio.get_running_loop().create_future()

        async def sleep(seconds: float) -> bool:
            await asyncio.wait([stop], timeout=seconds)
            return stop.done()

        async def run() -> None:
            while not stop.done():
                # The end of an event loop cancels all its tasks, but the run itself stops this one.
                with contextlib.suppress(asyncio.CancelledError):
                    await beat(sleep)
                    return

        # In an empty context: deadlines and sessions of the caller don't apply to the renewals.
        self._heartbeat = asyncio.create_task(run(), name="quaestor-lease", context=contextvars.Context())

    async def stop_heartbeat(self) -> None:
        """End the task. A renewal in progress is waited for."""
        self.close()
        if self._heartbeat is not None:
            await asyncio.wait([self._heartbeat])

    def lock(self) -> AbstractAsyncContextManager[object]:
        return asyncio.Lock()

    async def supervise(self, supervisor: Supervisor, stop: Callable[[], None], *, reaches_all: bool = False) -> None:
        """Run the supervisor in a task that nobody cancels, and each worker in another."""
        self._workers = workers = _TaskWorkers(stop, reaches_all=reaches_all)
        task = asyncio.create_task(supervisor(workers))
        try:
            await asyncio.shield(task)
            workers.cancellation.check()  # somebody has cancelled the supervisor alone: not all has been started
        except asyncio.CancelledError as error:
            if not task.done():
                workers.interrupt(error)
                await wait_for_end(task)
            raise
        finally:
            for worker in list(workers.tasks):
                await wait_for_end(worker)

    def close(self) -> None:
        """Let the heartbeat end, without waiting for it."""
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(None)

    async def _call_in_thread(self, step: Step[R], workers: "_TaskWorkers | None") -> R:
        """Run a step in a thread of its own. A cancellation waits for it, but ends backfills after their batch."""
        cancellation = Cancellation() if workers is None else workers.cancellation

        def run() -> Outcome[R]:
            current_cancellation.set(cancellation)
            return catch(lambda: run_to_completion(step()))

        # A thread of its own: the application's worker threads may all be busy. And a future, not a task, because the
        # end of an event loop cancels all its tasks, and nobody would wait for the thread.
        thread: Future[Outcome[R]] = Future()
        start_thread(thread, partial(contextvars.copy_context().run, run))
        future = asyncio.wrap_future(thread)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as cancelled:
            cancellation.cancel(cancelled)
            await wait_for_end(future)
            if workers is None:
                raise cancelled from thread.result()[1]
            # The end of the event loop cancels workers too. What their function returned counts all the same.
        finally:
            shield(partial(wait, [thread]))  # it still runs if Ctrl-C has interrupted the event loop itself
        return get_result(thread.result())


async def _limit(step: Step[None], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(step(), seconds)


class _TaskWorkers:
    """Workers in tasks, and the functions that they call in others. The `def` functions are in threads."""

    def __init__(self, stop: Callable[[], None], *, reaches_all: bool) -> None:
        self._stop = stop
        self.cancellation = Cancellation()
        self._reaches_all = reaches_all
        self._finished: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self.tasks: set[asyncio.Task[Outcome[None]]] = set()
        self._calls: set[asyncio.Task[Outcome[Any]]] = set()

    def start(self, step: Step[None]) -> None:
        task = asyncio.create_task(catch_async(step))
        self.tasks.add(task)
        task.add_done_callback(self._end)

    async def next_finished(self) -> BaseException | None:
        while True:
            try:
                return await self._finished.get()
            except asyncio.CancelledError as error:  # the end of an event loop cancels all its tasks
                self._stop()
                self.cancellation.cancel(error)

    def interrupt(self, error: BaseException) -> None:
        """End what can be ended, and start nothing more."""
        self._stop()
        self.cancellation.cancel(error)
        for task in list(self.tasks if self._reaches_all else self._calls):
            task.cancel()

    async def call(self, step: Step[R]) -> R:
        """Run a function's step in a task that an interruption cancels. Its worker isn't cancelled."""
        task = asyncio.create_task(catch_async(step))
        self._calls.add(task)
        await wait_for_end(task)
        self._calls.discard(task)
        if task.cancelled():
            raise asyncio.CancelledError
        return get_result(task.result())

    def _end(self, task: asyncio.Task[Outcome[None]]) -> None:
        self.tasks.discard(task)
        # It may have been cancelled before it started.
        self._finished.put_nowait(asyncio.CancelledError() if task.cancelled() else task.result()[1])
