"""Calling a user's function: its unfinished work, its cancellation, and its outcome as a value."""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import math
import os
import socket
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, NoReturn, Self, TypeAlias, TypeVar, cast

import anyio

from quaestor._core.definition import is_async
from quaestor._text import format_traceback, is_of_signal
from quaestor.errors import InvalidOptionError, UnfinishedMigrationError
from quaestor.events import Event, HistoryNotWritten, Hook, MigrationEvent, Place, current_migration, level_of

T = TypeVar("T")

Outcome: TypeAlias = tuple[T, None] | tuple[None, BaseException]
"""The result of a call, or its exception: raising a SystemExit in a task would end the loop."""

LONGEST_CLEANUP = 2.0
"""The longest wait of an interruption for a command that no longer matters, in seconds."""

_KINDS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)


class Cancellation:
    """Asks functions in threads, which nothing can stop, to end early because the run is interrupted."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.error: BaseException = asyncio.CancelledError()
        self.times = 0
        """How often the run has been interrupted."""
        self._ends: set[Callable[[], object]] = set()

    def cancel(self, error: BaseException) -> None:
        """Ask the functions to end. They raise an exception of the same kind."""
        self.error = error
        self.times += 1
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
        """Say whether the run is interrupted."""
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleep until the run is interrupted, at most."""
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """End the calling function, if the run is interrupted."""
        if self.is_set():
            # A signal handler may raise anything, but an Exception would look like the function's own.
            kind = type(self.error)
            raise (kind(*self.error.args) if kind in _KINDS else asyncio.CancelledError()) from self.error


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
    place: Place | None = None,
    read: Callable[[object], object] = lambda _: None,
) -> Any:
    """Call a function of the named migration. If it isn't async, this never suspends.

    It must leave nothing undone; `source` names the body of a backfill, or a guard, in the error. `check` is called
    when the function has returned. `place` is what `current_migration` is meanwhile. Returns what `read` makes of the
    function's result.
    """
    process, token = os.getpid(), current_migration.set(place or current_migration.get())
    async with _Watch(asyncio.get_running_loop() if is_async else None) as watch:
        try:
            try:
                result = function(*arguments)
            except GeneratorExit as error:  # which would close the coroutines of the run (compare PEP 479)
                raise RuntimeError("The function raised GeneratorExit.") from error
            if is_async and inspect.isawaitable(result):  # a decorator may have returned something else
                result = await result
        finally:
            current_migration.reset(token)
            if os.getpid() != process:
                _exit_child(name, sys.exception())
        if (returned := _find_unfinished(result)) is not None:
            for coroutine in filter(inspect.iscoroutine, _list_results(result)):
                coroutine.close()  # so Python doesn't warn that it was never awaited
            raise UnfinishedMigrationError(name, f"{returned}{source}")
        answer = read(result)
        del result  # it may be all that holds a coroutine
    check()
    if watch.left:
        raise UnfinishedMigrationError(name, " and ".join(list(watch.left)[:_MOST_LEFT]) + source)
    for future in watch.futures:  # it has failed, and the function doesn't know
        future.result()
    return answer


def _find_unfinished(result: object) -> str | None:
    """Describe what in a function's result hasn't run yet; None: nothing."""
    found = next(filter(None, map(_find_lazy, _list_results(result))), None)
    return f"{found} in a {type(result).__name__}" if found and isinstance(result, _SEVERAL) else found


def _list_results(result: object) -> list[Any]:
    values: Any = result.values() if isinstance(result, dict) else result
    return list(values) if isinstance(result, _SEVERAL) else [result]


def _find_lazy(value: object) -> str | None:
    if inspect.isawaitable(value):
        return None if asyncio.isfuture(value) and value.done() else f"an awaitable ({type(value).__name__})"
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return "a generator"
    if not isinstance(value, Iterator | AsyncIterator):
        return None
    # A cursor whose command was sent leaves nothing undone: an aggregation with $merge has written by then.
    is_sent = getattr(value, "cursor_id", getattr(value, "alive", None)) is not None
    return None if is_sent else f"an iterator that nothing has read ({type(value).__name__})"


class _Watch:
    """Notices the coroutines, tasks and threads that a function starts and doesn't await.

    They are recognised by their context. Those that are still running when the function
    ends are ended, because they would write after the lease is released.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop if hasattr(loop, "__dict__") else None  # nothing can be replaced in one of C
        self.futures: set[asyncio.Future[Any]] = set()  # that are running, or have failed unseen
        self.threads: set[asyncio.Future[None]] = set()  # ends of work, whose futures may have been cancelled before
        self.left: dict[str, None] = {}  # what the function has left undone, in words; an ordered set

    async def __aenter__(self) -> Self:
        self._outer = _current_watch.get()
        _current_watch.set(self)
        _install_hooks(warnings, ("_warn_unawaited_coroutine",), _watch_warnings)
        if self.loop is not None:
            _install_hooks(self.loop, ("create_task", "run_in_executor"), partial(_watch_method, self.loop))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:  # a command of Motor's whose wait was cancelled may take long to end
                for end in self.threads:
                    end.cancel()  # which stops only what hasn't started
            if kind is not GeneratorExit:  # then nobody awaits this any more
                await self._end_all()
        finally:
            if self.loop is not None:
                _uninstall_hooks(self.loop)
            _uninstall_hooks(warnings)
            _current_watch.set(self._outer)

    def add(self, future: asyncio.Future[Any]) -> None:
        """Note a task, or work in a thread, until it has ended; one that fails, until somebody asks for its error."""
        self.futures.add(future)
        future.add_done_callback(lambda future: None if _has_failed_unseen(future) else self.futures.discard(future))

    async def _end_all(self) -> None:
        """Cancel the tasks that are still running, and wait for them and for threads, however long it takes."""
        cancelled = None
        while running := [future for future in self.futures | self.threads if not future.done()]:
            for future in running:
                what = "work in a thread"  # which goes on: cancelled, its future would only hide that
                if isinstance(future, asyncio.Task):
                    if future.cancelling():  # the function has ended it, as asyncio.wait's users do with the rest
                        continue
                    what = f"the task {getattr(future.get_coro(), '__qualname__', future.get_name())!r}"
                    future.cancel()
                self.left[f"while {what} was still running"] = None
            for future in running:
                cancelled = await wait_for_end(future) or cancelled
        self.futures = set(filter(_has_failed_unseen, self.futures))
        if cancelled is not None:
            raise cancelled


def _has_failed_unseen(future: asyncio.Future[Any]) -> bool:
    return future._log_traceback  # noqa: SLF001 - asyncio keeps it to log the errors that nobody has asked for


class _Unawaited:
    """Takes the place of Python's function for the warning about a coroutine that was never awaited.

    The interpreter calls that function as `__init__`, so the warning names the user's line: a frame of ours would be
    one too many.
    """

    def __new__(cls, coroutine: Any) -> Self:
        watch = _current_watch.get()
        if watch is not None and threading.get_ident() not in _collecting:
            watch.left[f"without awaiting {coroutine.__qualname__!r}"] = None
        return super().__new__(cls)


@cache
def _watch_warnings(function: Callable[[Any], None]) -> type[_Unawaited]:
    return type("Unawaited", (_Unawaited,), {"__init__": staticmethod(function)})


def _watch_method(loop: asyncio.AbstractEventLoop, method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a loop that starts something, so that the watch of the calling function knows of it."""

    def start(work: Any, *arguments: Any, **options: Any) -> Any:
        watch = _current_watch.get()
        if watch is None or watch.loop is not loop:
            return method(work, *arguments, **options)
        if getattr(work, "__qualname__", "") == _MONITOR:
            with _Unwatched():
                return method(work, *arguments, **options)
        if isinstance(work, ThreadPoolExecutor | None) and arguments and arguments[0] is not socket.getaddrinfo:
            return _run_in_executor(watch, method, work, *arguments)
        future = method(work, *arguments, **options)
        watch.add(future)
        return future

    return start


def _run_in_executor(
    watch: _Watch, method: Callable[..., Any], executor: object, function: Callable[..., T], *arguments: Any
) -> Any:
    """Start work in a thread, and note its future, and its end."""
    work: Future[None] = Future()

    def run() -> T | None:
        if not work.set_running_or_notify_cancel():
            return None  # nobody waits for it
        try:
            return function(*arguments)
        finally:
            work.set_result(None)

    future = method(executor, run)
    future.add_done_callback(lambda _: work.cancel())  # so it doesn't start any more
    watch.add(future)
    end = asyncio.wrap_future(work)
    watch.threads.add(end)
    end.add_done_callback(watch.threads.discard)
    return future


class _Unwatched:
    """Leaves a function's watch: what is started here isn't the function's."""

    def __enter__(self) -> None:
        self._token = _current_watch.set(None)

    def __exit__(self, *_: object) -> None:
        _current_watch.reset(self._token)


def _install_hooks(owner: Any, names: tuple[str, ...], replace: Callable[[Any], Any]) -> None:
    """Replace functions of `warnings`, or methods of an event loop, for a watch, unless another one has."""
    with _hooks_lock:
        _watches[owner] += 1
        if owner not in _hooks:
            if not _hooks:
                gc.callbacks.append(_note_collection)
            _hooks[owner] = {
                name: (replace(getattr(owner, name)), vars(owner).get(name)) for name in names if hasattr(owner, name)
            }
            for name, (hook, _) in _hooks[owner].items():
                setattr(owner, name, hook)


def _uninstall_hooks(owner: Any) -> None:
    """Put them back, unless another watch needs them."""
    with _hooks_lock:
        _watches[owner] -= 1
        if _watches[owner] > 0:
            return
        del _watches[owner]
        for name, (hook, replaced) in _hooks.pop(owner).items():
            if vars(owner).get(name) is hook:  # otherwise someone else has replaced it meanwhile
                delattr(owner, name) if replaced is None else setattr(owner, name, replaced)
        if not _hooks:
            gc.callbacks.remove(_note_collection)


def _note_collection(phase: str, _info: object) -> None:
    (_collecting.add if phase == "start" else _collecting.discard)(threading.get_ident())


_MONITOR = "AsyncPeriodicExecutor._run"
"""PyMongo's tasks that watch the servers. They start when a client is first used, and run until it is closed."""
_MOST_LEFT = 5
_SEVERAL = (list, tuple, set, dict)

_current_watch: contextvars.ContextVar[_Watch | None] = contextvars.ContextVar("_current_watch", default=None)
_collecting: set[int] = set()
"""The threads that collect cycles, and with them coroutines of anybody."""
_hooks_lock = threading.Lock()
_watches: Counter[Any] = Counter()  # by owner
_hooks: dict[Any, dict[str, tuple[Any, Any]]] = {}  # by owner and name; and what they replace


def _exit_child(name: str, error: BaseException | None) -> NoReturn:
    """End a process that was forked by a migration's function and has left it: the run is its parent's."""
    code: object = error.code if isinstance(error, SystemExit) else 1
    if not isinstance(error, SystemExit):
        sys.stderr.write(f"quaestor: A process forked in migration {name!r} must end with os._exit() or sys.exit().\n")
        traceback.print_exception(error)
    elif not isinstance(code, int | None):  # as Python does
        sys.stderr.write(f"{code}\n")
    with contextlib.suppress(Exception):  # a stream may be closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0 if code is None else code & 0xFF if isinstance(code, int) else 1)


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


def is_from_outside(error: BaseException) -> bool:
    """Say whether it is Ctrl-C, a cancellation, or what the handler of a signal raised, as for a soft time limit."""
    return isinstance(error, KeyboardInterrupt | asyncio.CancelledError) or is_of_signal(error)


def shield(step: Callable[[], T], repeats: float = math.inf) -> T:
    """Call a step until nothing interrupts it, or until it has been interrupted once more than `repeats` times."""
    try:
        return step()
    except BaseException as error:
        if repeats and is_from_outside(error):
            shield(step, repeats - 1)
        raise


def start_thread(future: "Future[T]", work: Callable[[], T], *, daemon: bool = False) -> None:
    """Call a function in a thread of its own: an executor starts none when the main thread of the process has ended."""

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - the waiting thread gets it
                future.set_exception(error)

    threading.Thread(target=run, name="quaestor", daemon=daemon).start()


def wait_until_done(future: "Future[Any]") -> None:
    """Wait for the end of work in another thread.

    It waits a second at a time: Python handles a signal that came just before a wait only when the wait is over.
    """
    while not wait([future], 1).done:
        pass


def run_in_shielded_thread(work: Callable[[], T], interrupt: Callable[[BaseException], object]) -> T:
    """Call a function in a thread of its own, which Ctrl-C doesn't interrupt, and wait for its end.

    `interrupt` is called with whatever interrupts the wait. The first of it is raised when the function has ended.
    """
    future: Future[T] = Future()

    def find_error() -> BaseException | None:
        wait_until_done(future)
        return None if future.cancelled() else future.exception()

    def pass_on(error: BaseException) -> BaseException | None:
        try:
            if not future.cancel():  # Ctrl-C may come before the thread does
                interrupt(error)
            return find_error()
        except BaseException as another:
            if is_from_outside(another):
                return pass_on(another)
            raise

    try:
        start_thread(future, partial(contextvars.copy_context().run, work))
        wait_until_done(future)  # not thread.join: before Python 3.13, an interrupted join takes the thread for ended
    except BaseException as error:
        failure = pass_on(error)
        if isinstance(failure, Exception):
            raise error from failure
        raise
    finally:
        shield(partial(wait_until_done, future))
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
    """Log the message of an event, in one line, to the logger `quaestor`, after its `[database/prefix]`.

    This is the default of `on_event`. To keep the log, call it from your own hook. The log record has `database`,
    `prefix`, `run` and `migration` (None in events of a whole run) as attributes, for JSON formatters.
    """
    # Not made when this module is imported: a later dictConfig disables the loggers that exist, by default.
    logger, level = logging.getLogger("quaestor"), logging.getLevelNamesMapping()[level_of(event)]
    if logger.isEnabledFor(level):  # otherwise nobody reads the message
        message = " ".join(str(event).split())
        logger.log(level, "[%s/%s] %s", event.database, event.prefix, message, extra=make_log_attributes(event))


def make_log_attributes(source: Event | Place) -> dict[str, object]:
    """Make the attributes of a log record about an event, or of a line that a migration logs itself."""
    migration = source.name if isinstance(source, MigrationEvent | HistoryNotWritten | Place) else None
    return {"database": source.database, "prefix": source.prefix, "run": source.run, "migration": migration}


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
            with lock, _Unwatched():  # a hook may start tasks of the application
                listener(event)
        except Exception as error:
            if is_from_outside(error):  # the hook didn't fail
                raise
            with contextlib.suppress(Exception):  # the handlers of a log can fail as well
                text, kind, logger = format_traceback(error), type(event).__name__, logging.getLogger("quaestor")
                # Not exc_info, in which the message of a driver's error shows documents.
                logger.error("The event hook %r failed on a %s; the run goes on\n%s", listener, kind, text)  # noqa: TRY400

    return emit
