"""The host of async runs: the running event loop, tasks beside it, and a thread for each `def` function."""

import asyncio
import contextvars
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Generic, TypeVar

from quaestor._core.store import Finished, Step, Workers
from quaestor._hosts.calls import (
    Cancellation,
    Outcome,
    catch,
    catch_async,
    get_result,
    shield,
    shield_async,
    wait_for_end,
)
from quaestor._hosts.threads import run_to_completion

K = TypeVar("K")
R = TypeVar("R")
S = TypeVar("S")

_numbers = itertools.count()


class LoopHost:
    """`quaestor._core.store.Host` for the running event loop. An `async def` function and its backfills use one too."""

    def __init__(self) -> None:
        self._workers: _TaskWorkers[Any] | None = None
        self._stop: asyncio.Future[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, step: Step[R], *, is_async: bool, interruptible: bool = True) -> R:
        """Run a step here, or in a thread of its own."""
        workers = self._workers if interruptible else None
        if workers is not None:
            workers.check()
        if not is_async:
            return await self._call_in_thread(step, workers)
        return await (step() if workers is None else workers.call(step))

    def check_interruption(self) -> None:
        """Do nothing: a task can be cancelled."""

    async def both(self, first: Step[R], second: Step[S]) -> tuple[R, S]:
        """Run the second step in a task, in an empty context."""
        task = asyncio.create_task(second(), context=contextvars.Context())
        try:
            result = await first()
            return result, await asyncio.shield(task)
        except BaseException:
            await wait_for_end(task)
            if not task.cancelled():
                task.exception()  # so Python doesn't warn that nobody has seen it
            raise

    async def shield(self, step: Step[R]) -> R:
        """Run a step in a task that nobody cancels."""
        return await shield_async(step)

    def start_heartbeat(self, beat: Callable[[Callable[[float], Awaitable[bool]]], Coroutine[Any, Any, None]]) -> None:
        """Run it in a task."""
        stop = self._stop = asyncio.get_running_loop().create_future()

        async def sleep(seconds: float) -> bool:
            await asyncio.wait([stop], timeout=seconds)
            return stop.done()

        async def run() -> None:
            # The end of an event loop cancels all its tasks, but the run itself stops this one.
            is_cancelled = True
            while is_cancelled and not stop.done():
                is_cancelled = False
                try:
                    await beat(sleep)
                except asyncio.CancelledError:
                    is_cancelled = True

        # In an empty context: deadlines and sessions of the caller don't apply to the renewals.
        self._heartbeat = asyncio.create_task(run(), name="quaestor-lease", context=contextvars.Context())

    async def stop_heartbeat(self) -> None:
        """End the task. A renewal in progress is waited for."""
        self.close()
        if self._heartbeat is not None:
            await wait_for_end(self._heartbeat)

    def lock(self) -> AbstractAsyncContextManager[object]:
        return asyncio.Lock()

    async def supervise(self, supervisor: Callable[[Workers[K]], Coroutine[Any, Any, None]]) -> None:
        """Run the supervisor in a task that nobody cancels, and each worker in another."""
        self._workers = workers = _TaskWorkers[K]()
        await _run_shielded(supervisor(workers), workers)

    async def supervise_runs(self, supervisor: Callable[[Workers[K]], Coroutine[Any, Any, None]]) -> None:
        """Do the same for workers that are whole runs: an interruption cancels them."""
        workers = _TaskWorkers[K](cancels_all=True)
        await _run_shielded(supervisor(workers), workers)

    def close(self) -> None:
        """Let the heartbeat end, without waiting for it."""
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(None)

    async def _call_in_thread(self, step: Step[R], workers: "_TaskWorkers[Any] | None") -> R:
        """Run a step in a thread of its own. A cancellation waits for it, but ends backfills after their batch."""
        cancellation = Cancellation()

        def run() -> Outcome[R]:
            with cancellation.scope():
                return catch(lambda: run_to_completion(step()))

        # A thread of its own: the application's worker threads may all be busy. And a future, not a task, because the
        # end of an event loop cancels all its tasks, and nobody would wait for the thread.
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quaestor")
        try:
            thread = executor.submit(contextvars.copy_context().run, run)
            future = asyncio.wrap_future(thread)
            try:
                if workers is None:
                    await asyncio.shield(future)
                else:
                    await workers.watch(future, cancellation)
            except asyncio.CancelledError as cancelled:
                cancellation.cancel(cancelled)
                await wait_for_end(future)
                if workers is None:
                    raise cancelled from thread.result()[1]
                # The end of the event loop cancels workers too. What their function returned counts all the same.
            finally:
                shield(partial(wait, [thread]))  # it still runs if Ctrl-C has interrupted the event loop itself
        finally:
            executor.shutdown()
        return get_result(thread.result())


class _TaskWorkers(Generic[K]):
    """Workers in tasks.

    Args:
        cancels_all: Whether an interruption cancels the workers themselves; otherwise only the functions they call.
    """

    def __init__(self, *, cancels_all: bool = False) -> None:
        self._cancels_all = cancels_all
        self._finished: asyncio.PriorityQueue[tuple[bool, int, Finished[K] | None]] = asyncio.PriorityQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: dict[asyncio.Future[Any], Callable[[], object]] = {}
        self._is_interrupted = False

    def start(self, key: K, step: Step[None]) -> None:
        task = asyncio.create_task(self._run(key, step))
        self._tasks.add(task)
        if self._cancels_all:
            self._ends[task] = task.cancel
        task.add_done_callback(partial(self._forget, key))

    async def next_finished(self) -> Finished[K] | None:
        try:
            return (await self._finished.get())[2]
        except asyncio.CancelledError:  # the end of an event loop cancels all its tasks
            self._is_interrupted = True
            return None

    async def wait_for_all(self) -> None:
        """Wait for all tasks to end."""
        for task in list(self._tasks):
            await wait_for_end(task)

    def interrupt(self) -> None:
        """Tell the supervisor, and cancel what can be cancelled."""
        self._is_interrupted = True
        self._queue(None)
        for end in list(self._ends.values()):
            end()

    def check(self) -> None:
        """End a worker that is about to call a function, if the run is interrupted."""
        if self._is_interrupted:
            raise asyncio.CancelledError

    async def call(self, step: Step[R]) -> R:
        """Run a function's step in a task that an interruption cancels. Its worker isn't cancelled."""
        task = asyncio.create_task(catch_async(step))
        self._ends[task] = task.cancel
        try:
            await wait_for_end(task)
        finally:
            del self._ends[task]
        if task.cancelled():
            raise asyncio.CancelledError
        return get_result(task.result())

    async def watch(self, future: asyncio.Future[Any], cancellation: Cancellation) -> None:
        """Wait for a function in a thread, and ask it to end early on an interruption."""
        self._ends[future] = partial(cancellation.cancel, asyncio.CancelledError())
        try:
            await asyncio.shield(future)
        finally:
            del self._ends[future]

    async def _run(self, key: K, step: Step[None]) -> None:
        error: BaseException | None = None
        try:
            await step()
        except BaseException as raised:  # noqa: BLE001 - the supervisor decides what to do about it
            error = raised
        self._queue(Finished(key, error))

    def _forget(self, key: K, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ends.pop(task, None)
        if task.cancelled():  # before it started
            self._queue(Finished(key, asyncio.CancelledError()))

    def _queue(self, finished: Finished[K] | None) -> None:
        # In the order in which workers end; but an interruption goes first, so that nothing starts after it.
        self._finished.put_nowait((finished is not None, next(_numbers), finished))


async def _run_shielded(supervisor: Coroutine[Any, Any, None], workers: _TaskWorkers[K]) -> None:
    """Run a supervisor to its end, whatever interrupts the caller."""
    task = asyncio.create_task(supervisor)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            workers.interrupt()
            await wait_for_end(task)
        raise
    finally:
        await workers.wait_for_all()
