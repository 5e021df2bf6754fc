"""Calling a user's function: what it must not return, what ends it early, and its outcome as a value."""

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import anyio

from quaestor._core.definition import is_async
from quaestor.errors import InvalidOptionError, UnfinishedMigrationError
from quaestor.events import Event, Hook, level_of

logger = logging.getLogger("quaestor")

T = TypeVar("T")

Outcome: TypeAlias = tuple[T, None] | tuple[None, BaseException]
"""What a call returned, or what it raised. A SystemExit that is raised in a task would end the loop."""

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


_NEVER = Cancellation()
current_cancellation = contextvars.ContextVar("current_cancellation", default=_NEVER)
"""The cancellation that asks the calling function; by default one that never does."""


async def call(
    name: str,
    function: Callable[..., object],
    *arguments: object,
    is_async: bool,
    source: str = "",
    check: Callable[[], object] = lambda: None,
) -> None:
    """Call a function of the named migration. If it isn't async, this never suspends.

    It must not return anything that hasn't run yet; `source` names the body of a backfill in the error. `check` is
    called when the function has returned.
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
    check()


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


def shield(step: Callable[[], T]) -> T:
    """Call a step until no Ctrl-C interrupts it, and no SystemExit that the handler of another signal raises."""
    try:
        return step()
    except (KeyboardInterrupt, SystemExit):
        shield(step)
        raise


def run_in_shielded_thread(work: Callable[[], T], interrupt: Callable[[BaseException], object]) -> T:
    """Call a function in a thread of its own, which Ctrl-C doesn't interrupt, and wait for its end.

    `interrupt` is called, perhaps twice, with what interrupts the wait, which is raised when the function has ended.
    """
    future: Future[T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised below
                future.set_exception(error)

    def pass_on(error: BaseException) -> None:
        if not future.cancel():  # Ctrl-C may come before the thread does
            interrupt(error)

    def wait() -> BaseException | None:
        return None if future.cancelled() else future.exception()

    try:
        threading.Thread(target=contextvars.copy_context().run, args=(run,), name="quaestor").start()
        wait()  # not thread.join: before Python 3.13, an interrupted join takes the thread for ended
    except BaseException as error:
        shield(partial(pass_on, error))
        failure = shield(wait)
        if isinstance(failure, Exception):
            raise error from failure
        raise
    finally:
        shield(wait)
    return future.result()


class BlockingContext:
    """A sync context manager as an async one, which never suspends; contextlib's would write to its exceptions."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        self._context.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self._context.__exit__(*error)


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


def log_event(event: Event) -> None:
    """Log the message of an event to the logger `quaestor`, after its `[database/prefix]`.

    It is the default of `on_event`. To keep the log, call it from your own hook.
    """
    logger.log(logging.getLevelNamesMapping()[level_of(event)], "[%s/%s] %s", event.database, event.prefix, event)


def guard(hook: Hook | None) -> Callable[[Event], None]:
    """Return the hook (`log_event` if None), which must be a plain function, as one that logs what it raises."""
    listener: Hook = log_event if hook is None else hook
    if not callable(listener) or is_async(listener):
        raise InvalidOptionError(
            "on_event must be a `def` function that takes the event (it is called between two steps and not awaited), "
            f"not {listener!r}."
        )

    # Concurrent migrations emit from several threads. Reentrant, because a hook may start a run of its own.
    lock = threading.RLock()

    def emit(event: Event) -> None:
        try:
            with lock:
                listener(event)
        except Exception:
            with contextlib.suppress(Exception):  # the handlers of a log can fail as well
                logger.exception("The event hook %r failed on a %s; the run goes on", listener, type(event).__name__)

    return emit
