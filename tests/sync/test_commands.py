# Generated from tests/async/test_commands.py by tools/sync_tests.py
"""What a run sends to the server, and with which guarantees."""

from typing import Any

import pytest
from pymongo import WriteConcern

from quaestor import MigrationContext, MigrationRegistry
from tests.databases import drivers, opened
from tests.functions import nothing
from tools.commands import Commands

pytestmark = [
    pytest.mark.parametrize("driver", drivers("pymongo")),
]


@pytest.fixture
def client_options() -> dict[str, Any]:
    """The weakest concerns there are."""
    return {"w": 0, "readPreference": "secondaryPreferred", "readConcernLevel": "local"}


def migrations(count: int, *, transaction: bool = False) -> MigrationRegistry:
    registry = MigrationRegistry()
    for number in range(count):
        registry.register(f"migration_{number:04}", transaction=transaction)(nothing)
    return registry


def test_nothing_to_do_is_one_command(db: Any, commands: Commands) -> None:
    """With all of 200 applied a run is one find, answered in one batch."""
    migrations(200).run_sync(db, "app")
    commands.sent.clear()

    assert migrations(200).run_sync(db, "app") == []

    assert commands.names == ["find"]


def test_applying(db: Any, commands: Commands) -> None:
    """N migrations cost 2 N + 4 commands: two reads, a lease and its release, and for each a check and a record. (If
    none is recorded, those that look for records elsewhere come to that.)
    """
    migrations(1).run_sync(db, "app")
    commands.sent.clear()
    migrations(8).run_sync(db, "app")

    assert commands.names == ["find", "findAndModify", "find"] + ["update", "insert"] * 7 + ["update"]


def test_applying_in_transactions(db: Any, commands: Commands) -> None:
    """N transactional ones cost 3 N + 4: who the user is, and each a record, a commit, and a check before the next."""
    migrations(1).run_sync(db, "app")
    commands.sent.clear()
    migrations(8, transaction=True).run_sync(db, "app")

    each = ["insert", "commitTransaction", "update"]
    assert commands.names == ["find", "connectionStatus", "findAndModify", "find"] + each * 7


def test_majority_on_the_primary(db: Any, commands: Commands) -> None:
    """Majority concern on the primary, whatever the client's defaults are; a check needs none before a record."""
    migrations(1).run_sync(db, "app")
    commands.sent.clear()
    migrations(2).run_sync(db, "app")

    reads = [command for command in commands.sent if "find" in command]
    writes = [command for command in commands.sent if "find" not in command]
    assert {command["find"] for command in reads} == {"app_migrations"}
    assert {next(iter(command.values())) for command in writes} == {"app_migrations", "app_migrations_lock"}
    assert {command["readConcern"]["level"] for command in reads} == {"majority"}
    assert [command["writeConcern"]["w"] for command in writes] == ["majority", 1, "majority", "majority"]
    assert {command.get("$readPreference", {"mode": "primary"})["mode"] for command in commands.sent} == {"primary"}


def test_commit_with_majority(db: Any, commands: Commands) -> None:
    """A transaction is committed with majority concern, whatever the client's defaults are."""
    migrations(1, transaction=True).run_sync(db, "app")

    insert, commit = (command for command in commands.sent if {"insert", "commitTransaction"} & command.keys())
    assert commit["writeConcern"]["w"] == "majority"
    assert insert["readConcern"]["level"] == "local"
    assert insert["startTransaction"] is True


def test_unsound_graph_sends_nothing(db: Any, commands: Commands) -> None:
    """An unsound graph is refused before the first command, pending or not."""
    unsound = MigrationRegistry()
    unsound.register("a", depends_on=["b"])(nothing)

    with pytest.raises(ValueError, match="not registered"):
        unsound.run_sync(db, "app")
    unsound.register("b", depends_on=["a"])(nothing)
    with pytest.raises(ValueError, match="Circular dependency: a -> b -> a"):
        unsound.run_sync(db, "app")

    assert commands.sent == []


def test_own_codec(driver: str, uri: str, name: str) -> None:
    """Codec options of the client don't affect the records."""
    from bson.raw_bson import RawBSONDocument

    with opened(driver, uri, name, document_class=RawBSONDocument, tz_aware=True) as db:
        migrations(2).run_sync(db, "app")
        assert migrations(3).run_sync(db, "app") == ["migration_0002"]


@pytest.mark.parametrize("transaction", [False, True])
def test_backfill(db: Any, registry: MigrationRegistry, commands: Commands, *, transaction: bool) -> None:
    """A backfill of N batches costs 3 N commands: a read, a check and a checkpoint each. In transactions it costs 5 N,
    because the `_id`s are read before each, and it is committed. At the start: the checkpoints, the collection, its
    highest `_id` of each type, its size, a check, and the first checkpoint; at the end, the collection again. (In
    transactions: the user, the session in the lock, and one more checkpoint at the end.) Old checkpoints are removed
    before the function, and its own after it.
    """
    db.get_collection("things", write_concern=WriteConcern(1)).insert_many([{} for _ in range(5)])
    migrations(1).run_sync(db, "app")
    commands.sent.clear()

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: list[dict[str, Any]]) -> None:
            """Nothing."""

        things = db.with_options(write_concern=WriteConcern()).things
        context.for_each_batch(things, body, size=2, transaction=transaction)

    registry.run_sync(db, "app")

    of_run = [
        "find migrations",
        "findAndModify lock",
        "find migrations",
        "update lock",
        "insert migrations",
        "update lock",
    ]
    of_start = ["find progress", "listCollections", *["find things"] * 2, "count things"]
    of_claim = ["update lock", "findAndModify progress"]
    of_end = ["listCollections", *["delete progress"] * 2]
    of_batches = ["find things", "update lock", "update progress"] * 3
    of_transactions = [*["find things", "commitTransaction"] * 3, "connectionStatus", "update lock", "update progress"]
    more = of_transactions if transaction else []
    assert sorted(map(describe, commands.sent)) == sorted(of_run + of_start + of_claim + of_batches + of_end + more)
    saved = [
        command for command in commands.sent if describe(command).endswith("progress") and "autocommit" not in command
    ]
    concerns = {command.get("writeConcern", {}).get("w") or command["readConcern"]["level"] for command in saved}
    assert concerns == {"majority"}
    assert {command.get("$readPreference", {"mode": "primary"})["mode"] for command in commands.sent} == {"primary"}


def describe(command: dict[str, Any]) -> str:
    """The first word of a command, and the last of the collection that it is about."""
    name, about = next(iter(command.items()))
    return f"{name} {about.split('_')[-1]}" if isinstance(about, str) else name
