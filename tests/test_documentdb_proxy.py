"""The stand-in for Amazon DocumentDB refuses what DocumentDB refuses, and passes on the rest."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern

from tests.faults.applications import application
from tools import mongod
from tools.documentdb_proxy import (
    NO_RETRYABLE_WRITES,
    NO_SUCH_COMMAND,
    NO_SUCH_STAGE,
    NOT_IN_TRANSACTION,
    NOT_SUPPORTED,
    documentdb,
)

DATABASE = "quaestor_test_documentdb"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The URI of the stand-in, before a server of its own."""
    try:
        mongod.executable()
    except mongod.NoServerError as error:
        pytest.skip(str(error))
    with mongod.started("--replSet", mongod.REPLICA_SET) as nodes, documentdb(mongod.initiate(nodes)) as uri:
        yield uri


@pytest.fixture
def db(address: str) -> Iterator[Any]:
    with MongoClient(address) as client:
        client[DATABASE].orders.insert_one({"_id": 1, "total": 5})
        yield client[DATABASE]
        client.drop_database(DATABASE)


def refusal(command: Callable[[], object]) -> int | None:
    """The code with which a command is refused."""
    with pytest.raises(OperationFailure) as caught:
        command()
    return caught.value.code


UNSUPPORTED: dict[str, tuple[int, Callable[[Any], object]]] = {
    "update by a pipeline": (NOT_SUPPORTED, lambda db: db.orders.update_one({}, [{"$addFields": {"total": 1}}])),
    "find_one_and_update by a pipeline": (
        NOT_SUPPORTED,
        lambda db: db.orders.find_one_and_update({}, [{"$addFields": {"total": 1}}]),
    ),
    "$$NOW in a filter": (NOT_SUPPORTED, lambda db: db.orders.find_one({"$expr": {"$gt": ["$at", "$$NOW"]}})),
    "$$NOW in the filter of an update": (
        NOT_SUPPORTED,
        lambda db: db.orders.update_one({"$expr": {"$gt": ["$at", "$$NOW"]}}, {"$set": {"total": 1}}),
    ),
    "$$NOW in a pipeline": (NOT_SUPPORTED, lambda db: db.orders.aggregate([{"$addFields": {"at": "$$NOW"}}])),
    "$set as a stage": (NO_SUCH_STAGE, lambda db: db.orders.aggregate([{"$set": {"total": 1}}])),
    "an operator": (NOT_SUPPORTED, lambda db: db.orders.delete_many({"$where": "true"})),
    "several types": (NOT_SUPPORTED, lambda db: db.orders.find_one({"_id": {"$type": ["int", "string"]}})),
    "a collation": (NOT_SUPPORTED, lambda db: db.orders.find_one({}, collation={"locale": "en"})),
    "an index with a collation": (
        NOT_SUPPORTED,
        lambda db: db.orders.create_index("total", collation={"locale": "en"}),
    ),
    "a capped collection": (NOT_SUPPORTED, lambda db: db.create_collection("log", capped=True, size=1000)),
    "getParameter": (NOT_SUPPORTED, lambda db: db.client.admin.command("getParameter", "*")),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported(db: Any, case: str) -> None:
    code, command = UNSUPPORTED[case]
    assert refusal(lambda: command(db)) == code


def test_retryable_writes(address: str) -> None:
    """A client needs retryWrites=false; the stand-in's URI has it."""
    with MongoClient(address, retryWrites=True) as client:
        orders = client[DATABASE].orders
        assert refusal(lambda: orders.insert_one({})) == NO_RETRYABLE_WRITES
        orders.find_one()


@pytest.mark.parametrize("driver", ["pymongo", "pymongo-async", "motor"])
def test_run_with_retryable_writes(address: str, driver: str) -> None:
    """Nothing has run, and the server's error says what to do."""
    app = application(driver, address, DATABASE, retryWrites=True)
    app.leaves_effects("a")
    with pytest.raises(OperationFailure) as caught:
        app.run()
    assert caught.value.code == NO_RETRYABLE_WRITES
    assert caught.value.__notes__ == ["quaestor: the server doesn't have this: add retryWrites=false to the URI."]
    assert app.bodies == []


def test_update_operators(db: Any) -> None:
    """What replaces a pipeline works: plain operators, an upsert that fails on a duplicate key, dates of the server."""
    free = {"_id": "lease", "owner": {"$exists": False}}
    update = {"$set": {"owner": "a"}, "$inc": {"token": 1}, "$currentDate": {"renewedAt": True}}
    lease = db.leases.find_one_and_update(free, update, upsert=True, return_document=True)
    assert (lease["owner"], lease["token"]) == ("a", 1)
    with pytest.raises(DuplicateKeyError):
        db.leases.find_one_and_update(free, update, upsert=True)
    hello = db.client.admin.command("hello")
    assert hello["localTime"] >= lease["renewedAt"]
    assert not {"$clusterTime", "topologyVersion"} & set(hello)


def test_list_collections(db: Any) -> None:
    (found,) = db.command("listCollections", filter={"name": "orders"})["cursor"]["firstBatch"]
    assert found["info"] == {"readOnly": False}
    assert db.list_collection_names() == ["orders"]


def test_transaction(db: Any) -> None:
    """A transaction works on collections that exist, and creates none.

    A driver's session asks for causal consistency by default, so its second transaction is refused.
    """
    concerns = (ReadConcern("local"), WriteConcern("majority"), ReadPreference.PRIMARY)
    with db.client.start_session(causal_consistency=False) as session:
        for number in (2, 3):
            with session.start_transaction(*concerns):
                db.orders.insert_one({"_id": number}, session=session)
        assert db.orders.count_documents({}) == 3
        for refused in (
            lambda: db.others.insert_one({}, session=session),
            lambda: db.others.find_one(session=session),
            lambda: db.create_collection("others", session=session, check_exists=False),
            lambda: db.orders.create_index("total", session=session),
        ):
            session.start_transaction(*concerns)
            assert refusal(refused) == NOT_IN_TRANSACTION
            session.abort_transaction()
        session.start_transaction(*concerns)
        assert refusal(lambda: list(db.orders.find(session=session, batch_size=2))) == NOT_SUPPORTED
        session.abort_transaction()
    with db.client.start_session() as session:
        with session.start_transaction(*concerns):
            db.orders.insert_one({"_id": 4}, session=session)
        session.start_transaction(*concerns)
        assert refusal(lambda: db.orders.insert_one({"_id": 5}, session=session)) == NOT_SUPPORTED
        session.abort_transaction()


def test_missing_in_others(address: str) -> None:
    """Other look-alikes lack more: a command, or an operator in a filter or in an update."""
    with documentdb(address, missing=["killSessions", "$not", "$pullAll"]) as uri, MongoClient(uri) as client:
        orders = client[DATABASE].orders
        assert refusal(lambda: client.admin.command("killSessions", [])) == NO_SUCH_COMMAND
        assert refusal(lambda: orders.find_one({"_id": {"$not": {"$lte": 1}}})) == NOT_SUPPORTED
        assert refusal(lambda: orders.update_one({}, {"$pullAll": {"lines": []}})) == NOT_SUPPORTED
        orders.find_one({"$nor": [{"_id": {"$lte": 1}}]})


def test_clients(address: str) -> None:
    """Several clients work at once, and one of them closes its connections with a cursor open."""
    with MongoClient(address) as first, MongoClient(address) as second:
        first[DATABASE].orders.insert_many({"_id": number, "text": "x" * 1_000} for number in range(5_000))
        cursor = first[DATABASE].orders.find(batch_size=10)
        next(cursor)
        first.close()
        assert second[DATABASE].orders.count_documents({}) == 5_000
        assert len(list(second[DATABASE].orders.find())) == 5_000
        second.drop_database(DATABASE)
