"""Several migrations, or databases, at once: which can start, and when all are done."""

from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from quaestor._core.lease import Location
from quaestor._core.store import Workers


@dataclass(frozen=True, slots=True)
class Start:
    """An item of a schedule that starts.

    Attributes:
        name: The item.
        position: Its position in the schedule, from 1.
        slot: Its slot until it is finished, from 0. Sessions belong to slots.
    """

    name: str
    position: int
    slot: int


class Schedule:
    """Lets each item start when its needs are finished and a slot is free; of several, the first in order.

    Each start goes over all waiting items: a chain of a thousand takes a fifth of a second in all.

    Args:
        names: The items, in order.
        needs: By item, the items to finish before. Names that aren't in the schedule count as finished.
        slots: How many items may run at once.
    """

    def __init__(self, names: Sequence[str], needs: Mapping[str, Collection[str]], slots: int) -> None:
        self._waiting = {name: position for position, name in enumerate(names, start=1)}
        self._needs = {name: self._waiting.keys() & needs.get(name, ()) for name in names}
        self._free = list(range(slots))  # a heap
        self._running: dict[str, int] = {}
        self._finished: set[str] = set()
        self._is_stopped = False

    def start(self) -> Start | None:
        """Start the next item; None: none can start."""
        name = next(self._find_upcoming(), None)
        if name is None:
            return None
        position = self._waiting.pop(name)
        slot = self._running[name] = heappop(self._free)
        return Start(name, position, slot)

    def finish(self, name: str) -> None:
        """Free the item's slot, and let items that need it start."""
        heappush(self._free, self._running.pop(name))
        self._finished.add(name)

    def stop(self) -> None:
        """Start no further items."""
        self._is_stopped = True

    def locate(self, recording: str | None = None) -> Location:
        """Say where the run is.

        Args:
            recording: The running item whose record is about to be written or removed. The items that start after it
                are included, because nothing is sent then.
        """
        upcoming = tuple(self._find_upcoming(recording))
        others = [name for name in self._running if name != recording]
        return Location((*others, *upcoming), recording, upcoming if recording is not None else ())

    def _find_upcoming(self, ending: str | None = None) -> Iterator[str]:
        """Find the items that can start, or could if this item had finished."""
        if self._is_stopped:
            return iter(())
        slots = len(self._free) + (ending is not None)
        return islice((name for name in self._waiting if self._needs[name] - {ending} <= self._finished), slots)


async def supervise(
    schedule: Schedule,
    work: Callable[[Start], Coroutine[Any, Any, None]],
    lock: AbstractAsyncContextManager[object],
    failures: list[BaseException],
    workers: Workers[str],
) -> None:
    """Start workers as the schedule allows, until all are done; none after a failure or an interruption.

    Args:
        schedule: The items. A worker finishes its own.
        work: Makes the coroutine of a worker.
        lock: Held while the schedule changes.
        failures: What the workers raise is appended to it.
        workers: Runs the coroutines.
    """
    running = 0
    while True:
        async with lock:
            starts = list(iter(schedule.start, None))
        for start in starts:
            workers.start(start.name, partial(work, start))
        running += len(starts)
        if not running:
            return
        finished = await workers.next_finished()
        if finished is None:
            schedule.stop()
            continue
        running -= 1
        if finished.error is not None:
            schedule.stop()
            failures.append(finished.error)


def combine(failures: Sequence[BaseException]) -> BaseException:
    """Make one exception of several."""
    if len(failures) == 1:
        return failures[0]
    return BaseExceptionGroup(f"{len(failures)} migrations failed", failures)  # of Exceptions: an ExceptionGroup
