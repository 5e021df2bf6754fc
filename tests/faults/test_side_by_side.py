"""Faults while several migrations are in progress: killed, frozen, cut off, interrupted. Real processes, signals.

Each time: what has not come to its end is not recorded, what has is, where the process lives; a transaction is there
once; the lease is free when a run has ended, or once it has expired after it was killed.
"""

import signal
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from quaestor import LeaseLostError, LeaseNotReleased, MigrationRegistry, Status, SyncRunner
from tests.faults.applications import DRIVERS, Application, State, effect, state, until_expired
from tests.faults.applications import FAULTS_OF_PRIMARY as FAULTS
from tests.faults.instance import Instance, Line, Orders, Start, check_takeover
from tests.faults.works import Left, Work, left, once, prepared
from tests.functions import nothing
from tests.meeting import Meeting
from tools.faults import INTERRUPTED, LOST, STEPPED_DOWN, WTIMEOUT, fail_command, reply_lost
from tools.replica_set import ReplicaSet

FOUR = (Work("a"), Work("b", transaction=True), Work("c"), Work("d", transaction=True))
"""What is in progress at once."""

AFTER = (Work("e", depends_on=["a", "b"]), Work("f", transaction=True, depends_on=["c", "d"]))
"""What begins when that is recorded."""

SIX = (*FOUR, *AFTER)
NAMES = [work.name for work in SIX]
HELD = tuple(replace(work, held=True) for work in FOUR)


@pytest.fixture
def orders(driver: str, uri: str, name: str) -> Orders:
    """Orders to run the six, four at once."""
    return Orders(driver=driver, uri=uri, database=name, works=SIX, concurrency=4)


def started(start: Start, orders: Orders) -> Instance:
    """An instance that was let go."""
    return start(orders).go()


def stopped(start: Start, orders: Orders, works: Sequence[Work] = HELD) -> Instance:
    """An instance that stands still in these, all at once."""
    instance = started(start, replace(orders, works=(*works, *AFTER)))
    where = {instance.until("stopped")["where"] for _ in works}
    assert where == {work.name for work in works}
    return instance


def let_go(instance: Instance, names: Sequence[str] = "abcd") -> Line:
    """Let it come to its end, from these places and from wherever it stops again: a transaction may be tried again."""
    for name in names:
        instance.go(name)
    while instance.until("stopped", "returned", "raised")["is"] == "stopped":
        instance.go()
    instance.until("ended")
    return instance.said("returned", "raised")[-1]


def lost_its_lease(outcome: Line) -> bool:
    """Whether a run ended because of that, and of nothing else."""
    return outcome["is"] == "raised" and set(outcome["each"]) == {"LeaseLostError"}


def again(*names: str) -> Left:
    """What is left when all ran once, and what these began was not ended the first time."""
    all_once = once(SIX)
    return replace(all_once, begun={name: 1 + (name in names) for name in all_once.begun})


def status(db: Any) -> Status:
    """What a runner says of the six."""
    registry = MigrationRegistry()
    for work in SIX:
        registry.register(work.name, work.depends_on, transaction=work.transaction)(nothing)
    return SyncRunner(registry, db, "app").status()


def test_killed(orders: Orders, work_db: Any, start: Start) -> None:
    """Of a killed holder a status names all that it was in, but for transactions, and another does all of it."""
    victim = stopped(start, replace(orders, lease_ttl=1))
    at_work = status(work_db).lease
    assert at_work is not None
    assert sorted(at_work.migrations) == ["a", "b", "c", "d"]
    victim.kill()
    until_expired(work_db)

    ended = status(work_db)
    assert ended.lease is None
    assert [one.name for one in ended.migrations if one.interrupted] == ["a", "c"]
    assert left(work_db).records == []
    assert started(start, orders).outcome()["names"] == NAMES
    assert left(work_db) == again("a", "c")


@pytest.mark.alone
def test_killed_while_another_waits(orders: Orders, work_db: Any, start: Start) -> None:
    """What a killed holder was in, and its open transactions, keep nobody waiting for longer than its lease lasts."""
    orders = replace(orders, lease_ttl=1)
    victim = stopped(start, orders)
    successor = started(start, replace(orders, traced=True))
    successor.until("LeaseAwaited")
    killed_at = victim.kill()

    assert successor.outcome()["names"] == NAMES
    check_takeover(successor, killed_at, orders.lease_ttl)
    assert left(work_db) == again("a", "c")


def test_killed_at_a_step(orders: Orders, start: Start) -> None:
    """Whichever commands are on their way when it is killed, the next run ends in the right state."""
    with prepared(orders.uri, orders.database, SIX):
        undisturbed = started(start, replace(orders, traced=True))
        assert undisturbed.outcome()["names"] == NAMES
    steps = len(undisturbed.said("step"))

    def killed_at(step: int) -> str | None:
        """What was wrong, if anything was."""
        dying = replace(orders, database=f"{orders.database}_{step}", lease_ttl=1, dies_at=step)
        with prepared(dying.uri, dying.database, SIX) as db, Instance(dying) as victim:
            victim.go()
            # How many steps there are is not the same each time.
            died = victim.until("dies", "returned")["is"] == "dies"
            assert victim.process.wait() == (-signal.SIGKILL if died else 0)
            with Instance(replace(dying, dies_at=None)) as successor:
                successor.go()
                names = successor.outcome()["names"]
            found = left(db)
        wrong = (
            found.records != NAMES
            or (found.holder is not None and names)
            # What it had in hand may have been begun, or done, once more, where it is no transaction.
            or any(
                not 1 <= counts[work.name] <= (2 if work.name in names and not work.transaction else 1)
                for counts in (found.begun, found.ended)
                for work in SIX
            )
        )
        return f"step {step}: then {names}; {found}" if wrong else None

    # Each driver is killed at other steps; what is on its way at a step is another thing each time anyhow.
    chosen = range(9 + 9 * DRIVERS.index(orders.driver), steps + 1, 27)
    with ThreadPoolExecutor(4) as pool:  # each waits for a lease to end, most of the time
        wrong = [report for report in pool.map(killed_at, chosen) if report is not None]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("where", "released"),
    [
        pytest.param(None, "", id="in the functions"),
        pytest.param("before insert records", "a", id="before a record"),
        pytest.param("before commitTransaction", "b", id="before a commit"),
    ],
)
def test_frozen(orders: Orders, work_db: Any, start: Start, where: str | None, released: str) -> None:
    """A holder that was frozen past its lease records nothing when it wakes, and begins nothing: another has done all
    of it. Its plain functions come to their end; of its transactions nothing is left.
    """
    orders = replace(orders, lease_ttl=1)
    frozen = stopped(start, replace(orders, stopped_at=where))
    if where is not None:
        frozen.go(released)
        assert frozen.until("stopped")["where"] == where
    frozen.freeze()
    assert started(start, orders).outcome()["names"] == NAMES
    records = list(work_db.app_migrations.find())

    frozen.thaw()
    if where is not None:
        frozen.go(where)
    outcome = let_go(frozen)

    assert lost_its_lease(outcome), outcome
    assert list(work_db.app_migrations.find()) == records
    expected = again("a", "c")
    assert left(work_db) == replace(expected, ended=expected.begun)


def test_failure(orders: Orders, work_db: Any, start: Start) -> None:
    """When one of four fails the others come to their end and are recorded, and nothing more begins."""
    works = [replace(work, fails=work.name == "a") for work in HELD]
    instance = stopped(start, orders, works)
    instance.go("a")
    assert instance.until("MigrationFailed")["name"] == "a"
    outcome = let_go(instance, "bcd")

    assert (outcome["type"], outcome["each"]) == ("ValueError", ["ValueError"])
    assert "quaestor: in migration 'a', 1 of 6" in outcome["traceback"]
    found = left(work_db)
    assert found.records == ["b", "c", "d"]
    assert found.begun == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 0, "f": 0}
    assert found.ended == {"a": 0, "b": 1, "c": 1, "d": 1, "e": 0, "f": 0}
    assert found.holder is None
    assert started(start, orders).outcome()["names"] == ["a", "e", "f"]
    assert left(work_db) == again("a")


@pytest.mark.parametrize(
    ("number", "times"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)], ids=["Ctrl-C twice", "SIGTERM"]
)
def test_interrupted(orders: Orders, work_db: Any, start: Start, number: signal.Signals, times: int) -> None:
    """Ctrl-C, or what an orchestrator sends: `async def` functions are cancelled; `def` functions come to their end and
    are recorded; nothing more begins.
    """
    works = [replace(work, crossed=work.name in "cd") for work in HELD]
    plain, awaited = ("ab", "cd") if orders.driver == "pymongo" else ("cd", "ab")
    work_db.create_collection("app_migrations")  # or a transaction may meet its making, and be aborted
    instance = stopped(start, orders, works)
    instance.process.send_signal(number)
    assert {instance.until("MigrationFailed")["name"] for _ in awaited} == set(awaited)
    if times == 2:
        instance.process.send_signal(number)
    outcome = let_go(instance, plain)

    kind = {signal.SIGINT: "KeyboardInterrupt", signal.SIGTERM: "SystemExit"}[number]
    assert (outcome["type"], outcome["each"]) == (kind, [kind])
    found = left(work_db)
    assert found.records == list(plain), outcome["traceback"]
    assert found.ended == {name: int(name in plain) for name in NAMES}
    assert found.begun == {name: int(name in f"{plain}ac") if name in "abcd" else 0 for name in NAMES} | {
        name: int(name in plain) for name in "bd"
    }
    assert found.holder is None
    rest = [name for name in NAMES if name not in plain]
    assert started(start, orders).outcome()["names"] == rest
    assert left(work_db) == again(*(name for name in awaited if name in "ac"))


@pytest.mark.parametrize("fault", FAULTS)
def test_primary_lost(group: ReplicaSet, start: Start, fault: str) -> None:
    """The primary of three nodes is lost with four in progress, in one application per driver: no error, and all is
    recorded once. Transactions that were open are gone, and begun again.
    """
    name = f"quaestor_test_{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        dbs = {driver: stack.enter_context(prepared(group.uri, f"{name}_{driver}", SIX)) for driver in DRIVERS}
        instances = {}
        for driver, db in dbs.items():
            orders = Orders(driver=driver, uri=group.uri, database=db.name, works=SIX, concurrency=4)
            instances[driver] = stopped(start, orders)
        FAULTS[fault](group)
        outcomes = {driver: let_go(instance) for driver, instance in instances.items()}
        assert {driver: outcome.get("names", outcome) for driver, outcome in outcomes.items()} == dict.fromkeys(
            DRIVERS, NAMES
        )
        for instance in instances.values():
            assert {line["name"] for line in instance.said("MigrationRetried")} >= {"b", "d"}
        assert {driver: left(db) for driver, db in dbs.items()} == dict.fromkeys(DRIVERS, once(SIX))


@pytest.fixture
def app(app: Application, db: Any) -> Application:
    """The application, on a database whose collections are there: their making is no affair of a transaction here."""
    for collection in ("effects", "app_migrations"):
        db.create_collection(collection)
    return app


def registered(
    app: Application, *meetings: Meeting, works: Sequence[Work] = SIX, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Register these works: the four leave their effect, and then come to all meetings, one of them doing something
    after the first; the others leave theirs.
    """

    def function(work: Work) -> Callable[[Any], Generator[Any, Any, None]]:
        def body(db: Any) -> Generator[Any, Any, None]:
            yield from effect(work.name, db)
            if work.name in "abcd" and app.bodies.count(work.name) == 1:
                for number, meeting in enumerate(meetings):
                    yield meeting.wait
                    if number == 0 and work.name == "a":
                        yield meanwhile

        return body

    for work in works:
        app.migration(work.name, work.depends_on, transaction=work.transaction)(function(work))


NETWORK: list[tuple[str, str | None, dict[str, Any], int]] = [
    ("insert", "app_migrations", LOST, 4),
    ("insert", "app_migrations", {"errorCode": INTERRUPTED}, 3),
    ("update", "app_migrations_lock", LOST, 3),
    ("update", "app_migrations_lock", {"errorCode": STEPPED_DOWN}, 2),
    ("commitTransaction", None, LOST, 4),
    ("commitTransaction", None, WTIMEOUT, 2),
    ("commitTransaction", None, {"errorCode": 251}, 2),
]
"""A command, its collection, what happens to it, and how often."""


@pytest.mark.parametrize(("command", "collection", "fault", "times"), NETWORK, ids=str)
def test_retried(
    app: Application, db: Any, uri: str, command: str, collection: str | None, fault: dict[str, Any], times: int
) -> None:
    """Commands that fail while four are in progress are sent again: no error, every effect and every record once."""
    registered(app, Meeting(4))
    about = {} if collection is None else {"namespace": f"{db.name}.{collection}"}

    with fail_command(uri, [command], times=times, appName="app", **about, **fault) as struck:
        assert app.run(concurrency=4) == NAMES

    assert struck.hits == times
    assert state(db) == State(NAMES, NAMES)
    assert [app.bodies.count(name) for name in "ace"] == [1, 1, 1]
    assert app.list_events(LeaseNotReleased) == []


def test_replies_lost(app: Application, db: Any, uri: str) -> None:
    """Checks and records of four are performed and their replies lost: all the same."""
    works = [replace(work, transaction=False) for work in FOUR]
    with ExitStack() as stack:
        lost = partial(stack.enter_context, reply_lost(uri, times=4))
        registered(app, Meeting(4), Meeting(4), works=works, meanwhile=lost)
        assert app.run(concurrency=4) == NAMES[:4]

    assert state(db) == State(NAMES[:4], NAMES[:4])
    assert sorted(app.bodies) == NAMES[:4]


@pytest.mark.parametrize("taken", [False, True], ids=["nobody else comes", "taken over"])
def test_unlocked(app: Application, other: Application, db: Any, taken: bool) -> None:
    """Somebody frees the lease while four are in progress, and another instance may come: no plain one is recorded by
    this run, nothing more begins, and what is a transaction is there once.
    """
    others: list[str] = []

    def unlock() -> None:
        freed = other.unlock()
        assert freed is not None
        assert sorted(freed.migrations) == ["a", "b", "c", "d"]
        if taken:
            others.extend(other.run(concurrency=4))

    registered(other)
    registered(app, Meeting(4), Meeting(4), meanwhile=unlock)
    with pytest.raises((LeaseLostError, ExceptionGroup)) as caught:
        app.run(concurrency=4)

    each = caught.value.exceptions if isinstance(caught.value, ExceptionGroup) else [caught.value]
    assert {type(error) for error in each} == {LeaseLostError}
    assert not {"e", "f"} & set(app.bodies)
    found = state(db)
    if taken:
        assert others == found.records == NAMES
        assert found.effects == sorted([*NAMES, "a", "c"])
        assert found.holder is None
        return
    assert set(found.records) <= {"b", "d"}  # a transaction that was open may still be committed, once
    assert found.effects == sorted([*found.records, "a", "c"])
    assert app.run(concurrency=4) == [name for name in NAMES if name not in found.records]
    assert state(db) == State(NAMES, sorted([*NAMES, "a", "c"]))
