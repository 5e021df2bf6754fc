"""Functions of migrations written once for every driver: generators that yield each operation on the database."""

import asyncio
import contextvars
import inspect
from collections.abc import Generator
from typing import Any

Body = Generator[Any, Any, None]
"""Yields each operation and gets back its result. A function that is yielded is called outside of the transaction
and of the event loop: that is how a body waits, and how something else happens meanwhile.
"""


def run_body(body: Body) -> None:
    """Run a body of a `def` function: its operations are results already."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            operation = body.send(answer) if error is None else body.throw(error)
        except StopIteration:
            return
        error = None
        try:
            answer = contextvars.Context().run(operation) if callable(operation) else operation
        except BaseException as raised:  # noqa: BLE001 - it is the body's
            error = raised


async def run_body_async(body: Body) -> None:
    """Run a body of an `async def` function: its operations are awaited."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            operation = body.send(answer) if error is None else body.throw(error)
        except StopIteration:
            return
        error = None
        try:
            if inspect.isawaitable(operation):
                answer = await operation
            else:
                answer = await asyncio.to_thread(contextvars.Context().run, operation)
        except BaseException as raised:  # noqa: BLE001 - it is the body's
            error = raised
