"""Concurrency: which migrations, databases or batches can start, and when all are done."""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any

from quaestor._core.lease import Location
from quaestor._core.store import Step, Workers


@dataclass(frozen=True, slots=True)
class Start:
    """An item of a schedule that starts."""

    name: str
    position: int  # in the schedule, from 1; 0: it isn't counted
    slot: int  # until it is finished, from 0; sessions belong to slots


class Schedule:
    """Lets each item start when its needs are finished and a slot is free; of several, the first in order.

    `needs` has the items to finish before each one; names that aren't in the schedule count as finished. The uncounted
    items have no position. Each start goes over all waiting items: a chain of a thousand takes a fifth of a second in
    all.
    """

    def __init__(
        self, names: Sequence[str], needs: Mapping[str, Collection[str]], slots: int, *, uncounted: Collection[str] = ()
    ) -> None:
        self.count = len(names) - len(uncounted)
        positions = count(1)
        self._waiting = {name: 0 if name in uncounted else next(positions) for name in names}
        self._needs = {name: self._waiting.keys() & needs.get(name, ()) for name in names}
        self._free = list(range(slots))  # a heap
        self._running: dict[str, int] = {}
        self._finished: set[str] = set()

    def start(self) -> Start | None:
        """Start the next item; None: none can start."""
        name = next(self._find_upcoming(), None)
        if name is None:
            return None
        position = self._waiting.pop(name)
        slot = self._running[name] = heappop(self._free)
        return Start(name, position, slot)

    def finish(self, name: str) -> None:
        """Release the item's slot, and let items that need it start."""
        heappush(self._free, self._running.pop(name))
        self._finished.add(name)

    def stop(self) -> None:
        """Start no further items."""
        self._waiting.clear()

    def locate(self, recording: str | None = None) -> Location:
        """Say where the run is. The items that start after the one to record are included: nothing is sent then."""
        upcoming = tuple(self._find_upcoming(recording))
        others = [name for name in self._running if name != recording]
        return Location((*others, *upcoming), recording, upcoming if recording is not None else ())

    def _find_upcoming(self, ending: str | None = None) -> Iterator[str]:
        """Find the items that can start, or could if this item had finished."""
        slots = len(self._free) + (ending is not None)
        return islice((name for name in self._waiting if self._needs[name] - {ending} <= self._finished), slots)


async def follow(
    schedule: Schedule,
    work: Callable[[Start], Coroutine[Any, Any, None]],
    lock: AbstractAsyncContextManager[object],
    failures: list[BaseException],
    workers: Workers,
) -> None:
    """Start a worker for each item as the schedule allows. It finishes its item.

    The lock is held while the schedule changes.
    """

    async def find_starts() -> list[Step[None]]:
        async with lock:
            return [partial(work, start) for start in iter(schedule.start, None)]

    await supervise(find_starts, schedule.stop, failures, workers)


async def supervise(
    find_starts: Callable[[], Awaitable[list[Step[None]]]],
    stop: Callable[[], None],
    failures: list[BaseException],
    workers: Workers,
) -> None:
    """Start workers until all are done.

    `find_starts` is called at the start and whenever a worker has ended. What a worker raises is appended to
    `failures`, and `stop` lets no more start.
    """
    running = 0
    while True:
        starts = await find_starts()
        for start in starts:
            workers.start(start)
        running += len(starts)
        if not running:
            return
        error = await workers.next_finished()
        running -= 1
        if error is not None:
            stop()
            failures.append(error)


def combine(failures: Sequence[BaseException]) -> BaseException:
    """Make one exception of several."""
    if len(failures) == 1:
        return failures[0]
    return BaseExceptionGroup(f"{len(failures)} migrations failed", failures)  # of Exceptions: an ExceptionGroup
