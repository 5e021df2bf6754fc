"""A world in memory that performs the effects of flows, and that can crash at any of them."""

from dataclasses import dataclass, field
from typing import assert_never

from quaestor.core.effects import Effect, Emit, Execute, ReadRecords, Record
from quaestor.core.events import Event
from quaestor.core.records import Records


class Crash(BaseException):
    """The process dies here."""


@dataclass
class World:
    """What lasts between runs (the records and the effects of bodies), and what one run has done.

    Attributes:
        records: The names recorded.
        bodies: The names whose functions ran to their end, as often as they did.
        events: All that was emitted.
        crash_at: The number of the effect (from 0) at which to crash, or None.
        crash_after: Whether that effect is performed before the crash.
    """

    records: set[str] = field(default_factory=set)
    bodies: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    crash_at: int | None = None
    crash_after: bool = False
    performed: int = 0

    def perform(self, effect: Effect) -> object:
        crashes = self.performed == self.crash_at
        self.performed += 1
        if crashes and not self.crash_after:
            raise Crash
        answer = self._answer(effect)
        if crashes:
            raise Crash
        return answer

    def _answer(self, effect: Effect) -> object:
        match effect:
            case ReadRecords():
                return Records(frozenset(self.records))
            case Execute(migration):
                migration.execute(self)
                self.bodies.append(migration.name)
                return 0.5
            case Record(name):
                assert name not in self.records
                self.records.add(name)
                return None
            case Emit(event):
                self.events.append(event)
                return None
            case _:
                assert_never(effect)
