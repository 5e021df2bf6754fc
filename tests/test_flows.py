"""The order of steps, fed by hand: no database, no event loop."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, replace
from unittest.mock import ANY

import pytest

from quaestor._core import flows, leasing
from quaestor._core.checkpoint import Checkpoint, PassKey
from quaestor._core.definition import MigrationDefinition
from quaestor._core.effects import (
    AcquireLease,
    AskForTransactions,
    CheckLease,
    Effect,
    Emit,
    Execute,
    Flow,
    ForgetProgress,
    KeepLease,
    Now,
    OpenSessions,
    ReadLock,
    ReadProgress,
    ReadRecords,
    Record,
    ReleaseLease,
    Sleep,
    Transact,
    Unknown,
    Unrecord,
)
from quaestor._core.flows import Scope
from quaestor._core.lease import Lock, Terms, Turn, Whereabouts
from quaestor._core.plan import Change, PlannedMigration
from quaestor._core.records import Records
from quaestor._core.rehearsal import rehearsed
from quaestor._core.transaction import Attempt, Ending
from quaestor._hosts.drive import drive
from quaestor.errors import (
    CircularDependencyError,
    InvalidOptionError,
    LeaseLostError,
    MissingDatabaseError,
    MissingDependencyError,
    RecordConflictError,
    TransactionsUnsupportedError,
    UnknownMigrationError,
    UnknownRecordsError,
)
from quaestor.events import (
    MigrationApplied,
    MigrationFailed,
    MigrationRolledBack,
    MigrationStarted,
    Place,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunStarted,
)
from quaestor.status import MigrationStatus, PassStatus, Status, Work
from tests.functions import definitions, nothing
from tests.passing import Collection, Passing, PassingWorld
from tests.world import LONG_AGO, Crash, Kept, Server, World, killed, lease

WHERE = ("shop", "app")
TERMS = Terms("me", ttl=30)
NONE = Records({})


def run(needs: Mapping[str, list[str]], *, transactional: bool = False, owner: str = "me") -> Flow[list[str]]:
    return flows.run(Scope(definitions(needs, transactional=transactional), *WHERE, {"sync"}, Terms(owner, ttl=30)))


def changes(needs: Mapping[str, list[str]], *, transactional: bool = False) -> list[Change]:
    """What is carried out to apply these."""
    known = definitions(needs, transactional=transactional)
    return [Change(name, True, known[name].execute, "sync", transactional) for name in known]


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
    a, b = changes({"a": [], "b": []})
    mine = lease()
    steps: list[tuple[object, Effect]] = [
        (None, ReadRecords()),
        (NONE, Now()),
        (10.0, AcquireLease("run", ("a",), ())),
        (mine, KeepLease(mine)),
        (None, ReadRecords()),
        (NONE, Emit(RunStarted(*WHERE, ("a", "b")))),
        (None, Emit(MigrationStarted(*WHERE, "a", 1, 2))),
        (None, Now()),
        (11.0, Execute(a, Place(*WHERE, "a", 1, 2), Turn(mine, 30, 10, ("a",)))),
        (0.25, Now()),
        (12.0, CheckLease(mine, Whereabouts(("b",), "a", ("b",)))),
        (True, Now()),
        (12.0, Record("a")),
        (True, Emit(MigrationApplied(*WHERE, "a", 1, 2, 0.25))),
        (None, Emit(MigrationStarted(*WHERE, "b", 2, 2))),
        (None, Now()),
        (13.0, Execute(b, Place(*WHERE, "b", 2, 2), Turn(mine, 30, 12, ("b",)))),
        (0.5, Now()),
        (14.0, CheckLease(mine, Whereabouts((), "b"))),
        (True, Now()),
        (14.0, Record("b")),
        (True, Emit(MigrationApplied(*WHERE, "b", 2, 2, 0.5))),
        (None, ReleaseLease()),
        (None, Emit(RunFinished(*WHERE, ("a", "b")))),
    ]
    assert follow(run({"a": [], "b": []}), steps) == ["a", "b"]


def test_steps_with_transactions() -> None:
    """The sessions are there before the lease; the check follows the commit, and after the last there is none."""
    a, b = changes({"a": [], "b": []}, transactional=True)
    mine = lease(sessions=(b"s",))
    steps: list[tuple[object, Effect]] = [
        (None, ReadRecords()),
        (NONE, AskForTransactions()),
        (True, OpenSessions(frozenset({"sync"}))),
        ((b"s",), Now()),
        (10.0, AcquireLease("run", ("a",), (b"s",))),
        (mine, KeepLease(mine)),
        (None, ReadRecords()),
        (NONE, Emit(RunStarted(*WHERE, ("a", "b")))),
        (None, Emit(MigrationStarted(*WHERE, "a", 1, 2))),
        (None, Now()),
        (11.0, Now()),
        (11.0, Transact(a, Place(*WHERE, "a", 1, 2), Turn(mine, 30, 10, ("a",)))),
        (Attempt(Ending.COMMITTED, 0.25), Emit(MigrationApplied(*WHERE, "a", 1, 2, 0.25))),
        (None, Now()),
        (12.0, CheckLease(mine, Whereabouts(("b",)))),
        (True, Now()),
        (12.0, Emit(MigrationStarted(*WHERE, "b", 2, 2))),
        (None, Now()),
        (13.0, Now()),
        (13.0, Transact(b, Place(*WHERE, "b", 2, 2), Turn(mine, 30, 12, ("b",)))),
        (Attempt(Ending.COMMITTED, 0.5), Emit(MigrationApplied(*WHERE, "b", 2, 2, 0.5))),
        (None, ReleaseLease()),
        (None, Emit(RunFinished(*WHERE, ("a", "b")))),
    ]
    assert follow(run({"a": [], "b": []}, transactional=True), steps) == ["a", "b"]


def looks(db: object, context: object) -> None:
    """A migration that could go over a collection, and does not."""


def with_context(*, transactional: bool = False) -> dict[str, MigrationDefinition]:
    return {"a": MigrationDefinition("a", looks, transaction=transactional, rollback=nothing)}


def progress_forgotten(flow: Flow[list[str]], world: World) -> list[Effect]:
    """Run it. Returns what forgets the progress of passes, and what must stand in order to that."""
    asked: list[Effect] = []

    def perform(effect: Effect) -> object:
        if isinstance(effect, (ForgetProgress, CheckLease, Execute, Transact, Record, Unrecord)):
            asked.append(effect)
        return world.perform(effect)

    drive(flow, perform)
    return asked


def test_progress_is_forgotten() -> None:
    """Before a function, and before a mark, what its counterpart has left goes, after its record its own. The lease is
    checked after the first: one who has lost it, and woke to remove what another had left, records nothing.
    """
    scope = Scope(with_context(), *WHERE, {"sync"}, TERMS)
    world = PassingWorld(Server(token=6))
    check = CheckLease(ANY, ANY)
    assert progress_forgotten(flows.run(scope), world) == [
        ForgetProgress("a", 7, True),
        Execute(ANY, Place(*WHERE, "a", 1, 1), ANY),
        check,
        Record("a"),
        ForgetProgress("a", 7, False),
    ]
    assert progress_forgotten(flows.rollback(scope, ["a"]), world) == [
        ForgetProgress("a", 8, False),
        Execute(ANY, Place(*WHERE, "a", 1, 1), ANY),
        check,
        Unrecord("a", ANY),
        ForgetProgress("a", 8, True),
    ]
    assert progress_forgotten(flows.mark_applied(scope, ["a"]), world) == [
        ForgetProgress("a", 9, True),
        check,
        Record("a"),
        ForgetProgress("a", 9, False),
    ]
    assert progress_forgotten(flows.mark_pending(scope, ["a"]), world) == [
        ForgetProgress("a", 10, False),
        check,
        Unrecord("a", ANY),
        ForgetProgress("a", 10, True),
    ]
    scope = Scope(with_context(transactional=True), *WHERE, {"sync"}, TERMS)
    transact = Transact(ANY, Place(*WHERE, "a", 1, 1), ANY)
    assert progress_forgotten(flows.run(scope), world) == [
        ForgetProgress("a", 11, True),
        transact,
        ForgetProgress("a", 11, False),
    ]
    assert progress_forgotten(flows.rollback(scope, ["a"]), world) == [
        ForgetProgress("a", 12, False),
        transact,
        ForgetProgress("a", 12, True),
    ]
    nobody = Scope(definitions({"a": []}), *WHERE, {"sync"}, TERMS)
    executed: list[Effect] = [Execute(ANY, Place(*WHERE, "a", 1, 1), ANY), check, Record("a")]
    assert progress_forgotten(flows.run(nobody), world) == executed


@pytest.mark.parametrize("transactional", [False, True])
def test_lease_is_checked_after_progress_is_forgotten(transactional: bool) -> None:
    """Where it took so long to remove it that the lease is to be checked, that comes before the function begins."""

    class Slow(PassingWorld):
        def answer(self, effect: Effect) -> object:
            answer = super().answer(effect)
            if isinstance(effect, ForgetProgress):
                self.server.now += TERMS.ttl + 1
            return answer

    world = Slow()
    with pytest.raises(LeaseLostError):
        drive(flows.run(Scope(with_context(transactional=transactional), *WHERE, {"sync"}, TERMS)), world.perform)
    assert (world.server.work, world.server.records) == ([], set())


def test_progress_that_is_not_forgotten() -> None:
    """A plan forgets nothing; what belongs to a later run stays, and so does that of other migrations."""
    server = Server()
    keys = [PassKey(name, undo, "all", 0) for name in ("a", "b") for undo in (False, True)]
    server.progress = {key: Kept(Checkpoint(), 3, "orders") for key in keys}
    scope = Scope(with_context(), *WHERE, {"sync"}, TERMS)

    drive(flows.plan_run(scope), World(server).perform)
    assert list(server.progress) == keys
    drive(flows.mark_applied(scope, ["a"]), World(server).perform)
    assert (server.token, list(server.progress)) == (1, keys)
    server.token = 3
    drive(flows.mark_pending(scope, ["a"]), World(server).perform)
    assert list(server.progress) == keys[2:]

    scope = Scope(definitions({"a": [], "b": []}), *WHERE, {"sync"}, TERMS)
    status = drive(flows.status(scope), World(server).perform)
    assert [[one.undo for one in migration.passes] for migration in status.migrations] == [[], [False, True]]


@pytest.mark.parametrize("transactional", [False, True])
def test_crash_at_every_effect_of_passes(transactional: bool) -> None:
    """Wherever a run or a rollback with passes is cut off, the next one goes on, and sees one batch at most twice, and
    none with transactions. Progress is forgotten with the record; where a process died between the two, what it left is
    no later attempt's.
    """

    def apply(db: object, passing: Passing) -> None:
        passing.each(orders.source(), 2, transaction=transactional)
        passing.each(users.source("users"), 2, transaction=transactional)

    def undo(db: object, passing: Passing) -> None:
        passing.each(orders.source(), 2, transaction=transactional)

    known = {"a": MigrationDefinition("a", apply, rollback=undo)}

    def migrate(scope: Scope) -> Flow[list[str]]:
        yield from flows.run(scope)
        yield from flows.rollback(scope, ["a"])
        return (yield from flows.run(scope))

    orders, users = Collection([1, 2, 3, "a"]), Collection([1, 2, 3])
    scope = Scope(known, *WHERE, {"sync"}, TERMS)
    whole = PassingWorld()
    drive(migrate(scope), whole.perform)
    assert (orders.done, users.done) == ([[1, 2], [3], ["a"]] * 3, [[1, 2], [3]] * 2)
    assert whole.server.progress == {}

    for crash_at in range(whole.performed):
        for crash_after in (False, True):
            orders, users = Collection([1, 2, 3, "a"]), Collection([1, 2, 3])
            world = PassingWorld(crash_at=crash_at, crash_after=crash_after)
            server = world.server
            with pytest.raises(Crash):
                killed(migrate(scope), world.perform)
            went_back = {type(event) for event in world.events} & {RollbackStarted, RollbackFinished}
            successor = PassingWorld(server, Terms("successor"))
            later = replace(scope, terms=successor.terms)

            if went_back == {RollbackStarted}:
                drive(flows.rollback(later, ["a"]), successor.perform)
            drive(flows.run(later), successor.perform)

            assert server.records == {"a"}
            assert set(users.ids_done) == {1, 2, 3}
            rounds = 3 if went_back else 1
            twice = len(orders.ids_done) - 4 * rounds + len(users.ids_done) - 3 * (rounds + 1) // 2
            assert 0 <= twice <= (0 if transactional else 2)
            assert all(kept.checkpoint.finished for kept in server.progress.values())
            orders.done, users.done = [], []
            drive(flows.rollback(later, ["a"]), successor.perform)
            drive(flows.run(later), successor.perform)
            assert (orders.done, users.done) == ([[1, 2], [3], ["a"]] * 2, [[1, 2], [3]])
            assert server.progress == {}


def test_nothing_to_do() -> None:
    """One read, no lease, and nothing but facts after it."""
    world = World(Server(recorded=dict.fromkeys(DIAMOND, LONG_AGO)))

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

    flow = flows.run(Scope({"a": MigrationDefinition("a", function)}, *WHERE, {"sync"}, TERMS))
    assert next(flow) == ReadRecords()
    with pytest.raises(MissingDatabaseError):
        flow.send(NONE)

    flow = run({"a": []})
    assert next(flow) == ReadRecords()
    with pytest.raises(RecordConflictError):
        flow.send(Records({}, (), frozenset({"a"})))

    migrations = definitions({"a": []}) | {"b": MigrationDefinition("b", nothing, transaction=True)}
    flow = flows.run(Scope(migrations, *WHERE, {"sync"}, TERMS))
    assert next(flow) == ReadRecords()
    assert flow.send(NONE) == AskForTransactions()
    with pytest.raises(TransactionsUnsupportedError) as caught:
        flow.send(False)
    assert caught.value.migrations == ["b"]


def test_unreadable_records_are_told_once() -> None:
    """Records without a name are told in one event, before all others."""
    flow = run({"a": []})
    next(flow)
    odd = Records({}, (1, None))
    assert flow.send(odd) == Emit(RecordsIgnored(*WHERE, (1, None)))
    assert next(flow) == Now()
    assert flow.send(0.0) == AcquireLease("run", ("a",), ())
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


def test_steps_of_a_rollback() -> None:
    """As a run, but that the record goes; dependents first."""
    known = definitions({"a": [], "b": ["a"]})
    records = Records({"a": (LONG_AGO,), "b": (LONG_AGO,), "from tomorrow": (None,)})
    mine = lease()
    steps: list[tuple[object, Effect]] = [
        (None, ReadRecords()),
        (records, Emit(RecordsUnknown(*WHERE, ("from tomorrow",)))),
        (None, Now()),
        (10.0, AcquireLease("rollback", ("b",), ())),
        (mine, KeepLease(mine)),
        (None, ReadRecords()),
        (records, Emit(RollbackStarted(*WHERE, ("b", "a")))),
        (None, Emit(MigrationStarted(*WHERE, "b", 1, 2, undo=True))),
        (None, Now()),
        (
            11.0,
            Execute(
                Change("b", False, nothing, "sync", recorded_at=(LONG_AGO,)),
                Place(*WHERE, "b", 1, 2),
                Turn(mine, 30, 10, ("b",)),
            ),
        ),
        (0.25, Now()),
        (12.0, CheckLease(mine, Whereabouts(("a",), "b", ("a",)))),
        (True, Now()),
        (12.0, Unrecord("b", (LONG_AGO,))),
        (True, Emit(MigrationRolledBack(*WHERE, "b", 1, 2, 0.25, undo=True))),
        (None, Emit(MigrationStarted(*WHERE, "a", 2, 2, undo=True))),
        (None, Now()),
        (
            13.0,
            Execute(
                Change("a", False, nothing, "sync", recorded_at=(LONG_AGO,)),
                Place(*WHERE, "a", 2, 2),
                Turn(mine, 30, 12, ("a",)),
            ),
        ),
        (0.5, Now()),
        (14.0, CheckLease(mine, Whereabouts((), "a"))),
        (True, Now()),
        (14.0, Unrecord("a", (LONG_AGO,))),
        (True, Emit(MigrationRolledBack(*WHERE, "a", 2, 2, 0.5, undo=True))),
        (None, ReleaseLease()),
        (None, Emit(RollbackFinished(*WHERE, ("b", "a")))),
    ]
    assert follow(flows.rollback(Scope(known, *WHERE, {"sync"}, TERMS), ["a"]), steps) == ["b", "a"]


def test_steps_of_a_mark() -> None:
    """The lease is checked before each record; what was kept of passes goes before and after. No function
    is called, and one fact tells it in the end.
    """
    scope = Scope(definitions({"a": [], "b": ["a"]}), *WHERE, {"sync"}, TERMS)
    mine = lease()
    steps: list[tuple[object, Effect]] = [
        (None, ReadRecords()),
        (NONE, Now()),
        (10.0, AcquireLease("mark", ("a",), ())),
        (mine, KeepLease(mine)),
        (None, ReadRecords()),
        (NONE, ForgetProgress("a", 1, True)),
        (None, Now()),
        (11.0, CheckLease(mine, Whereabouts(("a",)))),
        (True, Now()),
        (11.0, Record("a")),
        (True, ForgetProgress("a", 1, False)),
        (None, ForgetProgress("b", 1, True)),
        (None, Now()),
        (12.0, CheckLease(mine, Whereabouts(("b",)))),
        (True, Now()),
        (12.0, Record("b")),
        (True, ForgetProgress("b", 1, False)),
        (None, ReleaseLease()),
        (None, Emit(RecordsMarked(*WHERE, ("a", "b"), applied=True))),
    ]
    assert follow(flows.mark_applied(scope, ["b", "a"]), steps) == ["a", "b"]

    world = World(Server(recorded=dict.fromkeys(["a", "b"], LONG_AGO)))
    assert drive(flows.mark_applied(scope, ["b", "a"]), world.perform) == []
    assert world.events == [RecordsMarked(*WHERE, (), applied=True)]
    assert not world.kept_once

    world = World(Server(recorded=dict.fromkeys(["a", "b", "from tomorrow"], LONG_AGO)))
    assert drive(flows.mark_pending(scope, ["b", "from tomorrow"]), world.perform) == ["from tomorrow", "b"]
    assert world.server.records == {"a"}
    assert world.server.undone == []
    assert world.events == [RecordsMarked(*WHERE, ("from tomorrow", "b"), applied=False)]


def test_names_are_checked_before_the_first_effect() -> None:
    """What is no list of registered names asks for nothing; a record may be removed that no migration has."""
    scope = Scope(definitions({"a": []}), *WHERE, {"sync"}, TERMS)
    flow: Flow[object]
    for flow in (flows.run(scope, ["b"]), flows.rollback(scope, ["b"]), flows.mark_applied(scope, ["b"])):
        with pytest.raises(UnknownMigrationError):
            next(flow)
    for flow in (flows.run(scope, "a"), flows.rollback(scope, "a"), flows.mark_pending(scope, "a")):
        with pytest.raises(InvalidOptionError):
            next(flow)
    with pytest.raises(UnknownMigrationError):
        drive(flows.mark_pending(scope, ["b"]), World().perform)


def test_unknown_records() -> None:
    """They are told once, and left alone; a strict run refuses them, also those that came while it waited."""
    scope = Scope(definitions({"a": []}), *WHERE, {"sync"}, TERMS)
    world = World(Server(recorded={"from tomorrow": LONG_AGO}))

    with pytest.raises(UnknownRecordsError):
        drive(flows.run(scope, strict=True), world.perform)
    assert not world.kept_once
    world.events.clear()
    assert drive(flows.run(scope), world.perform) == ["a"]
    assert [event for event in world.events if isinstance(event, RecordsUnknown)] == [
        RecordsUnknown(*WHERE, ("from tomorrow",))
    ]

    flow = flows.run(scope, strict=True)
    answers: list[object] = [None, NONE, 0.0, lease(), None]
    assert [flow.send(answer) for answer in answers][-1] == ReadRecords()
    assert flow.send(Records({"from tomorrow": (None,)})) == ReleaseLease()
    with pytest.raises(UnknownRecordsError):
        flow.send(None)


@pytest.mark.parametrize("transactional", [False, True])
def test_crash_at_every_effect_of_a_rollback(transactional: bool) -> None:
    """Wherever a rollback is cut off, the next one ends in the same state; only the function in hand may have run
    twice, and in a transaction its work is undone once. What is not undone is still recorded, with all that it needs.
    """
    scope = Scope(definitions(DIAMOND, transactional=transactional), *WHERE, {"sync"}, TERMS)
    whole = World(Server(recorded=dict.fromkeys(DIAMOND, LONG_AGO)))
    order = drive(flows.rollback(scope, ["top"]), whole.perform)
    assert order == ["end", "right", "left", "top"]

    for crash_at in range(whole.performed):
        for crash_after in (False, True):
            world = World(Server(recorded=dict.fromkeys(DIAMOND, LONG_AGO)), crash_at=crash_at, crash_after=crash_after)
            with pytest.raises(Crash):
                killed(flows.rollback(scope, ["top"]), world.perform)
            assert world.server.records == set(order[len(order) - len(world.server.records) :])
            crashed_at = world.server.now
            later = World(replace(world.server, now=crashed_at + TERMS.ttl))
            half = {one.name for one in drive(flows.status(scope), later.perform).migrations if one.interrupted}
            successor = World(world.server, Terms("successor"))

            drive(flows.rollback(replace(scope, terms=successor.terms), ["top"]), successor.perform)

            assert world.server.records == set()
            assert sorted(set(world.server.undone), key=order.index) == order
            twice = {name for name in order if world.server.undone.count(name) > 1}
            assert twice <= half
            assert len(world.server.undone) - len(order) <= (0 if transactional else 1)
            assert world.server.now - crashed_at <= TERMS.ttl + 1


def test_failure_of_a_rollback() -> None:
    """Exactly what is undone is recorded no more; the exception goes on with a note, and the event has it."""
    error = ValueError()

    def fail(db: object) -> None:
        raise error

    migrations = definitions(DIAMOND)
    migrations["left"] = replace(migrations["left"], rollback=fail)
    world = World(Server(recorded=dict.fromkeys(DIAMOND, LONG_AGO)))

    with pytest.raises(ValueError):  # noqa: PT011 - it is looked at below
        drive(flows.rollback(Scope(migrations, *WHERE, {"sync"}, TERMS), ["top"]), world.perform)

    assert error.__notes__ == ["quaestor: while undoing migration 'left', 3 of 4"]
    assert world.events[-1] == MigrationFailed(*WHERE, "left", 3, 4, error, undo=True)
    assert world.server.records == {"left", "top"}
    assert world.server.undone == ["end", "right"]
    assert world.server.holder is None


UNKNOWN = Unknown(ConnectionError("lost"))


def until_unrecorded(answers: list[object]) -> Flow[object]:
    """A rollback of `a` that has asked for its record's removal, and has got these answers since."""
    flow = flows.rollback(Scope(definitions({"a": []}), *WHERE, {"sync"}, TERMS), ["a"])
    there = Records({"a": (LONG_AGO,)})
    for answer in [None, there, 0.0, lease(), None, there, None, None, 1.0, 0.5, 2.0, True, 2.0, *answers]:
        effect = flow.send(answer)
    assert isinstance(effect, (Unrecord, CheckLease, Emit, ReleaseLease))
    return flow


def test_lost_answer_of_a_removal() -> None:
    """The lease is looked at before the removal is sent again; what is gone by then this run has removed."""
    flow = until_unrecorded([])
    assert flow.send(UNKNOWN) == Now()
    assert flow.send(3.0) == Sleep(*leasing.PAUSE)
    assert flow.send(None) == Now()
    assert flow.send(4.0) == CheckLease(lease(), Whereabouts((), "a"))
    assert flow.send(True) == Now()
    assert flow.send(4.0) == Unrecord("a", (LONG_AGO,))
    assert flow.send(False) == Now()
    assert flow.send(5.0) == CheckLease(lease(), Whereabouts((), "a"))
    assert flow.send(True) == Now()
    assert isinstance(flow.send(5.0), Emit)


def test_removed_by_another() -> None:
    """Who has lost the lease does not say that it has undone what another did."""
    flow = until_unrecorded([False, 3.0])
    assert flow.send(False) == Emit(MigrationFailed(*WHERE, "a", 1, 1, ANY, undo=True))
    assert flow.send(None) == ReleaseLease()
    with pytest.raises(LeaseLostError) as caught:
        flow.send(None)
    assert caught.value.migration == "a"


def test_patience_of_a_removal() -> None:
    """Where no answer ever comes, the driver's error does."""
    flow = until_unrecorded([UNKNOWN, 3.0, None, 4.0, True, 4.0])
    assert flow.send(UNKNOWN) == Now()
    assert isinstance(flow.send(33.0), Emit)
    flow.send(None)
    with pytest.raises(ConnectionError):
        flow.send(None)


def test_plan_is_the_run_performed_dry() -> None:
    """One read, and nothing else that the world could notice; the order and the reasons are those of the run."""
    scope = Scope(definitions(DIAMOND | {"aside": []}), *WHERE, {"sync"}, TERMS)
    world = World(Server(recorded={"top": LONG_AGO}))
    untouched = replace(world.server, recorded=dict(world.server.recorded))

    asked: list[Effect] = []

    def perform(effect: Effect) -> object:
        asked.append(effect)
        return world.perform(effect)

    planned = drive(flows.plan_run(scope, ["end"]), perform)
    undone = drive(flows.plan_rollback(scope, {"top": 1}), perform)

    assert [(one.name, one.reason) for one in planned] == [
        ("left", "needed by end"),
        ("right", "needed by end"),
        ("end", "asked for"),
    ]
    assert undone == [PlannedMigration("top", asked_for=True, undo=True)]
    assert [effect for effect in asked if effect != Now()] == [ReadRecords(), ReadRecords()]
    assert world.server == untouched
    assert [one.name for one in drive(flows.plan_run(scope), world.perform)] == drive(flows.run(scope), world.perform)


def test_plan_with_transactions() -> None:
    """No session is opened for it."""
    scope = Scope(definitions(DIAMOND, transactional=True), *WHERE, {"sync"}, TERMS)
    world = World(Server(recorded=dict.fromkeys(["top", "left"], LONG_AGO)))

    assert [one.name for one in drive(flows.plan_run(scope), world.perform)] == ["right", "end"]
    assert [one.name for one in drive(flows.plan_rollback(scope, ["top"]), world.perform)] == ["left", "top"]
    assert world.sessions == []


def test_plan_raises_what_the_run_would() -> None:
    """Bad input before the read; after it what the records do not allow; an error of the driver as it is."""
    scope = Scope(definitions({"a": []}), *WHERE, set(), TERMS)

    with pytest.raises(UnknownMigrationError):
        next(flows.plan_run(scope, ["b"]))
    with pytest.raises(MissingDatabaseError):
        drive(flows.plan_run(scope), World().perform)
    flow = flows.plan_run(scope)
    assert next(flow) == ReadRecords()
    with pytest.raises(ConnectionError) as caught:
        flow.throw(ConnectionError())
    assert "nothing has run" in caught.value.__notes__[0]


def test_plan_asks_again() -> None:
    """A read whose answer is lost is repeated after a pause, as in the run."""
    flow = flows.plan_run(Scope(definitions({"a": []}), *WHERE, {"sync"}, TERMS))
    assert next(flow) == ReadRecords()
    assert flow.send(UNKNOWN) == Now()
    assert flow.send(1.0) == Sleep(*leasing.PAUSE)
    assert flow.send(None) == ReadRecords()
    assert flow.send(NONE) == Now()
    flow.close()


def test_any_flow_can_be_performed_dry() -> None:
    """What it would read beside the records is answered by nothing."""
    world = World(Server(holder=lease("other"), ends_at=2_000.0, recorded={"a": LONG_AGO}))

    status = drive(
        rehearsed(flows.status(Scope(definitions({"a": []}), *WHERE, {"sync"}, TERMS)), TERMS), world.perform
    )

    assert (status.names("applied"), status.lease) == (["a"], None)


def test_status() -> None:
    """The lock is read before the records, and these before the progress of passes; migrations in the order of a plan
    for all, then the unknown ones.
    """
    known = definitions(DIAMOND)
    known["end"] = MigrationDefinition("end", nothing, DIAMOND["end"], transaction=True, description="The end.")
    scope = Scope(known, *WHERE, {"sync"}, TERMS)
    half = PassStatus("orders", 5, 10, finished=False, updated_at=LONG_AGO)
    steps: list[tuple[object, Effect]] = [
        (None, ReadLock()),
        (Lock(lease("other")), ReadRecords()),
        (Records({"top": (LONG_AGO,), "z": (None,), "b": (LONG_AGO, "once")}), ReadProgress()),
        (UNKNOWN, Now()),
        (0.0, Sleep(*leasing.PAUSE)),
        (None, ReadProgress()),
    ]
    flow = flows.status(scope)
    for answer, expected in steps:
        assert flow.send(answer) == expected
    with pytest.raises(StopIteration) as end:
        flow.send({"left": (half,), "b": (half,)})

    status: Status = end.value.value
    assert (status.database, status.prefix, status.lease) == (*WHERE, lease("other"))
    assert status.migrations == (
        MigrationStatus("top", "applied", LONG_AGO, (), has_rollback=True),
        MigrationStatus("left", "pending", None, ("top",), has_rollback=True, passes=(half,)),
        MigrationStatus("right", "pending", None, ("top",), has_rollback=True),
        MigrationStatus("end", "pending", None, ("left", "right"), transaction=True, description="The end."),
        MigrationStatus("b", "unknown", LONG_AGO),
        MigrationStatus("z", "unknown"),
    )
    assert (status.names("applied"), status.names("unknown")) == (["top"], ["b", "z"])


@pytest.mark.parametrize(
    ("work", "migrations", "recording", "upcoming", "interrupted"),
    [
        ("run", "b", None, "", "b"),
        ("run", "c", "b", "c", "b"),
        ("run", "b", "a", "b", "b"),
        ("run", "", "b", "", "b"),
        ("run", "a", None, "", ""),
        ("run", "", None, "", ""),
        ("run", "bcd", None, "", "bcd"),
        ("run", "abd", None, "", "bd"),
        ("run", "cd", "b", "", "bcd"),
        ("run", "cd", "b", "d", "bc"),
        ("run", "cd", "b", "cd", "b"),
        ("run", "cd", "a", "d", "cd"),
        ("run", "bc", "a", "", "bc"),
        ("run", "ac", "b", "c", "b"),
        ("run", "bx", "a", "b", "b"),
        ("rollback", "a", None, "", "a"),
        ("rollback", "a", "b", "a", "a"),
        ("rollback", "x", "a", "x", "a"),
        ("rollback", "b", None, "", ""),
        ("mark", "b", None, "", ""),
        ("mark", "a", None, "", ""),
    ],
)
def test_interrupted(work: Work, migrations: str, recording: str | None, upcoming: str, interrupted: str) -> None:
    """What an ended holder was in: those it named, and the one it was about to record. If that is not done, then what
    begins after it had not begun. They are half applied if they are pending, and half undone if they are applied. (Here
    `a` is applied, the others are not.)
    """
    named = lease(migrations=tuple(migrations))
    ended = replace(named, work=work, recording=recording, upcoming=tuple(upcoming))
    scope = Scope(definitions({name: [] for name in "abcd"}), *WHERE, {"sync"}, TERMS)

    def perform(effect: Effect) -> object:
        match effect:
            case ReadLock():
                return Lock(ended=ended)
            case ReadProgress():
                return {}
            case _:
                return Records({"a": (LONG_AGO,)})

    status = drive(flows.status(scope), perform)
    assert [one.name for one in status.migrations if one.interrupted] == list(interrupted)
    assert status.lease is None


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Crash])
def test_failure_is_told_and_noted(kind: type[BaseException]) -> None:
    """The exception leaves the flow as it came, with a note of the place; the event has it; nothing is recorded."""
    error = kind()

    def fail(db: object) -> None:
        raise error

    world = World()
    migrations = definitions({"a": [], "c": []}) | {"b": MigrationDefinition("b", fail)}

    with pytest.raises(kind) as caught:
        drive(flows.run(Scope(migrations, *WHERE, {"sync"}, TERMS)), world.perform)

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
        drive(flows.run(Scope({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}, TERMS)), World().perform)


def test_stop_iteration() -> None:
    """A StopIteration of a migration is one for the caller too, though generators turn it into something else."""
    error, cause = StopIteration("empty cursor"), KeyError("cause")

    def fail(db: object) -> None:
        raise error from cause

    with pytest.raises(StopIteration) as caught:
        drive(flows.run(Scope({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}, TERMS)), World().perform)
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


def test_runtime_error_of_a_generator() -> None:
    """A RuntimeError that a migration's own generator made of a StopIteration stays a RuntimeError."""

    def fail(db: object) -> None:
        def broken() -> object:
            yield next(iter(()))

        list(broken())  # type: ignore[call-overload]  # a generator, declared as object to keep the example short

    with pytest.raises(RuntimeError) as caught:
        drive(flows.run(Scope({"a": MigrationDefinition("a", fail)}, *WHERE, {"sync"}, TERMS)), World().perform)
    assert isinstance(caught.value.__cause__, StopIteration)


def test_abandoned_flow_closes_quietly() -> None:
    """A flow that is thrown away in the middle of a migration does not ask for more."""
    flow = run({"a": []})
    answers: list[object] = [None, NONE, 0.0, lease(), None, NONE, None, None, 1.0]
    *_, last = [flow.send(answer) for answer in answers]
    assert isinstance(last, Execute)
    flow.close()
