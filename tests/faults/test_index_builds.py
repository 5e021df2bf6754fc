"""What becomes of an index build when its client goes: the table of docs/deploy/long-migrations.md."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from quaestor import MigrationRegistry
from tools.commands import Commands
from tools.faults import index_build_held
from tools.replica_set import replica_set

INSTANCE = """
import sys

from pymongo import MongoClient

from quaestor import MigrationRegistry

uri, database = sys.argv[1:]
registry = MigrationRegistry()


@registry.register("index")
def index(db):
    db.users.create_index("email")


registry.run_sync(MongoClient(uri)[database], "app", lease_ttl=1)
"""
EMAIL = "email_1"


@pytest.fixture
def users(uri: str, name: str) -> Iterator[Any]:
    """A collection with documents: MongoDB builds the index of an empty one at once."""
    with MongoClient[dict[str, Any]](uri) as client:
        client[name].users.insert_many([{"email": f"{number}@example.com"} for number in range(100)])
        yield client[name].users


def is_building(users: Any) -> bool:
    """Tell whether a command of a client, or the server by itself, builds an index of the collection."""
    return any(
        operation.get("command", {}).get("createIndexes") == users.name
        for operation in users.database.client.admin.aggregate([{"$currentOp": {}}])
    )


def run(users: Any, **options: Any) -> list[str]:
    """Run the same migration in this process."""
    registry = MigrationRegistry()

    @registry.register("index")
    def index(db: Any) -> None:
        db.users.create_index("email", **options)

    return registry.run_sync(users.database, "app")


def test_killed_client(uri: str, name: str, users: Any) -> None:
    """The build goes on without the killed client; the next run waits for it, and records the migration."""
    with index_build_held(uri) as held:
        process = subprocess.Popen([sys.executable, "-c", INSTANCE, uri, name])
        held.wait()
        process.kill()
        process.wait()
        with pytest.raises(OperationFailure):
            users.create_index("email", unique=True)
        assert is_building(users)

    assert run(users) == ["index"]
    assert EMAIL in users.index_information()
    assert not is_building(users)


def test_broken_connection(uri: str, users: Any) -> None:
    """The build goes on when the client's connection is gone; the migration fails, and the next run records it."""
    with MongoClient[dict[str, Any]](uri, socketTimeoutMS=500) as client:
        with index_build_held(uri), pytest.raises(PyMongoError):
            run(client[users.database.name].users)
        assert users.database.app_migrations.count_documents({}) == 0
    assert run(users) == ["index"]


@pytest.mark.parametrize("by_client", [True, False], ids=["timeoutMS", "maxTimeMS"])
def test_time_limit(uri: str, users: Any, *, by_client: bool) -> None:
    """A limit of time aborts the build: the index isn't there, nor is the record."""
    with (
        MongoClient[dict[str, Any]](uri, **({"timeoutMS": 2_000} if by_client else {})) as client,
        index_build_held(uri),
    ):
        with pytest.raises(PyMongoError):
            run(client[users.database.name].users, **({} if by_client else {"maxTimeMS": 500}))
        wait_until_aborted(users)
    assert users.database.app_migrations.count_documents({}) == 0
    assert run(users) == ["index"]


def wait_until_aborted(users: Any) -> None:
    """Wait for the end of the build. The client may be told a moment before."""
    with pymongo.timeout(60):
        while EMAIL in users.index_information():
            pass


def test_longer_limit(uri: str, users: Any) -> None:
    """`pymongo.timeout(seconds)` replaces the client's limit, and `pymongo.timeout(None)` doesn't."""
    commands = Commands()
    with MongoClient[dict[str, Any]](uri, timeoutMS=1_000, event_listeners=[commands]) as client:
        for limit in (None, 60):
            with pymongo.timeout(limit):
                client[users.database.name].users.create_index([("email", 1), (f"limit_{limit}", 1)])
    limits = [command["maxTimeMS"] for command in commands.sent if "createIndexes" in command]
    assert limits[0] <= 1_000 < limits[1]


def test_stopped(uri: str, name: str, users: Any) -> None:
    """Dropping the index stops a build whose client is gone."""
    with index_build_held(uri) as held:
        process = subprocess.Popen([sys.executable, "-c", INSTANCE, uri, name])
        held.wait()
        process.kill()
        process.wait()
        users.drop_index(EMAIL)
        assert EMAIL not in users.index_information()
    assert not is_building(users)


def test_member_down() -> None:
    """A build waits for every member; with commitQuorum="majority" it doesn't."""
    with replica_set(3) as group, MongoClient[dict[str, Any]](group.uri) as client:
        users = client.shop.users
        users.insert_many([{"email": f"{number}@example.com"} for number in range(100)])
        primary = group.primary()
        next(node for node in group.members if node is not primary).kill()
        with pytest.raises(PyMongoError):
            users.create_index("email", maxTimeMS=3_000)
        users.create_indexes([pymongo.IndexModel("email")], commitQuorum="majority")
        assert EMAIL in users.index_information()
