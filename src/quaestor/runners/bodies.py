"""Calling a migration's function, in the four pairs of a runner's and a function's colour.

Whatever interrupts a run, it goes on (to report, and to let another instance work) only when the function has ended:
a function still writing behind the back of a finished run could be run twice at once.
"""

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import anyio
import pymongo
from anyio.from_thread import BlockingPortal

from quaestor.core.batches import Document
from quaestor.core.plan import Change
from quaestor.errors import UnfinishedMigrationError
from quaestor.runners.context import AsyncMigrationContext, MigrationContext
from quaestor.runners.databases import is_pymongo
from quaestor.runners.interrupts import ended, insist

T = TypeVar("T")

Context: TypeAlias = MigrationContext | AsyncMigrationContext
"""What a function gets beside its database."""

_BY_BODY = " from the body of for_each_batch"
_cancelled: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("_cancelled", default=None)
_CLOSING = 1.0  # seconds for telling the server that a client's sessions have ended: a courtesy


def call(change: Change, db: Any, context: Context) -> None:
    """Call the `def` function of a change."""
    _refuse_unfinished(change.name, _ended(partial(_called, change, db, context)))
    context.check_begun()


async def call_async(change: Change, db: Any, context: Context) -> None:
    """Call the `async def` function of a change in the running event loop."""
    result = _called(change, db, context)
    if inspect.isawaitable(result):  # a decorator may have decided that there is nothing to await
        result = await result
    _refuse_unfinished(change.name, result)
    context.check_begun()


def hand_over(name: str, body: Callable[[list[Document]], object] | None, batch: list[Document]) -> None:
    """Call the body of a pass in a `def` function."""
    if body is not None:
        _refuse_unfinished(name, _ended(partial(body, batch)), _BY_BODY)


async def hand_over_async(name: str, body: Callable[[list[Document]], object] | None, batch: list[Document]) -> None:
    """The same in an `async def` function."""
    if body is not None:
        result = body(batch)
        if inspect.isawaitable(result):  # as above
            result = await result
        _refuse_unfinished(name, result, _BY_BODY)


def _ended(work: Callable[[], object]) -> object:
    try:
        return work()
    except GeneratorExit as error:  # to a flow it would mean that the run itself is thrown away (as PEP 479 does)
        raise RuntimeError("The function raised GeneratorExit.") from error


def end_if_cancelled() -> None:
    """End the function that this is called from if it runs in a thread whose run is cancelled.

    Raises:
        asyncio.CancelledError: It is.
    """
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise asyncio.CancelledError


def sleep(seconds: float) -> None:
    """Wait, or until the run is cancelled, likewise."""
    cancelled = _cancelled.get()
    if cancelled is None:
        time.sleep(seconds)
    else:
        cancelled.wait(seconds)
        end_if_cancelled()


async def call_in_thread(work: Callable[[], T]) -> T:
    """Call a plain function from an event loop, in a worker thread, the loop staying free.

    A thread cannot be stopped. Where the function goes over a collection in batches it ends between two of them.
    """
    cancellation = threading.Event()

    def outcome() -> tuple[T, None] | tuple[None, BaseException]:
        # The exception as a value: a SystemExit, say, that is raised in a task ends the loop.
        _cancelled.set(cancellation)
        try:
            return work(), None
        except BaseException as error:  # noqa: BLE001 - it is raised below
            return None, error

    # A thread of its own, so that the function begins at once, however busy the application's worker threads are; and a
    # future, not a task, for the end of an event loop cancels all its tasks, and nobody would wait for the thread.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quaestor")
    try:
        loop = asyncio.get_running_loop()
        thread = loop.run_in_executor(executor, contextvars.copy_context().run, outcome)
        try:
            result, error = await asyncio.shield(thread)
        except asyncio.CancelledError as cancelled:
            cancellation.set()
            await ended(thread)
            raise cancelled from thread.result()[1]
    finally:
        insist(executor.shutdown)  # where the thread still runs, Ctrl-C has come through the event loop
    if error is not None:
        raise error
    return cast("T", result)


class Portal:
    """An event loop in a thread of its own, for calling asynchronous functions from synchronous code.

    It starts with the first call and is kept until `close`, for a driver's client belongs to the loop it was used in.

    Args:
        db: The asynchronous database, or None where no such migration will be called.
    """

    def __init__(self, db: Any) -> None:
        self._db = db
        self._opened: Future[BlockingPortal] = Future()
        # anyio's start_blocking_portal() would wait for ever when Ctrl-C meets it while the loop starts.
        self._thread = threading.Thread(target=self._serve, name="quaestor", daemon=True)

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call an asynchronous function in the loop of the portal."""
        task: asyncio.Task[Any] | None = None
        done = threading.Event()

        async def outcome() -> tuple[T, None] | tuple[None, BaseException]:
            # The exception as a value, as above: a SystemExit that is raised in a portal ends the portal.
            nonlocal task
            task = asyncio.current_task()
            try:
                return await work(), None
            except BaseException as error:  # noqa: BLE001 - it is raised below
                return None, error
            finally:
                done.set()

        def cancel() -> None:
            if task is not None:
                task.cancel()

        def end() -> None:
            portal.call(cancel)  # `outcome` was sent to the loop first: it has begun by now, if it was sent at all
            if task is not None:
                done.wait()

        if self._thread.ident is None:
            self._thread.start()
        portal = self._opened.result()
        try:
            result, error = portal.call(outcome)
        except BaseException:  # Ctrl-C, at any time
            insist(end)
            raise
        if error is not None:
            raise error
        return cast("T", result)

    def close(self) -> None:
        """End the loop. No function is running in it any more."""
        if self._thread.ident is not None and self._opened.exception() is None:
            insist(self._end)

    def _end(self) -> None:
        portal = self._opened.result()
        with contextlib.suppress(RuntimeError):  # a function may have ended the loop itself
            portal.call(portal.stop)
        self._thread.join()

    def _serve(self) -> None:
        async def serve() -> None:
            async with BlockingPortal() as portal:
                self._opened.set_result(portal)
                await portal.sleep_until_stopped()
            await _close_client(self._db)

        try:
            anyio.run(serve)
        except BaseException as error:  # noqa: BLE001 - it is told to the one who waits
            if not self._opened.done():
                self._opened.set_exception(error)  # no loop can be had: too many open files, say
            # Else a function has ended the loop: the next call says that it is not running.


async def _close_client(db: Any) -> None:
    """Close PyMongo's client if it belongs to this loop, for nobody can once the loop has ended."""
    if is_pymongo(db):
        with contextlib.suppress(Exception), pymongo.timeout(_CLOSING):
            # The one public call that asks whether the client belongs to this loop; close() does not ask.
            await db.client.aconnect()
            await db.client.close()


def _called(change: Change, db: Any, context: Context) -> object:
    return change.function(db, context) if change.wants_context else change.function(db)


def _refuse_unfinished(name: str, result: object, by: str = "") -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # so that Python does not warn that it was never awaited
        raise UnfinishedMigrationError(name, f"an awaitable ({type(result).__name__}){by}")
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise UnfinishedMigrationError(name, f"a generator{by}")
