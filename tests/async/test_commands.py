"""What a run sends to the server, and with which guarantees."""

from typing import Any

import pytest
from pymongo import WriteConcern

from quaestor import AsyncMigrationContext, MigrationRegistry
from tests.databases import drivers, opened_async
from tests.functions import nothing_async
from tools.commands import Commands

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("driver", drivers("pymongo", "motor")),
]


@pytest.fixture
def client_options() -> dict[str, Any]:
    """The weakest concerns there are."""
    return {"w": 0, "readPreference": "secondaryPreferred", "readConcernLevel": "local"}


def migrations(count: int, *, transaction: bool = False) -> MigrationRegistry:
    registry = MigrationRegistry()
    for number in range(count):
        registry.register(f"migration_{number:04}", transaction=transaction)(nothing_async)
    return registry


async def test_nothing_to_do_is_one_command(db: Any, commands: Commands) -> None:
    """With all of 200 applied a run is one find, answered in one batch."""
    await migrations(200).run(db, "app")
    commands.sent.clear()

    assert await migrations(200).run(db, "app") == []

    assert commands.names == ["find"]


async def test_applying(db: Any, commands: Commands) -> None:
    """N migrations cost 2 N + 4 commands: two reads, a lease and its release, and for each a check and a record. (If
    none is recorded, those that look for records elsewhere come to that.)
    """
    await migrations(1).run(db, "app")
    commands.sent.clear()
    await migrations(8).run(db, "app")

    assert commands.names == ["find", "findAndModify", "find"] + ["update", "insert"] * 7 + ["update"]


async def test_applying_in_transactions(db: Any, commands: Commands) -> None:
    """N transactional ones cost 3 N + 4: who the user is, and each a record, a commit, and a check before the next."""
    await migrations(1).run(db, "app")
    commands.sent.clear()
    await migrations(8, transaction=True).run(db, "app")

    each = ["insert", "commitTransaction", "update"]
    assert commands.names == ["find", "connectionStatus", "findAndModify", "find"] + each * 7


async def test_majority_on_the_primary(db: Any, commands: Commands) -> None:
    """Majority concern on the primary, whatever the client's defaults are; a check needs none before a record."""
    await migrations(1).run(db, "app")
    commands.sent.clear()
    await migrations(2).run(db, "app")

    reads = [command for command in commands.sent if "find" in command]
    writes = [command for command in commands.sent if "find" not in command]
    assert {command["find"] for command in reads} == {"app_migrations"}
    assert {next(iter(command.values())) for command in writes} == {"app_migrations", "app_migrations_lock"}
    assert {command["readConcern"]["level"] for command in reads} == {"majority"}
    assert [command["writeConcern"]["w"] for command in writes] == ["majority", 1, "majority", "majority"]
    assert {command.get("$readPreference", {"mode": "primary"})["mode"] for command in commands.sent} == {"primary"}


async def test_commit_with_majority(db: Any, commands: Commands) -> None:
    """A transaction is committed with majority concern, whatever the client's defaults are."""
    await migrations(1, transaction=True).run(db, "app")

    insert, commit = (command for command in commands.sent if {"insert", "commitTransaction"} & command.keys())
    assert commit["writeConcern"]["w"] == "majority"
    assert insert["readConcern"]["level"] == "local"
    assert insert["startTransaction"] is True


async def test_unsound_graph_sends_nothing(db: Any, commands: Commands) -> None:
    """An unsound graph is refused before the first command, pending or not."""
    unsound = MigrationRegistry()
    unsound.register("a", depends_on=["b"])(nothing_async)

    with pytest.raises(ValueError, match="not registered"):
        await unsound.run(db, "app")
    unsound.register("b", depends_on=["a"])(nothing_async)
    with pytest.raises(ValueError, match="Circular dependency: a -> b -> a"):
        await unsound.run(db, "app")

    assert commands.sent == []


async def test_own_codec(driver: str, uri: str, name: str) -> None:
    """Codec options of the client don't affect the records."""
    from bson.raw_bson import RawBSONDocument

    async with opened_async(driver, uri, name, document_class=RawBSONDocument, tz_aware=True) as db:
        await migrations(2).run(db, "app")
        assert await migrations(3).run(db, "app") == ["migration_0002"]


@pytest.mark.parametrize("transaction", [False, True])
async def test_backfill(db: Any, registry: MigrationRegistry, commands: Commands, *, transaction: bool) -> None:
    """A backfill of N batches costs 3 N commands: a read, a check and a checkpoint each. In transactions it costs 5 N,
    because the `_id`s are read before each, and it is committed. At the start: the checkpoints, the collection, its
    highest `_id` of each type, its size, a check, and the first checkpoint; at the end, the collection again. (In
    transactions: the user, the session in the lock, and one more checkpoint at the end.) Old checkpoints are removed
    before the function, and its own after it.
    """
    await db.get_collection("things", write_concern=WriteConcern(1)).insert_many([{} for _ in range(5)])
    await migrations(1).run(db, "app")
    commands.sent.clear()

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: list[dict[str, Any]]) -> None:
            """Nothing."""

        things = db.with_options(write_concern=WriteConcern()).things
        await context.for_each_batch(things, body, size=2, transaction=transaction)

    await registry.run(db, "app")

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
