"""The concerns that functions write and read with, whatever those of the client are."""

from typing import Any

import pytest
from pymongo import InsertOne, UpdateOne, WriteConcern
from pymongo.errors import ConfigurationError, OperationFailure
from pymongo.read_concern import ReadConcern

from quaestor import AsyncMigrationContext, MigrationRegistry
from tests.databases import drivers
from tools.commands import Commands

pytestmark = pytest.mark.anyio

OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"w": "majority"}),
    ({"w": "majority"}, {"w": "majority"}),
    ({"journal": True}, {"w": "majority", "j": True}),
    ({"wTimeoutMS": 5000}, {"w": "majority", "wtimeout": 5000}),
    ({"readConcernLevel": "majority", "readPreference": "secondaryPreferred"}, {"w": "majority"}),
    ({"w": 1}, {"w": 1}),
    ({"w": 0}, {"w": 0}),
]
"""Options of a client, and the write concern of a plain function."""
options_and_expected = pytest.mark.parametrize(("client_options", "expected"), OPTIONS, ids=str)


@pytest.fixture(params=drivers("pymongo", "motor"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers that send concerns."""
    return str(request.param)


async def write(db: Any) -> None:
    """Write in all the ways that transactions have, and read."""
    users = db.users
    await users.insert_one({"_id": 1})
    await users.insert_many([{"_id": 2}, {"_id": 3}])
    await users.update_one({"_id": 1}, {"$set": {"seen": 1}})
    await users.update_many({}, {"$inc": {"seen": 1}})
    await users.replace_one({"_id": 3}, {"seen": 1})
    await users.delete_one({"_id": 3})
    await users.bulk_write([InsertOne({"_id": 4}), UpdateOne({"_id": 4}, {"$set": {"seen": 1}})])
    await users.with_options(read_concern=ReadConcern("local")).find_one_and_delete({"_id": 4})
    await db.get_collection("users").insert_one({"_id": 5})
    assert await users.count_documents({}) == 3
    assert await users.distinct("seen") == [1, 2]
    await db.create_collection("made")
    await db.made.create_index("a")


async def write_otherwise(db: Any) -> None:
    """Write in ways that transactions don't have."""
    await db.made.drop_index("a_1")
    await db.made.rename("renamed")
    await db.drop_collection("renamed")


def find_concerns(commands: Commands) -> tuple[list[Any], list[Any]]:
    """The write concerns of writes, and the read preferences of reads."""
    reads = [sent for sent in commands.sent if {"find", "distinct", "aggregate", "listCollections"} & sent.keys()]
    writes = [command.get("writeConcern") for command in commands.sent if command not in reads]
    return writes, [command.get("$readPreference", {"mode": "primary"})["mode"] for command in reads]


@options_and_expected
async def test_plain_function(
    db: Any, registry: MigrationRegistry, commands: Commands, expected: dict[str, Any]
) -> None:
    """A plain function writes with majority concern, unless its client says another `w`, and reads from the primary."""
    found: list[tuple[list[Any], list[Any]]] = []

    @registry.register("a")
    async def a(db: Any) -> None:
        commands.sent.clear()
        if expected["w"] == 0:  # nobody knows when such a write is done
            await db.users.insert_one({})
        else:
            await write(db)
            await write_otherwise(db)
        found.append(find_concerns(commands))

    await registry.run(db, "app")
    [(writes, reads)] = found
    assert writes == [expected] * len(writes) != []
    assert set(reads) <= {"primary"}


@options_and_expected
async def test_in_transactions(
    db: Any, registry: MigrationRegistry, commands: Commands, expected: dict[str, Any]
) -> None:
    """In a transaction, of a function or of a batch, no operation has a concern. Between batches it has its own."""
    found: list[tuple[list[Any], list[Any]]] = []

    @registry.register("a", transaction=True)
    async def a(db: Any) -> None:
        commands.sent.clear()
        await write(db)
        assert (db.write_concern.acknowledged, db.write_concern.is_server_default) == (True, True)
        found.append(find_concerns(commands))

    @registry.register("b", depends_on=["a"])
    async def b(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: list[Any]) -> None:
            commands.sent.clear()
            seen = db[f"seen_{len(found)}"]
            await seen.insert_many(batch)
            assert await seen.count_documents({}) == len(batch)
            found.append(find_concerns(commands))

        weak = db.get_collection("users", write_concern=WriteConcern(1), read_concern=ReadConcern("majority"))
        for collection in (db.users, weak, db.client[db.name].users):
            await context.for_each_batch(collection, body, name=f"backfill {len(found)}")
            await db.others.insert_one({})
            assert commands.sent[-1]["writeConcern"] == expected

    await registry.run(db, "app")
    assert len(found) == 4
    for writes, reads in found:
        assert writes == [None] * len(writes) != []
        assert set(reads) == {"primary"}


@pytest.mark.parametrize(
    ("concern", "refusal"),
    [
        (WriteConcern("majority"), OperationFailure),
        (WriteConcern(j=True), OperationFailure),
        (WriteConcern(0), ConfigurationError),
    ],
)
async def test_concern_in_a_transaction(
    db: Any, registry: MigrationRegistry, concern: WriteConcern, refusal: type[Exception]
) -> None:
    """A concern that the function's own code asks for is refused in a transaction. A note says what to do."""

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: list[Any]) -> None:
            await db.get_collection("users", write_concern=concern).delete_many({})

        await context.for_each_batch(db.users, body)

    await db.users.insert_one({})
    with pytest.raises(refusal) as caught:
        await registry.run(db, "app")
    assert any("Use the function's own database without `write_concern=`" in note for note in caught.value.__notes__)
    assert await db.users.count_documents({}) == 1


@pytest.mark.parametrize("client_options", [{}, {"w": 1}, {"readPreference": "secondary"}], ids=str)
async def test_subclass(db: Any, registry: MigrationRegistry, driver: str, client_options: dict[str, Any]) -> None:
    """A subclass keeps its own methods, but in a transaction where the server would refuse its write concern."""
    kinds: list[bool] = []

    @registry.register("a")
    async def a(db: Any) -> None:
        kinds.append(isinstance(db, Shop))
        await db.users.insert_one({})
        if len(kinds) == 2:  # there is no secondary
            assert await db.users.count_documents({}) == 2

    registry.register("b", transaction=True)(a)

    class Shop(type(db)):  # type: ignore[misc]
        """A database of the application's own."""

    another = Shop(db.client, db.name)
    assert await registry.run(another, "app") == ["a", "b"]
    assert kinds == [True, not client_options or driver == "motor"]  # Motor's with_options keeps the class
