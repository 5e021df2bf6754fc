"""Many runs and rollbacks against one server in memory, their steps in any order, with all that can happen between."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quaestor._core import flows
from quaestor._core.definition import MigrationDefinition
from quaestor._core.effects import (
    BranchFlow,
    CheckLease,
    Command,
    CommitAgain,
    Effect,
    Emit,
    Execute,
    Finished,
    KeepLease,
    NextFinished,
    Now,
    Record,
    ReleaseLease,
    SideBySide,
    Sleep,
    Start,
    Transact,
    Unknown,
    Unrecord,
)
from quaestor._core.flows import Scope
from quaestor._core.lease import Terms, renewed_every
from quaestor._core.transaction import Attempt, Ending
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
class Request:
    """An effect that is asked for and is not performed yet, or whose answer is on its way back.

    Attributes:
        effect: The effect.
        wakes_at: Before that it does not come to its end.
        answer: What the server has answered, if it has.
    """

    effect: Effect
    wakes_at: float
    answer: list[object] = field(default_factory=list)


@dataclass
class Process:
    """A run, or a rollback, that has asked for effects which are not performed yet: a request under way, or functions
    that run.

    Attributes:
        world: Its view of the server.
        undoes: What a rollback undoes; None: it is a run.
        concurrency: How many migrations it runs at once, at most.
        requests: What is under way: side by side by its key; None: what the flow itself waits for.
        disturbed: Whether it was frozen, interrupted, or had its lease broken.
        unlocked: Whether it had its lease broken.
        unanswered: How many answers it has lost.
        committed: The lanes whose last commit came to the server.
        checked: Whether it has checked the lease since its last function ended.
        is_ended: Whether it has come to its end, or was killed.
        error: What it ended with, if it failed.
    """

    world: World
    undoes: str | None = None
    concurrency: int = 1
    requests: dict[int | None, Request] = field(default_factory=dict)
    disturbed: bool = False
    unlocked: bool = False
    unanswered: int = 0
    committed: set[int] = field(default_factory=set)
    checked: bool = False
    is_ended: bool = False
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.branches: BranchFlow[None] | None = None
        self.finished: list[Finished] = []
        self.interruption: KeyboardInterrupt | None = None
        scope = Scope(MIGRATIONS, "shop", "app", {"sync"}, self.world.terms)
        if self.undoes is None:
            self.flow = flows.run(scope, concurrency=self.concurrency)
        else:
            self.flow = flows.rollback(scope, [self.undoes])
        self._ask(None)

    @property
    def server(self) -> Server:
        return self.world.server

    @property
    def ready(self) -> list[int | None]:
        """What can come to its end: first the command that the flow waits for, for functions take longer."""
        ready = [key for key, request in self.requests.items() if request.wakes_at <= self.server.now]
        return sorted(ready, key=lambda key: -1 if key is None else key)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for any of those side by side."""
        return self.branches is not None and None not in self.requests

    def step(self, fault: str, number: int = 0) -> None:
        """One of the effects under way comes to its end, and the run goes on to the next one that takes time."""
        key = self.is_answered(fault, number)
        answer = self.requests.pop(key).answer.pop()
        if key is None:
            self._ask(answer)
            return
        self.finished.append(Finished(key, answer))
        if self.is_waiting:
            self._ask(self._finished())

    def is_answered(self, fault: str, number: int = 0) -> int | None:
        """One of the effects under way is performed, and the run does not know it yet."""
        key = self.ready[number % len(self.ready)]
        request = self.requests[key]
        if not request.answer:
            request.answer.append(self._outcome(request.effect, fault))
        return key

    def interrupt(self) -> None:
        """Ctrl-C, while effects are under way."""
        self.disturbed = True
        if self.branches is not None:  # it is told when it waits for any
            self.interruption = KeyboardInterrupt()
            if self.is_waiting:
                self._ask(None, self._interruption())
            return
        if isinstance(self.requests[None].effect, ReleaseLease):  # that comes to its end first
            self.is_answered("none")
        self.requests.clear()
        self._ask(None, KeyboardInterrupt())

    def kill(self) -> None:
        """The process is gone."""
        self.is_ended = True
        self.requests.clear()
        self.flow.close()

    def _interruption(self) -> KeyboardInterrupt | None:
        error, self.interruption = self.interruption, None
        return error

    def _finished(self) -> Finished:
        self.checked = False  # whatever ended, a record needs another look
        return self.finished.pop(0)

    def _outcome(self, effect: Effect, fault: str) -> object:
        match effect:
            case Sleep():
                return None
            case Transact(lane=lane):
                self.committed.discard(lane)
                session = self.world.lanes[lane]
                if fault not in {"none", "answer lost"} or session in self.server.ended:
                    self.server.ended.discard(session)
                    ended = {"none": Ending.EXPIRED, "request lost": Ending.ABORTED, "answer lost": Ending.UNKNOWN}
                    return Attempt(ended[fault], 0.5, ConnectionError())
                attempt = self.world.perform(effect)
                assert isinstance(attempt, Attempt)
                if attempt.ending is not Ending.COMMITTED:
                    return attempt
                self.committed.add(lane)
                return attempt if fault == "none" else Attempt(Ending.UNKNOWN, 0.5, ConnectionError())
            case CommitAgain(lane=lane):
                if fault != "none":
                    return Attempt(Ending.UNKNOWN, 0, ConnectionError())
                return Attempt(Ending.COMMITTED if lane in self.committed else Ending.EXPIRED, 0)
            case Execute():
                if self.branches is None:
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
        while True:
            flow = self.branches or self.flow
            try:
                effect = flow.send(answer) if thrown is None else flow.throw(thrown)
            except BaseException as error:  # noqa: BLE001 - it is looked at by the invariants
                answer, thrown = None, None if isinstance(error, StopIteration) else error
                if self.branches is not None:
                    assert not self.requests, "branches have ended, and functions go on"
                    self.branches = None
                    continue
                self._end(thrown)
                return
            answer = thrown = None
            match effect:
                case Now() | Emit() | KeepLease():
                    answer = self.world.perform(effect)
                case SideBySide():
                    self.branches = effect.flow
                case Start():
                    self._request(effect.key, effect.effect)
                case NextFinished() if self.interruption is not None:
                    thrown = self._interruption()
                case NextFinished() if self.finished:
                    answer = self._finished()
                case NextFinished():
                    return
                case _:
                    self._request(None, effect)
                    return

    def _end(self, error: BaseException | None) -> None:
        self.is_ended, self.error = True, error
        holder = self.server.holder
        assert holder is None or holder.owner != self.world.terms.owner, "a run has ended and keeps its lease"

    def _request(self, key: int | None, effect: Effect) -> None:
        longest = effect.longest if isinstance(effect, Sleep) else 0.0
        self.requests[key] = Request(effect, self.server.now + longest)
        if isinstance(effect, (Record, Unrecord)):
            assert self.checked, "a record is about to be changed without a look at the lease"
        if isinstance(effect, Transact):
            self.world.open.add(self.world.lanes[effect.lane])
        if isinstance(effect, (Execute, Transact, Record, Unrecord)):
            held = self.world.kept
            assert held is not None
            assert self.unlocked or self.server.is_held(held), f"without the lease: {effect}"


def own(error: BaseException) -> tuple[BaseException, ...]:
    """What it is, or is made of."""
    return error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)


class Instances(RuleBasedStateMachine):
    """Instances that start, are slow, frozen, killed, interrupted and cut off, in any order."""

    @initialize()
    def begin(self) -> None:
        self.server = Server()
        self.processes: list[Process] = []
        self.disturbances = 0

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes if not process.is_ended]

    def start(self, undoes: str | None = None, concurrency: int = 1) -> Process:
        process = Process(PassingWorld(self.server, Terms(f"run {len(self.processes)}", TTL)), undoes, concurrency)
        self.processes.append(process)
        return process

    @precondition(lambda self: len(self.alive) < 3)
    @rule(concurrency=st.integers(1, 3))
    def starts(self, concurrency: int) -> None:
        self.start(concurrency=concurrency)

    @precondition(lambda self: len(self.alive) < 3)
    @rule(name=st.sampled_from(sorted(NEEDS)))
    def undoes(self, name: str) -> None:
        self.start(name)

    @precondition(lambda self: any(process.ready for process in self.alive))
    @rule(
        data=st.data(),
        fault=FAULTS,
        steps=st.integers(min_value=1, max_value=8),
        number=st.integers(0, 2),
    )
    def steps(self, data: st.DataObject, fault: str, steps: int, number: int) -> None:
        process = data.draw(st.sampled_from([process for process in self.alive if process.ready]))
        process.step(fault, number)
        for _ in range(steps - 1):
            if process.ready:
                process.step("none", number)

    @precondition(lambda self: any(process.ready for process in self.alive))
    @rule(data=st.data(), answered=st.booleans(), number=st.integers(0, 2))
    def is_frozen(self, data: st.DataObject, answered: bool, number: int) -> None:
        """One is frozen past its lease, before the server gets its request or before it gets the answer; the others
        go on, and it wakes.
        """
        process = data.draw(st.sampled_from([process for process in self.alive if process.ready]))
        if answered:
            process.is_answered("none", number)
        self.pass_time(31, [process])
        for other in self.alive:
            for _ in range(data.draw(st.integers(0, 12), "steps of another")):
                if other is not process and other.ready:
                    other.step("none")
        process.step("none", number)

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
        data.draw(st.sampled_from(self.alive)).kill()
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
            if process.is_ended:
                assert self.server.sessions | self.server.ended_once >= process.world.open

    @invariant()
    def no_error_without_a_cause(self) -> None:
        for process in self.processes:
            if process.error is not None and not process.disturbed:
                assert all(isinstance(error, ConnectionError) for error in own(process.error))
                assert process.unanswered

    def teardown(self) -> None:
        """Whatever has happened, those who are left and one more come to a good end, and leave a free lease."""
        if not hasattr(self, "server"):
            return
        self.come_to_an_end()
        last = self.start(concurrency=3)
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
                while process.ready:
                    process.step("none")
            self.pass_time(1, [])
        assert not self.alive


Instances.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestInterleavings = Instances.TestCase
