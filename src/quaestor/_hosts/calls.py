"""Calling a user's function: what it must not return, what ends it early, and its outcome as a value."""

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import anyio

from quaestor._core.definition import is_async
from quaestor.errors import InvalidOptionError, UnfinishedMigrationError
from quaestor.events import (
    BackfillRestarted,
    DatabaseFinished,
    Event,
    Hook,
    LeaseNotReleased,
    MigrationFailed,
    MigrationProgressed,
    RecordsIgnored,
    RecordsUnknown,
    RollbackStarted,
    RunFailed,
    RunStarted,
    SessionsNotEnded,
)

logger = logging.getLogger("quaestor")

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


def log_event(event: Event) -> None:
    """Log the message of an event to the logger `quaestor`, after its `[database/prefix]`.

    It is the default of `on_event`. To keep the log, call it from your own hook.
    """
    logger.log(_level_of(event), "[%s/%s] %s", event.database, event.prefix, event)


def _level_of(event: Event) -> int:
    match event:
        case RunStarted(plan=()) | RollbackStarted(plan=()) | DatabaseFinished(error=None):
            return logging.DEBUG  # RunFinished or RollbackFinished says the same
        case MigrationProgressed(due=False):
            return logging.DEBUG
        case RecordsIgnored() | RecordsUnknown() | SessionsNotEnded() | LeaseNotReleased() | BackfillRestarted():
            return logging.WARNING
        case MigrationFailed() | RunFailed() | DatabaseFinished():
            return logging.ERROR
        case _:
            return logging.INFO


def guard(hook: Hook | None) -> Callable[[Event], None]:
    """Return the hook (`log_event` if None) as a function that never raises, but logs what the hook raises.

    Raises:
        InvalidOptionError: The hook isn't a plain function.
    """
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
