"""Migrations and readiness, for FastAPI, Starlette and Litestar: the part that they share."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any

import anyio.to_thread
import pymongo
from pymongo.errors import PyMongoError

from quaestor import AsyncRunner, InvalidDatabaseError, MigrationRegistry, SyncRunner

_READ_TIMEOUT = 1.0  # seconds: as long as Kubernetes waits for a probe by default


def migrate(
    registry: MigrationRegistry,
    client: Any,
    db: str,
    *,
    prefix: str = "app",
    lifespan: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    **run_options: Any,
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Return a lifespan that applies all pending migrations before the application takes requests.

    If the run fails, the application doesn't start. SIGTERM and Ctrl-C interrupt it, also while it waits for another
    instance: servers such as uvicorn would only look at them after the start-up.

    Args:
        registry: The migrations.
        client: The application's client. It stays open. A sync client blocks the event loop during the run.
        db: The name of the database.
        prefix: Names quaestor's collections, `{prefix}_migrations` and `{prefix}_migrations_lock`.
        lifespan: The application's own lifespan. It is entered after the run, and its state is passed on.
        run_options: More arguments of `MigrationRegistry.run` (of `run_sync`, for a sync client), such as
            `lease_timeout=120`.

    Raises:
        InvalidDatabaseError: `client` isn't a client, or `db` isn't a name.
        InvalidPrefixError: The prefix can't name the collections.
    """
    is_async = isinstance(_make_runner(registry, client, db, prefix), AsyncRunner)

    @asynccontextmanager
    async def migrate_first(app: Any) -> AsyncIterator[Any]:
        received: list[str] = []
        try:
            if is_async:
                task: Any = asyncio.current_task()
                cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
                with _interrupt_by_signals(received, cancel):
                    await registry.run(client[db], prefix, **run_options)
                if received:
                    await asyncio.sleep(0)  # here, and not in the application, a signal at the very end cancels
            else:  # not in a thread, which couldn't be interrupted
                with _interrupt_by_signals(received, _raise):
                    registry.run_sync(client[db], prefix, **run_options)
        except (asyncio.CancelledError, KeyboardInterrupt):
            if not received:
                raise
        if received:  # raised anew, because Starlette writes the whole traceback to the server's log
            raise asyncio.CancelledError(f"{received[0]} came before the application had started")
        async with nullcontext() if lifespan is None else lifespan(app) as state:
            yield state

    return migrate_first


def make_check(
    registry: MigrationRegistry, client: Any, db: str, prefix: str, refuse: Callable[[str], Exception]
) -> Callable[[], Coroutine[Any, Any, str]]:
    """Return a function that returns "ready" once no registered migration is pending, and raises `refuse(why)` before.

    After that it reads nothing more. Unknown records are fine: a newer release may have written them. So are pending
    migrations of phase "post_deploy": they run when the instances of the old release are gone, so after this is ready.
    """
    runner = _make_runner(registry, client, db, prefix)
    is_ready = False

    async def explain() -> str | None:
        if not registry.migrations:
            return "No migrations are registered. Import their modules when the application starts."
        try:
            with pymongo.timeout(_READ_TIMEOUT):
                if isinstance(runner, AsyncRunner):
                    status = await runner.status()
                else:
                    status = await anyio.to_thread.run_sync(runner.status)
        except PyMongoError as error:
            return f"Can't read which migrations are applied: {type(error).__name__}."
        pending = len(status.names("pending", phase="deploy"))
        return f"Pending migrations: {pending}." if pending else None

    async def check() -> str:
        nonlocal is_ready
        if not is_ready:
            if (reason := await explain()) is not None:
                raise refuse(reason)
            is_ready = True
        return "ready"

    return check


def _make_runner(registry: MigrationRegistry, client: Any, db: str, prefix: str) -> AsyncRunner | SyncRunner:
    if not isinstance(db, str):
        raise InvalidDatabaseError(f"db must be the name of a database, not {type(db).__name__}.")
    try:
        database = client[db]
    except TypeError:
        raise InvalidDatabaseError(
            f"client must be a client of PyMongo, Motor or a mock, not {type(client).__name__}."
        ) from None
    try:
        return AsyncRunner(registry, database, prefix)
    except InvalidDatabaseError:
        return SyncRunner(registry, database, prefix)


@contextmanager
def _interrupt_by_signals(received: list[str], interrupt: Callable[[str], object]) -> Iterator[None]:
    """Call `interrupt` with the name of a signal that ends the server, after the server's own handler.

    The names are added to `received`.
    """
    is_main = threading.current_thread() is threading.main_thread()  # no other thread can have handlers
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}

    def handle(number: int, frame: FrameType | None) -> None:
        handlers[signal.Signals(number)](number, frame)
        received.append(signal.Signals(number).name)
        interrupt(received[-1])

    try:
        for number in handlers:
            signal.signal(number, handle)
        # A worker of uvicorn imports the application under its handler: a signal may have come in the meantime.
        if any(getattr(getattr(handler, "__self__", None), "should_exit", False) for handler in handlers.values()):
            received.append("A signal")
            raise KeyboardInterrupt
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise(name: str) -> None:
    raise KeyboardInterrupt(name)
