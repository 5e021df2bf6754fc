"""The primary of three nodes is killed, or steps down, in the middle of a run or a rollback: no error, nothing lost.

A fault meets three applications at once, one with each driver, each with a database of its own.
"""

import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pymongo.errors import ConfigurationError

from quaestor import PrimaryChanged
from quaestor._core.store import Ending
from quaestor._mongo.outcomes import find_ending
from tests.faults.applications import DRIVERS, application
from tests.faults.applications import FAULTS_OF_PRIMARY as FAULTS
from tests.faults.instance import Instance, Orders, migrated
from tests.faults.works import NAMES, WORKS, left, once, prepared, undone
from tools.commands import Commands
from tools.mongod import REPLICA_SET, client_to, initiate, started
from tools.replica_set import ReplicaSet


@pytest.fixture
def dbs(group: ReplicaSet) -> Iterator[dict[str, Any]]:
    """A new database for each driver, as the test itself looks at it."""
    with ExitStack() as stack:
        name = f"quaestor_test_{uuid.uuid4().hex[:12]}"
        yield {driver: stack.enter_context(prepared(group.uri, f"{name}_{driver}", WORKS)) for driver in DRIVERS}


Start = Callable[..., dict[str, Instance]]


@pytest.fixture
def start(group: ReplicaSet, dbs: dict[str, Any]) -> Iterator[Start]:
    """Starts an instance with each driver, and lets it go; they end with the test, at the latest."""
    with ExitStack() as stack:

        def start(**changes: Any) -> dict[str, Instance]:
            instances = {}
            for driver, db in dbs.items():
                orders = Orders(driver=driver, uri=group.uri, database=db.name, works=WORKS)
                instances[driver] = stack.enter_context(Instance(replace(orders, **changes)))
            for instance in instances.values():
                instance.go()
            return instances

        yield start


def outcomes(instances: dict[str, Instance]) -> dict[str, object]:
    """What each run returned, or the line that says what it raised."""
    lines = {driver: instance.outcome() for driver, instance in instances.items()}
    return {driver: line.get("names", line) for driver, line in lines.items()}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("before update lease", id="before the check"),
        pytest.param("before insert records", id="before the record"),
        pytest.param("before commitTransaction", id="before the commit"),
        pytest.param("after commitTransaction", id="after the commit"),
    ],
)
def test_in_a_run(group: ReplicaSet, dbs: dict[str, Any], start: Start, fault: str, where: str) -> None:
    """Between a function and its record, and around a commit, the run goes on with the new primary."""
    instances = start(stopped_at=where)
    for instance in instances.values():
        instance.until("stopped")
    FAULTS[fault](group)
    for instance in instances.values():
        instance.go()

    assert outcomes(instances) == dict.fromkeys(DRIVERS, NAMES)
    assert {driver: left(db) for driver, db in dbs.items()} == dict.fromkeys(DRIVERS, once(WORKS))


@pytest.mark.parametrize(
    ("fault", "where"), [("stepped down", "before delete records"), ("killed", "before commitTransaction")]
)
def test_in_a_rollback(group: ReplicaSet, dbs: dict[str, Any], start: Start, fault: str, where: str) -> None:
    """Between the function that undoes and the removal of its record, the rollback goes on with the new primary."""
    for driver, db in dbs.items():
        migrated(Orders(driver=driver, uri=group.uri, database=db.name, works=WORKS))
    instances = start(stopped_at=where, calls=[("rollback", NAMES)])
    for instance in instances.values():
        instance.until("stopped")
    FAULTS[fault](group)
    for instance in instances.values():
        instance.go()

    assert outcomes(instances) == dict.fromkeys(DRIVERS, NAMES[::-1])
    assert {driver: left(db) for driver, db in dbs.items()} == dict.fromkeys(DRIVERS, undone(WORKS))


@pytest.mark.parametrize("fault", FAULTS)
def test_in_a_transaction(group: ReplicaSet, dbs: dict[str, Any], start: Start, fault: str) -> None:
    """A transaction that was open is gone; its function is called again, and its effect is there once."""
    works = [replace(work, held=work.transaction) for work in WORKS]
    instances = start(works=works)
    for instance in instances.values():
        instance.until("stopped")
    FAULTS[fault](group)
    for instance in instances.values():
        instance.go()
        instance.until("MigrationRetried")
        instance.until("stopped")
        instance.go()

    assert outcomes(instances) == dict.fromkeys(DRIVERS, NAMES)
    assert {driver: left(db) for driver, db in dbs.items()} == dict.fromkeys(DRIVERS, once(WORKS))


@pytest.mark.parametrize("fault", FAULTS)
def test_waiting(group: ReplicaSet, dbs: dict[str, Any], start: Start, fault: str) -> None:
    """A run that waits goes on waiting, while the holder is in the function of a migration."""
    holders = start(works=[replace(work, held=work.name == "a") for work in WORKS])
    for holder in holders.values():
        holder.until("stopped")
    waiters = start()
    for waiter in waiters.values():
        waiter.until("LeaseAwaited")
    FAULTS[fault](group)
    for holder in holders.values():
        holder.go()

    assert outcomes(holders) == dict.fromkeys(DRIVERS, NAMES)
    assert outcomes(waiters) == {driver: [] for driver in DRIVERS}
    assert {driver: left(db) for driver, db in dbs.items()} == dict.fromkeys(DRIVERS, once(WORKS))


@pytest.mark.parametrize("fault", [*FAULTS, "elected again"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_reported(group: ReplicaSet, uri: str, driver: str, fault: str) -> None:
    """A failover in a plain function is reported, also if the same member is elected again."""
    name = f"quaestor_test_{uuid.uuid4().hex[:12]}"
    alone = ReplicaSet(uri, ())
    app = application(driver, uri if fault == "elected again" else group.uri, name)

    @app.migration("a")
    def a(db: Any) -> Generator[Any, Any, None]:
        yield db.effects.insert_one({})
        yield alone.step_down if fault == "elected again" else partial(FAULTS[fault], group)

    assert app.run() == ["a"]
    (changed,) = app.list_events(PrimaryChanged)
    assert changed == PrimaryChanged(name, "app", changed.run, "a", 1, 1)


def test_with_an_arbiter() -> None:
    """With an arbiter, the primary alone acknowledges a write that asks for no more. A plain function's asks for a
    majority, so it is there after a failover.
    """
    with started("--replSet", REPLICA_SET, nodes=3) as members:
        group = ReplicaSet(initiate(members, arbiter=True), members[:2])
        group.wait()
        for driver in DRIVERS:
            commands = Commands()
            app = application(driver, group.uri, driver, event_listeners=[commands])

            @app.migration("a")
            def a(db: Any) -> Generator[Any, Any, None]:
                yield db.effects.update_one({"_id": 1}, {"$inc": {"count": 1}}, upsert=True)
                yield group.kill_primary
                yield group.restart

            assert app.run() == ["a"]
            [write] = [command for command in commands.sent if command.get("update") == "effects"]
            assert write["writeConcern"] == {"w": "majority"}
            assert len(app.list_events(PrimaryChanged)) == 1
            with client_to(group.uri) as client:
                assert client[driver].effects.find_one() == {"_id": 1, "count": 1}


def test_connected_during_a_step_down() -> None:
    """A connection to a member that is neither primary nor secondary has no sessions, in the driver's own words: they
    mean that the transaction is begun again, not that the deployment has none.
    """
    with (
        started("--replSet", REPLICA_SET) as (member,),  # never initiated: it stays neither, for as long as we look
        client_to(f"mongodb://{member.host}/", member.host) as client,
        client.start_session() as session,
        pytest.raises(ConfigurationError) as caught,
    ):
        client.admin.command("ping", session=session)

    assert find_ending(caught.value) is Ending.ABORTED
