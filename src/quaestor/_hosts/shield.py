"""Steps that an interruption doesn't end: it continues when they are done."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


def shield(step: Callable[[], T]) -> T:
    """Call a step, again after each interruption, until it is done.

    An interruption is Ctrl-C, or a SystemExit that the handler of another signal raises.
    """
    interruption: BaseException | None = None
    while True:
        try:
            result = step()
            break
        except (KeyboardInterrupt, SystemExit) as error:
            interruption = error
    if interruption is not None:
        raise interruption
    return result


def run_in_shielded_thread(work: Callable[[], T], interrupt: Callable[[BaseException], object]) -> T:
    """Call a function in a thread of its own, which Ctrl-C doesn't interrupt, and wait for its end.

    Args:
        work: The function.
        interrupt: Called, perhaps twice, with what interrupts the wait. The interruption continues when the function
            has ended.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    done = threading.Event()
    lock = threading.Lock()
    state = "new"

    def run() -> None:
        nonlocal state
        with lock:
            if state == "abandoned":
                return
            state = "started"
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failures.append(error)
        finally:
            done.set()

    def pass_on(error: BaseException) -> None:
        nonlocal state
        with lock:
            if state != "started":  # Ctrl-C may come before the thread does
                state = "abandoned"
                done.set()
                return
        interrupt(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="quaestor")
    try:
        thread.start()
        done.wait()
    except BaseException as error:
        shield(partial(pass_on, error))
        shield(done.wait)
        if failures and isinstance(failures[0], Exception):
            raise error from failures[0]
        raise
    finally:
        shield(done.wait)  # not thread.join: before Python 3.13, an interrupted join takes the thread for ended
    if failures:
        raise failures[0]
    return results[0]


async def shield_async(step: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await a step in a task, in an empty context: cancellations and deadlines of the caller don't apply.

    The end of an event loop (a second Ctrl-C, say) cancels all its tasks, this one too. Then the step runs once more.
    """
    task = asyncio.create_task(step(), context=contextvars.Context())
    cancelled = await wait_for_end(task)
    if task.cancelled():
        task = asyncio.create_task(step(), context=contextvars.Context())
        cancelled = await wait_for_end(task) or cancelled
    if cancelled is not None:
        raise cancelled
    return task.result()


async def wait_for_end(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a future has ended, however often the wait is cancelled. Returns the last cancellation."""
    cancelled = None
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
