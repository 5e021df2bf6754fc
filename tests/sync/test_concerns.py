# Generated from tests/async/test_concerns.py by tools/sync_tests.py
"""The concerns that functions write and read with, whatever those of the client are."""

from typing import Any

import pytest
from pymongo import InsertOne, UpdateOne, WriteConcern
from pymongo.errors import ConfigurationError, OperationFailure
from pymongo.read_concern import ReadConcern

from quaestor import MigrationContext, MigrationRegistry
from tests.databases import drivers
from tools.commands import Commands

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


@pytest.fixture(params=drivers("pymongo"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers that send concerns."""
    return str(request.param)


def write(db: Any) -> None:
    """Write in all the ways that transactions have, and read."""
    users = db.users
    users.insert_one({"_id": 1})
    users.insert_many([{"_id": 2}, {"_id": 3}])
    users.update_one({"_id": 1}, {"$set": {"seen": 1}})
    users.update_many({}, {"$inc": {"seen": 1}})
    users.replace_one({"_id": 3}, {"seen": 1})
    users.delete_one({"_id": 3})
    users.bulk_write([InsertOne({"_id": 4}), UpdateOne({"_id": 4}, {"$set": {"seen": 1}})])
    users.with_options(read_concern=ReadConcern("local")).find_one_and_delete({"_id": 4})
    db.get_collection("users").insert_one({"_id": 5})
    assert users.count_documents({}) == 3
    assert users.distinct("seen") == [1, 2]
    db.create_collection("made")
    db.made.create_index("a")


def write_otherwise(db: Any) -> None:
    """Write in ways that transactions don't have."""
    db.made.drop_index("a_1")
    db.made.rename("renamed")
    db.drop_collection("renamed")


def find_concerns(commands: Commands) -> tuple[list[Any], list[Any]]:
    """The write concerns of writes, and the read preferences of reads."""
    reads = [sent for sent in commands.sent if {"find", "distinct", "aggregate", "listCollections"} & sent.keys()]
    writes = [command.get("writeConcern") for command in commands.sent if command not in reads]
    return writes, [command.get("$readPreference", {"mode": "primary"})["mode"] for command in reads]


@options_and_expected
def test_plain_function(db: Any, registry: MigrationRegistry, commands: Commands, expected: dict[str, Any]) -> None:
    """A plain function writes with majority concern, unless its client says another `w`, and reads from the primary."""
    found: list[tuple[list[Any], list[Any]]] = []

    @registry.register("a")
    def a(db: Any) -> None:
        commands.sent.clear()
        if expected["w"] == 0:  # nobody knows when such a write is done
            db.users.insert_one({})
        else:
            write(db)
            write_otherwise(db)
        found.append(find_concerns(commands))

    registry.run_sync(db, "app")
    [(writes, reads)] = found
    assert writes == [expected] * len(writes) != []
    assert set(reads) <= {"primary"}


@options_and_expected
def test_in_transactions(db: Any, registry: MigrationRegistry, commands: Commands, expected: dict[str, Any]) -> None:
    """In a transaction, of a function or of a batch, no operation has a concern. Between batches it has its own."""
    found: list[tuple[list[Any], list[Any]]] = []

    @registry.register("a", transaction=True)
    def a(db: Any) -> None:
        commands.sent.clear()
        write(db)
        assert (db.write_concern.acknowledged, db.write_concern.is_server_default) == (True, True)
        found.append(find_concerns(commands))

    @registry.register("b", depends_on=["a"])
    def b(db: Any, context: MigrationContext) -> None:
        def body(batch: list[Any]) -> None:
            commands.sent.clear()
            seen = db[f"seen_{len(found)}"]
            seen.insert_many(batch)
            assert seen.count_documents({}) == len(batch)
            found.append(find_concerns(commands))

        weak = db.get_collection("users", write_concern=WriteConcern(1), read_concern=ReadConcern("majority"))
        for collection in (db.users, weak, db.client[db.name].users):
            context.for_each_batch(collection, body, name=f"backfill {len(found)}")
            db.others.insert_one({})
            assert commands.sent[-1]["writeConcern"] == expected

    registry.run_sync(db, "app")
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
def test_concern_in_a_transaction(
    db: Any, registry: MigrationRegistry, concern: WriteConcern, refusal: type[Exception]
) -> None:
    """A concern that the function's own code asks for is refused in a transaction. A note says what to do."""

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: list[Any]) -> None:
            db.get_collection("users", write_concern=concern).delete_many({})

        context.for_each_batch(db.users, body)

    db.users.insert_one({})
    with pytest.raises(refusal) as caught:
        registry.run_sync(db, "app")
    assert any("Use the function's own database without `write_concern=`" in note for note in caught.value.__notes__)
    assert db.users.count_documents({}) == 1


@pytest.mark.parametrize("client_options", [{}, {"w": 1}, {"readPreference": "secondary"}], ids=str)
def test_subclass(db: Any, registry: MigrationRegistry, driver: str, client_options: dict[str, Any]) -> None:
    """A subclass keeps its own methods, but in a transaction where the server would refuse its write concern."""
    kinds: list[bool] = []

    @registry.register("a")
    def a(db: Any) -> None:
        kinds.append(isinstance(db, Shop))
        db.users.insert_one({})
        if len(kinds) == 2:  # there is no secondary
            assert db.users.count_documents({}) == 2

    registry.register("b", transaction=True)(a)

    class Shop(type(db)):  # type: ignore[misc]
        """A database of the application's own."""

    another = Shop(db.client, db.name)
    assert registry.run_sync(another, "app") == ["a", "b"]
    assert kinds == [True, not client_options or driver == "motor"]  # Motor's with_options keeps the class
