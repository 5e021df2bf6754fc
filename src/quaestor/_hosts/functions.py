"""Calling a user's function: what it must not return, what ends it early, and its outcome as a value."""

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias, TypeVar, cast

from quaestor.errors import UnfinishedMigrationError

T = TypeVar("T")

Outcome: TypeAlias = tuple[T, None] | tuple[None, BaseException]
"""What a call returned, or what it raised. A SystemExit that is raised in a task would end the loop."""

_cancellation: contextvars.ContextVar["Cancellation | None"] = contextvars.ContextVar("_cancellation", default=None)
_KINDS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)


class Cancellation:
    """Asks functions in threads, which nothing can stop, to end early because the run is interrupted."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._error: BaseException = asyncio.CancelledError()
        self._ends: set[Callable[[], object]] = set()

    def cancel(self, error: BaseException) -> None:
        """Ask them. They raise an exception of the same kind."""
        self._error = error
        self._event.set()
        for end in list(self._ends):
            end()

    def scope(self) -> "_Scope":
        """Make a context manager: functions that are called inside it are asked."""
        return _Scope(self)

    @contextlib.contextmanager
    def notify(self, end: Callable[[], object]) -> Iterator[None]:
        """Call this as well when the run is interrupted."""
        self._ends.add(end)
        try:
            yield
        finally:
            self._ends.discard(end)

    def is_set(self) -> bool:
        """Whether the run is interrupted."""
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleep until the run is interrupted, at most."""
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """End the calling function, if the run is interrupted."""
        if self.is_set():
            # A signal handler may raise anything, but an Exception would look like the function's own.
            kind = type(self._error)
            raise kind(*self._error.args) if kind in _KINDS else asyncio.CancelledError


class _Scope:
    """A class: contextlib's would write to the exceptions that pass through it, and some refuse that."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation

    def __enter__(self) -> None:
        self._token = _cancellation.set(self._cancellation)

    def __exit__(self, *_: object) -> None:
        _cancellation.reset(self._token)


def get_cancellation() -> Cancellation | None:
    """Return the cancellation of this context, if there is one."""
    return _cancellation.get()


def check_cancellation() -> None:
    """End the calling function, if its run is interrupted.

    Raises:
        BaseException: What interrupted it (asyncio.CancelledError, KeyboardInterrupt, ...).
    """
    if (cancellation := _cancellation.get()) is not None:
        cancellation.check()


def sleep(seconds: float) -> None:
    """Sleep, in seconds. An interruption of the run ends the sleep and the calling function."""
    if (cancellation := _cancellation.get()) is None:
        time.sleep(seconds)
    else:
        cancellation.sleep(seconds)


async def call(
    name: str, function: Callable[..., object], *arguments: object, is_async: bool, source: str = ""
) -> None:
    """Call a migration's function, or the body of its backfill. If it isn't async, this never suspends.

    Args:
        name: The migration.
        function: The function.
        arguments: The function's arguments.
        is_async: Whether it is `async def`.
        source: Names the body in the error.

    Raises:
        UnfinishedMigrationError: It returned something that hasn't run yet.
    """
    try:
        result = function(*arguments)
    except GeneratorExit as error:  # which would close the coroutines of the run (compare PEP 479)
        raise RuntimeError("The function raised GeneratorExit.") from error
    if is_async and inspect.isawaitable(result):  # a decorator may have returned something else
        result = await result
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # so Python doesn't warn that it was never awaited
        raise UnfinishedMigrationError(name, f"an awaitable ({type(result).__name__}){source}")
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise UnfinishedMigrationError(name, f"a generator{source}")


def find_stop_iteration(error: RuntimeError) -> StopIteration | None:
    """Find the StopIteration that left a `def` function, which Python makes a RuntimeError (PEP 479).

    Such a function can raise it (`next(cursor)`), but the coroutine `call` can't. A RuntimeError that a function raised
    itself, or that its own coroutine became, is another one: its StopIteration never came through `call`.
    """
    cause = error.__cause__
    if not isinstance(cause, StopIteration):
        return None
    # Not only the last frame: a concurrent run raises the failures of its workers again.
    if not any(frame.f_code is call.__code__ for frame, _ in traceback.walk_tb(cause.__traceback__)):
        return None
    for note in getattr(error, "__notes__", ()):
        with contextlib.suppress(Exception):  # a frozen dataclass refuses notes
            cause.add_note(note)
    return cause


def catch(work: Callable[[], T]) -> Outcome[T]:
    """Call a function, and return what it raises."""
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001 - as it says
        return None, error


async def catch_async(work: Callable[[], Awaitable[T]]) -> Outcome[T]:
    """Call a function and await what it returns, and return what it raises."""
    try:
        return await work(), None
    except GeneratorExit as error:  # of the function: if the coroutine itself is closed, nobody gets this
        failure = RuntimeError("The function raised GeneratorExit.")
        failure.__cause__ = error
        return None, failure
    except BaseException as error:  # noqa: BLE001 - as above
        return None, error


def get_result(outcome: Outcome[T]) -> T:
    """Return what a call returned, or raise what it raised."""
    result, error = outcome
    if error is not None:
        raise error
    return cast("T", result)
