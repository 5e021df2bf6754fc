"""The order of steps, fed by hand: no database, no event loop."""

from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass

import pytest

from quaestor.core import flows
from quaestor.core.effects import Effect, Emit, Execute, Flow, ReadRecords, Record
from quaestor.core.events import (
    MigrationApplied,
    MigrationFailed,
    MigrationStarted,
    RecordsIgnored,
    RunFinished,
    RunStarted,
)
from quaestor.core.migration import MigrationDefinition
from quaestor.core.records import Records
from quaestor.errors import CircularDependencyError, MissingDatabaseError, MissingDependencyError, RecordConflictError
from quaestor.runners.drive import drive
from tests.functions import definitions
from tests.world import Crash, World

WHERE = ("shop", "app")


def run(needs: Mapping[str, list[str]]) -> Flow[list[str]]:
    return flows.run(definitions(needs), *WHERE, {"sync"})


DIAMOND = {"end": ["left", "right"], "left": ["top"], "right": ["top"], "top": []}


def test_steps() -> None:
    """Read, then per migration: execute, record; each told when it has happened."""
    a, b = definitions({"a": [], "b": []}).values()
    flow = run({"a": [], "b": []})
    steps: list[tuple[object, Effect]] = [
        (None, ReadRecords()),
        (Records(frozenset()), Emit(RunStarted(*WHERE, ("a", "b")))),
        (None, Emit(MigrationStarted(*WHERE, "a", 1, 2))),
        (None, Execute(a)),
        (0.25, Record("a")),
        (None, Emit(MigrationApplied(*WHERE, "a", 1, 2, 0.25))),
        (None, Emit(MigrationStarted(*WHERE, "b", 2, 2))),
        (None, Execute(b)),
        (0.5, Record("b")),
        (None, Emit(MigrationApplied(*WHERE, "b", 2, 2, 0.5))),
        (None, Emit(RunFinished(*WHERE, ("a", "b")))),
    ]
    for answer, expected in steps:
        assert flow.send(answer) == expected
    with pytest.raises(StopIteration) as end:
        flow.send(None)
    assert end.value.value == ["a", "b"]


def test_nothing_to_do() -> None:
    """One read, and nothing but facts after it."""
    world = World(records={"top", "left", "right", "end"})

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
    """Without a database for a pending migration, or a free `_id` for its record, nothing runs."""

    async def function(db: object) -> None: ...

    flow = flows.run({"a": MigrationDefinition("a", function)}, *WHERE, {"sync"})
    assert next(flow) == ReadRecords()
    with pytest.raises(MissingDatabaseError):
        flow.send(Records(frozenset()))

    flow = run({"a": []})
    assert next(flow) == ReadRecords()
    with pytest.raises(RecordConflictError):
        flow.send(Records(frozenset(), (), frozenset({"a"})))


def test_unreadable_records_are_told_once() -> None:
    """Records without a name are told in one event, before all others."""
    flow = run({"a": []})
    next(flow)
    assert flow.send(Records(frozenset(), (1, None))) == Emit(RecordsIgnored(*WHERE, (1, None)))
    assert next(flow) == Emit(RunStarted(*WHERE, ("a",)))


def test_crash_at_every_effect() -> None:
    """Wherever a run is cut off, the next one ends in the same state; only the body in hand may have run twice."""
    whole = World()
    order = drive(run(DIAMOND), whole.perform)

    for crash_at in range(whole.performed):
        for crash_after in (False, True):
            world = World(crash_at=crash_at, crash_after=crash_after)
            with pytest.raises(Crash):
                _killed(run(DIAMOND), world.perform)
            assert world.records == set(order[: len(world.records)])
            world.crash_at = None

            drive(run(DIAMOND), world.perform)

            assert world.records == set(order)
            assert sorted(set(world.bodies), key=order.index) == order
            assert len(world.bodies) - len(order) <= 1


def _killed(flow: Flow[list[str]], perform: Callable[[Effect], object]) -> None:
    """Drive the flow until an effect raises, and do nothing more: as when the process is gone."""
    effect = next(flow)
    while True:
        effect = flow.send(perform(effect))


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Crash])
def test_failure_is_told_and_noted(kind: type[BaseException]) -> None:
    """The exception leaves the flow as it came, with a note of the place; the event has it; nothing is recorded."""
    error = kind()

    def fail(db: object) -> None:
        raise error

    world = World()
    migrations = definitions({"a": [], "c": []}) | {"b": MigrationDefinition("b", fail)}

    with pytest.raises(kind) as caught:
        drive(flows.run(migrations, *WHERE, {"sync"}), world.perform)

    assert caught.value is error
    assert error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert world.events[-1] == MigrationFailed(*WHERE, "b", 2, 3, error)
    assert world.records == {"a"}


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
        drive(flows.run({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}), World().perform)


def test_stop_iteration() -> None:
    """A StopIteration of a migration is one for the caller too, though generators turn it into something else."""
    error, cause = StopIteration("empty cursor"), KeyError("cause")

    def fail(db: object) -> None:
        raise error from cause

    with pytest.raises(StopIteration) as caught:
        drive(flows.run({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}), World().perform)
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
        drive(flows.run({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}), World().perform)


def test_abandoned_flow_closes_quietly() -> None:
    """A flow that is thrown away in the middle of a migration does not ask for more."""
    flow = run({"a": []})
    next(flow)
    flow.send(Records(frozenset()))
    next(flow)
    assert isinstance(next(flow), Execute)
    flow.close()
