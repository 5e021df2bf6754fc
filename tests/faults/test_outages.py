"""The only server is away, for longer than the lease lasts: the runs in progress say that they wait, and go on then.

An outage meets three instances at once, one with each driver. It lasts until all have said that they wait, 5 s after it
began; with `--long`, for 40 s and for 120 s, and the lease lasts 30 s as by default.
"""

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults.applications import DRIVERS
from tests.faults.instance import Instance, Orders
from tests.faults.works import NAMES, WORKS, left, once, prepared
from tools.mongod import client_to
from tools.replica_set import ReplicaSet, replica_set

pytestmark = pytest.mark.timeout(600)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lengths = [40.0, 120.0] if metafunc.config.getoption("--long") else [0.0]
    metafunc.parametrize("length", lengths)


@pytest.fixture(scope="module")
def group() -> Iterator[ReplicaSet]:
    with replica_set(nodes=1) as group:
        yield group


@contextlib.contextmanager
def outage(group: ReplicaSet, kind: str) -> Iterator[None]:
    """Stop the server, kill it, or lock it for writes, while the context lasts."""
    [server] = group.members
    with contextlib.ExitStack() as stack:
        if kind == "stopped":
            stack.enter_context(server.frozen())
        elif kind == "restarted":
            server.kill()
            stack.callback(group.restart)
        else:
            client = stack.enter_context(client_to(group.uri))
            client.admin.command("fsync", lock=True)
            stack.callback(client.admin.command, "fsyncUnlock")
        yield


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("stopped", "before update lease"),
        ("stopped", "before insert records"),
        ("restarted", "before update lease"),
        ("restarted", "before commitTransaction"),
        ("fsyncLock", "before update lease"),  # the lock waits for open transactions, for up to a minute
        ("fsyncLock", "before insert records"),
    ],
)
def test_outage(group: ReplicaSet, kind: str, where: str, length: float) -> None:
    """Before a check, a record and a commit: each migration is executed and recorded once."""
    with contextlib.ExitStack() as stack:
        dbs, instances = [], []
        for driver in DRIVERS:
            dbs.append(stack.enter_context(prepared(group.uri, f"quaestor_test_{uuid.uuid4().hex[:12]}", WORKS)))
            orders = Orders(driver=driver, uri=group.uri, database=dbs[-1].name, works=WORKS, stopped_at=where)
            orders = replace(orders, lease_ttl=30 if length else 1)
            instances.append(stack.enter_context(Instance(orders)).go())
        for instance in instances:
            instance.until("stopped")
        with outage(group, kind):
            began = time.monotonic()
            for instance in instances:
                instance.go()
            for instance in instances:
                while instance.until("ServerAwaited", "MajorityAwaited")["at"] < began + length:
                    pass

        assert [instance.outcome().get("names") for instance in instances] == [NAMES] * len(DRIVERS)
        assert [left(db) for db in dbs] == [once(WORKS)] * len(DRIVERS)
