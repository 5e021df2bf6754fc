"""Steps that come to their end whatever interrupts them; only then does the interruption go its way."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

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


async def insist_async(step: Coroutine[Any, Any, T]) -> T:
    """Await a step in a task and a context of its own, which no cancellation and no deadline of the caller reaches."""
    task = asyncio.create_task(step, context=contextvars.Context())
    cancelled = await ended(task)
    if cancelled is not None:
        raise cancelled
    return task.result()


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
