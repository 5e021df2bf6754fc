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
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar, cast

import anyio
import pymongo
from anyio.from_thread import BlockingPortal

from quaestor._core.checkpoint import Document
from quaestor._core.plan import Change
from quaestor._hosts.shield import ended, insist
from quaestor._mongo.drivers import is_pymongo
from quaestor.context import AsyncMigrationContext, MigrationContext
from quaestor.errors import UnfinishedMigrationError

T = TypeVar("T")

Context: TypeAlias = MigrationContext | AsyncMigrationContext
"""What a function gets beside its database."""

Outcome: TypeAlias = tuple[T, None] | tuple[None, BaseException]
"""What came of a call: what it returned, or what it raised. As a value, for a SystemExit, say, that is raised in a task
ends the loop.
"""

_BY_BODY = " from the body of for_each_batch"
_cancellation: contextvars.ContextVar["Cancellation | None"] = contextvars.ContextVar("_cancellation", default=None)
_KINDS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
_CLOSING = 1.0  # seconds for telling the server that a client's sessions have ended: a courtesy


class Cancellation:
    """Tells functions in threads, which nothing can stop, that the run is interrupted: some can end early."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._error: BaseException = asyncio.CancelledError()
        self._ends: set[Callable[[], object]] = set()

    def tell(self) -> None:
        """Have the functions told that are called in this context."""
        _cancellation.set(self)

    def cancel(self, error: BaseException) -> None:
        """Say so. What they raise is of the same kind as this."""
        self._error = error
        self._event.set()
        for end in list(self._ends):
            end()

    @contextlib.contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Have this called when the run is interrupted."""
        self._ends.add(end)
        try:
            yield
        finally:
            self._ends.discard(end)

    def is_told(self) -> bool:
        """Whether the run is interrupted."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, or until the run is interrupted."""
        self._event.wait(seconds)

    def check(self) -> None:
        """End the function that this is called from, if the run is interrupted."""
        if self.is_told():
            # That of a signal's handler may be of any kind: an Exception would be taken for the function's own.
            kind = type(self._error)
            raise kind(*self._error.args) if kind in _KINDS else asyncio.CancelledError


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
    """End the function that this is called from if it runs in a thread whose run is interrupted.

    Raises:
        BaseException: It is: what has interrupted it (asyncio.CancelledError, KeyboardInterrupt, ...).
    """
    cancellation = _cancellation.get()
    if cancellation is not None:
        cancellation.check()


def sleep(seconds: float) -> None:
    """Wait, or until the run is interrupted, likewise."""
    cancellation = _cancellation.get()
    if cancellation is None:
        time.sleep(seconds)
    else:
        cancellation.wait(seconds)
        cancellation.check()


def outcome(work: Callable[[], T]) -> Outcome[T]:
    """Call a function; what it raises is for whoever called this to raise."""
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001 - as it says
        return None, error


async def outcome_async(work: Awaitable[T]) -> Outcome[T]:
    """The same for what is awaited."""
    try:
        return await work, None
    except GeneratorExit as error:  # of the function: nobody gets this where the coroutine itself is thrown away
        failure = RuntimeError("The function raised GeneratorExit.")
        failure.__cause__ = error
        return None, failure
    except BaseException as error:  # noqa: BLE001 - as above
        return None, error


def result_of(outcome: Outcome[T]) -> T:
    """Return, or raise, what came of a call."""
    result, error = outcome
    if error is not None:
        raise error
    return cast("T", result)


async def call_in_thread(work: Callable[[], T], *, to_its_end: bool = False) -> T:
    """Call a plain function from an event loop, in a worker thread, the loop staying free.

    A thread cannot be stopped. Where the function goes over a collection in batches it ends between two of them.

    Args:
        work: The function.
        to_its_end: Whether what it returns, or raises, counts for more than that this was cancelled meanwhile.
    """
    cancellation = Cancellation()

    def called() -> Outcome[T]:
        cancellation.tell()
        return outcome(work)

    # A thread of its own, so that the function begins at once, however busy the application's worker threads are; and a
    # future, not a task, for the end of an event loop cancels all its tasks, and nobody would wait for the thread.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quaestor")
    try:
        thread = executor.submit(contextvars.copy_context().run, called)
        future = asyncio.wrap_future(thread)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as cancelled:
            cancellation.cancel(cancelled)
            await ended(future)
            if not to_its_end:
                raise cancelled from thread.result()[1]
        finally:
            insist(partial(wait, [thread]))  # where it still runs, Ctrl-C has come through the event loop
    finally:
        executor.shutdown()
    return result_of(thread.result())


class _Called(Generic[T]):
    """An asynchronous function that is called in the loop of a portal."""

    def __init__(self, work: Callable[[], Awaitable[T]], cancellation: Cancellation) -> None:
        self._work = work
        self._cancellation = cancellation
        self._task: asyncio.Task[Any] | None = None
        self._done = threading.Event()

    async def run(self) -> Outcome[T]:
        """Call it. As a value: a SystemExit that is raised in a portal ends the portal."""
        self._task = asyncio.current_task()
        if self._cancellation.is_told():
            self.cancel()
        try:
            return await outcome_async(self._work())
        finally:
            self._done.set()

    def cancel(self) -> None:
        """Cancel it, in the loop, if it has begun."""
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> None:
        """Wait for its end, if it has begun."""
        if self._task is not None:
            self._done.wait()


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
        self._starting = threading.Lock()  # several functions may be called at once, from threads

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call an asynchronous function in the loop of the portal."""
        cancellation = _cancellation.get() or Cancellation()
        called = _Called(work, cancellation)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # a function may have ended the loop itself
                portal.call(called.cancel)  # it was sent to the loop first: it has begun by now, if it was sent at all

        def end() -> None:
            portal.call(called.cancel)
            called.wait()

        with self._starting:
            if self._thread.ident is None:
                self._thread.start()
        portal = self._opened.result()
        try:
            with cancellation.ending(cancel):
                outcome = portal.call(called.run)
        except BaseException:  # Ctrl-C, at any time
            insist(end)
            raise
        return result_of(outcome)

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
