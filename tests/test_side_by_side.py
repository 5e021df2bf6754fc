"""Migrations side by side, every order in which they can end, and what can go wrong at every step of each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import chain, combinations, islice
from typing import Any
from unittest.mock import ANY

import pytest

from quaestor import events
from quaestor._core import flows
from quaestor._core.definition import MigrationDefinition
from quaestor._core.effects import (
    AcquireLease,
    BranchFlow,
    CheckLease,
    Command,
    CommitAgain,
    Effect,
    Emit,
    EndSessions,
    Execute,
    Finished,
    Flow,
    NextFinished,
    Now,
    OpenSessions,
    Record,
    ReleaseLease,
    SideBySide,
    Sleep,
    Start,
    Transact,
    Unknown,
)
from quaestor._core.flows import Scope
from quaestor._core.lease import Terms, Whereabouts
from quaestor._core.plan import Change
from quaestor._core.records import Records
from quaestor._core.scheduler import Begun, Schedule
from quaestor._core.side_by_side import side_by_side
from quaestor._core.transaction import Attempt, Ending
from quaestor._hosts.drive import drive
from quaestor.errors import LeaseLostError
from quaestor.events import (
    Event,
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationStarted,
    RunFinished,
)
from tests.functions import nothing
from tests.passing import Collection as Documents
from tests.passing import Passing, PassingWorld
from tests.world import LONG_AGO, Choices, Crash, Server, World, crash, killed, lease, name_of, raised

WHERE = ("shop", "app")
TTL = 30.0
INDEPENDENT: dict[str, list[str]] = {"a": [], "b": [], "c": []}
CHAIN = {"a": [], "b": ["a"], "c": ["b"]}
FORK = {"a": [], "b": ["a"], "c": ["a"]}
JOIN = {"a": [], "b": [], "c": ["a", "b"]}


def looks(db: object, context: object) -> None:
    """A migration that could go over a collection: what may be kept of that is forgotten, before and after."""


@dataclass(frozen=True)
class Case:
    """Migrations that run side by side.

    Attributes:
        title: What they are.
        needs: Their dependencies.
        transactional: Which of them are in a transaction.
        lanes: How many of them may be under way at once.
        function: That of all of them.
    """

    title: str
    needs: Mapping[str, Sequence[str]]
    transactional: str = ""
    lanes: int = 3
    function: Callable[..., None] = nothing

    def __str__(self) -> str:
        return self.title.replace(" ", "-")

    def run(
        self,
        owner: str = "me",
        lanes: int | None = None,
        functions: Mapping[str, Callable[..., None]] | None = None,
    ) -> Flow[list[str]]:
        """A run of all of them."""
        scope = Scope(self.definitions(functions or {}), *WHERE, {"sync"}, Terms(owner, TTL))
        return flows.run(scope, concurrency=self.lanes if lanes is None else lanes)

    def definitions(self, functions: Mapping[str, Callable[..., None]]) -> dict[str, MigrationDefinition]:
        return {
            name: MigrationDefinition(name, functions.get(name, self.function), needed, name in self.transactional)
            for name, needed in self.needs.items()
        }


CASES = [
    Case("independent", INDEPENDENT),
    Case("independent in two lanes", INDEPENDENT, lanes=2),
    Case("independent in transactions", INDEPENDENT, "abc"),
    Case("independent in transactions in two lanes", INDEPENDENT, "abc", lanes=2),
    Case("independent and one in a transaction", INDEPENDENT, "b"),
    Case("chain", CHAIN, "b"),
    Case("fork", FORK),
    Case("fork of transactions", FORK, "ab"),
    Case("join", JOIN, "c"),
    Case("join of transactions", JOIN, "ab"),
    Case("join of those that could go over collections", JOIN, "b", function=looks),
]
MANY = [
    Case("four in two lanes", dict.fromkeys("abcd", ()), lanes=2),
    Case("four transactions in two lanes", dict.fromkeys("abcd", ()), "abcd", lanes=2),
    Case("four and two transactions in two lanes", dict.fromkeys("abcd", ()), "bc", lanes=2),
    Case("four that could go over collections in two lanes", dict.fromkeys("abcd", ()), "d", 2, looks),
    Case("diamond", {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}, "c"),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@dataclass
class Watched(PassingWorld):
    """A run in which it is looked at every step whether what is under way may be, and stands in the lock.

    Attributes:
        needs: The dependencies of its migrations.
        asked: All effects, in order, but those that only wait.
        wrong: What was found.
        fault_at: The number of the effect (from 0) whose request or answer is lost, or None.
        fault: Which.
        first: The number of the first effect of those side by side.
        last: That of the first one after them.
        functions: The migrations whose function is under way.
        interrupted_at: The number of the effect before which the run was interrupted.
    """

    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    asked: list[object] = field(default_factory=list)
    fault_at: int | None = None
    fault: str = "request lost"
    first: int = 0
    last: int = 0
    functions: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    interrupted_at: int | None = None

    def counted(self, step: Callable[[], object]) -> object:
        self.asked.append(step.args[0] if isinstance(step, partial) else None)
        answer = super().counted(step)
        holder = self.server.holder
        if holder is not None and holder.owner == self.terms.owner:
            unnamed = self.functions.difference(holder.migrations, {holder.recording})
            self.wrong += [f"{name} is under way, and not in the lock" for name in sorted(unnamed)]
        return answer

    def execute(self, effect: Execute | Transact) -> None:
        try:
            super().execute(effect)
        finally:
            self.functions.discard(effect.change.name)

    def answer(self, effect: Effect) -> object:
        if self.performed - 1 != self.fault_at:
            return super().answer(effect)
        lost = ConnectionError("lost")
        if isinstance(effect, Transact):
            if self.fault == "answer lost":
                super().answer(effect)
            return Attempt(Ending.UNKNOWN if self.fault == "answer lost" else Ending.ABORTED, 0.5, lost)
        if not isinstance(effect, Command):
            return super().answer(effect)
        if self.fault == "answer lost":
            super().answer(effect)
        return Unknown(lost)

    def side_by_side(self, flow: BranchFlow[None]) -> None:
        self.first = self.performed
        super().side_by_side(flow)
        self.last = self.performed

    def _start(self, start: Start[Effect]) -> None:
        if (name := name_of(start)) is not None:
            if not self.server.records >= set(self.needs[name]):
                self.wrong.append(f"{name} is begun before what it needs is recorded")
            self.functions.add(name)
        super()._start(start)
        lanes = [one.start.effect.lane for one in self.under_way.values() if isinstance(one.start.effect, Transact)]
        if len(lanes) > len(set(lanes)):
            self.wrong.append("two transactions at once in one session")

    def _interrupted(self) -> KeyboardInterrupt:
        self.interrupted_at = self.performed
        return super()._interrupted()

    def begun_after(self, number: int) -> list[str]:
        """The migrations whose function was called after this effect."""
        starts = [effect for effect in self.asked[number + 1 :] if isinstance(effect, Start)]
        return [name for start in starts if (name := name_of(start)) is not None]

    def told(self, *kinds: type[Event]) -> list[str]:
        """The migrations of these events, in order."""
        return [event.name for event in self.events if isinstance(event, kinds) and hasattr(event, "name")]


def watched(case: Case, choose: Choices | None = None, **options: Any) -> Watched:
    """A process that runs a case."""
    return Watched(terms=Terms("me", TTL), choose=choose or Choices(), needs=case.needs, **options)


def check_done(case: Case, world: Watched, *, most: int = 2) -> None:
    """All of it is there and recorded: in a transaction once, else at most so often."""
    server = world.server
    assert world.wrong == []
    assert server.records == case.needs.keys()
    for name in case.needs:
        assert 1 <= server.work.count(name) <= (1 if name in case.transactional else most), name


def follow_up(case: Case, server: Server) -> Watched:
    """Another process runs the case after that. Returns it when it is done."""
    successor = watched(case)
    successor.server, successor.terms = server, Terms("successor", TTL)
    drive(case.run("successor"), successor.perform)
    check_done(case, successor)
    return successor


def interrupted(case: Case, server: Server) -> set[str]:
    """What the status shows as interrupted when the lease has ended."""
    later = World(replace(server, now=server.ends_at))
    scope = Scope(case.definitions({}), *WHERE, {"sync"}, Terms("looks"))
    return {one.name for one in drive(flows.status(scope), later.perform).migrations if one.interrupted}


@dataclass(frozen=True)
class Place:
    """A step of a run at which something is to happen.

    Attributes:
        whole: The run to which nothing happened, whose steps are in the same order.
        at: The number of the effect (from 0).
        after: Whether it happens when that is performed, or before.
        make: Makes the process.
    """

    whole: Watched
    at: int
    after: bool
    make: Callable[..., Watched]

    @property
    def effect(self) -> object:
        """What is asked for there."""
        return self.whole.asked[self.at]

    @property
    def is_side_by_side(self) -> bool:
        """Whether it is a step of a branch."""
        return self.whole.first <= self.at < self.whole.last

    def world(self, strike: Callable[[], object] = crash, **options: Any) -> Watched:
        """A process to which something happens there."""
        choices = self.whole.choose
        assert isinstance(choices, Choices)
        return self.make(choices.again(), crash_at=self.at, crash_after=self.after, strike=strike, **options)


def watched_whole(case: Case) -> Watched:
    """A run of the case to which nothing happened."""
    world = watched(case)
    drive(case.run(), world.perform)
    return world


def raised_by(case: Case, world: Watched) -> Sequence[BaseException]:
    """Run the case. Returns what was raised, if anything was."""
    try:
        drive(case.run(), world.perform)
    except BaseExceptionGroup as group:
        return group.exceptions
    except BaseException as error:  # noqa: BLE001 - whoever asked looks at it
        return [error]
    return []


def subsets(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """All that are not empty."""
    ordered = sorted(names)
    return chain.from_iterable(combinations(ordered, size) for size in range(1, len(ordered) + 1))


def every_place(case: Case, **options: Any) -> Iterator[Place]:
    """Every order of ends, and every step in it."""
    for choices in Choices.all():
        whole = watched(case, choices, **options)
        drive(case.run(), whole.perform)
        check_done(case, whole, most=1)
        for at in range(whole.performed):
            for after in (False, True):
                yield Place(whole, at, after, partial(watched, case, **options))


@each_case
@pytest.mark.parametrize("is_early", [False, True])
def test_crash_at_every_effect(case: Case, is_early: bool) -> None:
    """Wherever a process dies, the next one ends in the same state, whatever ended first: what was under way may have
    run twice, in transactions it is there once. What it was in is told as interrupted.
    """
    for place in every_place(case, is_early=is_early):
        world = place.world()
        server = world.server
        with pytest.raises(Crash):
            killed(case.run(), world.perform)
        assert server.records <= set(server.work)
        assert server.sessions | server.ended_once >= world.open
        crashed_at = server.now
        shown = interrupted(case, server)
        half = set(world.begun_after(-1)).difference(case.transactional, server.records)
        assert half <= shown <= case.needs.keys() - server.records
        assert world.wrong == []
        successor = follow_up(case, server)
        # Else there was nothing left to do, and the lease of the dead ends by itself.
        assert server.holder is None or not successor.kept_once
        assert server.now - crashed_at <= TTL + 1


@pytest.mark.parametrize("case", CASES + MANY, ids=str)
@pytest.mark.parametrize("fault", ["request lost", "answer lost"])
def test_connection_lost_at_every_command(case: Case, fault: str) -> None:
    """Where a request or an answer of one branch is lost, that is asked again while the others go on, and all of it is
    done once. What is under way stands in the lock all the time.
    """
    most = len(watched_whole(case).asked) + 10
    for at in range(most):
        for choices in Choices.all():
            world = watched(case, choices, fault_at=at, fault=fault)
            assert drive(case.run(), world.perform) == sorted(case.needs)
            check_done(case, world, most=1)
            assert world.server.holder is None or LeaseNotReleased in map(type, world.events)


def failing(error: BaseException) -> Callable[[object], None]:
    """A migration that raises it."""

    def fail(db: object) -> None:
        raise error

    return fail


@each_case
@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_functions_that_fail(case: Case, kind: type[BaseException]) -> None:
    """Whichever fail, and in whatever order they end: nothing begins after the first, those under way come to their end
    and are recorded, and what was raised goes to the caller: one as it is, several together.
    """
    for names in subsets(case.needs):
        for choices in Choices.all():
            errors = {name: kind(name) for name in names}
            world = watched(case, choices)
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - it is looked at below
                drive(case.run(functions={name: failing(errors[name]) for name in names}), world.perform)

            begun, failed, applied = map(world.told, (MigrationStarted, MigrationFailed, MigrationApplied))
            assert sorted(begun) == sorted(failed + applied)
            first = [type(event) for event in world.events].index(MigrationFailed)
            assert MigrationStarted not in map(type, world.events[first:])
            if len(failed) == 1:
                assert caught.value is errors[failed[0]]
            else:
                assert isinstance(caught.value, BaseExceptionGroup)
                assert isinstance(caught.value, ExceptionGroup) is (kind is ValueError)
                assert caught.value.message == f"{len(failed)} migrations failed"
                assert caught.value.exceptions == tuple(errors[name] for name in failed)
            place = {name: f"{position} of {len(case.needs)}" for position, name in enumerate(case.needs, start=1)}
            notes = [f"quaestor: in migration {name!r}, {place[name]}" for name in failed]
            assert [errors[name].__notes__ for name in failed] == [[note] for note in notes]
            assert world.server.records == set(world.server.work) == set(applied)
            assert world.server.holder is None
            follow_up(case, world.server)


def test_stop_iteration() -> None:
    """A StopIteration of a migration comes as the RuntimeError that generators make of it, as in an event loop."""
    error = StopIteration("empty cursor")
    world = watched(CASES[0])
    with pytest.raises(RuntimeError) as caught:
        drive(CASES[0].run(functions={"b": failing(error)}), world.perform)
    assert caught.value.__cause__ is error
    assert caught.value.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert world.server.records == {"a", "c"}


@each_case
def test_error_at_every_effect(case: Case) -> None:
    """Wherever a branch fails, be it that what it wants cannot even be begun: nothing begins after that, what the
    others do comes to its end and is recorded, and the lease is given back.
    """
    for place in every_place(case):
        can_fail = Command | Execute | Transact | (CommitAgain if place.after else Start)
        if not (place.is_side_by_side and isinstance(place.effect, can_fail)):
            continue
        error = ValueError()
        world = place.world(partial(raised, error))
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - it is looked at below
            drive(case.run(), world.perform)

        assert caught.value is error
        assert world.wrong == []
        assert world.begun_after(place.at) == []
        failed, applied = set(world.told(MigrationFailed)), set(world.told(MigrationApplied))
        assert len(failed) <= 1
        assert set(world.told(MigrationStarted)) == failed | applied
        assert applied <= world.server.records <= failed | applied
        assert set(world.server.work) <= failed | applied
        assert world.server.holder is None
        follow_up(case, world.server)


@each_case
@pytest.mark.parametrize("cancelled", ["", "a", "bc", "abc"])
def test_interrupted_at_every_wait(case: Case, cancelled: str) -> None:
    """Whenever it is interrupted, nothing begins after that. Functions that can, end early; what comes to its end is
    recorded. Then the interruption goes on to the caller, and the lease is given back.
    """
    for interrupt_at in range(len(case.needs)):
        for choices in Choices.all():
            world = watched(case, choices, interrupt_at=interrupt_at, cancelled=frozenset(cancelled))
            with pytest.raises(KeyboardInterrupt) as caught:
                drive(case.run(), world.perform)

            assert caught.value.__cause__ is None
            assert world.interrupted_at is not None
            assert world.begun_after(world.interrupted_at - 1) == []
            failed, applied = set(world.told(MigrationFailed)), set(world.told(MigrationApplied))
            assert set(world.told(MigrationStarted)) == failed | applied
            assert failed <= set(cancelled)
            assert world.server.records == set(world.server.work) == applied
            assert world.server.holder is None
            check_done(case, follow_up(case, world.server), most=1)


def test_interrupted_and_failed() -> None:
    """What functions raise of their own, when a run is interrupted, is the cause of what the caller gets."""
    errors = {"b": ValueError("b"), "c": SystemExit("c")}
    for names in ("b", "c", "bc"):
        for choices in Choices.all():
            world = watched(CASES[0], choices, interrupt_at=0, cancelled=frozenset("a"))
            functions = {name: failing(errors[name]) for name in names}
            with pytest.raises(KeyboardInterrupt) as caught:
                drive(CASES[0].run(functions=functions), world.perform)
            assert caught.value.__cause__ is (errors["b"] if "b" in names else None)

    others = {"a": KeyError("a"), "b": ValueError("b")}
    world = watched(CASES[0], interrupt_at=0)
    with pytest.raises(KeyboardInterrupt) as caught:
        drive(CASES[0].run(functions={name: failing(others[name]) for name in "ab"}), world.perform)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert caught.value.__cause__.exceptions == (others["a"], others["b"])


@each_case
def test_interrupted_when_the_connection_is_lost(case: Case) -> None:
    """What is asked again after an interruption brings what is under way to its end, and begins nothing: a transaction
    that was aborted is not attempted again.
    """
    for at in range(len(watched_whole(case).asked)):
        for interrupt_at in range(len(case.needs) + 1):
            for choices in Choices.all():
                world = watched(case, choices, fault_at=at, interrupt_at=interrupt_at, cancelled=frozenset("b"))
                errors = raised_by(case, world)

                assert [type(error) for error in errors] == [KeyboardInterrupt] * (world.interrupted_at is not None)
                if world.interrupted_at is not None:
                    assert world.begun_after(world.interrupted_at - 1) == []
                assert world.wrong == []
                assert world.server.records == set(world.server.work) == set(world.told(MigrationApplied))
                assert world.server.holder is None or LeaseNotReleased in map(type, world.events)


@each_case
@pytest.mark.parametrize("is_early", [False, True])
def test_frozen_at_every_effect(case: Case, is_early: bool) -> None:
    """Wherever a process is frozen while another takes over and does all of it, it records nothing when it wakes, and
    nothing that is in a transaction is there twice.
    """
    for place in every_place(case, is_early=is_early):
        world = place.world()
        server = world.server
        left: list[Mapping[str, datetime]] = []

        def taken_over(server: Server = server, left: list[Mapping[str, datetime]] = left) -> None:
            server.now += TTL + 1
            follow_up(case, server)
            left.append(dict(server.recorded))

        world.strike = taken_over
        errors = raised_by(case, world)

        assert [server.recorded] == left
        assert all(isinstance(error, LeaseLostError) for error in errors)
        assert server.holder is None
        check_done(case, world)


@each_case
def test_lease_lost_at_every_effect(case: Case) -> None:
    """Wherever somebody else takes the lease away and holds it: of records only that is written after it whose check
    came before, and what is in a transaction and began all the same, for its record is the fence. The lease stays that
    of the other.
    """
    for place in every_place(case):
        if not place.is_side_by_side:
            continue
        world = place.world()
        server = world.server
        left: list[set[str]] = []

        def taken(server: Server = server, left: list[set[str]] = left) -> None:
            server.ends_at = server.now
            other = World(server, Terms("other", 1_000_000))
            other.perform(AcquireLease("run", ("a",), ()))
            other.perform(EndSessions(tuple(server.sessions)))
            left.append(server.records)

        world.strike = taken
        errors = raised_by(case, world)

        late = server.records.difference(*left)
        following = (
            effect for effect in world.asked[place.at + place.after :] if isinstance(effect, CheckLease | Record)
        )
        on_its_way = {effect.name for effect in islice(following, 1) if isinstance(effect, Record)}
        assert late <= on_its_way.union(set(world.begun_after(place.at - 1)) & set(case.transactional))
        assert all(isinstance(error, LeaseLostError) for error in errors)
        assert errors or server.records == case.needs.keys()
        assert world.wrong == []
        assert server.holder is not None
        assert server.holder.owner == "other"
        for name in case.transactional:
            assert server.work.count(name) == (name in server.records)


@pytest.mark.parametrize("transactional", [False, True])
def test_crash_in_passes(transactional: bool) -> None:
    """Of passes over collections that are under way at once each keeps its own place, wherever the process dies; and
    their checks of the lease leave what it says as it is.
    """
    case = Case("passes", {"a": [], "b": []})

    def over(name: str) -> Callable[..., None]:
        def go_over(db: object, passing: Passing) -> None:
            passing.each(collections[name].source(), 2, transaction=transactional)

        return go_over

    functions = {name: over(name) for name in case.needs}
    for choices in Choices.all():
        collections = {name: Documents([1, 2, 3]) for name in case.needs}
        world = watched(case, choices)
        drive(case.run(functions=functions), world.perform)
        check_done(case, world, most=1)
        assert [one.done for one in collections.values()] == [[[1, 2], [3]]] * 2
        for at in range(world.first, world.last):
            collections = {name: Documents([1, 2, 3]) for name in case.needs}
            dying = watched(case, choices.again(), crash_at=at, crash_after=at % 2 == 0)
            with pytest.raises(Crash):
                killed(case.run(functions=functions), dying.perform)
            assert dying.wrong == []
            successor = watched(case)
            successor.server, successor.terms = dying.server, Terms("successor", TTL)
            drive(case.run("successor", functions=functions), successor.perform)
            check_done(case, successor)
            twice = sum(len(one.ids_done) - 3 for one in collections.values())
            assert all(set(one.ids_done) == {1, 2, 3} for one in collections.values())
            assert twice <= (0 if transactional else 2)


def test_steps() -> None:
    """Each begins as soon as what it needs is recorded. The check before that record names it already; and that behind
    a transaction, what is under way and what begins.
    """
    case = Case("steps", {"a": [], "b": [], "c": ["a"], "d": ["a"]}, "b", lanes=2)
    known = case.definitions({})
    mine = lease(sessions=(b"one", b"two"))
    flow = case.run()
    answers: list[object] = [None, Records({}), True, (b"one", b"two"), 10.0, mine, None, Records({}), None]
    asked = [flow.send(answer) for answer in answers]
    assert OpenSessions(frozenset({"sync"}), 2) in asked
    assert AcquireLease("run", ("a", "b"), (b"one", b"two")) in asked
    assert isinstance(asked[-1], SideBySide)
    branches = asked[-1].flow

    def change(name: str) -> Change:
        return Change(name, True, known[name].execute, "sync", name in case.transactional)

    def place(name: str) -> tuple[str, str, str, int, int]:
        return (*WHERE, name, "abcd".index(name) + 1, 4)

    def execute(name: str) -> Execute:
        return Execute(change(name), events.Place(*place(name)), ANY)

    steps: list[tuple[object, object]] = [
        (None, Emit(MigrationStarted(*place("a")))),
        (None, Now()),
        (11.0, Start(0, execute("a"), is_told=True)),
        (None, Emit(MigrationStarted(*place("b")))),
        (None, Now()),
        (12.0, Now()),
        (12.0, Start(1, Transact(change("b"), events.Place(*place("b")), ANY, 1), is_told=True)),
        (None, NextFinished()),
        (Finished(0, 0.5), Now()),
        (13.0, CheckLease(mine, Whereabouts(("b", "c"), "a", ("c",)))),
        (True, Now()),
        (13.0, Record("a")),
        (True, Emit(MigrationApplied(*place("a"), 0.5))),
        (None, Emit(MigrationStarted(*place("c")))),
        (None, Now()),
        (14.0, Start(0, execute("c"), is_told=True)),
        (None, NextFinished()),
        (Finished(1, Attempt(Ending.COMMITTED, 0.25)), Emit(MigrationApplied(*place("b"), 0.25))),
        (None, Now()),
        (15.0, CheckLease(mine, Whereabouts(("c", "d")))),
        (True, Now()),
        (15.0, Emit(MigrationStarted(*place("d")))),
        (None, Now()),
        (16.0, Start(1, execute("d"), is_told=True)),
        (None, NextFinished()),
        (Finished(1, 0.5), Now()),
        (17.0, CheckLease(mine, Whereabouts(("c",), "d"))),
        (True, Now()),
        (17.0, Record("d")),
        (True, Emit(MigrationApplied(*place("d"), 0.5))),
        (None, NextFinished()),
        (Finished(0, 0.5), Now()),
        (18.0, CheckLease(mine, Whereabouts((), "c"))),
        (True, Now()),
        (18.0, Record("c")),
        (True, Emit(MigrationApplied(*place("c"), 0.5))),
    ]
    for answer, expected in steps:
        assert branches.send(answer) == expected
    with pytest.raises(StopIteration):
        branches.send(None)
    assert flow.send(None) == ReleaseLease()
    assert flow.send(None) == Emit(RunFinished(*WHERE, ("a", "b", "c", "d")))


@each_case
def test_order_and_lanes(case: Case) -> None:
    """The names come in the order of the plan, whatever ended first; never more are under way than there are lanes, and
    as many as can be.
    """
    for choices in Choices.all():
        world = watched(case, choices)
        assert drive(case.run(), world.perform) == ["a", "b", "c"]
        assert (world.server.holder, world.server.sessions, world.open) == (None, frozenset(), set())
        assert world.most_at_once == min(case.lanes, {"chain": 1, "fork": 2, "join": 2}.get(str(case).split("-")[0], 3))


def test_more_lanes_than_migrations() -> None:
    """No more sessions are opened than there is use for."""
    world = watched(CASES[2])
    assert drive(CASES[2].run(lanes=100), world.perform) == ["a", "b", "c"]
    assert len(world.sessions) == 3


def test_work_of_another() -> None:
    """What another instance has applied before this one had the lease is not done again, and what needs it begins."""

    class Late(Watched):
        def answer(self, effect: Effect) -> object:
            if isinstance(effect, AcquireLease):
                self.server.record("a")
            return super().answer(effect)

    world = Late(terms=Terms("me", TTL), needs=FORK)
    assert drive(Case("fork", FORK).run(), world.perform) == ["b", "c"]
    assert (sorted(world.server.work), world.most_at_once) == (["b", "c"], 2)


def test_nothing_to_do() -> None:
    """Then nothing is begun side by side, and nothing taken."""
    server = Server(recorded=dict.fromkeys(INDEPENDENT, LONG_AGO))
    world = watched(CASES[0])
    world.server = server
    assert drive(CASES[0].run(), world.perform) == []
    assert (world.last, world.kept_once) == (0, False)


def test_thrown_away() -> None:
    """A flow of branches that is thrown away asks for nothing more, wherever that is."""

    def carry_out(begun: Begun) -> Flow[None]:
        yield from Now()
        yield from Sleep(0, 0)
        yield from Now()

    answers: list[object] = [None, 1.0, None, 1.0, None, Finished(1), 1.0, Finished(0)]
    changes = [Change(name, True, nothing, "sync") for name in "ab"]
    for length in range(1, len(answers) + 1):
        flow = side_by_side(Schedule(changes, {}, 2), carry_out)
        asked = [flow.send(answer) for answer in answers[:length]]
        flow.close()
    assert [type(effect) for effect in asked] == [Now, Start, Now, Start, NextFinished, Now, NextFinished, Now]


def test_choices() -> None:
    """Every order is gone through once."""
    orders = []
    for choices in Choices.all():
        world = watched(CASES[0], choices)
        drive(CASES[0].run(), world.perform)
        orders.append("".join(world.told(MigrationApplied)))
    assert sorted(orders) == ["abc", "acb", "bac", "bca", "cab", "cba"]
