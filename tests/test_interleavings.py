"""Many runs and rollbacks against one server in memory, their steps in any order, with all that can happen between."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quaestor.core import flows
from quaestor.core.effects import (
    CheckLease,
    Command,
    CommitAgain,
    Effect,
    Emit,
    Execute,
    KeepLease,
    Now,
    Record,
    ReleaseLease,
    Sleep,
    Transact,
    Unknown,
    Unrecord,
)
from quaestor.core.flows import Scope
from quaestor.core.lease import Terms, renewed_every
from quaestor.core.migration import MigrationDefinition
from quaestor.core.transaction import Attempt, Ending
from tests.functions import nothing
from tests.passing import PassingWorld
from tests.world import Server, World

TTL = 30
FAULTS = st.sampled_from(["none"] * 6 + ["request lost", "answer lost"])
PLAIN = {"top": [], "right": ["top"]}
TRANSACTIONAL = {"left": ["top"], "end": ["left", "right"]}
NEEDS: dict[str, list[str]] = PLAIN | TRANSACTIONAL


def looks(db: object, context: object) -> None:
    """A migration that could go over a collection: what may be kept of that is forgotten, before and after."""


MIGRATIONS = {
    name: MigrationDefinition(name, function, needed, transaction=name in TRANSACTIONAL, rollback=nothing)
    for name, needed in NEEDS.items()
    for function in [looks if name in {"right", "left"} else nothing]
}


@dataclass
class Process:
    """A run, or a rollback, that has asked for an effect which is not performed yet: a request under way, or a function
    that runs.

    Attributes:
        world: Its view of the server.
        undoes: What a rollback undoes; None: it is a run.
        answer: What the server has answered to it, where that is on its way back: an effect that is performed.
        disturbed: Whether it was frozen, interrupted, or had its lease broken.
        unlocked: Whether it had its lease broken.
        unanswered: How many answers it has lost.
        committed: Whether its last commit came to the server.
        checked: Whether it has checked the lease since its last function ended.
        error: What it ended with, if it failed.
    """

    world: World
    undoes: str | None = None
    answer: list[object] = field(default_factory=list)
    disturbed: bool = False
    unlocked: bool = False
    unanswered: int = 0
    committed: bool = False
    checked: bool = False
    error: BaseException | None = None
    pending: Effect | None = field(init=False)

    def __post_init__(self) -> None:
        self.wakes_at = 0.0
        scope = Scope(MIGRATIONS, "shop", "app", {"sync"}, self.world.terms)
        self.flow = flows.run(scope) if self.undoes is None else flows.rollback(scope, [self.undoes])
        self._ask(None)

    @property
    def server(self) -> Server:
        return self.world.server

    @property
    def can_step(self) -> bool:
        return self.pending is not None and self.wakes_at <= self.server.now

    def step(self, fault: str) -> None:
        """The pending effect comes to its end, and the run goes on to the next one that takes time."""
        self.is_answered(fault)
        self._ask(self.answer.pop())

    def is_answered(self, fault: str) -> None:
        """The pending effect is performed, and the run does not know it yet."""
        assert self.pending is not None
        if not self.answer:
            self.answer.append(self._outcome(self.pending, fault))

    def interrupt(self) -> None:
        """Ctrl-C, while the pending effect is under way."""
        self.disturbed = True
        if isinstance(self.pending, ReleaseLease):  # that comes to its end first
            self.is_answered("none")
        self.answer.clear()
        self._ask(None, KeyboardInterrupt())

    def _outcome(self, effect: Effect, fault: str) -> object:
        match effect:
            case Sleep():
                return None
            case Transact():
                self.committed = fault in {"none", "answer lost"} and self.world.session not in self.server.ended
                if not self.committed:
                    self.server.ended.discard(self.world.session or b"")
                    ended = {"none": Ending.EXPIRED, "request lost": Ending.ABORTED, "answer lost": Ending.UNKNOWN}
                    return Attempt(ended[fault], 0.5, ConnectionError())
                attempt = self.world.perform(effect)
                assert isinstance(attempt, Attempt)
                self.committed = attempt.ending is Ending.COMMITTED
                return (
                    attempt
                    if fault == "none" or not self.committed
                    else Attempt(Ending.UNKNOWN, 0.5, ConnectionError())
                )
            case CommitAgain():
                if fault != "none":
                    return Attempt(Ending.UNKNOWN, 0, ConnectionError())
                return Attempt(Ending.COMMITTED if self.committed else Ending.EXPIRED, 0)
            case Execute():
                self.checked = False
                return self.world.perform(effect)
            case Command():
                if fault == "request lost":
                    self.unanswered += 1
                    return Unknown(ConnectionError())
                held = self.world.kept is not None and self.server.is_held(self.world.kept)
                answer = self.world.perform(effect)
                if isinstance(effect, Record) and answer is True and not held:
                    self.server.overtaken.add(effect.name)
                if fault == "answer lost":
                    self.unanswered += 1
                    return Unknown(ConnectionError())
                self.checked |= isinstance(effect, CheckLease) and bool(answer)
                self.checked &= not isinstance(effect, (Record, Unrecord))  # one more needs one more
                return answer
            case _:
                return self.world.perform(effect)

    def _ask(self, answer: object, thrown: BaseException | None = None) -> None:
        """Give the flow its answer, and perform what takes no time."""
        try:
            self.pending = self.flow.send(answer) if thrown is None else self.flow.throw(thrown)
            while isinstance(self.pending, (Now, Emit, KeepLease)):
                self.pending = self.flow.send(self.world.perform(self.pending))
        except BaseException as error:  # noqa: BLE001 - it is looked at by the invariants
            self.pending = None
            if not isinstance(error, StopIteration):
                self.error = error
            holder = self.server.holder
            assert holder is None or holder.owner != self.world.terms.owner, "a run has ended and keeps its lease"
        if isinstance(self.pending, Sleep):
            self.wakes_at = self.server.now + self.pending.longest
        if isinstance(self.pending, (Record, Unrecord)):
            assert self.checked, "a record is about to be changed without a look at the lease"
        if isinstance(self.pending, Transact):
            self.world.is_open = True
        if isinstance(self.pending, (Execute, Transact, Record, Unrecord)):
            held = self.world.kept
            assert held is not None
            assert self.unlocked or self.server.is_held(held), f"without the lease: {self.pending}"


class Instances(RuleBasedStateMachine):
    """Instances that start, are slow, frozen, killed, interrupted and cut off, in any order."""

    @initialize()
    def begin(self) -> None:
        self.server = Server()
        self.processes: list[Process] = []
        self.disturbances = 0

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.pending is not None]

    def start(self, undoes: str | None = None) -> Process:
        process = Process(PassingWorld(self.server, Terms(f"run {len(self.processes)}", TTL)), undoes)
        self.processes.append(process)
        return process

    @precondition(lambda self: len(self.alive) < 3)
    @rule()
    def starts(self) -> None:
        self.start()

    @precondition(lambda self: len(self.alive) < 3)
    @rule(name=st.sampled_from(sorted(NEEDS)))
    def undoes(self, name: str) -> None:
        self.start(name)

    @precondition(lambda self: any(process.can_step for process in self.alive))
    @rule(
        data=st.data(),
        fault=FAULTS,
        steps=st.integers(min_value=1, max_value=8),
    )
    def steps(self, data: st.DataObject, fault: str, steps: int) -> None:
        process = data.draw(st.sampled_from([process for process in self.alive if process.can_step]))
        process.step(fault)
        for _ in range(steps - 1):
            if process.can_step:
                process.step("none")

    @precondition(lambda self: any(process.can_step for process in self.alive))
    @rule(data=st.data(), answered=st.booleans())
    def is_frozen(self, data: st.DataObject, answered: bool) -> None:
        """One is frozen past its lease, before the server gets its request or before it gets the answer; the others
        go on, and it wakes.
        """
        process = data.draw(st.sampled_from([process for process in self.alive if process.can_step]))
        if answered:
            process.is_answered("none")
        self.pass_time(31, [process])
        for other in self.alive:
            for _ in range(data.draw(st.integers(0, 12), "steps of another")):
                if other is not process and other.can_step:
                    other.step("none")
        process.step("none")

    @rule(data=st.data(), seconds=st.sampled_from([0.1, 1.0, 29.0]))
    def time_goes_by(self, data: st.DataObject, seconds: float) -> None:
        """Some are frozen meanwhile; those that are not renew their leases."""
        frozen = [process for process in self.alive if data.draw(st.booleans(), "frozen")]
        self.pass_time(seconds, frozen)

    def pass_time(self, seconds: float, frozen: list[Process]) -> None:
        for process in frozen:
            process.disturbed = True
            self.disturbances += 1
        while seconds > 0:
            for process in self.alive:
                if process not in frozen and process.world.kept is not None:
                    self.server.renew(process.world.kept, TTL)
            moved = min(seconds, renewed_every(TTL))
            self.server.now += moved
            seconds -= moved

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def is_killed(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.alive))
        process.pending = None
        process.flow.close()
        self.disturbances += 1

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def is_interrupted(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.alive)).interrupt()
        self.disturbances += 1

    @rule()
    def is_unlocked(self) -> None:
        for process in self.alive:
            if self.server.holder is not None and self.server.holder.owner == process.world.terms.owner:
                process.disturbed = process.unlocked = True
        self.server.ends_at = min(self.server.ends_at, self.server.now)
        self.disturbances += 1

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        for name, needs in NEEDS.items():
            done, recorded = self.server.work.count(name), name in self.server.records
            undone = self.server.undone.count(name)
            if name in TRANSACTIONAL:
                assert done - undone == recorded, f"{name} was done {done} and undone {undone} times"
            else:
                assert done or not recorded, f"{name} is recorded and was not done"
            # A record that a frozen process writes when others have undone its migration nobody can prevent.
            assert not recorded or name in self.server.overtaken or self.server.records.issuperset(needs)

    @invariant()
    def what_the_dead_left_open_is_known(self) -> None:
        for process in self.processes:
            if process.pending is None and process.world.is_open:
                assert self.server.sessions | self.server.ended_once >= {process.world.session}

    @invariant()
    def no_error_without_a_cause(self) -> None:
        for process in self.processes:
            if process.error is not None and not process.disturbed:
                assert isinstance(process.error, ConnectionError)
                assert process.unanswered

    def teardown(self) -> None:
        """Whatever has happened, those who are left and one more come to a good end, and leave a free lease."""
        if not hasattr(self, "server"):
            return
        self.come_to_an_end()
        last = self.start()
        self.come_to_an_end()
        assert last.error is None
        assert self.server.records == NEEDS.keys()
        assert self.server.holder is None or self.server.ends_at <= self.server.now
        rollbacks = sum(process.undoes is not None for process in self.processes)
        for name in PLAIN:
            assert self.server.work.count(name) <= 1 + rollbacks + self.disturbances
            assert self.server.undone.count(name) <= rollbacks + self.disturbances
        self.nothing_is_lost_or_doubled()
        self.no_error_without_a_cause()

    def come_to_an_end(self) -> None:
        for _ in range(1_000):
            for process in self.alive:
                while process.can_step:
                    process.step("none")
            self.pass_time(1, [])
        assert not self.alive


Instances.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestInterleavings = Instances.TestCase
