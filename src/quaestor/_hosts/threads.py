"""The host of sync runs: plain calls, threads beside them, and an event loop for `async def` functions."""

import contextlib
import contextvars
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager
from functools import partial
from queue import PriorityQueue
from typing import Any, Generic, TypeVar

from quaestor._core.store import Finished, Step, Workers
from quaestor._hosts import calls
from quaestor._hosts.calls import Cancellation, run_in_shielded_thread, shield
from quaestor._hosts.portal import Portal

K = TypeVar("K")
R = TypeVar("R")
S = TypeVar("S")

_numbers = itertools.count()


def run_to_completion(coroutine: Coroutine[Any, Any, R]) -> R:
    """Drive a coroutine that never suspends, without an event loop. The idea is gel-python's (its blocking client)."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    except RuntimeError as error:
        stop = calls.find_stop_iteration(error)
        if stop is None:
            raise
    else:
        coroutine.close()
        raise RuntimeError("A synchronous store must not suspend.")
    raise stop  # out here, so the RuntimeError doesn't become its context


class ThreadHost:
    """`quaestor._core.store.Host` for plain calls. It's also where a `def` function runs, with its backfills.

    Args:
        close_client: Called in the event loop of `async def` functions when it ends.
    """

    def __init__(self, close_client: Callable[[], Awaitable[None]] | None = None) -> None:
        self._close_client = close_client
        self._portal: Portal | None = None  # most runs have no `async def` functions
        self._opening = threading.Lock()  # concurrent functions may need it at the same time
        self._workers: _ThreadWorkers[Any] | None = None
        self._beside: ThreadPoolExecutor | None = None
        self._stop, self._stopped = threading.Event(), threading.Event()
        self._stopped.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep. In a function, an interruption of the run ends it."""
        calls.sleep(seconds)

    async def call(self, step: Step[R], *, is_async: bool, interruptible: bool = True) -> R:
        """Run a step here, or in the portal's event loop."""
        workers = self._workers if interruptible else None
        if interruptible:
            calls.check_cancellation()
        if workers is not None:
            workers.cancellation.check()
        with contextlib.nullcontext() if workers is None else workers.cancellation.scope():
            return self._get_portal().call(step) if is_async else await step()

    def check_interruption(self) -> None:
        calls.check_cancellation()

    async def both(self, first: Step[R], second: Step[S]) -> tuple[R, S]:
        """Run the second step in a thread and a context of its own."""
        if self._beside is None:
            self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quaestor")
        future = self._beside.submit(contextvars.Context().run, lambda: run_to_completion(second()))
        try:
            result = await first()
        finally:
            shield(partial(wait, [future]))
        return result, future.result()

    async def shield(self, step: Step[R]) -> R:
        """Repeat a step until no Ctrl-C interrupts it."""
        # In an empty context: deadlines and sessions of the caller don't apply.
        return shield(lambda: contextvars.Context().run(lambda: run_to_completion(step())))

    def start_heartbeat(self, beat: Callable[[Callable[[float], Awaitable[bool]]], Coroutine[Any, Any, None]]) -> None:
        """Run it in a thread."""

        async def sleep(seconds: float) -> bool:
            return self._stop.wait(seconds)

        def run() -> None:
            self._stopped.clear()  # not before the thread is there: Ctrl-C may prevent that, and who waits would hang
            try:
                run_to_completion(beat(sleep))
            finally:
                self._stopped.set()

        threading.Thread(target=contextvars.Context().run, args=(run,), name="quaestor-lease", daemon=True).start()

    async def stop_heartbeat(self) -> None:
        """End the thread. A renewal in progress is waited for."""
        self._stop.set()
        shield(self._stopped.wait)  # not thread.join: see `calls.run_in_shielded_thread`

    def lock(self) -> AbstractAsyncContextManager[object]:
        return _ThreadLock()

    async def supervise(self, supervisor: Callable[[Workers[K]], Coroutine[Any, Any, None]]) -> None:
        """Run the supervisor in a thread, which Ctrl-C doesn't interrupt, and each worker in another."""
        self._workers = workers = _ThreadWorkers[K]()
        run_in_shielded_thread(lambda: run_to_completion(supervisor(workers)), workers.interrupt)

    async def supervise_runs(self, supervisor: Callable[[Workers[K]], Coroutine[Any, Any, None]]) -> None:
        """Do the same for workers that are whole runs: an interruption ends them after the current migration."""
        workers = _ThreadWorkers[K](reaches_all=True)
        run_in_shielded_thread(lambda: run_to_completion(supervisor(workers)), workers.interrupt)

    def close(self) -> None:
        """End all threads. No function is running any more."""
        shield(self._close)

    def _close(self) -> None:
        self._stop.set()
        self._stopped.wait()
        if self._beside is not None:
            self._beside.shutdown()
        if self._portal is not None:
            self._portal.close()

    def _get_portal(self) -> Portal:
        with self._opening:
            if self._portal is None:
                self._portal = Portal(self._close_client)
            self._portal.start()
            return self._portal


class _ThreadLock:
    """A lock that never suspends the coroutine that acquires it, but blocks its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class _ThreadWorkers(Generic[K]):
    """Workers in threads.

    Args:
        reaches_all: Whether an interruption reaches everything a worker does; otherwise only the functions it calls.
    """

    def __init__(self, *, reaches_all: bool = False) -> None:
        self._reaches_all = reaches_all
        self._finished: PriorityQueue[tuple[bool, int, Finished[K] | None]] = PriorityQueue()
        self.cancellation = Cancellation()

    def start(self, key: K, step: Step[None]) -> None:
        run = partial(contextvars.copy_context().run, partial(self._run, key, step))
        try:
            threading.Thread(target=run, name="quaestor").start()
        except (RuntimeError, MemoryError) as error:  # no more threads
            self._queue(Finished(key, error))

    async def next_finished(self) -> Finished[K] | None:
        return self._finished.get()[2]

    def interrupt(self, error: BaseException) -> None:
        """Tell the supervisor first, so that nothing starts when a function ends early; then the functions."""
        self._queue(None)
        self.cancellation.cancel(error)

    def _run(self, key: K, step: Step[None]) -> None:
        error: BaseException | None = None
        try:
            with self.cancellation.scope() if self._reaches_all else contextlib.nullcontext():
                run_to_completion(step())
        except BaseException as raised:  # noqa: BLE001 - the supervisor decides what to do about it
            error = raised
        self._queue(Finished(key, error))

    def _queue(self, finished: Finished[K] | None) -> None:
        # In the order in which workers end; but an interruption goes first, so that nothing starts after it.
        self._finished.put((finished is not None, next(_numbers), finished))
