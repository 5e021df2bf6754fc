"""Ctrl-C while the network swallows everything. In a file of its own: no other server can be reached beside it."""

import contextlib
import secrets
import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.instance import Instance, Orders
from tests.faults.works import Work, prepared, stock
from tools.cluster import SERVERS, Cluster, cluster
from tools.network import Network, network

LIMIT, SLACK = 12, 8  # seconds; a loaded machine may add some


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Cluster]]:
    with network([*SERVERS, "w0", "w1"]) as net, cluster(net) as group:
        yield net, group


STATES = ["before the lease", "waiting", "function", "commit", "release", "backfill"]
SHORT = {("pymongo", "commit"), ("pymongo-async", "function"), ("motor", "backfill")}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.timeout(180)
def test_black_hole(world: tuple[Network, Cluster], driver: str, state: str, pytestconfig: pytest.Config) -> None:
    """Wherever a run is when the network swallows everything, Ctrl-C ends it within 12 s. (`--long`: everywhere.)"""
    if (driver, state) not in SHORT and not pytestconfig.getoption("--long"):
        pytest.skip("needs --long")
    net, group = world
    name = f"quaestor_test_{secrets.token_hex(6)}"  # the fixture would look for the tests' own server
    works = [
        Work("a", way="function" if state == "backfill" else None, held=state in {"function", "backfill", "waiting"})
    ]
    works = [Work("a", transaction=True)] if state == "commit" else works
    where = {
        "before the lease": "before find records",
        "commit": "before commitTransaction",
        "release": "after insert records",
    }.get(state)
    with contextlib.ExitStack() as stack:
        db = stack.enter_context(prepared(group.uri, name, works))
        stock(db)

        def start(node: str, stopped_at: str | None = None) -> Instance:
            orders = Orders(driver=driver, uri=group.uri, database=name, works=works, stopped_at=stopped_at)
            with net.inside(node):
                instance = Instance(orders)
            net.adopt(node, instance.process.pid)
            return stack.enter_context(instance).go()

        if state == "waiting":
            start("w1").until("stopped")
        instance = start("w0", where)
        instance.until("LeaseAwaited" if state == "waiting" else "stopped")
        stack.callback(net.heal)
        net.isolate("w0")
        if where is not None:
            instance.go()
            time.sleep(1)  # so that it is there
        began = time.monotonic()
        instance.process.send_signal(signal.SIGINT)
        instance.until("RunFailed")
        assert time.monotonic() - began < LIMIT + SLACK
        instance.kill()  # its client takes its time to close
