"""Faults in backfills over a collection: every document is changed, and at most one batch a fault is seen twice; none
where a batch and its checkpoint are one transaction.

A backfill has three ways (works.Way); of the two without transactions each fault meets one at least.
"""

import contextlib
import random
import re
import secrets
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from quaestor import (
    BackfillChangedError,
    BackfillRestarted,
    BackfillStarted,
    CollectionChangedError,
    LeaseLostError,
    MigrationProgressed,
    MigrationRetried,
    ReplicasAwaited,
    SyncRunner,
)
from tests.faults.applications import DRIVERS, Application, application
from tests.faults.instance import Instance, Orders, Start, caller, migrated
from tests.faults.works import (
    BATCHES,
    MARKED_ONCE,
    OTHERS,
    THINGS,
    Way,
    Work,
    check_gone,
    gone,
    gone_once,
    stock,
    stocked,
)
from tools.faults import (
    INTERRUPTED,
    LOST,
    NOT_PRIMARY,
    SHUTDOWN,
    STEPPED_DOWN,
    WTIMEOUT,
    Fault,
    fail_command,
    reply_lost,
)
from tools.mongod import client_to
from tools.replica_set import ReplicaSet

WAYS: tuple[Way, ...] = ("loop", "transaction")

FIRST = 6
"""The first command of a run that is about backfills, from 1."""

NOT_AUTHORIZED, WRITE_CONFLICT = 13, 112


@pytest.fixture
def orders(driver: str, uri: str, name: str) -> Orders:
    """Orders without any migration."""
    return Orders(driver=driver, uri=uri, database=name, works=[])


@pytest.fixture
def things(uri: str, name: str) -> Iterator[Any]:
    """The database that is gone over, as the test itself looks at it."""
    with stocked(uri, name) as db:
        yield db


def with_each_driver(uri: str, name: str, play: Callable[[Orders, Any], None], **changes: Any) -> None:
    """Play the same with each driver at once, for most of the time is waiting, each with a database of its own."""

    def one(driver: str) -> None:
        with stocked(uri, f"{name}_{driver}") as db:
            play(Orders(driver=driver, uri=uri, database=db.name, **changes), db)

    with ThreadPoolExecutor(len(DRIVERS)) as pool:
        for played in [pool.submit(one, driver) for driver in DRIVERS]:
            played.result()


# Killed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_every_step(orders: Orders, things: Any, start: Start, way: Way) -> None:
    """Whichever command of a backfill was answered last before the process was killed, the next run does the
    rest, seeing at most one batch twice: in transactions none.
    """
    orders = replace(orders, works=[Work("a", way=way)])
    undisturbed = start(replace(orders, traced=True)).go()
    assert undisturbed.outcome()["names"] == ["a"]
    assert gone(things) == gone_once("a")
    steps = [line["name"] for line in undisturbed.said("step")]
    assert steps[2 * FIRST - 1].endswith("progress"), steps

    def killed_at(step: int) -> str | None:
        """What was wrong, if anything was."""
        try:
            _kill_at(step, replace(orders, database=f"{orders.database}_{step}", lease_ttl=1), way)
        except Exception as error:  # noqa: BLE001 - all steps are tried before the test fails
            return f"{steps[step - 1]} (step {step}): {type(error).__name__}: {error}"
        return None

    # Each command with one driver or another: it is the same core, and every kill waits for a lease to end.
    tried = range(2 * (FIRST + DRIVERS.index(orders.driver)), len(steps) + 1, 4 * len(DRIVERS))
    with ThreadPoolExecutor(4) as pool:
        wrong = [report for report in pool.map(killed_at, tried) if report is not None]
    assert not wrong, "\n\n".join(wrong)


def _kill_at(step: int, orders: Orders, way: Way) -> None:
    with stocked(orders.uri, orders.database) as db:
        with Instance(replace(orders, dies_at=step)) as victim:
            victim.go()
            victim.until("dies")
            assert victim.process.wait() == -signal.SIGKILL
        recorded = gone(db).records
        names = caller(orders, lambda _: None)()
        assert recorded + names == ["a"]
        found = gone(db)
        if recorded:  # and the checkpoints may be left, for a record is what says that it is done
            found = replace(found, kept=0)
        check_gone(found, "a", way, disturbed=1)


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("way", ["function", "transaction"])
def test_killed_at_random_moments(uri: str, name: str, way: Way, *, undo: bool) -> None:
    """Runs, or rollbacks, that are killed in turn, each at any moment of its backfill, see at most one batch
    each twice; what nobody kills does the rest.
    """
    seed = secrets.randbelow(10**6)

    def play(orders: Orders, db: Any) -> None:
        rng = random.Random(f"{seed} {orders.driver}")  # noqa: S311 - it is to be repeated
        if undo:
            migrated(orders)
            orders = replace(orders, calls=[("rollback", ["a"])])
        for _ in range(2):
            with Instance(orders) as victim:
                victim.go()
                victim.until("BackfillStarted", "returned")
                time.sleep(rng.uniform(0, 0.2))  # it is the fault: nothing is waited for
                victim.kill()

        names = caller(orders, lambda _: None)()

        found = gone(db, "undo_" if undo else "")
        if not names:  # the last one was killed between the record and what was to be forgotten with it
            found = replace(found, kept=0)
        assert found.records == ([] if undo else ["a"]), seed
        check_gone(replace(found, records=["a"]), "a", way, disturbed=2)

    with_each_driver(uri, name, play, works=[Work("a", way=way, seconds=0.05)], lease_ttl=1)


@pytest.mark.parametrize("way", WAYS)
def test_raised_in_a_body(app: Application, things: Any, way: Way) -> None:
    """What a body raises reaches the caller as it is; the next run goes on with its batch."""

    class OfTheUserError(Exception):
        pass

    def fail(number: int) -> None:
        if number == 3:
            raise OfTheUserError

    app.goes_over(way, meanwhile=fail)
    with pytest.raises(OfTheUserError):
        app.run()
    assert things.app_migrations.count_documents({}) == 0

    assert app.run() == ["a"]
    assert [event.done for event in app.list_events(BackfillStarted)] == [0, 8]
    check_gone(gone(things), "a", way, disturbed=1)
    assert gone(things).marks == MARKED_ONCE  # it was raised before the change
    assert gone(things).again == ([] if way == "transaction" else [BATCHES[2]])


# Frozen ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "where", "passed", "again"),
    [
        pytest.param("loop", "before update things", 1, [BATCHES[1]], id="loop, in a body"),
        pytest.param("loop", "before update progress", 0, [BATCHES[0]], id="loop, before the checkpoint"),
        pytest.param("loop", "after update progress", 0, [], id="loop, after the checkpoint"),
        pytest.param("function", "after update things", 1, [BATCHES[1]], id="function, after a body"),
        pytest.param("loop", "before update lease", 1, [], id="loop, before the check"),
        pytest.param("transaction", "before update things", 1, [], id="transaction, in a body"),
        pytest.param("transaction", "after update progress", 1, [], id="transaction, after the checkpoint"),
        pytest.param("transaction", "before commitTransaction", 1, [], id="transaction, before the commit"),
        pytest.param("transaction", "after commitTransaction", 1, [], id="transaction, after the commit"),
    ],
)
def test_frozen(uri: str, name: str, way: Way, where: str, passed: int, again: list[list[object]]) -> None:
    """One that was frozen past its lease in a backfill, while another took over and finished, finds that when it
    wakes: it writes no checkpoint, and does at most the batch that it had.
    """

    def play(orders: Orders, db: Any) -> None:
        with Instance(replace(orders, stopped_at=where, passed=passed)) as frozen, Instance(orders) as successor:
            frozen.go()
            frozen.until("stopped")
            frozen.freeze()
            successor.go()
            assert successor.outcome()["names"] == ["a"]
            records = list(db.app_migrations.find())
            assert gone(db).kept == 0

            frozen.go()
            frozen.thaw()
            outcome = frozen.outcome()

            assert (outcome["is"], outcome.get("type")) == ("raised", "LeaseLostError"), outcome
            assert outcome["in_batches"]
            assert list(db.app_migrations.find()) == records
            assert db.app_migrations_lock.find_one().get("owner") is None
            found = gone(db)
            check_gone(found, "a", way, disturbed=1)
            assert found.again == again

    with_each_driver(uri, name, play, works=[Work("a", way=way)], lease_ttl=1)


@pytest.mark.parametrize("way", WAYS)
def test_frozen_while_another_is_in_the_backfill(uri: str, name: str, way: Way) -> None:
    """One that wakes while another is in the same backfill doesn't touch the checkpoint of that one."""

    def play(orders: Orders, db: Any) -> None:
        held = replace(orders, works=[Work("a", way=way, held=True)])
        stopped = replace(orders, stopped_at="before update progress", passed=1)
        with Instance(stopped) as frozen, Instance(held) as successor:
            frozen.go()
            frozen.until("stopped")
            frozen.freeze()
            successor.go()
            successor.until("stopped")
            kept = list(db.app_migrations_progress.find())
            assert len(kept) == 1

            frozen.go()
            frozen.thaw()
            assert frozen.outcome()["type"] == "LeaseLostError"
            assert list(db.app_migrations_progress.find()) == kept

            successor.go()
            while successor.until("stopped", "returned")["is"] == "stopped":
                successor.go()
            check_gone(gone(db), "a", way, disturbed=1)

    with_each_driver(uri, name, play, works=[Work("a", way=way)], lease_ttl=1)


@pytest.mark.parametrize("way", WAYS)
def test_unlocked(app: Application, other: Application, things: Any, way: Way) -> None:
    """Whoever's lease was freed in a backfill stops before the next batch; the next run does the rest."""
    app.goes_over(way, meanwhile=lambda number: number == 2 and other.unlock())

    with pytest.raises(LeaseLostError) as caught:
        app.run()

    assert (caught.value.migration, caught.value.in_batches) == ("a", True)
    assert gone(things).log == BATCHES[:2]
    assert app.run() == ["a"]
    assert gone(things) == gone_once("a")


# Commands that fail ---------------------------------------------------------------------------------------------------

COMMANDS = {
    "look": ("find", "app_migrations_progress"),
    "claim": ("findAndModify", "app_migrations_progress"),
    "save": ("update", "app_migrations_progress"),
    "check": ("update", "app_migrations_lock"),
    "read": ("find", "things"),
    "count all": ("count", "things"),
    "count": ("aggregate", "things"),
    "identify": ("listCollections", None),
    "commit": ("commitTransaction", None),
    "forget": ("delete", "app_migrations_progress"),
}

FAULTS = [
    *((command, LOST, 3) for command in COMMANDS),
    *((command, WTIMEOUT, 1) for command in ("claim", "commit", "check", "save")),
    *((command, {"errorCode": STEPPED_DOWN}, 2) for command in ("look", "claim", "save", "read", "count", "commit")),
    *((command, {"errorCode": SHUTDOWN}, 2) for command in ("save", "read")),
    *((command, {"errorCode": code}, 1) for command in ("save", "read") for code in (NOT_PRIMARY, INTERRUPTED)),
    *((command, {"errorCode": WRITE_CONFLICT}, 2) for command in ("save", "read")),
]
"""A command, what happens to it, and how often in a row. After WTIMEOUT it is performed, after all else it is not."""

MEETINGS = [
    (way, *fault)
    for fault in FAULTS
    for way in WAYS
    # No command to commit there, no conflict of a plain read, and no write concern of an operation in a transaction.
    if (way, *fault[:2])
    not in [
        *(("loop", "commit", other) for other in (LOST, WTIMEOUT, {"errorCode": STEPPED_DOWN})),
        ("loop", "read", {"errorCode": WRITE_CONFLICT}),
        ("transaction", "save", WTIMEOUT),
    ]
]
"""Faults, and the ways that meet them."""


@pytest.mark.parametrize(
    ("driver", "way", "command", "fault", "times"),
    # A sync and an async driver survive a lost connection; every other fault meets one driver.
    [
        pytest.param(driver, *meeting, id=f"{driver}, {meeting}")
        for number, meeting in enumerate(MEETINGS)
        for driver in ([DRIVERS[0], DRIVERS[1 + number % 2]] if meeting[2] is LOST else [DRIVERS[number % 3]])
    ],
)
def test_retried(
    app: Application, things: Any, uri: str, way: Way, command: str, fault: dict[str, Any], times: int
) -> None:
    """A command of a backfill that fails is sent again, or its transaction attempted again: each document once, and no
    error to the caller.
    """
    verb, collection = COMMANDS[command]
    app.goes_over(way)
    if command == "identify":  # which is then the first listCollections: a run without records looks for others
        things.app_migrations.insert_one({"_id": "earlier", "name": "earlier"})
    with contextlib.ExitStack() as stack:
        namespace = {} if collection is None else {"namespace": f"{things.name}.{collection}"}
        fail = fail_command(uri, [verb], times=times, appName="app", **namespace, **fault)
        hits = []
        if command in {"read", "save", "check"}:  # those of the batches
            app.when[BackfillStarted] = lambda _: hits.append(stack.enter_context(fail))
        else:
            hits.append(stack.enter_context(fail))
        assert app.run() == ["a"]

    things.app_migrations.delete_one({"_id": "earlier"})
    assert hits[0].hits == times
    if way == "loop":
        assert len(app.bodies) == len(BATCHES)
        assert app.list_events(MigrationRetried) == []
    assert gone(things) == gone_once("a")


@pytest.mark.parametrize("way", WAYS)
def test_replies_lost(app: Application, things: Any, uri: str, way: Way) -> None:
    """Writes of a backfill are performed and their replies lost: each document once all the same."""
    app.goes_over(way)
    with contextlib.ExitStack() as stack:
        faults: list[Fault] = []
        app.when[BackfillStarted] = lambda _: faults.append(stack.enter_context(reply_lost(uri, times=5)))
        assert app.run() == ["a"]

    assert faults[0].hits == 5
    assert gone(things) == gone_once("a")


@pytest.mark.parametrize("way", WAYS)
def test_checkpoint_refused(app: Application, things: Any, uri: str, name: str, way: Way) -> None:
    """A backfill whose checkpoint the server refuses ends with its error, and the next run goes on with the batch
    that it had.
    """
    app.goes_over(way)
    with contextlib.ExitStack() as stack:
        fault = {"errorCode": NOT_AUTHORIZED, "namespace": f"{name}.app_migrations_progress", "appName": "app"}
        fail = fail_command(uri, ["update"], times="alwaysOn", **fault)
        events: list[object] = []

        def break_at_the_second(event: MigrationProgressed) -> None:
            events.append(event)
            if len(events) == 2:
                stack.enter_context(fail)

        app.when[MigrationProgressed] = break_at_the_second
        with pytest.raises(OperationFailure) as caught:
            app.run()

    assert caught.value.code == NOT_AUTHORIZED
    assert app.run() == ["a"]
    check_gone(gone(things), "a", way, disturbed=1)


# Collections that go --------------------------------------------------------------------------------------------------


def _replace(db: Any) -> None:
    db.things.drop()
    stock(db)


CHANGES: dict[str, Callable[[Any], object]] = {
    "dropped": lambda db: db.things.drop(),
    "renamed": lambda db: db.things.rename("other"),
    "replaced": _replace,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_collection_changed(app: Application, things: Any, way: Way, change: str) -> None:
    """A collection that is dropped, renamed or replaced under a backfill is an error when that ends; the
    next run begins anew over what has its name then, in transactions once it is restarted by hand.
    """
    app.goes_over(way)

    def at_the_second(event: MigrationProgressed) -> None:
        if event.done == 8:
            CHANGES[change](things)

    app.when[MigrationProgressed] = at_the_second
    with pytest.raises(CollectionChangedError) as caught:
        app.run()
    assert (caught.value.name, caught.value.collection) == ("a", "things")
    assert things.app_migrations.count_documents({}) == 0

    app.when.clear()
    things.things.drop()
    things.log.drop()
    stock(things)
    if way == "transaction":
        with pytest.raises(BackfillChangedError):
            app.run()
        assert SyncRunner(app.registry, things, "app").restart_backfill("a") == ["things"]
    assert app.run() == ["a"]
    assert len(app.list_events(BackfillRestarted)) == (way != "transaction")
    assert gone(things) == gone_once("a")


# Three nodes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "way", "where"),
    [
        pytest.param(ReplicaSet.kill_primary, "loop", "before update things", id="killed, in a body"),
        pytest.param(ReplicaSet.step_down, "loop", "before update progress", id="stepped down, before the checkpoint"),
        pytest.param(ReplicaSet.kill_primary, "function", "after update progress", id="killed, after the checkpoint"),
        pytest.param(ReplicaSet.step_down, "transaction", "before update things", id="stepped down, in a transaction"),
        pytest.param(ReplicaSet.kill_primary, "transaction", "before commitTransaction", id="killed, before a commit"),
        pytest.param(ReplicaSet.step_down, "transaction", "after commitTransaction", id="stepped down, after a commit"),
    ],
)
def test_fail_over(group: ReplicaSet, fault: Callable[[ReplicaSet], object], way: Way, where: str) -> None:
    """The primary is lost during a backfill: it goes on with the new one, no batch is seen twice, and the caller
    sees no error. It meets three applications at once, one with each driver.
    """
    name = f"quaestor_test_{uuid.uuid4().hex[:12]}"
    with contextlib.ExitStack() as stack:
        dbs = {driver: stack.enter_context(stocked(group.uri, f"{name}_{driver}")) for driver in DRIVERS}
        instances = {}
        for driver, db in dbs.items():
            orders = Orders(driver=driver, uri=group.uri, database=db.name, works=[Work("a", way=way)])
            instances[driver] = stack.enter_context(Instance(replace(orders, stopped_at=where, passed=1)))
        for instance in instances.values():
            instance.go()
        for instance in instances.values():
            instance.until("stopped")
        fault(group)
        for instance in instances.values():
            instance.go()

        outcomes = {driver: instance.outcome() for driver, instance in instances.items()}
        assert {driver: line.get("names", line) for driver, line in outcomes.items()} == {one: ["a"] for one in DRIVERS}
        assert {driver: gone(db) for driver, db in dbs.items()} == dict.fromkeys(DRIVERS, gone_once("a"))


@pytest.mark.parametrize(("driver", "way"), [("pymongo", "loop"), ("pymongo-async", "transaction"), ("motor", "loop")])
def test_replicas_awaited(group: ReplicaSet, driver: str, way: Way) -> None:
    """A backfill with `max_lag` waits while a secondary does not replicate, and goes on when that does so again."""
    with (
        stocked(group.uri, f"quaestor_test_{uuid.uuid4().hex[:12]}") as db,
        client_to(group.uri, _last_in_line(db.client)) as behind,
        contextlib.ExitStack() as stack,
    ):
        app = application(driver, group.uri, db.name)

        def stop(_: BackfillStarted) -> None:
            stack.callback(start)
            behind.admin.command("configureFailPoint", "rsSyncApplyStop", mode="alwaysOn")

        def start(*_: object) -> None:
            behind.admin.command("configureFailPoint", "rsSyncApplyStop", mode="off")

        def until_behind(number: int) -> None:
            with pymongo.timeout(30):
                while number == 1 and _lag(db.client) < 2:
                    db.clock.insert_one({})

        app.goes_over(way, meanwhile=until_behind, max_lag=1)
        app.when = {BackfillStarted: stop, ReplicasAwaited: start}
        assert app.run() == ["a"]

        (event,) = app.list_events(ReplicasAwaited)
        assert event.lag > 1
        assert gone(db) == gone_once("a")


def _last_in_line(client: MongoClient[Any]) -> str:
    """A secondary that no other one replicates from: if it stops there is still a majority."""
    members = client.admin.command("replSetGetStatus")["members"]
    sources = {member["syncSourceHost"] for member in members}
    names = [member["name"] for member in members if member["stateStr"] == "SECONDARY"]
    return next(name for name in names if name not in sources)


def _lag(client: MongoClient[Any]) -> float:
    """How far the secondary that is most behind is behind, in seconds."""
    dates = [member["optimeDate"] for member in client.admin.command("replSetGetStatus")["members"]]
    return float((max(dates) - min(dates)).total_seconds())


# Rights ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded_db(guarded: str) -> Iterator[Any]:
    """A database on it, as the test itself looks at it."""
    with stocked(guarded, f"quaestor_test_{uuid.uuid4().hex[:12]}") as db:
        yield db
        db.command("dropAllUsersFromDatabase")
        db.command("dropAllRolesFromDatabase")


def _app_of_user(driver: str, uri: str, db: Any, roles: list[Any]) -> Application:
    db.command("createUser", "user", pwd="1234", roles=roles)  # noqa: S106 - a user of one test
    return application(driver, re.sub("root:.*@", "user:1234@", uri) + f"&authSource={db.name}", db.name)


@pytest.mark.parametrize("way", WAYS)
def test_read_write_is_enough(driver: str, guarded: str, guarded_db: Any, way: Way) -> None:
    """The role readWrite is enough for a backfill."""
    app = _app_of_user(driver, guarded, guarded_db, ["readWrite"])
    app.goes_over(way)

    assert app.run() == ["a"]
    assert gone(guarded_db) == gone_once("a")


@pytest.mark.parametrize("way", WAYS)
def test_rights_by_collection(driver: str, guarded: str, guarded_db: Any, way: Way) -> None:
    """So are these rights, collection by collection."""
    rights = {
        "app_migrations": ["find", "insert"],
        "app_migrations_lock": ["find", "insert", "update"],
        "app_migrations_progress": ["find", "insert", "update", "remove"],
        "things": ["find", "update"],
        "log": ["find", "insert", "update"],
    }
    privileges = [
        {"resource": {"db": guarded_db.name, "collection": collection}, "actions": actions}
        for collection, actions in rights.items()
    ]
    guarded_db.command("createRole", "narrow", privileges=privileges, roles=[])
    app = _app_of_user(driver, guarded, guarded_db, ["narrow"])
    app.goes_over(way)

    assert app.run() == ["a"]
    assert gone(guarded_db) == gone_once("a")


@pytest.mark.parametrize("way", WAYS)
def test_max_lag_without_the_right(driver: str, guarded: str, guarded_db: Any, way: Way) -> None:
    """One who may not ask for the lag gets the server's error with a note, before anything is done; with the
    role clusterMonitor the same backfill runs.
    """
    app = _app_of_user(driver, guarded, guarded_db, ["readWrite"])
    app.goes_over(way, max_lag=10)

    with pytest.raises(OperationFailure) as caught:
        app.run()

    assert caught.value.code == NOT_AUTHORIZED
    assert "max_lag" in caught.value.__notes__[0]
    assert "clusterMonitor" in caught.value.__notes__[0]
    assert app.bodies == []
    assert gone(guarded_db) == replace(gone_once(), log=[], marks=dict.fromkeys([*THINGS, *OTHERS], 0))

    guarded_db.command("grantRolesToUser", "user", roles=[{"role": "clusterMonitor", "db": "admin"}])
    assert app.run() == ["a"]
    assert gone(guarded_db) == gone_once("a")
