"""What functions that run at the same time share in tests, sync and async. Nothing depends on how fast they are."""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from quaestor import Event

PATIENCE = 30.0
"""For how long others are waited for, in seconds, before they count as not coming."""


class Meeting:
    """A barrier: it shows that so many functions run at the same time.

    Args:
        parties: How many.
    """

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)

    def wait(self) -> None:
        """Wait for the others, in a `def` function."""
        self._barrier.wait(PATIENCE)

    async def wait_async(self) -> None:
        """The same in an `async def` function; the event loop stays free."""
        await asyncio.to_thread(self.wait)


class Moment:
    """Something that happens once, for sync and async functions to wait for."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def has_come(self) -> None:
        """Say that it has happened."""
        self._event.set()

    def wait(self) -> None:
        """Wait for it, in a `def` function."""
        assert self._event.wait(PATIENCE)

    async def wait_async(self) -> None:
        """The same in an `async def` function."""
        await asyncio.to_thread(self.wait)


class Count:
    """Counts how many things happen at once.

    Attributes:
        most: How many that were, at most.
    """

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """One of them is, while the context lasts."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


class Events(list[Event]):
    """A hook that keeps the events.

    Args:
        when: What to do at an event of a type.

    Attributes:
        calls: Counts concurrent calls.
    """

    def __init__(self, when: dict[type[Event], Callable[[], object]] | None = None) -> None:
        super().__init__()
        self.calls = Count()
        self._when = when or {}

    def __call__(self, event: Event) -> None:
        with self.calls.one_more():
            self.append(event)
            self._when.get(type(event), lambda: None)()

    def names(self, kind: type[Event]) -> list[str]:
        """The migrations that events of a type are about, in order."""
        return [str(getattr(event, "name", "")) for event in self if type(event) is kind]


class Started:
    """A function that runs concurrently; `result` or `result_async` waits for its end."""

    def __init__(self, future: Future[Any] | asyncio.Future[Any]) -> None:
        self._future: Any = future

    def result(self) -> Any:
        """Wait for the end in a thread."""
        return self._future.result(PATIENCE)

    async def result_async(self) -> Any:
        """Wait for the end in the event loop."""
        return await asyncio.wait_for(self._future, PATIENCE)


def start(function: Callable[[], object]) -> Started:
    """Call a function in a thread of its own, which sees no context variable of the caller."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(function)
    executor.shutdown(wait=False)
    return Started(future)


def start_async(function: Callable[[], Awaitable[Any]]) -> Started:
    """Await something in a task of the application's: one that is started in no function's context."""
    return Started(contextvars.Context().run(lambda: asyncio.ensure_future(function())))


def worker() -> object:
    """The thread that calls."""
    return threading.current_thread()


def worker_async() -> object:
    """The task that calls."""
    return asyncio.current_task()
