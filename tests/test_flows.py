"""The order of steps, fed by hand: no database, no event loop."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass

import pytest

from quaestor.core import flows
from quaestor.core.effects import (
    AcquireLease,
    CheckLease,
    Effect,
    Emit,
    Execute,
    Flow,
    KeepLease,
    Now,
    OpenSessions,
    ReadRecords,
    Record,
    ReleaseLease,
    Transact,
)
from quaestor.core.events import (
    MigrationApplied,
    MigrationFailed,
    MigrationStarted,
    RecordsIgnored,
    RunFinished,
    RunStarted,
)
from quaestor.core.lease import Terms
from quaestor.core.migration import MigrationDefinition
from quaestor.core.records import Records
from quaestor.core.transaction import Attempt, Ending
from quaestor.errors import (
    CircularDependencyError,
    MissingDatabaseError,
    MissingDependencyError,
    RecordConflictError,
    TransactionsUnsupportedError,
)
from quaestor.runners.drive import drive
from tests.functions import definitions, nothing
from tests.world import Crash, Server, World, killed, lease

WHERE = ("shop", "app")
TERMS = Terms("me", ttl=30)
NONE = Records(frozenset())


def run(needs: Mapping[str, list[str]], *, transactional: bool = False, owner: str = "me") -> Flow[list[str]]:
    return flows.run(definitions(needs, transactional=transactional), *WHERE, {"sync"}, Terms(owner, ttl=30))


DIAMOND = {"end": ["left", "right"], "left": ["top"], "right": ["top"], "top": []}


def follow(flow: Flow[list[str]], steps: list[tuple[object, Effect]]) -> list[str]:
    """Feed a flow its answers, each beside the effect that must follow it; then None. Returns its result."""
    for answer, expected in steps:
        assert flow.send(answer) == expected
    with pytest.raises(StopIteration) as end:
        flow.send(None)
    result: list[str] = end.value.value
    return result


def test_steps() -> None:
    """Read, take the lease, read again; execute, check the lease, record; release. Told as it happens."""
    a, b = definitions({"a": [], "b": []}).values()
    mine = lease()
    steps: list[tuple[object, Effect]] = [
        (None, ReadRecords()),
        (NONE, Now()),
        (10.0, AcquireLease("a", ())),
        (mine, KeepLease(mine)),
        (None, ReadRecords()),
        (NONE, Emit(RunStarted(*WHERE, ("a", "b")))),
        (None, Emit(MigrationStarted(*WHERE, "a", 1, 2))),
        (None, Now()),
        (11.0, Execute(a)),
        (0.25, Now()),
        (12.0, CheckLease(mine, "b", ())),
        (True, Now()),
        (12.0, Record("a")),
        (True, Emit(MigrationApplied(*WHERE, "a", 1, 2, 0.25))),
        (None, Emit(MigrationStarted(*WHERE, "b", 2, 2))),
        (None, Now()),
        (13.0, Execute(b)),
        (0.5, Now()),
        (14.0, CheckLease(mine, None, ())),
        (True, Now()),
        (14.0, Record("b")),
        (True, Emit(MigrationApplied(*WHERE, "b", 2, 2, 0.5))),
        (None, ReleaseLease()),
        (None, Emit(RunFinished(*WHERE, ("a", "b")))),
    ]
    assert follow(run({"a": [], "b": []}), steps) == ["a", "b"]


def test_steps_with_transactions() -> None:
    """The sessions are there before the lease; the check follows the commit, and after the last there is none."""
    a, b = definitions({"a": [], "b": []}, transactional=True).values()
    mine = lease(sessions=(b"s",))
    steps: list[tuple[object, Effect]] = [
        (None, ReadRecords()),
        (NONE, OpenSessions(frozenset({"sync"}))),
        ((b"s",), Now()),
        (10.0, AcquireLease("a", (b"s",))),
        (mine, KeepLease(mine)),
        (None, ReadRecords()),
        (NONE, Emit(RunStarted(*WHERE, ("a", "b")))),
        (None, Emit(MigrationStarted(*WHERE, "a", 1, 2))),
        (None, Now()),
        (11.0, Now()),
        (11.0, Transact(a)),
        (Attempt(Ending.COMMITTED, 0.25), Emit(MigrationApplied(*WHERE, "a", 1, 2, 0.25))),
        (None, Now()),
        (12.0, CheckLease(mine, "b", (b"s",))),
        (True, Now()),
        (12.0, Emit(MigrationStarted(*WHERE, "b", 2, 2))),
        (None, Now()),
        (13.0, Now()),
        (13.0, Transact(b)),
        (Attempt(Ending.COMMITTED, 0.5), Emit(MigrationApplied(*WHERE, "b", 2, 2, 0.5))),
        (None, ReleaseLease()),
        (None, Emit(RunFinished(*WHERE, ("a", "b")))),
    ]
    assert follow(run({"a": [], "b": []}, transactional=True), steps) == ["a", "b"]


def test_nothing_to_do() -> None:
    """One read, no lease, and nothing but facts after it."""
    world = World(Server(records={"top", "left", "right", "end"}))

    assert drive(run(DIAMOND), world.perform) == []
    assert world.events == [RunStarted(*WHERE, ()), RunFinished(*WHERE, ())]
    assert world.performed == 3


@pytest.mark.parametrize(
    ("needs", "error"),
    [
        ({"a": ["b"], "b": ["a"]}, CircularDependencyError),
        ({"a": ["b"]}, MissingDependencyError),
    ],
)
def test_graph_is_checked_before_the_first_effect(needs: dict[str, list[str]], error: type[Exception]) -> None:
    """An unsound graph asks for nothing, not even the records, applied or not."""
    with pytest.raises(error):
        next(run(needs))


def test_refused_after_the_read() -> None:
    """Without a database for a pending migration, or a free `_id` for its record, or transactions: not even a lease."""

    async def function(db: object) -> None: ...

    flow = flows.run({"a": MigrationDefinition("a", function)}, *WHERE, {"sync"}, TERMS)
    assert next(flow) == ReadRecords()
    with pytest.raises(MissingDatabaseError):
        flow.send(NONE)

    flow = run({"a": []})
    assert next(flow) == ReadRecords()
    with pytest.raises(RecordConflictError):
        flow.send(Records(frozenset(), (), frozenset({"a"})))

    migrations = definitions({"a": []}) | {"b": MigrationDefinition("b", nothing, transaction=True)}
    flow = flows.run(migrations, *WHERE, {"sync"}, TERMS)
    assert next(flow) == ReadRecords()
    assert flow.send(NONE) == OpenSessions(frozenset({"sync"}))
    with pytest.raises(TransactionsUnsupportedError) as caught:
        flow.send(None)
    assert caught.value.migrations == ["b"]


def test_unreadable_records_are_told_once() -> None:
    """Records without a name are told in one event, before all others."""
    flow = run({"a": []})
    next(flow)
    odd = Records(frozenset(), (1, None))
    assert flow.send(odd) == Emit(RecordsIgnored(*WHERE, (1, None)))
    assert next(flow) == Now()
    assert flow.send(0.0) == AcquireLease("a", ())
    assert isinstance(flow.send(lease()), KeepLease)
    assert next(flow) == ReadRecords()
    assert flow.send(odd) == Emit(RunStarted(*WHERE, ("a",)))


@pytest.mark.parametrize("transactional", [False, True])
def test_crash_at_every_effect(transactional: bool) -> None:
    """Wherever a run is cut off, the next one ends in the same state; only the body in hand may have run twice, and
    with a transaction its work is there once. The lease of the dead is waited for and not longer.
    """
    whole = World()
    order = drive(run(DIAMOND, transactional=transactional), whole.perform)

    for crash_at in range(whole.performed):
        for crash_after in (False, True):
            world = World(crash_at=crash_at, crash_after=crash_after)
            with pytest.raises(Crash):
                killed(run(DIAMOND, transactional=transactional), world.perform)
            assert world.server.records == set(order[: len(world.server.records)])
            crashed_at = world.server.now
            successor = World(world.server, Terms("successor"))

            drive(run(DIAMOND, transactional=transactional, owner="successor"), successor.perform)

            assert world.server.records == set(order)
            assert sorted(set(world.server.work), key=order.index) == order
            assert len(world.server.work) - len(order) <= (0 if transactional else 1)
            if successor.kept_once:  # else there was nothing left to do, and the lease of the dead ends by itself
                assert world.server.holder is None
            assert world.server.now - crashed_at <= TERMS.ttl + 1


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Crash])
def test_failure_is_told_and_noted(kind: type[BaseException]) -> None:
    """The exception leaves the flow as it came, with a note of the place; the event has it; nothing is recorded."""
    error = kind()

    def fail(db: object) -> None:
        raise error

    world = World()
    migrations = definitions({"a": [], "c": []}) | {"b": MigrationDefinition("b", fail)}

    with pytest.raises(kind) as caught:
        drive(flows.run(migrations, *WHERE, {"sync"}, TERMS), world.perform)

    assert caught.value is error
    assert error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert world.events[-1] == MigrationFailed(*WHERE, "b", 2, 3, error)
    assert world.server.records == {"a"}
    assert world.server.holder is None


def test_failure_that_takes_no_note() -> None:
    """An exception that cannot carry a note is still the one that comes out."""

    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    def fail(db: object) -> None:
        raise Frozen(7)

    with pytest.raises(FrozenInstanceError):
        Frozen(7).add_note("")
    with pytest.raises(Frozen):
        drive(flows.run({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}, TERMS), World().perform)


def test_stop_iteration() -> None:
    """A StopIteration of a migration is one for the caller too, though generators turn it into something else."""
    error, cause = StopIteration("empty cursor"), KeyError("cause")

    def fail(db: object) -> None:
        raise error from cause

    with pytest.raises(StopIteration) as caught:
        drive(flows.run({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}, TERMS), World().perform)
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


def test_runtime_error_of_a_generator() -> None:
    """A RuntimeError that a migration's own generator made of a StopIteration stays a RuntimeError."""

    def fail(db: object) -> None:
        def broken() -> object:
            yield next(iter(()))

        list(broken())  # type: ignore[call-overload]  # a generator, declared as object to keep the example short

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        drive(flows.run({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}, TERMS), World().perform)


def test_abandoned_flow_closes_quietly() -> None:
    """A flow that is thrown away in the middle of a migration does not ask for more."""
    flow = run({"a": []})
    answers: list[object] = [None, NONE, 0.0, lease(), None, NONE, None, None, 1.0]
    *_, last = [flow.send(answer) for answer in answers]
    assert isinstance(last, Execute)
    flow.close()
