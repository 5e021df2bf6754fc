"""Steps that come to their end whatever interrupts them; only then does the interruption go its way. Steps in pairs."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import anyio

S = TypeVar("S")
T = TypeVar("T")


def insist(step: Callable[[], T]) -> T:
    """Call a step, which may be repeated, until it comes to its end; only then does Ctrl-C go its way, or what the
    handler of another signal raises: SystemExit.
    """
    interrupt: BaseException | None = None
    while True:
        try:
            result = step()
            break
        except (KeyboardInterrupt, SystemExit) as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return result


def apart(work: Callable[[], T], interrupted: Callable[[BaseException], object]) -> T:
    """Call a function in a thread of its own, which no Ctrl-C reaches, and wait for its end.

    Args:
        work: The function.
        interrupted: Told what interrupts this wait, if anything does (it may be told twice). It goes its way when the
            function has ended.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    done = threading.Event()
    lock = threading.Lock()
    state = "new"

    def called() -> None:
        nonlocal state
        with lock:
            if state == "abandoned":
                return
            state = "begun"
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failures.append(error)
        finally:
            done.set()

    def tell(error: BaseException) -> None:
        nonlocal state
        with lock:
            if state != "begun":  # Ctrl-C may come before the thread does
                state = "abandoned"
                done.set()
                return
        interrupted(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(called,), name="quaestor")
    try:
        thread.start()
        done.wait()
    except BaseException as error:
        insist(partial(tell, error))
        insist(done.wait)
        if failures and isinstance(failures[0], Exception):  # it came when nothing waited any more
            raise error from failures[0]
        raise
    finally:
        insist(done.wait)  # not thread.join: an interrupted one says, before Python 3.13, that the thread has ended
    if failures:
        raise failures[0]
    return results[0]


async def insist_async(step: Coroutine[Any, Any, T]) -> T:
    """Await a step in a task and a context of its own, which no cancellation and no deadline of the caller reaches."""
    task = asyncio.create_task(step, context=contextvars.Context())
    cancelled = await ended(task)
    if cancelled is not None:
        raise cancelled
    return task.result()


class Beside:
    """A thread in which steps are called beside others; it starts with the first of them."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quaestor")

    def call(self, step: Callable[[], T], other: Callable[[], S]) -> tuple[T, S]:
        """Call a step, and another one in the thread, in a context of its own. Returns when both have ended."""
        future = self._executor.submit(contextvars.Context().run, other)
        try:
            result = step()
        finally:
            insist(partial(wait, [future]))
        return result, future.result()

    def close(self) -> None:
        """End the thread; what is called in it is waited for."""
        insist(self._executor.shutdown)


async def beside(step: Coroutine[Any, Any, T], other: Coroutine[Any, Any, S]) -> tuple[T, S]:
    """Await a step, and another one in a task and a context of its own. Returns when both have ended."""
    task = asyncio.create_task(other, context=contextvars.Context())
    try:
        result = await step
        return result, await asyncio.shield(task)
    except BaseException:
        await ended(task)
        task.exception()  # so that Python does not warn that nobody has seen it
        raise


async def ended(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a future has ended, however often that is cancelled. Returns the last cancellation."""
    cancelled = None
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
