"""Run, roll back, mark, plan, status and unlock on a server in memory, and what can go wrong at each call."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import engine
from quaestor._core.checkpoint import Checkpoint
from quaestor._core.definition import MigrationDefinition
from quaestor._core.imports import make_source
from quaestor._core.lease import PAUSE, LeaseState, Location
from quaestor._core.phases import Selection
from quaestor._core.plan import Records
from quaestor._core.store import Ending
from quaestor._core.transaction import MOST_EXPIRED
from quaestor._core.undo import Undo
from quaestor.adapters import find_adapter
from quaestor.errors import (
    CircularDependencyError,
    DependencyConflictError,
    GraphError,
    InvalidOptionError,
    LeaseLostError,
    LeaseTimeoutError,
    MissingDatabaseError,
    MissingDependencyError,
    OutageError,
    RecordConflictError,
    ServerUnsupportedError,
    TransactionFailedError,
    TransactionsUnsupportedError,
    UnknownMigrationError,
    UnknownRecordsError,
)
from quaestor.events import (
    ChangesAccepted,
    DependenciesPending,
    HistoryNotWritten,
    LeaseAwaited,
    LeaseNotReleased,
    MajorityAwaited,
    MigrationApplied,
    MigrationFailed,
    MigrationRetried,
    MigrationRolledBack,
    MigrationStarted,
    OtherPrefixesFound,
    PrimaryChanged,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    ServerAwaited,
    SessionsNotEnded,
)
from quaestor.status import BackfillStatus, MigrationRecord, MigrationStatus, PlannedMigration, Work
from tests.fake_store import PATIENCE, TTL, WHERE, Call, Key, Process, Server, Stored, read_status
from tests.functions import definitions, nothing, take_context
from tests.world import LONG_AGO, lease

DIAMOND = {"end": ["left", "right"], "left": ["top"], "right": ["top"], "top": []}
ORDER = ["top", "left", "right", "end"]
UNDO = ORDER[::-1]
KINDS = ("run", "rollback", "mark applied", "mark pending", "mark accepted", "import")
OLD = MigrationRecord(checksum="old")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_transactional = pytest.mark.parametrize("transactional", [False, True])
each_fault = pytest.mark.parametrize("fault", ["request lost", "answer lost"])


def recorded(*names: str) -> Server:
    return Server(recorded=dict.fromkeys(names, LONG_AGO))


def make_server(kind: str) -> Server:
    server = Server() if kind in {"run", "mark applied", "import"} else recorded(*ORDER)
    server.foreign["theirs"] = [{"name": name, "applied": LONG_AGO.replace(tzinfo=None)} for name in ORDER]
    if kind == "mark accepted":
        server.details = dict.fromkeys(ORDER, OLD)
    return server


def start(kind: str, server: Server, *, transactional: bool = False, **options: Any) -> Process:
    """A process that applies, undoes or marks the diamond."""
    known = definitions(DIAMOND, transactional=transactional)
    if not transactional:  # some could have backfills
        known |= {name: replace(known[name], execute=take_context) for name in ("left", "end")}
    process = Process(server, known, **options)
    match kind:
        case "run":
            return process.run()
        case "rollback":
            return process.roll_back("top")
        case "mark applied":
            return process.perform(engine.mark_applied(process.scope, UNDO))
        case "mark accepted":
            return process.perform(engine.mark_accepted(process.scope, UNDO, process.functions.compute_checksum))
        case "import":
            return process.start(import_all(process))
        case _:
            return process.perform(engine.mark_pending(process.scope, ORDER))


async def import_all(process: Process) -> list[str]:
    """Import the diamond from another tool; return the names."""
    source = make_source(find_adapter("pymongo-migrate"), process.scope.catalog, collection="theirs")
    return [one.name for one in (await process.engine.import_history(source)).imported]


def find_done(kind: str, server: Server) -> set[str]:
    """The migrations that were applied, undone or marked."""
    if kind == "mark accepted":
        return {name for name, record in server.details.items() if record != OLD}
    return server.records if kind in {"run", "mark applied", "import"} else set(ORDER) - server.records


def start_run(*names: str, server: Server | None = None, transactional: bool = False, **options: Any) -> Process:
    """A process that runs independent migrations."""
    known = definitions({name: [] for name in names or ("a",)}, transactional=transactional)
    return Process(server or Server(), known, **options).run()


def check_work(kind: str, server: Server, *, most: int) -> None:
    """All of it is there, and at most so often."""
    assert find_done(kind, server) == set(ORDER)
    done = server.work if kind == "run" else server.undone
    expected = {"run": ORDER, "rollback": UNDO}.get(kind, [])
    assert list(dict.fromkeys(done)) == expected
    assert len(done) - len(expected) <= most - 1


# Whatever goes wrong


@each_kind
@each_transactional
@pytest.mark.parametrize("after", [False, True])
def test_crash_at_every_call(kind: str, transactional: bool, after: bool) -> None:
    """Wherever a process dies, the next one gets to the same state. Only the function in progress may have run twice,
    and in a transaction its work is there once. The status shows it as interrupted; its lease is waited for.
    """
    whole = start(kind, make_server(kind), transactional=transactional)
    order = whole.finish()
    for at in range(len(whole.log)):
        server = make_server(kind)
        start(kind, server, transactional=transactional, strike_at=at, strike_after=after).finish()
        ahead = find_done(kind, server)
        assert ahead == set(order[: len(ahead)])
        assert set(server.transactions) <= server.sessions
        crashed_at, done = server.now, len(server.work + server.undone)
        later = replace(server, now=server.now + TTL + 1)
        interrupted = {one.name for one in read_status(later, definitions(DIAMOND)).migrations if one.interrupted}
        successor = start(kind, server, transactional=transactional, owner="successor")
        todo = successor.finish()

        check_work(kind, server, most=1 if transactional else 2)
        twice = set(order[:done]) & set(todo)
        assert twice <= interrupted
        assert not successor.names(MigrationRetried), "the transaction of the dead process was in the way"
        assert server.holder is None or not todo
        assert server.now - crashed_at <= TTL + 1


@each_kind
@each_transactional
@each_fault
def test_answer_lost_at_every_call(kind: str, transactional: bool, fault: str) -> None:
    """Each command can be repeated: everything is done once, and the lease is free, or the event says that it isn't."""
    whole = start(kind, make_server(kind), transactional=transactional)
    order = whole.finish()
    for at in range(len(whole.log)):
        process = start(kind, make_server(kind), transactional=transactional, faults={at: fault})
        assert process.finish() == order
        check_work(kind, process.server, most=2 if transactional and fault == "request lost" else 1)
        assert process.server.holder is None or LeaseNotReleased in map(type, process.events)


@each_kind
@each_transactional
def test_no_answers_any_more(kind: str, transactional: bool) -> None:
    """A process gives up after its patience, and the error has the driver's. The next process finishes."""
    whole = start(kind, make_server(kind), transactional=transactional)
    whole.finish()
    for at in range(len(whole.log)):
        server = make_server(kind)
        faults = dict.fromkeys(range(at, 10_000), "request lost")
        process = start(kind, server, transactional=transactional, faults=faults)
        if not any(call.lose for call in whole.log[at:] if call.name not in {"release_lease", "add_history"}):
            process.finish()
            continue
        with pytest.raises(OutageError) as caught:
            process.finish()
        assert isinstance(caught.value.__cause__, ConnectionError)
        assert process.events[-1] == RunFailed(*WHERE, caught.value, work=process.events[-1].work)  # type: ignore[attr-defined]
        assert PATIENCE <= caught.value.seconds <= server.now - 1_000 <= PATIENCE + 1
        start(kind, server, transactional=transactional, owner="successor").finish()
        check_work(kind, server, most=1 if transactional else 2)


@given(
    faults=st.dictionaries(st.integers(0, 60), st.sampled_from(["request lost", "answer lost"]), max_size=20),
    kind=st.sampled_from(KINDS),
    transactional=st.booleans(),
)
def test_many_answers_lost(faults: Mapping[int, str], kind: str, transactional: bool) -> None:
    """However many answers are lost, nothing is recorded without its work, and a transaction's work is there once."""
    process = start(kind, make_server(kind), transactional=transactional, faults=faults)
    process.finish()
    check_work(kind, process.server, most=1)


@each_kind
@each_transactional
@pytest.mark.parametrize("after", [False, True])
def test_frozen_at_every_call(kind: str, transactional: bool, after: bool) -> None:
    """A process that is frozen while another takes over and does everything changes nothing when it wakes."""
    whole = start(kind, make_server(kind), transactional=transactional)
    whole.finish()
    for at in range(len(whole.log)):
        server = make_server(kind)
        left: list[dict[str, object]] = []

        def take_over(server: Server = server, left: list[dict[str, object]] = left) -> None:
            server.now += TTL + 1
            start(kind, server, transactional=transactional, owner="other").finish()
            left.append(dict(server.recorded))

        process = start(kind, server, transactional=transactional, strike_at=at, strike_after=after, strike=take_over)
        process.is_undisturbed = False
        try:
            process.finish()
        except LeaseLostError:
            assert process.names(MigrationFailed) or not process.names(MigrationStarted) or transactional
        assert [server.recorded] == left
        assert (server.holder, server.sessions, server.transactions) == (None, set(), {})
        check_work(kind, server, most=1 if transactional else 2)


@each_kind
@each_transactional
@pytest.mark.parametrize("after", [False, True])
def test_interrupted_at_every_call(kind: str, transactional: bool, after: bool) -> None:
    """The interruption leaves as it came, the lease is released, and nothing is left open. The next run finishes."""
    whole = start(kind, make_server(kind), transactional=transactional)
    whole.finish()
    for at in range(len(whole.log)):
        server = make_server(kind)
        process = start(kind, server, transactional=transactional)
        for _ in range(at):
            process.step(process.ready[0])
        if after and process.main.call is not None:
            process.answer(process.main.call)
        process.interrupt()
        with pytest.raises(KeyboardInterrupt):
            process.finish()
        assert isinstance(process.events[-1], RunFailed)
        assert (server.holder, server.sessions, dict(server.transactions)) == (None, set(), {})
        start(kind, server, transactional=transactional, owner="next").finish()
        check_work(kind, server, most=1 if transactional else 2)


# What a run does


@each_transactional
def test_run(transactional: bool) -> None:
    """A run emits each fact in order, and leaves a free lease. It sends 2n + 4 commands, with transactions fewer."""
    process = start_run("a", "b", transactional=transactional, durations={"a": 0.25, "b": 0.5})
    assert process.finish() == ["a", "b"]
    assert process.events == [
        RunStarted(*WHERE, ("a", "b")),
        MigrationStarted(*WHERE, "a", 1, 2),
        MigrationApplied(*WHERE, "a", 1, 2, 0.25),
        MigrationStarted(*WHERE, "b", 2, 2),
        MigrationApplied(*WHERE, "b", 2, 2, 0.5),
        RunFinished(*WHERE, ("a", "b")),
    ]
    assert (process.server.holder, process.server.sessions) == (None, set())
    if not transactional:
        assert len([call for call in process.log if call.lose]) == 2 * 2 + 4
        checks = [call.details for call in process.find("renew_lease")]
        assert checks == [(Location(("b",), "a", ("b",)), False), (Location((), "b"), False)]


def test_rollback() -> None:
    """A rollback undoes dependents first, and removes their records."""
    process = start("rollback", make_server("rollback"))
    process.server.recorded["from tomorrow"] = LONG_AGO
    assert process.finish() == UNDO
    assert process.events[:2] == [RecordsUnknown(*WHERE, ("from tomorrow",)), RollbackStarted(*WHERE, tuple(UNDO))]
    assert process.events[2:4] == [
        MigrationStarted(*WHERE, "end", 1, 4, undo=True),
        MigrationRolledBack(*WHERE, "end", 1, 4, 0.0, undo=True),
    ]
    assert process.events[-1] == RollbackFinished(*WHERE, tuple(UNDO))
    assert process.server.records == {"from tomorrow"}


def test_mark() -> None:
    """A mark calls no function, and is one event. A record that no registered migration has can be removed."""
    process = start("mark applied", Server())
    assert process.finish() == ORDER
    assert process.events == [RecordsMarked(*WHERE, tuple(ORDER), applied=True)]
    again = start("mark applied", process.server)
    assert again.finish() == []
    assert [call.name for call in again.log] == ["read_records"]
    assert again.events == [RecordsMarked(*WHERE, (), applied=True)]

    process.server.recorded["from tomorrow"] = LONG_AGO
    marking = Process(process.server, definitions(DIAMOND))
    names = marking.perform(engine.mark_pending(marking.scope, ["end", "from tomorrow"])).finish()
    assert names == ["from tomorrow", "end"]
    assert process.server.records == set(ORDER[:3])
    assert marking.events == [RecordsMarked(*WHERE, ("from tomorrow", "end"), applied=False)]
    assert process.server.work + process.server.undone == []


def test_accepted_changes() -> None:
    """Only changed migrations are accepted, and those without a checksum; those that aren't applied are left out. The
    status compares checksums, as far as they are known, and a run computes none for an applied migration.
    """
    known = definitions(DIAMOND | {"pending": [], "lost": []})
    server = recorded(*ORDER, "lost", "from tomorrow")
    server.details |= dict.fromkeys(("top", "end", "lost", "from tomorrow"), OLD)
    process = Process(server, known)
    checksum = process.functions.compute_checksum(nothing)
    server.details["left"] = MigrationRecord(checksum=checksum)

    def changed() -> list[str]:
        return [one.name for one in read_status(server, known).migrations if one.changed]

    assert changed() == ["lost", "top", "end"]
    names = ["end", "pending", "left", "top", "right"]
    accepting = process.perform(engine.mark_accepted(process.scope, names, process.functions.compute_checksum))
    assert accepting.finish() == ["top", "right", "end"]
    assert process.events == [ChangesAccepted(*WHERE, ("top", "right", "end"))]
    assert server.details == {"lost": OLD, "from tomorrow": OLD} | dict.fromkeys(
        ORDER, MigrationRecord(checksum=checksum)
    )
    assert changed() == ["lost"]

    again = Process(server, known)
    again.perform(engine.mark_accepted(again.scope, ORDER, again.functions.compute_checksum)).finish()
    assert [call.name for call in again.log] == ["read_records"]
    without = engine.mark_accepted(again.scope, ["lost"], lambda function: None)
    assert again.perform(without).finish() == []
    again.functions.compute_checksum = lambda function: None  # type: ignore[method-assign,assignment]
    assert again.start(again.engine.read_status()).finish().migrations[0].changed is False


def test_accepted_record_removed() -> None:
    """What isn't there any more isn't accepted: somebody who doesn't have the lease has removed the record."""
    process = start("mark accepted", make_server("mark accepted"))
    process.reach("update_checksum")
    del process.server.recorded["top"]
    with pytest.raises(LeaseLostError):
        process.finish()
    assert process.server.details["top"] == OLD


@pytest.mark.parametrize("kind", ["run", "rollback", "mark"])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_records_elsewhere(kind: str, is_recorded: bool) -> None:
    """A run says that there are records elsewhere, before its start, if it finds none itself."""
    found = OtherPrefixesFound(*WHERE, ("other",))
    process = start(kind, Server(recorded={"end": 1} if is_recorded else {}, elsewhere=found))
    process.finish()
    is_seen = kind == "run" and not is_recorded
    assert [event for event in process.events if event == found] == [found] * is_seen
    assert not is_seen or isinstance(process.events[1], RunStarted)


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        ("run", [RunStarted(*WHERE, ()), RunFinished(*WHERE, ())]),
        ("rollback", [RollbackStarted(*WHERE, ()), RollbackFinished(*WHERE, ())]),
    ],
)
def test_nothing_to_do(kind: str, events: list[object]) -> None:
    """If there is nothing to do, one read is sent, and no lease is acquired."""
    process = start(kind, make_server("rollback" if kind == "run" else "run"))
    assert process.finish() == []
    assert [call.name for call in process.log] == ["read_records"]
    assert process.events == events


@pytest.mark.parametrize(
    ("needs", "names", "error"),
    [
        ({"a": ["b"], "b": ["a"]}, ["a"], CircularDependencyError),
        ({"a": ["b"]}, ["a"], MissingDependencyError),
        ({"a": []}, ["b"], UnknownMigrationError),
        ({"a": []}, "a", InvalidOptionError),
    ],
)
def test_refused_before_the_first_command(needs: dict[str, list[str]], names: Any, error: type[Exception]) -> None:
    """An unsound graph is refused before the first command, and so are names that aren't a list or not registered."""
    process = Process(Server(), definitions(needs))
    operations: dict[str, Callable[[], engine.Operation]] = {
        "run": lambda: engine.run(process.scope, Selection(names)),
        "roll back": lambda: engine.roll_back(process.scope, Undo(names)),
        "mark applied": lambda: engine.mark_applied(process.scope, names),
        "mark pending": lambda: engine.mark_pending(process.scope, names),
    }
    for name, make in operations.items():
        with pytest.raises(error):
            process.perform(make()).finish()
        # A record that no registered migration has can be removed, so a mark reads the records first.
        assert process.log == [] or (name, names) == ("mark pending", ["b"])
    if issubclass(error, GraphError):
        with pytest.raises(error):
            process.start(process.engine.read_status()).finish()


def test_refused_before_the_lease() -> None:
    """Without a database, a free `_id` or transactions, a plan is refused before the lease is acquired."""

    def refuse(known: Mapping[str, MigrationDefinition], **options: Any) -> Process:
        process = Process(Server(), known, **options)
        process.scope = process.engine.scope = replace(process.scope, kinds={False})
        return process.run()

    process = refuse({"a": MigrationDefinition("a", take_context)})
    with pytest.raises(MissingDatabaseError) as missing:
        process.finish()
    assert (missing.value.migrations, missing.value.argument) == (["a"], "async_db")
    without = refuse(
        definitions({"a": []}) | {"b": MigrationDefinition("b", nothing, transaction=True)}, has_transactions=False
    )
    with pytest.raises(TransactionsUnsupportedError) as caught:
        without.finish()
    assert caught.value.migrations == ["b"]
    assert [call.name for call in process.log + without.log] == ["read_records"] * 2
    taken = start_run()
    taken.main.go_on(Records({}, (), frozenset({"a"})))
    with pytest.raises(RecordConflictError):
        taken.finish()


def test_unreadable_records() -> None:
    """Records without a name are one event, before all others, though they are read twice."""
    process = start_run()
    odd = Records({}, (1, None))
    process.main.go_on(odd)
    process.step(process.main)
    process.main.go_on(odd)
    process.finish()
    assert process.events[:2] == [RecordsIgnored(*WHERE, (1, None)), RunStarted(*WHERE, ("a",))]
    assert sum(isinstance(event, RecordsIgnored) for event in process.events) == 1


@pytest.mark.parametrize("late", [False, True])
def test_unknown_records(late: bool) -> None:
    """Unknown records are one event and stay; a strict run refuses them, also those that came while it waited."""
    server = Server() if late else recorded("from tomorrow")
    strict = Process(server, definitions({"a": []})).run(strict=True)
    if late:
        strict.step(strict.main)
        server.recorded["from tomorrow"] = LONG_AGO
    with pytest.raises(UnknownRecordsError) as caught:
        strict.finish()
    assert caught.value.names == ["from tomorrow"]
    assert bool(strict.find("acquire_lease")) is late
    assert (server.holder, server.work) == (None, [])
    process = start_run(server=server)
    assert process.finish() == ["a"]
    assert process.events.count(RecordsUnknown(*WHERE, ("from tomorrow",))) == 1


@pytest.mark.parametrize("targets", [None, ["c"]])
def test_pending_dependencies(targets: list[str] | None) -> None:
    """Applied migrations with pending dependencies are one event; a strict run refuses them."""
    graph = definitions({"a": [], "b": ["a"], "c": ["b"]})
    server = recorded("b")
    strict = Process(server, graph).run(targets, strict=True)
    with pytest.raises(DependencyConflictError) as caught:
        strict.finish()
    assert (caught.value.conflicts, caught.value.in_run) == ({"b": ["a"]}, True)
    assert (strict.find("acquire_lease"), server.work) == ([], [])
    process = Process(server, graph).run(targets)
    assert process.finish() == (["a", "c"] if targets is None else ["c"])
    assert process.events[0] == DependenciesPending(*WHERE, {"b": ["a"]})


@pytest.mark.parametrize("applied", [["a"], ["a", "b"]])
def test_work_of_another(applied: list[str]) -> None:
    """Under the lease, the plan is made again of what is recorded by then."""
    process = start_run("a", "b")
    process.step(process.main)
    process.server.recorded = dict.fromkeys(applied, LONG_AGO)
    assert process.finish() == ["b"][: 2 - len(applied)]
    assert process.events[-1] == RunFinished(*WHERE, tuple(["b"][: 2 - len(applied)]))
    assert process.server.holder is None


def test_transaction_planned_under_the_lease() -> None:
    """If the second plan has transactions, and the first had none, their sessions are opened and named then."""
    known = definitions({"a": []}) | {"b": MigrationDefinition("b", nothing, transaction=True)}
    server = recorded("b")
    process = Process(server, known, hooks={MigrationStarted: lambda: named.append(set(server.sessions))}).run()
    named: list[set[bytes]] = []
    process.step(process.main)
    del server.recorded["b"]
    assert process.finish() == ["a", "b"]
    assert named == [{b"me 0"}] * 2


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@each_transactional
@pytest.mark.parametrize("undo", [False, True])
def test_function_that_fails(kind: type[BaseException], transactional: bool, undo: bool) -> None:
    """What a function raises leaves as it came, with a note. Earlier migrations stay applied; the lease is free."""
    error = kind()

    def fail(db: object) -> None:
        raise error

    known = definitions(DIAMOND, transactional=transactional)
    known["left"] = replace(known["left"], rollback=fail) if undo else replace(known["left"], execute=fail)
    process = Process(recorded(*ORDER) if undo else Server(), known)
    with pytest.raises(kind) as caught:
        (process.roll_back("top") if undo else process.run()).finish()

    assert caught.value is error
    position = 3 if undo else 2
    doing = "while rolling back" if undo else "in"
    assert error.__notes__ == [f"quaestor: {doing} migration 'left', {position} of 4"]
    assert process.events[-2:] == [
        MigrationFailed(*WHERE, "left", position, 4, error, undo=undo),
        RunFailed(*WHERE, error, work="rollback" if undo else "run"),
    ]
    assert process.server.records == ({"left", "top"} if undo else {"top"})
    assert (process.server.holder, process.server.transactions) == (None, {})


@each_transactional
def test_checkpoints_are_deleted(transactional: bool) -> None:
    """Checkpoints of the opposite go before a function or a mark, its own after the record; a later run's stay."""

    async def undo(db: object, context: object) -> None: ...

    known = {"a": MigrationDefinition("a", take_context, transaction=transactional, rollback=undo)}
    for kind in ("run", "rollback", "mark applied", "mark pending"):
        server = Server(token=6) if kind in {"run", "mark applied"} else replace(recorded("a"), token=6)
        keys = [Key(name, is_undo, "orders") for name in "ab" for is_undo in (False, True)]
        server.checkpoints = {key: Stored(Checkpoint(), 7 if key.migration == "a" else 1) for key in keys}
        server.checkpoints |= {Key("a", is_undo, "later"): Stored(Checkpoint(), 8) for is_undo in (False, True)}
        process = Process(server, known)
        if kind == "run":
            process.run()
        elif kind == "rollback":
            process.roll_back("a")
        else:
            mark = engine.mark_applied if kind == "mark applied" else engine.mark_pending
            process.perform(mark(process.scope, ["a"]))
        process.finish()
        is_undo = kind in {"rollback", "mark pending"}
        names = [call.name for call in process.log]
        deletions = [call.details for call in process.find("delete_checkpoints")]
        assert deletions == [(("a",), 7, not is_undo, None), (("a",), 7, is_undo, None)]
        record = {"commit", "insert_records", "delete_records"} & set(names)
        first = names.index("delete_checkpoints")
        assert first < names.index(record.pop()) < names.index("delete_checkpoints", first + 1)
        assert {key.backfill for key in server.checkpoints if key.migration == "a"} == {"later"}
        assert {key for key in server.checkpoints if key.migration == "b"} == set(keys[2:])
    process = start_run()
    process.finish()
    assert not process.find("delete_checkpoints"), "it takes no context"


@each_transactional
def test_lease_lost_while_checkpoints_are_deleted(transactional: bool) -> None:
    """If that takes so long that another run may have the lease, it is checked before the function starts."""
    known = {"a": MigrationDefinition("a", take_context, transaction=transactional)}
    process = Process(Server(), known).run()
    process.reach("delete_checkpoints")
    process.server.now += TTL / 2
    process.server.expire()
    with pytest.raises(LeaseLostError):
        process.finish()
    assert (process.server.work, process.server.records) == ([], set())


# Plans and status


def test_plan() -> None:
    """A plan is what the run would do: the same order, with one read and nothing written."""
    known = definitions(DIAMOND | {"aside": []}, transactional=True)
    server = recorded("top")
    process = Process(server, known)
    planned = process.start(process.engine.explain(engine.run(process.scope, Selection(["end"])))).finish()
    assert [(one.name, one.reason) for one in planned] == [
        ("left", "needed by end"),
        ("right", "needed by end"),
        ("end", "asked for"),
    ]
    rollback = engine.roll_back(process.scope, Undo(["top"]))
    undone = process.start(process.engine.explain(rollback)).finish()
    assert undone == [PlannedMigration("top", asked_for=True, undo=True)]
    assert [call.name for call in process.log] == ["read_records"] * 2
    assert (server, process.events) == (recorded("top"), [])
    everything = process.start(process.engine.explain(engine.run(process.scope))).finish()
    assert [one.name for one in everything] == Process(server, known).run().finish()


def test_plan_raises_what_the_run_would() -> None:
    """A plan that couldn't be carried out is an error, and so is a read that fails. The error says where that was."""
    process = Process(Server(), definitions({"a": []}, transactional=True), has_transactions=False)
    with pytest.raises(TransactionsUnsupportedError):
        process.start(process.engine.explain(engine.run(process.scope))).finish()
    for read in (process.engine.explain(engine.run(process.scope)), process.engine.read_status()):
        process.start(read)
        process.main.go_on(error=ConnectionError())
        with pytest.raises(ConnectionError) as caught:
            process.finish()
        assert "nothing has run" in caught.value.__notes__[0]
    assert process.events == []


def test_status() -> None:
    """The lease is read before the records. Migrations come in the order of a plan for all, then the unknown ones."""
    known = definitions(DIAMOND)
    known["end"] = MigrationDefinition("end", nothing, DIAMOND["end"], transaction=True, description="The end.")
    server = recorded("top", "z")
    server.recorded["b"] = None
    server.acquire(Process(server, {}, "other").terms, "run", ("left",), ())
    server.checkpoints[Key("left", undo=False, backfill="o")] = Stored(Checkpoint((1,), (), 5, 5, 10), 1)
    process = Process(server, known)
    status = process.start(process.engine.read_status()).finish()

    reads = ["read_lease_and_clock", "read_records", "read_checkpoints", "read_last_failures"]
    assert [call.name for call in process.log] == reads
    assert (status.database, status.prefix) == WHERE[:2]
    assert (status.lease.owner, status.lease.migrations) == ("other", ("left",))
    half = BackfillStatus("o", "orders", 5, 10, finished=False, updated_at=LONG_AGO)
    assert status.migrations == (
        MigrationStatus("top", "applied", LONG_AGO, (), has_rollback=True),
        MigrationStatus("left", "pending", None, ("top",), has_rollback=True, backfills=(half,)),
        MigrationStatus("right", "pending", None, ("top",), has_rollback=True),
        MigrationStatus("end", "pending", None, ("left", "right"), transaction=True, description="The end."),
        MigrationStatus("b", "unknown"),
        MigrationStatus("z", "unknown", LONG_AGO),
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
        ("run", "bcd", None, "", "bcd"),
        ("run", "cd", "b", "", "bcd"),
        ("run", "cd", "b", "d", "bc"),
        ("run", "cd", "a", "d", "cd"),
        ("run", "bx", "a", "b", "b"),
        ("rollback", "a", None, "", "a"),
        ("rollback", "a", "b", "a", "a"),
        ("rollback", "x", "a", "x", "a"),
        ("mark", "b", None, "", ""),
    ],
)
def test_interrupted(work: Work, migrations: str, recording: str | None, upcoming: str, interrupted: str) -> None:
    """The status shows what an expired holder was in: the migrations that its document names, and the one about to be
    recorded. If that isn't recorded, what starts after it had not started. (`a` is applied, the others are pending.)
    """
    holder = replace(lease(migrations=tuple(migrations)), work=work, recording=recording, upcoming=tuple(upcoming))
    for server in (replace(recorded("a"), holder=holder), replace(recorded("a"), expelled=holder)):
        status = read_status(server, definitions({name: [] for name in "abcd"}))
        assert [one.name for one in status.migrations if one.interrupted] == list(interrupted)
        assert status.lease is None


def test_interrupted_rollback() -> None:
    """An applied migration with a checkpoint of its rollback is half rolled back, unless somebody is in it now."""
    server = recorded("a", "b")
    server.checkpoints[Key("a", undo=True, backfill="o")] = Stored(Checkpoint(), 1)
    server.checkpoints[Key("b", undo=False, backfill="o")] = Stored(Checkpoint(), 1)
    known = definitions({"a": [], "b": []})
    assert [one.interrupted for one in read_status(server, known).migrations] == [True, False]
    server.acquire(Process(server, {}).terms, "rollback", ("a",), ())
    assert [one.interrupted for one in read_status(server, known).migrations] == [False, False]


# Waiting for the lease


def hold(server: Server, owner: str = "other", sessions: tuple[bytes, ...] = ()) -> None:
    """Let another process hold the lease."""
    server.acquire(Process(server, {}, owner).terms, "run", ("x",), sessions)


def wait_for(process: Process, seconds: float, *, renew: bool = True) -> None:
    """Let it wait while another process holds the lease, and perhaps renews it."""
    until = process.server.now + seconds
    while process.server.now < until:
        if renew and process.server.holder is not None:
            process.server.renew(process.server.holder)
        process.step(process.main) if process.ready else process.wait()


def test_waiting_is_announced() -> None:
    """A run that waits says so at once, after 5 s, and then every 30 s. It polls once a second in the end."""
    process = start_run()
    hold(process.server)
    wait_for(process, 100)
    assert process.finish() == ["a"]
    assert process.server.now == pytest.approx(1_100 + TTL, abs=1)
    waited = [event for event in process.events if isinstance(event, LeaseAwaited)]
    assert [event.seconds for event in waited[:4]] == pytest.approx([0, 5, 35, 65], abs=1.5)
    assert {event.holder.owner for event in waited} == {"other"}
    pauses = [call.details for call in process.find("sleep")]
    assert [longest for _, longest in pauses[:3]] == pytest.approx([0.05, 0.075, 0.1125])  # type: ignore[misc]
    assert pauses[20:80] == [(0.5, 1.0)] * 60


@pytest.mark.parametrize(
    ("renewed", "seconds"), [(600.0, TTL), (0.0, TTL), (-70.0, TTL), (-80.0, TTL / 2), (-9_999.0, TTL / 2)]
)
def test_dead_holder_is_replaced(renewed: float, seconds: float) -> None:
    """A holder that hasn't renewed for its ttl of the waiter's clock is replaced, and no wall clock decides. Half of
    the ttl is enough if the lease ended more than a minute ago by the server's clock too.
    """
    process = start_run()
    hold(process.server)
    assert process.server.holder is not None
    renewed_at = process.server.clock + timedelta(seconds=renewed)
    process.server.holder = dead = replace(process.server.holder, renewed_at=renewed_at)
    assert process.finish() == ["a"]
    assert [call.details for call in process.find("acquire_lease")] == [None, dead]
    assert process.server.now == pytest.approx(1_000 + seconds, abs=0.01)
    assert len(process.find("read_clock")) == 1
    assert process.server.previous == "other"


@pytest.mark.parametrize("change", ["renewed", "replaced"])
def test_watch_starts_again(change: str) -> None:
    """Whoever renews the lease, or acquires it meanwhile, has the whole ttl from then on, which is the holder's own."""
    process = start_run()
    hold(process.server)
    wait_for(process, 0.9 * TTL, renew=False)
    holder = process.server.holder
    assert holder is not None
    if change == "renewed":
        process.server.renew(holder)
        assert process.server.holder is not None
        process.server.holder = replace(process.server.holder, ttl=2 * TTL)
    else:
        process.server.acquire(Process(process.server, {}, "third").terms, "run", ("x",), (), holder)
    process.finish()
    seconds = 0.9 * TTL + (2 * TTL if change == "renewed" else TTL)
    assert process.server.now == pytest.approx(1_000 + seconds, abs=1.1)


def test_renewed_just_before_the_take_over() -> None:
    """A holder that renews at the last moment is not replaced."""
    process = start_run()
    hold(process.server)
    process.reach("acquire_lease")
    process.step(process.main)
    process.reach("acquire_lease")
    assert process.server.holder is not None
    process.server.renew(process.server.holder)
    process.step(process.main)
    assert process.server.holder.owner == "other"
    process.finish()
    assert process.server.now == pytest.approx(1_000 + 2 * TTL, abs=1.1)


def test_timeout() -> None:
    """The last poll is at the end of the time. The error has the holder, and is the last event; nothing has run."""
    process = start_run(timeout=0.3)
    hold(process.server)
    with pytest.raises(LeaseTimeoutError) as caught:
        process.finish()
    assert caught.value.holder.owner == "other"
    assert caught.value.seconds == pytest.approx(0.3)
    assert process.server.now == pytest.approx(1_000.3)
    assert process.events[-1] == RunFailed(*WHERE, caught.value)
    assert process.server.holder is not None


def test_no_server() -> None:
    """At the start nobody waits for longer than the driver does; later the server may come back."""
    gone = ConnectionError()
    process = start_run()
    process.main.go_on(error=engine.OutcomeUnknown(gone, no_server=True))
    with pytest.raises(ConnectionError) as caught:
        process.finish()
    assert (caught.value, process.server.now) == (gone, 1_000)

    process = start_run()
    process.step(process.main)
    process.main.go_on(error=engine.OutcomeUnknown(gone, no_server=True))
    assert process.finish() == ["a"]
    assert [call.details for call in process.find("sleep")] == [PAUSE]


def test_acquired_without_a_majority() -> None:
    """If an acquisition is refused, and a read doesn't see the holder yet, a run polls with pauses."""
    process = start_run()
    hold(process.server)
    for _ in range(3):
        process.reach("read_lease")
        process.main.go_on(LeaseState())
        process.step(process.main)
    wait_for(process, 1)
    assert [call.details for call in process.find("sleep")[:3]] == [PAUSE] * 3
    process.server.release("other", ())
    assert process.finish() == ["a"]


# Servers


@pytest.mark.parametrize("transactional", [False, True])
def test_lookalike(transactional: bool) -> None:
    """On a server that may not be MongoDB, the lease is proved once it is acquired, and the records' collection is made
    before a transaction.
    """
    process = start_run("a", transactional=transactional, is_mongodb=False)
    assert process.finish() == ["a"]
    assert bool(process.find("create_records")) is transactional
    names = [call.name for call in process.log]
    first = names.index("acquire_lease")
    assert names[first : first + 5] == ["acquire_lease", "acquire_lease", "renew_lease", "renew_lease", "read_lease"]


@pytest.mark.parametrize(
    ("method", "answer", "commands"),
    [
        ("acquire", lambda server, *_: server.holder, ["an upsert of a document that exists"]),
        ("renew", lambda *_: False, ["an update that matches the lease", "$inc"]),
        ("renew", lambda *_: True, ["an update that doesn't match the lease", "$inc"]),
    ],
)
def test_unsupported_server(method: str, answer: Any, commands: list[str]) -> None:
    """A server whose answers wouldn't exclude a second holder is refused before anything has run."""
    server = Server()
    ask = getattr(server, method)
    setattr(server, method, lambda *given: (method == "acquire" and ask(*given)) or answer(server, *given))
    process = start_run("a", server=server, is_mongodb=False)
    with pytest.raises(ServerUnsupportedError) as caught:
        process.finish()
    assert caught.value.commands == commands
    assert process.server.work == []
    assert process.server.holder is None


def test_majority_that_is_slower_than_the_lease() -> None:
    """If each confirmation comes later than the ttl allows, the run says that it waits, and ends after its patience."""
    process = start_run("a", latency=0.5 * TTL)
    with pytest.raises(OutageError, match="to check the lease: no majority") as caught:
        process.finish()
    assert caught.value.no_majority
    assert process.server.records == set()
    assert [event.what for event in process.events if isinstance(event, MajorityAwaited)]


# Outages

AWAITED = [
    ("read_records", "to read the records"),
    ("acquire_lease", "to acquire the lease"),
    ("kill_sessions", "to end sessions"),
    ("renew_lease", "to check the lease"),
    ("insert_records", "to record 'a'"),
    ("find_recorded", "to read the record of 'a'"),
    ("delete_records", "to remove the record of 'a'"),
    ("delete_checkpoints", "to remove checkpoints"),
    ("commit", "to commit the transaction of 'a'"),
]


def start_outage(name: str, **options: Any) -> Process:
    """A process that sends this command."""
    undo, transactional = name == "delete_records", name == "commit"
    server = Server(recorded={"a": LONG_AGO} if undo else {}, sessions={b"dead"})
    function = take_context if name == "delete_checkpoints" else nothing
    known = {"a": MigrationDefinition("a", function, transaction=transactional, rollback=nothing)}
    process = Process(server, known, **options)
    return process.roll_back("a") if undo else process.run()


@pytest.mark.parametrize(("name", "what"), AWAITED)
@pytest.mark.parametrize("no_majority", [False, True])
def test_patience(name: str, what: str, no_majority: bool) -> None:
    """A run that waits for the server, or a majority, says so after 5 s and every 30 s. After its patience it ends with
    an error that says what it waited for, and releases the lease if it can.
    """
    process = start_outage(name, patience=300.0)
    lost = {name, f"{name} again"} | ({"insert_records"} if name == "find_recorded" else set())
    with pytest.raises(OutageError) as caught:
        process.finish_without(lambda call: call.name in lost, "no majority" if no_majority else "request lost")
    error = caught.value
    assert (error.what, error.no_majority) == (what, no_majority)
    assert error.seconds == pytest.approx(300, abs=1)
    assert isinstance(error.__cause__, ConnectionError)
    awaited = [event for event in process.events if isinstance(event, (ServerAwaited, MajorityAwaited))]
    assert {type(event) for event in awaited} == {MajorityAwaited if no_majority else ServerAwaited}
    assert {(event.database, event.prefix, event.run, event.what) for event in awaited} == {(*WHERE, what)}
    assert [event.seconds for event in awaited] == pytest.approx([5, *range(35, 300, 30)], abs=3)
    assert {str(event.error) for event in awaited} <= {"no majority", "request lost", "Ending.UNKNOWN"}
    assert process.server.holder is None
    assert process.events[-1] == RunFailed(*WHERE, error, work="rollback" if name == "delete_records" else "run")


@pytest.mark.parametrize(("name", "what"), AWAITED)
def test_patience_without_any_answer(name: str, what: str) -> None:
    """If commands get no answer at all, each is given up soon enough for the events and the end of the patience."""
    process = start_outage(name, patience=100.0, hangs=True)
    lost = {name, f"{name} again"} | ({"insert_records"} if name == "find_recorded" else set())
    with pytest.raises(OutageError) as caught:
        process.finish_without(lambda call: call.name in lost)
    assert caught.value.what == what
    assert 100 <= caught.value.seconds <= (121 if name == "read_records" else 111)
    awaited = [event.seconds for event in process.events if isinstance(event, ServerAwaited)]
    assert awaited[0] <= (31 if name == "read_records" else 11), "the first command has the time that drivers give it"
    assert all(later - earlier <= 41 for earlier, later in pairwise(awaited)), "each 30 s, when an attempt ends"
    assert awaited[-1] >= 65


@each_transactional
@pytest.mark.parametrize("where", ["function a", "insert_records"])
def test_outage_longer_than_the_ttl(transactional: bool, where: str) -> None:
    """A holder goes on after an outage of any length if nobody has replaced it, and says that it waits. Until then it
    starts nothing and records nothing.
    """
    where = "commit" if transactional and where == "insert_records" else where
    process = start_run("a", "b", transactional=transactional, patience=300.0)
    process.reach(where)
    began = process.server.now

    def is_lost(call: Call) -> bool:
        is_away = process.server.now < began + 4 * TTL
        assert not is_away or call.details != "b"
        assert not is_away or not process.server.records
        return is_away

    assert process.finish_without(is_lost) == ["a", "b"]
    assert process.server.work == ["a", "b"]
    awaited = [event.seconds for event in process.events if isinstance(event, ServerAwaited)]
    assert awaited[:4] == pytest.approx([5, 35, 65, 95], abs=1)
    assert process.server.now - began == pytest.approx(4 * TTL, abs=1)
    assert process.server.previous is None


def test_outage_while_another_waits() -> None:
    """A holder that was replaced during an outage learns it from the first answer, and has recorded nothing."""
    process = start_run("a", "b", is_undisturbed=False)
    process.reach("insert_records")
    other = start_run("a", "b", server=process.server, owner="other")
    other.finish()
    assert process.server.now == pytest.approx(1_000 + TTL, abs=0.1)
    with pytest.raises(LeaseLostError):
        process.finish()
    assert process.server.work == ["a", "a", "b"]


# Holding the lease


def test_heartbeat() -> None:
    """The lease is renewed every third of its time, sooner after a renewal that failed, and not once it is lost. A
    majority confirms each.
    """
    process = start_run("a", "b", durations={"a": 100.0})
    assert process.finish() == ["a", "b"]
    beats = process.find_renewals(by_heartbeat=True)
    assert len(beats) in {9, 10}
    assert {call.details for call in beats} == {(None, True)}
    assert {call.details for call in process.find("heartbeat")} == {10.0}

    process = start_run(durations={"a": 25.0})
    first = start_run(durations={"a": 25.0})
    first.finish()
    process.faults = {[call.name for call in first.log].index("renew_lease"): "request lost"}
    assert process.finish() == ["a"]
    assert [call.details for call in process.find("heartbeat")] == [10.0, 3.0, 10.0, 10.0]

    process = start_run(durations={"a": 100.0}, is_undisturbed=False)
    while process.server.now < 1_005:
        process.step(process.main) if process.ready else process.wait()
    process.server.expire()
    with pytest.raises(LeaseLostError):
        process.finish()
    assert len(process.find_renewals(by_heartbeat=True)) == 1


@pytest.mark.parametrize(("lost", "majority"), [("", False), ("renew_lease", True), ("acquire_lease", True)])
def test_majority_of_a_check(lost: str, majority: bool) -> None:
    """A check waits for a majority only if none has confirmed the lease recently: the heartbeats, or the acquisition,
    had no answer.
    """
    process = start_run(durations={"a": 24.5 if lost != "acquire_lease" else 0.0})
    process.finish_without(lambda call: call.name == lost and process.server.now < 1_024, "answer lost")
    assert process.find_renewals(by_heartbeat=False)[0].details[1] is majority
    assert process.server.records == {"a"}


@pytest.mark.parametrize("lost", ["request lost", "answer lost"])
def test_unlock(lost: str) -> None:
    """An unlock makes the lease expire, and returns who held it. The holder stops at its next step."""
    process = start_run("a", "b", is_undisturbed=False)
    process.reach("function a")
    other = Process(process.server, {}, "other", faults={0: "request lost", 3: lost})
    assert other.start(other.engine.unlock()).finish().owner == "me"
    names = [call.name for call in other.log if call.name != "sleep"]
    assert names == ["read_lease"] * 2 + ["expire_lease"] * 2 + ["add_history"]
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert caught.value.migration == "a"
    assert process.server.records == set()
    assert process.names(MigrationFailed) == ["a"]
    assert other.start(other.engine.unlock()).finish() is None


def test_unlock_too_late() -> None:
    """An unlock that finds the lease released meanwhile has unlocked nothing, and the history says nothing of it."""
    process = start_run("a", is_undisturbed=False)
    process.reach("function a")
    other = Process(process.server, {}, "other")
    other.start(other.engine.unlock()).reach("expire_lease")
    process.finish()
    assert other.finish() is None
    assert not other.find("add_history")


@pytest.mark.parametrize("fault", ["request lost", "answer lost"])
@pytest.mark.parametrize("at", [0, 1])
def test_protection_with_an_unknown_outcome(fault: str, at: int) -> None:
    """The commands of a protection are repeated until their outcome is known."""
    server = Server()
    process = Process(server, {}, faults={at: fault})
    process.start(process.engine.protect("production")).finish()
    assert server.protected_as == "production"
    process = Process(server, {})
    assert process.start(process.engine.read_protection()).finish() == "production"
    process = Process(server, {})
    process.start(process.engine.protect(None)).finish()
    assert server.protected_as is None


def test_lost_after_a_transaction() -> None:
    """What is committed is applied; the next migration isn't started."""
    process = start_run("a", "b", transactional=True, is_undisturbed=False)
    process.hooks = {MigrationApplied: process.server.expire}
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert caught.value.migration is None
    assert process.names(MigrationStarted, MigrationApplied, MigrationFailed) == ["a", "a"]


@pytest.mark.parametrize("frozen_in", ["insert_records", "renew_lease"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_answer_that_comes_late(frozen_in: str, is_replaced: bool) -> None:
    """The answer of a check that came so late that the process may have been frozen doesn't count: the lease is
    checked once more, by a majority.
    """
    process = start_run("a", "b", is_undisturbed=not is_replaced)
    process.answer(process.reach(frozen_in))
    process.server.now += TTL / 2
    if not is_replaced:
        assert process.finish() == ["a", "b"]
        majorities = [call.details[1] for call in process.find_renewals(by_heartbeat=False)]
        assert majorities == [False, True, False]
        return
    process.server.expire()
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert caught.value.migration == ("a" if frozen_in == "renew_lease" else None)
    assert process.server.work == ["a"]
    assert process.server.records == ({"a"} if frozen_in == "insert_records" else set())


def test_record_of_somebody_else() -> None:
    """A record that somebody else has written ends the run, unless a frozen holder may have woken and written it."""
    process = start_run("a", "b")
    process.durations = {"a": 1.0}
    process.reach("insert_records")
    process.server.recorded["a"] = LONG_AGO
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert caught.value.migration == "a"

    process = start_run("a", "b", server=Server(previous="dead"))
    process.reach("insert_records")
    process.server.recorded["a"] = LONG_AGO
    assert process.finish() == ["a", "b"]

    process = start_run("a", server=Server(previous="dead"))
    process.reach("insert_records")
    process.main.go_on(answer=False)  # and it was removed since
    assert process.finish() == ["a"]
    assert process.server.records == {"a"}


@each_fault
@pytest.mark.parametrize("kind", ["run", "rollback"])
def test_record_unknown_and_lease_lost(kind: str, fault: str) -> None:
    """A record whose outcome is unknown is looked up and repeated only while the lease is held."""
    process = start(kind, make_server(kind), is_undisturbed=False)
    name = "insert_records" if kind == "run" else "delete_records"
    process.reach(name)
    process.step(process.main, fault)
    process.server.expire()
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert caught.value.migration == ("top" if kind == "run" else "end")


def test_record_removed_by_somebody_else() -> None:
    """A process that has lost the lease doesn't claim to have undone what another one did."""
    process = start("rollback", make_server("rollback"), is_undisturbed=False)
    process.reach("delete_records")
    del process.server.recorded["end"]
    process.server.expire()
    with pytest.raises(LeaseLostError):
        process.finish()
    assert process.names(MigrationRolledBack) == []


# Releasing it, and the sessions of transactions


def test_lease_not_released() -> None:
    """A release that fails is an event, and doesn't change how the run ends."""
    process = start_run(is_undisturbed=False)
    error = PermissionError()
    process.reach("release_lease")
    process.main.go_on(error=error)
    assert process.finish() == ["a"]
    assert process.events[-2] == LeaseNotReleased(*WHERE, TTL, error)
    assert not process.find("end_sessions"), "others can still kill them"


def test_sessions_not_ended() -> None:
    """A lease that was released is released, whatever happens to the sessions after that."""
    process = start_run(transactional=True, is_undisturbed=False)
    process.reach("end_sessions")
    process.main.go_on(error=MemoryError())
    assert process.finish() == ["a"]
    assert process.server.holder is None
    assert LeaseNotReleased not in map(type, process.events)


@pytest.mark.parametrize("error", [KeyboardInterrupt, InterruptedError])
@pytest.mark.parametrize("where", ["function a", "release_lease"])
def test_second_signal_ends_the_release(where: str, error: type[BaseException]) -> None:
    """The first one, even one that raises an Exception, lets the release come to its end."""
    process = start_run(is_undisturbed=False)
    process.reach(where)
    process.main.go_on(error=error())
    call = process.reach("release_lease")
    assert LeaseNotReleased not in map(type, process.events)
    process.main.go_on(error=error())
    with pytest.raises(error):
        process.finish()
    assert call.name == "release_lease"
    assert process.server.holder is not None
    unwritten = [HistoryNotWritten] if where == "function a" else []
    expected = [LeaseNotReleased, *unwritten, RunFailed]
    assert [type(event) for event in process.events[-len(expected) :]] == expected


def test_lease_that_was_refused() -> None:
    """A run that the server doesn't let acquire the lease has none to release."""
    process = start_run(transactional=True, is_undisturbed=False)
    process.reach("acquire_lease")
    process.main.go_on(error=PermissionError())
    with pytest.raises(PermissionError):
        process.finish()
    assert not process.find("release_lease")
    assert process.find("end_sessions")
    assert LeaseNotReleased not in map(type, process.events)


@pytest.mark.parametrize(("fault", "most"), [("request lost", 1.0), (None, 7.5)])
def test_release_while_cut_off(fault: str | None, most: float) -> None:
    """After a renewal that failed, the release is tried for a moment only."""
    process = start_run(is_undisturbed=False)
    process.reach("function a")
    [heartbeat] = [task for task in process.tasks if task is not process.main]
    while heartbeat.call is None or heartbeat.call.name != "renew_lease":
        process.wait()
        process.step(heartbeat)
    process.step(heartbeat, fault)
    process.interrupt()
    process.reach("release_lease")
    assert process.limit == most
    with pytest.raises(KeyboardInterrupt):
        process.finish()


def test_sessions_of_the_dead_are_killed() -> None:
    """Before the first step, the sessions of a dead holder are killed. They leave the lease document at the end."""
    server = Server()
    hold(server, sessions=(b"dead",))
    server.release("other", ())
    process = start_run(server=server, transactional=True)
    named: list[set[bytes]] = []
    process.hooks = {MigrationStarted: lambda: named.append(set(server.sessions))}
    process.finish()
    assert (server.killed, named, server.sessions) == ({b"dead"}, [{b"dead", b"me 0"}], set())
    process = start_run("b", server=server)
    process.finish()
    assert not process.find("kill_sessions")


@pytest.mark.parametrize("how", ["interrupted", "outage"])
def test_sessions_of_the_dead_that_are_not_killed(how: str) -> None:
    """A run that ends before it has killed them leaves them in the lease document: the next one kills them."""
    process = start_run(server=Server(sessions={b"dead"}))
    if how == "interrupted":
        process.reach("kill_sessions")
        process.interrupt()
    with pytest.raises(KeyboardInterrupt if how == "interrupted" else OutageError):
        process.finish_without(lambda call: call.name == "kill_sessions")
    assert (process.server.holder, process.server.sessions) == (None, {b"dead"})
    start_run(server=process.server).finish()
    assert (process.server.killed, process.server.sessions) == ({b"dead"}, set())


def test_sessions_are_killed_before_the_read() -> None:
    """No transaction of a frozen holder can commit once the records have been read under the lease."""
    frozen = start_run(transactional=True)
    frozen.reach("commit")
    server = frozen.server
    server.now += TTL + 1
    process = start_run("a", "b", server=server, transactional=True, owner="later")
    process.reach("acquire_lease")
    process.step(process.main)
    process.reach("read_records")
    assert server.transactions == {}
    assert process.finish() == ["a", "b"]
    assert server.work == ["a", "b"]


def test_sessions_that_may_not_be_killed() -> None:
    """If the right is missing, that is an event, and the run goes on."""
    refusal = PermissionError("not authorized")
    server = Server(sessions={b"dead"}, refusal=refusal)
    process = start_run(server=server)
    assert process.finish() == ["a"]
    assert SessionsNotEnded(*WHERE, refusal) in process.events


def test_lease_lost_while_sessions_are_killed() -> None:
    """If killing them takes so long that another run may have the lease, it is checked before the first step."""
    process = start_run(server=Server(sessions={b"dead"}), is_undisturbed=False)
    process.reach("kill_sessions")
    process.server.now += TTL / 2
    process.server.expire()
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert (caught.value.migration, process.server.work) == (None, [])


@pytest.mark.parametrize("refused", ["refused", "request lost", "answer lost", None])
def test_own_transaction_that_was_interrupted(refused: str | None) -> None:
    """An interrupted run kills its open transaction before it releases the lease. If it can't, the document goes on
    naming the session, and the next run kills it.
    """
    process = start_run("a", "b", transactional=True)
    process.reach("function b")
    process.interrupt()
    server = process.server
    server.refusal = PermissionError() if refused == "refused" else None
    process.reach("kill_sessions")
    process.step(process.main, refused if refused != "refused" else None)
    with pytest.raises(KeyboardInterrupt):
        process.finish()
    assert server.holder is None
    assert server.sessions == (set() if refused is None else {b"me 0"})
    server.refusal = None
    assert start_run("a", "b", server=server, transactional=True, owner="next").finish() == ["b"]
    assert server.sessions == set()


# Transactions


@pytest.mark.parametrize("ending", [Ending.ABORTED, Ending.EXPIRED])
def test_transaction_is_repeated(ending: Ending) -> None:
    """A transaction that the server aborted is repeated, and an event says so. Its work is there once."""
    process = start_run(transactional=True, endings=[ending, ending])
    assert process.finish() == ["a"]
    retried = [event for event in process.events if isinstance(event, MigrationRetried)]
    assert [(event.name, event.attempt) for event in retried] == [("a", 2), ("a", 3)]
    assert all(isinstance(event.error, ConnectionError) for event in retried)
    assert process.server.work == ["a"]
    assert len(process.find("function a")) == 3


def test_recorded_by_a_holder_that_woke() -> None:
    """A migration that is recorded by now isn't repeated, whether its record or its commit shows that."""
    for call in ("write in transaction", "commit"):
        process = start_run("a", "b", transactional=True)
        process.reach(call)
        process.server.recorded["a"] = LONG_AGO
        process.endings = [Ending.ABORTED] if call == "commit" else []
        assert process.finish() == ["a", "b"]
        assert process.server.work == ["b"]
        assert process.names(MigrationRetried) == []


def test_lost_between_attempts() -> None:
    """Nothing is repeated without the lease."""
    process = start_run(transactional=True, endings=[Ending.ABORTED], is_undisturbed=False)
    process.reach("commit")
    process.server.expire()
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert caught.value.migration is None
    assert len(process.find("function a")) == 1


@pytest.mark.parametrize("again", [None, Ending.EXPIRED, Ending.UNKNOWN])
def test_commit_unknown(again: Ending | None) -> None:
    """A commit whose answer was lost is repeated until it is known. The event has the time of the attempt."""
    process = start_run(transactional=True, endings=[Ending.UNKNOWN, again], durations={"a": 0.75})
    assert process.finish() == ["a"]
    assert process.server.work == ["a"]
    assert process.events[-2] == MigrationApplied(*WHERE, "a", 1, 1, 0.75)
    assert len(process.find("commit again")) == (2 if again is Ending.UNKNOWN else 1)


@each_fault
def test_commit_unknown_for_long(fault: str) -> None:
    """A commit whose outcome stays unknown is an error after the patience. The next run does what isn't done."""
    process = start_run(transactional=True)
    process.reach("commit")
    process.step(process.main, fault)
    process.endings = [Ending.UNKNOWN] * 5_000
    process.server.transactions.clear()
    process.server.committed = {b"me 0"}
    with pytest.raises(OutageError):
        process.finish()
    assert process.server.now == pytest.approx(1_000 + PATIENCE, abs=1)
    assert start_run(server=process.server, owner="next").finish() == ([] if fault == "answer lost" else ["a"])
    assert process.server.work == ["a"]


@pytest.mark.parametrize(
    ("ending", "seconds", "attempts", "expired", "went_on"),
    [
        (Ending.ABORTED, 1.0, 65, False, False),
        (Ending.ABORTED, 59.0, 3, False, False),
        (Ending.EXPIRED, 0.0, MOST_EXPIRED, True, True),
        (Ending.EXPIRED, 1.0, MOST_EXPIRED, True, False),
        (Ending.EXPIRED, 59.0, 3, True, False),
    ],
)
def test_aborted_again_and_again(ending: Ending, seconds: float, attempts: int, expired: bool, went_on: bool) -> None:
    """There is an end to attempts: by their number, by the time that they take, or soon if the server ends them all. If
    it does that sooner than any server's limit, an operation has failed in each.
    """
    process = start_run(transactional=True, endings=[ending] * 1_000, durations={"a": seconds})
    with pytest.raises(TransactionFailedError) as caught:
        process.finish()
    assert (caught.value.expired, caught.value.went_on) == (expired, went_on)
    assert caught.value.__cause__ is not None
    assert caught.value.attempts == len(process.find("function a")) == attempts
    assert (process.server.work, process.server.holder) == ([], None)


def test_expired_now_and_then() -> None:
    """Only transactions that the server ended in a row are given up soon."""
    endings = [*[Ending.EXPIRED] * (MOST_EXPIRED - 1), Ending.ABORTED] * 3
    assert start_run(transactional=True, endings=endings).finish() == ["a"]


# Failovers


@each_transactional
@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("at_record", [False, True])
def test_failover(transactional: bool, undo: bool, at_record: bool) -> None:
    """A failover between the start of a plain function and its record is reported; a transaction loses no writes."""
    known = definitions({"a": [], "b": []}, transactional=transactional)
    process = Process(recorded("a", "b") if undo else Server(), known)
    process = process.roll_back("a", "b") if undo else process.run()
    record = "commit" if transactional else "delete_records" if undo else "insert_records"
    process.reach(record if at_record else "function b" if undo else "function a")
    process.server.elections += 1
    assert set(process.finish()) == {"a", "b"}

    changed = [event for event in process.events if isinstance(event, PrimaryChanged)]
    first, done = ("b", MigrationRolledBack) if undo else ("a", MigrationApplied)
    assert changed == ([] if transactional else [PrimaryChanged(*WHERE, first, 1, 2, undo=undo)])
    if changed:
        assert isinstance(process.events[process.events.index(changed[0]) + 1], done)
