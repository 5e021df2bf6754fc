"""Runs over many databases that meet faults: what goes wrong in one of them leaves the others alone, and a process that
is killed, frozen or interrupted leaves nothing half done.
"""

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from quaestor import DatabaseResult, LeaseTimeoutError
from tests.faults.applications import DRIVERS, hold, until_expired
from tests.faults.tenants import NAMES, Broken, Instance, Left, Orders, dropped, left, migrated
from tools.replica_set import replica_set

NOT_AUTHORIZED, INVALID_NAMESPACE = 13, 73


@pytest.fixture
def uri(guarded: str) -> str:
    """The URI of a server that wants a password."""
    return guarded


@pytest.fixture
def orders(driver: str, uri: str, name: str) -> Orders:
    """Orders to migrate ten new databases, of which the sixth is the one to stop in."""
    databases = [f"{name}_{number:02}" for number in range(10)]
    return Orders(driver=driver, uri=uri, databases=databases, concurrency=4, lease_ttl=1)


@pytest.fixture
def client(orders: Orders) -> Iterator[MongoClient[Any]]:
    """Looks at them, and drops them in the end."""
    with dropped(orders.uri, orders.databases) as client:
        yield client


def all_left(client: MongoClient[Any], orders: Orders) -> dict[str, Left]:
    """What is left in each database."""
    return {name: left(client, name) for name in orders.databases}


def not_whole(client: MongoClient[Any], orders: Orders) -> dict[str, Left]:
    """What is left where not all is done, what is a transaction once."""
    return {name: found for name, found in all_left(client, orders).items() if not found.is_whole()}


def held(client: MongoClient[Any], orders: Orders) -> list[str]:
    """Where the lease is not free."""
    return [name for name, found in all_left(client, orders).items() if found.holder is not None]


def test_one_fault_of_each_kind(driver: str, uri: str, name: str) -> None:
    """Of 30 databases one is held by another instance, one may only be read, one has a name that the server refuses,
    and in one a migration raises: these have an error, and all others are done.
    """
    names = [f"{name}_{number:02}" for number in range(29)]
    locked, read_only, refused, failing = names[3], names[6], "x" * 70, names[12]
    given = [*names[:9], refused, *names[9:]]
    with dropped(uri, names) as client:
        roles = [{"role": "read" if one == read_only else "readWrite", "db": one} for one in names]
        client.admin.command("createUser", name, pwd="1234", roles=roles)  # noqa: S106 - a user of one test
        hold(client[locked], seconds=600)
        user = re.sub("root:.*@", f"{name}:1234@", uri) + "&authSource=admin"
        orders = Orders(driver=driver, uri=user, databases=given, fails_in=failing, lease_timeout=0)

        results = {result.database: result for result in migrated(orders)}

        assert list(results) == given
        errors = {one: result.error for one, result in results.items() if result.error is not None}
        assert errors.keys() == {locked, read_only, refused, failing}
        assert isinstance(errors[locked], LeaseTimeoutError)
        for one, code in ((read_only, NOT_AUTHORIZED), (refused, INVALID_NAMESPACE)):
            error = errors[one]
            assert isinstance(error, OperationFailure)
            assert error.code == code
        assert isinstance(errors[failing], Broken)
        assert results[failing].applied == ["a"]
        assert left(client, failing) == Left(["a"], {"a": 1})
        assert left(client, read_only) == Left([], {})
        assert left(client, locked) == Left([], {}, "somebody")
        for one in set(names) - errors.keys():
            assert results[one] == DatabaseResult(one, NAMES, None)
            assert left(client, one) == Left(NAMES, dict.fromkeys(NAMES, 1))


def test_killed(orders: Orders, client: MongoClient[Any]) -> None:
    """Killed in the middle: the next run does the rest in each database, what is a transaction once."""
    with Instance(replace(orders, stops_in=[orders.databases[5], "b"])) as victim:
        victim.until_stopped()
        victim.process.kill()
        victim.process.wait()
    assert orders.databases[5] in not_whole(client, orders)

    results = migrated(orders)

    assert [result.error for result in results] == [None] * len(results)
    assert not_whole(client, orders) == {}


@pytest.mark.parametrize(
    ("driver", "call", "where"),
    [
        ("pymongo", ("rollback_many", ["a"]), "b"),
        ("motor", ("rollback_many", ["a"]), "before delete"),
        ("pymongo-async", ("rollback_many", ["a"]), "after delete"),
        ("pymongo-async", ("mark_many", NAMES, "applied"), "before insert"),
        ("pymongo", ("mark_many", NAMES, "applied"), "after insert"),
        ("pymongo", ("mark_many", NAMES, "pending"), "before delete"),
        ("motor", ("mark_many", NAMES, "pending"), "after delete"),
    ],
)
def test_killed_in_another_call(orders: Orders, client: MongoClient[Any], call: Sequence[Any], where: str) -> None:
    """Killed while it rolls back or marks: the same call does the rest in each database, and what is a transaction is
    undone once. No lease that the killed one held outlives its time.
    """
    is_applied = "applied" in call
    if not is_applied:
        migrated(orders)
    before = all_left(client, orders)
    orders = replace(orders, call=call)
    with Instance(replace(orders, stops_in=[orders.databases[5], where])) as victim:
        victim.until_stopped()
        victim.process.kill()
        victim.process.wait()
    assert any(one.records == before[name].records for name, one in all_left(client, orders).items())

    results = migrated(orders)

    assert [result.error for result in results] == [None] * len(results)
    for name, found in all_left(client, orders).items():
        assert found.records == (NAMES if is_applied else [])
        assert found.counts == before[name].counts
        assert sorted(found.undone) == (NAMES if call[0] == "rollback_many" else [])
        assert found.undone.get("b", 1) == 1
        if found.holder is not None:  # the killed one had done all but release it
            until_expired(client[name])


def test_interrupted(orders: Orders, client: MongoClient[Any]) -> None:
    """On SIGINT the process ends when all that it began has: every lease is free, what is recorded is there, and what
    is a transaction is there if it is recorded. The next run does the rest.
    """
    with Instance(replace(orders, stops_in=[orders.databases[5], "b"])) as victim:
        victim.until_stopped()
        victim.process.send_signal(signal.SIGINT)
        assert victim.outcome() == "KeyboardInterrupt"
        assert victim.process.returncode == 0

    assert held(client, orders) == []
    for one in all_left(client, orders).values():
        assert one.records == NAMES[: len(one.records)]
        assert set(one.records) <= one.counts.keys()
        assert one.counts.get("b", 0) == ("b" in one.records)
    results = migrated(replace(orders, lease_timeout=0))
    assert [result.error for result in results] == [None] * len(results)
    assert not_whole(client, orders) == {}


def test_frozen(orders: Orders, client: MongoClient[Any]) -> None:
    """Frozen past its leases while another instance does the rest: it finds that when it wakes, and neither records nor
    begins anything; what is a transaction is there once.
    """
    with Instance(replace(orders, stops_in=[orders.databases[5], "b"])) as frozen:
        frozen.until_stopped()
        frozen.process.send_signal(signal.SIGSTOP)
        others = migrated(orders)
        assert [result.error for result in others] == [None] * len(others)
        assert not_whole(client, orders) == {}
        records = [list(client[one].app_migrations.find()) for one in orders.databases]

        frozen.process.send_signal(signal.SIGCONT)
        results = frozen.outcome()

    errors = {name: error for name, _, error in results if error is not None}
    assert "LeaseLostError" in errors[orders.databases[5]]
    assert all("LeaseLostError" in error for error in errors.values()), errors
    for (name, applied, error), other in zip(results, others, strict=True):
        # Frozen while a record was on its way, it can't know whose record it finds when it wakes: its error names that
        # migration, and counts it as not applied.
        unknown = [one for one in NAMES[len(applied) :][:1] if one not in other.applied]
        assert (other.database, applied + unknown + other.applied) == (name, NAMES)
        assert all(f"'{one}'" in error for one in unknown)
    assert [list(client[one].app_migrations.find()) for one in orders.databases] == records
    assert not_whole(client, orders) == {}
    assert held(client, orders) == []


def test_step_down(name: str) -> None:
    """The primary of three nodes steps down in the middle: with every driver all databases are done, and no run fails.
    (All drivers meet one step-down, each with databases of its own.)
    """
    with replica_set(nodes=3) as group, ExitStack() as stack:
        every = []
        for driver in DRIVERS:
            names = [f"{name}_{driver}_{number:02}" for number in range(10)]
            orders = Orders(driver=driver, uri=group.uri, databases=names, stops_in=[names[5], "b"], concurrency=3)
            every.append((orders, stack.enter_context(Instance(orders))))
        for _, instance in every:
            instance.until_stopped()
        group.step_down()
        outcomes = [instance.outcome() for _, instance in every]

        client = stack.enter_context(MongoClient[Any](group.uri))
        for (orders, _), outcome in zip(every, outcomes, strict=True):
            assert outcome == [[one, NAMES, None] for one in orders.databases]
            assert not_whole(client, orders) == {}
            assert held(client, orders) == []
