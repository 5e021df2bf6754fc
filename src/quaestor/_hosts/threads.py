"""The host of sync runs: plain calls, threads beside them, and an event loop for `async def` functions."""

import contextvars
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from quaestor._core.store import Step, Supervisor
from quaestor._hosts import calls
from quaestor._hosts.calls import (
    Cancellation,
    current_cancellation,
    is_from_outside,
    run_in_shielded_thread,
    shield,
    start_thread,
    wait_until_done,
)
from quaestor._hosts.portal import Portal

R = TypeVar("R")
S = TypeVar("S")


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
        raise RuntimeError("A sync store must not suspend.")
    raise stop  # out here, so the RuntimeError doesn't become its context


class ThreadHost:
    """`quaestor._core.store.Host` for plain calls, and for each `def` function with its backfills.

    The event loop of `async def` functions calls `close_client` when it ends.
    """

    is_from_outside = staticmethod(is_from_outside)

    def __init__(self, close_client: Callable[[], Awaitable[None]] | None = None) -> None:
        self._close_client = close_client
        self._portal: Portal | None = None  # most runs have no `async def` functions
        self._opening = threading.Lock()  # concurrent functions may need it at the same time
        self._workers: _ThreadWorkers | None = None
        self._stop, self._stopped = threading.Event(), threading.Event()
        self._stopped.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep. In a function, an interruption of the run ends it."""
        current_cancellation.get().sleep(seconds)

    async def call(self, step: Step[R], *, is_async: bool, interruptible: bool = True) -> R:
        """Run a step here, or in the portal's event loop."""
        cancellation = current_cancellation.get()
        if interruptible:
            cancellation.check()
            if self._workers is not None:
                cancellation = self._workers.cancellation
                cancellation.check()
        token = current_cancellation.set(cancellation)
        try:
            return self._get_portal().call(step) if is_async else await step()
        finally:
            current_cancellation.reset(token)

    def check_interruption(self) -> None:
        current_cancellation.get().check()

    async def both(self, first: Step[R], second: Step[S], stop: Callable[[], None]) -> tuple[R, S]:
        """Run the second step in a thread and a context of its own."""
        future: Future[S] = Future()
        longest: float | None = None
        with current_cancellation.get().notify(stop):
            try:
                start_thread(future, partial(contextvars.Context().run, lambda: run_to_completion(second())))
                result = await first()
                wait_until_done(future)
            except BaseException as error:
                if is_from_outside(error):
                    longest = calls.LONGEST_CLEANUP
                    stop()
                raise
            finally:
                if not future.cancel():  # it may not have started
                    shield(partial(wait, [future], longest))
        return result, future.result()

    async def shield(self, step: Step[None], seconds: float, repeats: float = math.inf) -> None:
        """Run a step in a thread: no signal meets it there, and the driver can't make it last longer.

        (`pymongo.timeout` doesn't limit how long a connection takes to open.)
        """
        # In an empty context: deadlines and sessions of the caller don't apply.
        run = partial(contextvars.Context().run, lambda: run_to_completion(step()))
        future = Future[None]()
        future.cancel()  # none is there yet
        ends_at, interruption = time.monotonic() + seconds, None
        cancellation, changed = current_cancellation.get(), threading.Event()
        times = cancellation.times
        while True:
            try:
                if future.cancelled():
                    future = Future()
                    future.add_done_callback(lambda _: changed.set())
                    start_thread(future, run, daemon=True)
                with cancellation.notify(changed.set):  # one of `run_many`: no signal meets its thread
                    is_late = cancellation.times == times and not changed.wait(max(ends_at - time.monotonic(), 0))
                changed.clear()
                if is_late or future.done():
                    break
                if cancellation.times > times:  # otherwise it is the interruption that led here, still on its way
                    times = cancellation.times
                    cancellation.check()
            except BaseException as error:  # noqa: BLE001 - whatever the handler of a signal raises
                if not is_from_outside(error) and future.cancel():  # there are no more threads
                    shield(run, repeats)
                    return
                interruption = error
                if not repeats:  # a thread that is about to start still does the step
                    break
                repeats -= 1
                future.cancel()  # unless a thread has it: otherwise another one gets it
        if interruption is not None:
            raise interruption
        if future.done():
            future.result()

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
        return calls.BlockingContext(threading.Lock())

    async def supervise(self, supervisor: Supervisor, stop: Callable[[], None], *, reaches_all: bool = False) -> None:
        """Run the supervisor in a thread, which Ctrl-C doesn't interrupt, and each worker in another."""
        self._workers = workers = _ThreadWorkers(stop)
        around = current_cancellation.get()

        def run() -> None:
            if reaches_all:  # the workers are started in a copy of this context
                current_cancellation.set(workers.cancellation)
            run_to_completion(supervisor(workers))

        with around.notify(lambda: workers.interrupt(around.error)):
            run_in_shielded_thread(run, workers.interrupt)

    def close(self) -> None:
        """End all threads. No function is running any more."""
        shield(self._close)

    def _close(self) -> None:
        self._stop.set()  # a second signal may have ended the wait for the heartbeat
        if self._portal is not None:
            self._portal.close()

    def _get_portal(self) -> Portal:
        with self._opening:
            if self._portal is None:
                self._portal = Portal(self._close_client)
            self._portal.start()
            return self._portal


class _ThreadWorkers:
    """Workers in threads."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._finished: SimpleQueue[BaseException | None] = SimpleQueue()
        self.cancellation = Cancellation()

    def start(self, step: Step[None]) -> None:
        run = partial(contextvars.copy_context().run, partial(self._run, step))
        try:
            threading.Thread(target=run, name="quaestor").start()
        except (RuntimeError, MemoryError) as error:  # no more threads
            self._finished.put(error)

    async def next_finished(self) -> BaseException | None:
        return self._finished.get()

    def interrupt(self, error: BaseException) -> None:
        """Let nothing start when a function ends early, then ask the functions to."""
        self._stop()
        self.cancellation.cancel(error)

    def _run(self, step: Step[None]) -> None:
        error: BaseException | None = None
        try:
            run_to_completion(step())
        except BaseException as raised:  # noqa: BLE001 - the supervisor decides what to do about it
            error = raised
        self._finished.put(error)
