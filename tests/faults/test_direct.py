"""A client that is connected directly to a member that takes no writes: each call says so, at once."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from quaestor import LeaseNotReleased, PrimaryRequiredError
from tests.faults.applications import application
from tools.cluster import SERVERS, cluster
from tools.mongod import Mongod, client_to
from tools.network import network
from tools.replica_set import ReplicaSet

SECONDARY, ARBITER = "a secondary", "an arbiter"
RECOVERING = "a member that is starting or recovering"
CALLS = [
    ("run",),
    ("rollback", ["a"]),
    ("mark_applied", ["a"]),
    ("mark_pending", ["a"]),
    ("unlock",),
    ("status",),
    ("plan",),
    ("plan_rollback", ["a"]),
]


@pytest.fixture
def secondary(group: ReplicaSet) -> Mongod:
    """A member that isn't the primary."""
    primary = group.primary()
    return next(member for member in group.members if member is not primary)


@contextlib.contextmanager
def recovering(group: ReplicaSet, member: Mongod) -> Iterator[None]:
    """Make the member one that recovers."""
    with client_to(group.uri, member.host) as client:
        client.admin.command("replSetMaintenance", 1)
        try:
            yield
        finally:
            client.admin.command("replSetMaintenance", 0)


def check(driver: str, address: str, name: str, state: str, primary: str) -> None:
    """Check what each call raises, and that it does so at once and emits nothing but that it failed."""
    app = application(driver, f"mongodb://{address}/?directConnection=true", name)
    app.leaves_effects("a")
    for method, *arguments in CALLS:
        began = time.monotonic()
        with pytest.raises(PrimaryRequiredError) as caught:
            app.call(method, *arguments)
        assert (caught.value.address, caught.value.state, caught.value.primary) == (address, state, primary)
        assert time.monotonic() - began < 5, method  # it would wait for 30 s
    assert {type(event).__name__ for event in app.events} <= {"RunFailed"}
    assert app.bodies == []


@pytest.mark.parametrize("state", [SECONDARY, RECOVERING])
def test_member(group: ReplicaSet, secondary: Mongod, driver: str, name: str, state: str) -> None:
    """Stale records are never read."""
    primary = group.primary().host
    with contextlib.nullcontext() if state == SECONDARY else recovering(group, secondary):
        check(driver, secondary.host, name, state, primary)


def test_arbiter(name: str) -> None:
    """An arbiter has no records at all."""
    with network(SERVERS) as net, cluster(net, arbiter=True) as group:
        assert group.arbiter is not None
        primary = group.primary().host
        for driver in ("pymongo", "pymongo-async"):  # Motor's threads are of the process, and so not in this network
            check(driver, group.arbiter.host, name, ARBITER, primary)


@pytest.mark.parametrize("node", ["the primary", "a set of one", "any member"])
def test_writable(group: ReplicaSet, secondary: Mongod, driver: str, uri: str, name: str, node: str) -> None:
    """A primary is used directly, and a member named without directConnection leads to it."""
    whole = {
        "the primary": f"mongodb://{group.primary().host}/?directConnection=true",
        "a set of one": f"{uri}&directConnection=true",
        "any member": f"mongodb://{secondary.host}",
    }[node]
    app = application(driver, whole, name)
    app.leaves_effects("a")
    assert app.run() == ["a"]


@pytest.mark.parametrize("command", ["run", "check", "unlock"])
def test_command_line(secondary: Mongod, name: str, tmp_path: Path, command: str) -> None:
    """One sentence, and the exit code of a wrong configuration."""
    (tmp_path / "app.py").write_text(
        "from quaestor import MigrationRegistry\nregistry = MigrationRegistry()\nregistry.register('a')(print)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "quaestor", command, "--registry", "app:registry", "--db", name, "--prefix", "app"]
        + (["--yes"] if command == "unlock" else []),
        env={**os.environ, "QUAESTOR_URI": f"mongodb://{secondary.host}/?directConnection=true"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2, ended
    assert f"connected directly to {secondary.host}, a secondary" in ended.stderr
    assert "not released" not in ended.stderr


def test_without_the_right_to_write(guarded: str, driver: str, name: str) -> None:
    """A user who may only read gets the server's refusal, and no word of a lease that was never acquired."""
    with client_to(guarded) as client:
        client.admin.command("createUser", name, pwd="p", roles=[{"role": "read", "db": name}])  # noqa: S106
    reader = guarded.replace(guarded.partition("://")[2].partition("@")[0], f"{name}:p")
    app: Any = application(driver, reader, name)
    app.leaves_effects("a")
    with pytest.raises(PyMongoError) as caught:
        app.run()
    assert getattr(caught.value, "code", None) == 13
    assert app.list_events(LeaseNotReleased) == []
    assert app.bodies == []
