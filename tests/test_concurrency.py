"""Migrations at the same time, every order in which they can end, and what can go wrong at every call of each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core.definition import MigrationDefinition
from quaestor._core.lease import Location
from quaestor.errors import LeaseLostError
from quaestor.events import LeaseNotReleased, MigrationApplied, MigrationFailed, MigrationStarted, RunFailed
from tests.fake_store import TTL, Choices, FakeCollection, FakeContext, Process, Server, read_status
from tests.functions import nothing, take_context
from tests.world import LONG_AGO

INDEPENDENT: dict[str, list[str]] = {"a": [], "b": [], "c": []}
CHAIN = {"a": [], "b": ["a"], "c": ["b"]}
FORK = {"a": [], "b": ["a"], "c": ["a"]}
JOIN = {"a": [], "b": [], "c": ["a", "b"]}


@dataclass(frozen=True)
class Case:
    """Migrations that run at the same time.

    Attributes:
        title: What they are.
        needs: Their dependencies.
        transactional: Those of them that are transactions.
        slots: How many of them may be in progress at once.
        function: The function of all.
    """

    title: str
    needs: Mapping[str, Sequence[str]]
    transactional: str = ""
    slots: int = 3
    function: Callable[..., Any] = nothing

    def __str__(self) -> str:
        return self.title.replace(" ", "-")

    def start(
        self, server: Server, functions: Mapping[str, Callable[..., Any]] | None = None, **options: Any
    ) -> Process:
        """A process that runs all of them."""
        return Process(server, self.make_definitions(functions or {}), **options).run(concurrency=self.slots)

    def make_definitions(self, functions: Mapping[str, Callable[..., Any]]) -> dict[str, MigrationDefinition]:
        return {
            name: MigrationDefinition(name, functions.get(name, self.function), needed, name in self.transactional)
            for name, needed in self.needs.items()
        }


CASES = [
    Case("independent", INDEPENDENT),
    Case("independent in two slots", INDEPENDENT, slots=2),
    Case("independent transactions in two slots", INDEPENDENT, "abc", slots=2),
    Case("independent and one transaction", INDEPENDENT, "b"),
    Case("chain", CHAIN, "b"),
    Case("fork of transactions", FORK, "ab"),
    Case("join of transactions", JOIN, "ab"),
    Case("join that could go over collections", JOIN, "b", function=take_context),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def check_done(case: Case, server: Server, *, most: int = 2) -> None:
    """All of it is there and recorded: a transaction's once, otherwise at most so often."""
    assert server.records == case.needs.keys()
    for name in case.needs:
        assert 1 <= server.work.count(name) <= (1 if name in case.transactional else most), name


def check_order(process: Process) -> None:
    """The lease is checked, and then the record written, without another migration's in between."""
    engine_calls = {"renew_lease", "insert_records", "find_recorded", "delete_checkpoints"}
    calls = [call for call in process.log if call.name in engine_calls]
    for before, call in pairwise(calls):
        if call.name == "insert_records":
            location, _ = before.details
            assert isinstance(location, Location)
            assert location.recording == call.details


def finish_later(case: Case, server: Server, most: int = 2) -> Process:
    """Let another process finish."""
    later = case.start(server, owner="later")
    later.finish()
    check_done(case, server, most=most)
    return later


def finish(process: Process, choices: Choices | None = None) -> Sequence[BaseException]:
    """Finish a run. Returns what it raised."""
    try:
        process.finish(choices)
    except BaseExceptionGroup as group:
        return group.exceptions
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        return [error]
    return []


def every_place(case: Case) -> Iterator[tuple[Process, int, bool, Choices]]:
    """Every order of ends, and every call in it, before and after."""
    for choices in Choices.all():
        whole = case.start(Server())
        whole.finish(choices)
        check_done(case, whole.server, most=1)
        check_order(whole)
        for at in range(len(whole.log)):
            for after in (False, True):
                yield whole, at, after, choices.again()


def fail_with(error: BaseException) -> Callable[[object], None]:
    def fail(db: object) -> None:
        raise error

    return fail


def subsets(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    ordered = sorted(names)
    return chain.from_iterable(combinations(ordered, size) for size in range(1, len(ordered) + 1))


def list_started(process: Process, number: int = 0) -> list[str]:
    """The migrations whose function was called, from this call on, in order of their starts."""
    return [str(call.details) for call in process.log[number:] if call.is_function]


@each_case
def test_order(case: Case) -> None:
    """Names are returned in the order of the plan, whatever ends first. Slots are used, and never exceeded."""
    orders = set()
    for choices in Choices.all():
        process = case.start(Server())
        most = 0

        def choose(ready: Any, choices: Choices = choices) -> Any:
            nonlocal most
            in_progress = [call for task in ready if (call := task.call) is not None and call.is_function]
            most = max(most, len(in_progress))
            return choices(ready)

        assert process.finish(choose) == ["a", "b", "c"]
        check_order(process)
        assert (process.server.holder, process.server.sessions, process.open) == (None, set(), set())
        assert most == min(case.slots, {"chain": 1, "fork": 2, "join": 2}.get(case.title.split()[0], 3))
        orders.add("".join(process.names(MigrationApplied)))
    assert case.title != "independent" or orders == {"abc", "acb", "bac", "bca", "cab", "cba"}


@given(case=st.sampled_from(CASES), random=st.randoms(use_true_random=False))
def test_any_order(case: Case, random: Random) -> None:
    """However the calls of several migrations interleave, the check and the record of one stay together."""
    process = case.start(Server())
    process.finish(random.choice)
    check_order(process)
    check_done(case, process.server, most=1)
    assert (process.server.holder, process.server.sessions) == (None, set())


@each_case
def test_crash_at_every_call(case: Case) -> None:
    """Wherever a process dies, the next one gets to the same state: whatever was in progress may have run twice, and
    transactions are there once. The status shows it as interrupted.
    """
    for _, at, after, choices in every_place(case):
        process = case.start(Server(), strike_at=at, strike_after=after)
        server = process.server
        process.finish(choices)
        assert server.records <= set(server.work)
        assert set(server.transactions) <= server.sessions
        crashed_at = server.now
        server.now += TTL + 1
        shown = {one.name for one in read_status(server, case.make_definitions({})).migrations if one.interrupted}
        server.now -= TTL + 1
        started = {call.details for task in process.tasks for call in [task.call] if call is not None}
        assert set(list_started(process)).difference(case.transactional, server.records, started) <= shown
        assert shown <= case.needs.keys() - server.records
        later = finish_later(case, server)
        assert server.holder is None or not later.find("acquire_lease")
        assert server.now - crashed_at <= TTL + 1


@each_case
@pytest.mark.parametrize("fault", ["request lost", "answer lost"])
def test_answer_lost_at_every_call(case: Case, fault: str) -> None:
    """A command with a lost answer is repeated while the others go on; everything is done once."""
    whole = case.start(Server())
    whole.finish()
    for at in range(len(whole.log) + 5):
        for choices in Choices.all():
            process = case.start(Server(), faults={at: fault})
            assert process.finish(choices) == sorted(case.needs)
            check_done(case, process.server, most=1)
            assert process.server.holder is None or LeaseNotReleased in map(type, process.events)


@each_case
@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_functions_that_fail(case: Case, kind: type[BaseException]) -> None:
    """Nothing starts after the first failure. Others finish and are recorded. What was raised goes to the caller: one
    as it is, several as a group.
    """
    for names in subsets(case.needs):
        for choices in Choices.all():
            errors = {name: kind(name) for name in names}
            process = case.start(Server(), {name: fail_with(errors[name]) for name in names})
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - it is looked at below
                process.finish(choices)

            started, failed, applied = map(process.names, (MigrationStarted, MigrationFailed, MigrationApplied))
            assert sorted(started) == sorted(failed + applied)
            first = [type(event) for event in process.events].index(MigrationFailed)
            assert MigrationStarted not in map(type, process.events[first:])
            assert isinstance(process.events[-1], RunFailed)
            if len(failed) == 1:
                assert caught.value is errors[failed[0]]
            else:
                assert isinstance(caught.value, BaseExceptionGroup)
                assert isinstance(caught.value, ExceptionGroup) is (kind is ValueError)
                assert sorted(map(str, caught.value.exceptions)) == sorted(failed)
            notes = [f"quaestor: in migration {name!r}, {'abc'.index(name) + 1} of 3" for name in failed]
            assert [errors[name].__notes__ for name in failed] == [[note] for note in notes]
            assert process.server.records == set(process.server.work) == set(applied)
            assert process.server.holder is None
            finish_later(case, process.server)


def test_failure_just_after_another_end() -> None:
    """Nothing starts after a failure, though the supervisor learns first that another migration has ended."""
    process = CASES[1].start(Server(), {"b": fail_with(ValueError())})
    with pytest.raises(ValueError):  # noqa: PT011 - it is the one above
        process.finish(lambda ready: min(ready, key=lambda task: (task.key == "main", task.key)))
    assert process.names(MigrationApplied, MigrationFailed) == ["a", "b"]
    assert process.names(MigrationStarted) == ["a", "b"]


@each_case
def test_error_at_every_call(case: Case) -> None:
    """Wherever a migration fails, nothing starts after that; others finish and are recorded, the lease is released."""
    for whole, at, _, choices in every_place(case):
        call = whole.log[at]
        if call.task not in case.needs or not (call.lose or call.is_function):
            continue
        process = case.start(Server())
        error = ValueError()

        def strike(process: Process = process, error: ValueError = error) -> None:
            process.log[-1].outcome = (None, error)

        process.strike_at, process.strike = at, strike
        assert finish(process, choices) == [error]
        assert process.log[at].task == call.task
        failed, applied = set(process.names(MigrationFailed)), set(process.names(MigrationApplied))
        assert len(failed) <= 1
        assert set(process.names(MigrationStarted)) == failed | applied
        assert applied <= process.server.records | failed
        assert process.server.holder is None
        process.wrong.clear()
        finish_later(case, process.server)


@each_case
@pytest.mark.parametrize("cancelled", ["", "a", "bc", "abc"])
def test_interrupted_at_every_call(case: Case, cancelled: str) -> None:
    """After an interruption nothing starts. Functions that can, end early; what finishes is recorded. Then the
    interruption goes on to the caller, and the lease is released.
    """
    whole = case.start(Server())
    whole.finish()
    for at in range(len(whole.log)):
        for choices in Choices.all():
            process = case.start(Server(), cancelled=cancelled, strike_at=at)
            interrupted: list[object] = []

            def interrupt(process: Process = process, interrupted: list[object] = interrupted) -> None:
                if process.workers is not None:
                    process.interrupt()
                    interrupted.append(process.names(MigrationStarted))

            process.strike = interrupt
            errors = finish(process, choices)
            assert [type(error) for error in errors] == [KeyboardInterrupt] * len(interrupted)
            if not interrupted:
                continue
            assert errors[0].__cause__ is None
            assert [process.names(MigrationStarted)] == interrupted
            failed, applied = set(process.names(MigrationFailed)), set(process.names(MigrationApplied))
            assert set(process.names(MigrationStarted)) == failed | applied
            assert failed <= set(cancelled)
            assert process.server.records == set(process.server.work) == applied
            assert process.server.holder is None
            assert isinstance(process.events[-1], RunFailed)
            finish_later(case, process.server, most=1)


def test_interrupted_and_failed() -> None:
    """What functions raise themselves, when a run is interrupted, is the cause of what the caller gets."""
    errors = {"a": KeyError("a"), "b": ValueError("b"), "c": SystemExit("c")}
    for names, cause in (("b", ["b"]), ("c", []), ("bc", ["b"]), ("ab", ["a", "b"])):
        for choices in Choices.all():
            process = CASES[0].start(Server(), {name: fail_with(errors[name]) for name in names})
            while sum(task.call is not None and task.call.is_function for task in process.tasks) < 3:
                process.step(process.ready[0])
            process.interrupt()
            with pytest.raises(KeyboardInterrupt) as caught:
                process.finish(choices)
            found = caught.value.__cause__
            causes = found.exceptions if isinstance(found, ExceptionGroup) else [found]
            assert sorted(map(str, causes)) == sorted(str(errors[name]) for name in cause) or causes == [None]
            assert (causes == [None]) is (not cause)


@each_case
def test_lease_lost_at_every_call(case: Case) -> None:
    """Wherever another process gets the lease and finishes, this one records nothing when it wakes, and no transaction
    is there twice.
    """
    for _, at, after, choices in every_place(case):
        process = case.start(Server(), strike_at=at, strike_after=after, is_undisturbed=False)
        server = process.server
        left: list[dict[str, object]] = []

        def take_over(server: Server = server, left: list[dict[str, object]] = left) -> None:
            server.now += TTL + 1
            finish_later(case, server)
            left.append(dict(server.recorded))

        process.strike = take_over
        errors = finish(process, choices)
        assert [server.recorded] == left
        assert all(isinstance(error, LeaseLostError) for error in errors)
        assert (server.holder, server.transactions) == (None, {})
        check_done(case, server)


@pytest.mark.parametrize("way", ["loop", "transact"])
def test_crash_in_backfills(way: str) -> None:
    """Of backfills that run at the same time, each resumes from its own checkpoint, wherever the process dies."""
    case = Case("backfills", {"a": [], "b": []})
    collections: dict[str, FakeCollection] = {}

    def make(name: str) -> Callable[..., Any]:
        async def go_over(db: object, context: FakeContext) -> None:
            await getattr(context, way)(collections[name], 2)

        return go_over

    functions = {name: make(name) for name in case.needs}
    steps = 0
    for at in range(200):
        for after in (False, True):
            collections |= {name: FakeCollection([1, 2, 3]) for name in case.needs}
            dying = case.start(Server(), functions, strike_at=at, strike_after=after)
            # Both go on in turns.
            dying.finish(lambda ready, dying=dying: ready[len(dying.log) % len(ready)])
            steps = max(steps, len(dying.log))
            later = case.start(dying.server, functions, owner="later")
            later.finish()
            check_done(case, dying.server)
            assert all(set(one.ids_done) == {1, 2, 3} for one in collections.values())
            assert sum(len(one.ids_done) - 3 for one in collections.values()) <= (0 if way == "transact" else 4)
        if not dying.is_dead:
            break
    assert at > 40


def test_steps() -> None:
    """Each migration starts when whatever it needs is recorded. The check before that record names it already."""
    case = Case("steps", {"a": [], "b": [], "c": ["a"], "d": ["a"]}, "b", slots=2)
    process = case.start(Server(), durations={"a": 1.0, "b": 2.0, "c": 4.0, "d": 1.0})
    assert process.finish() == ["a", "b", "c", "d"]
    assert [call.details[0] for call in process.find("renew_lease")] == [
        Location(("b", "c"), "a", ("c",)),
        Location(("c", "d")),
        Location(("c",), "d"),
        Location((), "c"),
    ]
    assert process.names(MigrationStarted) == ["a", "b", "c", "d"]
    assert process.names(MigrationApplied) == ["a", "b", "d", "c"]


def test_more_slots_than_migrations() -> None:
    """No more sessions are opened than there is use for."""
    process = Process(Server(), CASES[2].make_definitions({})).run(concurrency=100)
    assert process.finish() == ["a", "b", "c"]
    assert len(process.sessions) == 3


def test_work_of_another() -> None:
    """What another instance has applied before this one had the lease isn't repeated, and what needs it starts."""
    process = Case("fork", FORK).start(Server())
    process.step(process.main)
    process.server.recorded["a"] = LONG_AGO
    assert process.finish() == ["b", "c"]
    assert sorted(process.server.work) == ["b", "c"]


def test_worker_that_cannot_start() -> None:
    """If there are no more threads, that is a failure like others."""
    process = Process(Server(), CASES[0].make_definitions({}), refused="b").run(concurrency=2)
    with pytest.raises(RuntimeError):
        process.finish()
    assert process.server.records == {"a"}
    assert process.server.holder is None
