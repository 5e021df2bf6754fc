"""Which changes of a plan are under way, and which can begin. One after the other is a schedule of one lane."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice

from quaestor._core.lease import Whereabouts
from quaestor._core.plan import Plan, RecordChange


@dataclass(frozen=True, slots=True)
class Begun:
    """A change that begins.

    Attributes:
        change: What is done.
        position: Its place in the plan, from 1.
        lane: Which of the lanes it has to itself until it ends, from 0: so two at once never share a session.
    """

    change: RecordChange
    position: int
    lane: int


class Schedule:
    """Lets each change of a plan begin when what it needs has ended and a lane is free; of several the first in order.

    All that wait are looked at for each that begins: for a chain of a thousand that is a fifth of a second in all.

    Args:
        todo: The plan.
        needs: By the names of changes, the names of those that must have ended before. Others are taken as done.
        lanes: How many may be under way at once.
    """

    def __init__(self, todo: Plan, needs: Mapping[str, Collection[str]], lanes: int) -> None:
        self._waiting = {change.name: (position, change) for position, change in enumerate(todo, start=1)}
        self._needs = {name: self._waiting.keys() & needs.get(name, ()) for name in self._waiting}
        self._free = list(range(lanes))  # a heap
        self._under_way: dict[str, int] = {}
        self._done: set[str] = set()
        self._is_stopped = False

    def begin(self) -> Begun | None:
        """The next change, which begins now; None: none can."""
        name = next(self._upcoming(), None)
        if name is None:
            return None
        position, change = self._waiting.pop(name)
        lane = self._under_way[name] = heappop(self._free)
        return Begun(change, position, lane)

    def end(self, name: str) -> None:
        """A change that is under way has come to its end, and what needs it can begin."""
        heappush(self._free, self._under_way.pop(name))
        self._done.add(name)

    def stop(self) -> None:
        """Let nothing begin any more."""
        self._is_stopped = True

    def whereabouts(self, recording: str | None = None) -> Whereabouts:
        """Where the run is.

        Args:
            recording: The change under way whose record is next to be written or removed: what begins after that is
                named already, for then nothing is said.
        """
        upcoming = tuple(self._upcoming(recording))
        others = [name for name in self._under_way if name != recording]
        return Whereabouts((*others, *upcoming), recording, upcoming if recording is not None else ())

    def _upcoming(self, ended: str | None = None) -> Iterator[str]:
        """What can begin, or could if this one had ended."""
        if self._is_stopped:
            return iter(())
        lanes = len(self._free) + (ended is not None)
        return islice((name for name in self._waiting if self._needs[name] - {ended} <= self._done), lanes)
