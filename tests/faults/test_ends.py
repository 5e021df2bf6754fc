"""How runs end: by signals while nothing answers, and in processes that end, fork or are interrupted unusually."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.faults.instance import Instance, Orders
from tests.faults.unusual import CASES
from tests.faults.works import Work, prepared, stock
from tools.cluster import SERVERS, Cluster, cluster
from tools.network import Network, network
from tools.replica_set import replica_set

LIMIT, SLACK = 12, 8  # seconds; a loaded machine may add some

RECORDED = {  # what is recorded then, and how the call ends
    "main ended": (["a", "b"], "returned a b"),
    "fork exit": (["a", "b"], "returned a b"),
    "fork raise": (["a", "b"], "returned a b"),
    "fork return": (["a", "b"], "returned a b"),
    "limit in release": (["a", "b"], "raised SoftTimeLimit"),
    "limit in task": (["a", "b"], "raised SoftTimeLimit"),
    "limit in hook": (["a"], "raised SoftTimeLimit"),
    "second signal": (["a"], "raised KeyboardInterrupt"),
}


@pytest.mark.parametrize("case", CASES)
def test_unusual(uri: str, name: str, driver: str, case: str) -> None:
    """No hang, no swallowed exception, no lease left behind; and a forked child does nothing of the run."""
    program = [sys.executable, "-m", "tests.faults.unusual", case, driver, uri, name]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=100)
    lines = ended.stdout.splitlines()
    records, outcome = RECORDED[case]
    assert lines[-1] == outcome, ended
    assert lines.count("MigrationApplied") == len(records)
    is_held = case == "second signal"  # ends the release
    assert lines.count("LeaseNotReleased") == is_held
    if case.startswith("fork"):
        assert lines.count(f"child {7 if case == 'fork exit' else 1}") == 1
        assert ("must end by os._exit() or sys.exit()" in ended.stderr) is (case != "fork exit")
        assert lines.count("MigrationFailed") == lines.count("RunFailed") == 0
    with MongoClient[Any](uri) as client:
        assert sorted(record["name"] for record in client[name].app_migrations.find()) == records
        assert ("owner" in client[name].app_migrations_lock.find_one()) is is_held
        client.drop_database(name)


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Cluster]]:
    with network([*SERVERS, "w0", "w1"]) as net, cluster(net) as group:
        yield net, group


STATES = ["before the lease", "waiting", "function", "commit", "release", "backfill"]
SHORT = {("pymongo", "commit"), ("pymongo-async", "function"), ("motor", "backfill")}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.timeout(180)
def test_black_hole(
    world: tuple[Network, Cluster], name: str, driver: str, state: str, pytestconfig: pytest.Config
) -> None:
    """Wherever a run is when the network swallows everything, Ctrl-C ends it within 12 s. (`--long`: everywhere.)"""
    if (driver, state) not in SHORT and not pytestconfig.getoption("--long"):
        pytest.skip("needs --long")
    net, group = world
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


APP = """
import os, signal
from quaestor import MigrationRegistry
registry = MigrationRegistry()

@registry.register("a")
def a(db):
    print("started", flush=True)
    db.things.find_one()
"""


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_command_line(name: str, tmp_path: Path, signals: list[signal.Signals]) -> None:
    """The command ends within 12 s of a signal while the server doesn't answer, and at once after a second one."""
    (tmp_path / "app.py").write_text(APP.replace("db.things.find_one()", "input()"))
    with replica_set(nodes=1) as group:
        process = subprocess.Popen(
            [sys.executable, "-m", "quaestor", "run", "--registry", "app:registry", "--db", name, "--prefix", "app"],
            env={**os.environ, "QUAESTOR_URI": group.uri},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - it may be ignored
        )
        with process:
            assert process.stdout is not None
            lines = iter(process.stdout)
            while "started" not in next(lines):
                pass
            with group.members[0].frozen():
                began = time.monotonic()
                process.send_signal(signals[0])
                output = ""
                for number in signals[1:]:
                    output = next(line for line in lines if "releasing the lease" in line)
                    began = time.monotonic()
                    process.send_signal(number)
                code = process.wait(60)
                took = time.monotonic() - began
            output += process.stdout.read()
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[signals[-1]], output
    assert took < (LIMIT if len(signals) == 1 else 2) + SLACK
    assert "Couldn't release the lease" in output
