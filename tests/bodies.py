"""Functions of migrations written once for every driver: generators that yield each operation on the database."""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from quaestor._hosts.threads import run_to_completion

Body = Generator[Any, Any, None]
"""Yields each operation and gets back its result. A function that is yielded is called outside of the transaction
and of the event loop: that is how a body waits, and how something else happens meanwhile.
"""


def run_body(body: Body) -> None:
    """Run a body of a `def` function: its operations are results already."""

    async def answer(operation: Any) -> Any:
        return contextvars.Context().run(operation) if callable(operation) else operation

    run_to_completion(_run(body, answer))


async def run_body_async(body: Body) -> None:
    """Run a body of an `async def` function: its operations are awaited."""

    async def answer(operation: Any) -> Any:
        if inspect.isawaitable(operation):
            return await operation
        return await asyncio.to_thread(contextvars.Context().run, operation)

    await _run(body, answer)


async def _run(body: Body, answer: Callable[[Any], Awaitable[Any]]) -> None:
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            operation = body.send(result) if error is None else body.throw(error)
        except StopIteration:
            return
        error = None
        try:
            result = await answer(operation)
        except BaseException as raised:  # noqa: BLE001 - it is the body's
            error = raised
