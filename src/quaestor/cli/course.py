"""How far a run over many databases is, as its events tell, and what has become of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from quaestor._core.many import DatabaseResult
from quaestor.cli.marks import shown
from quaestor.cli.running import Running
from quaestor.cli.sentences import Clean, counted, duration
from quaestor.events import (
    DatabaseFinished,
    Event,
    LeaseAwaited,
    MigrationApplied,
    MigrationProgressed,
    MigrationRetried,
    MigrationStarted,
    PassStarted,
    ReplicasAwaited,
    RunStarted,
)


@dataclass(slots=True)
class UnderWay:
    """A database that is being migrated. Every change is one assignment, so that another thread may draw it meanwhile.

    Attributes:
        name: As it is shown (str).
        since: When it was first told of (float, seconds of some clock).
        awaited: For whom it waits (str, as it is shown); empty where it does not.
        total: How many migrations its plan holds (int).
        done: How many of them are applied (int).
        running: The one that runs; None between two.
    """

    name: str
    since: float
    awaited: str = ""
    total: int = 0
    done: int = 0
    running: Running | None = None


class Course:
    """Counts what the events of a run over many databases tell.

    Args:
        number: How many databases there are.
        clean: Takes secrets out of a text.
        clock: Tells the time, in seconds.

    Attributes:
        number: So many.
        began: When it began (float, seconds of the clock).
        under_way: Those that are being migrated, by name, in the order in which they began (dict of str to UnderWay).
        migrated: How many have ended well with something applied (int).
        idle: How many had nothing to do (int).
        failed: How many have failed (int).
        applied: How many migrations are applied, in all of them (int).
    """

    def __init__(self, number: int, clean: Clean, clock: Callable[[], float] = monotonic) -> None:
        self.number = number
        self.began = clock()
        self.under_way: dict[str, UnderWay] = {}
        self.migrated = self.idle = self.failed = self.applied = 0
        self._clean = clean
        self._clock = clock

    @property
    def ended(self) -> int:
        """How many have ended, well or not (int)."""
        return self.migrated + self.idle + self.failed

    def since(self, time: float) -> str:
        """How long ago that was, in words (str)."""
        return duration(self._clock() - time)

    def stopped(self) -> str:
        """How far it came where it was interrupted (str)."""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"Stopped after {self.ended:,} of {databases(self.number)}: {counted(self.applied)} applied{failed}."

    def tell(self, event: Event) -> None:
        """Take an event up."""
        now = self._clock()
        if isinstance(event, DatabaseFinished):
            self.under_way.pop(event.database, None)
            self.failed += isinstance(event.error, Exception)
            self.migrated += event.error is None and bool(event.applied)
            self.idle += event.error is None and not event.applied
            return
        one = self.under_way.get(event.database)
        if one is None:
            one = self.under_way[event.database] = UnderWay(shown(event.database), now)
        match event:
            case LeaseAwaited(holder=holder):
                one.awaited = shown(self._clean(str(holder)))
            case RunStarted(plan=plan):
                one.awaited, one.total = "", len(plan)
            case MigrationStarted(name=name):
                one.running = Running(shown(self._clean(name)), now)
            case MigrationRetried() | MigrationProgressed() | PassStarted() | ReplicasAwaited():
                if one.running is not None:
                    one.running.tell(event, now, self._clean)
            case MigrationApplied():
                self.applied += 1
                one.done, one.running = one.done + 1, None


def databases(number: int) -> str:
    """So many databases (str)."""
    return counted(number, "database")


def summed_up(results: Sequence[DatabaseResult], took: str) -> str:
    """What became of all of them, in one sentence (str)."""
    failed = sum(result.error is not None for result in results)
    migrated = sum(bool(result.applied) for result in results)
    idle = sum(result.error is None and not result.applied for result in results)
    if idle == len(results):
        return f"Nothing to do in {databases(idle)}: all that was asked for is applied"
    applied = counted(sum(len(result.applied) for result in results))
    said = [f"Failed in {failed:,} of {databases(len(results))}"] if failed else []
    if migrated or not failed:
        where = f"{migrated:,}" if failed else f"{migrated:,} of {databases(len(results))}"
        said.append(f"{'a' if failed else 'A'}pplied {applied} in {where}")
    if idle:
        said.append(f"nothing to do in {idle:,}")
    return f"{', '.join(said)}; it took {took}"
