"""Backfills keep the type of the documents: checked by mypy and basedpyright, never executed."""

from typing import Any, TypedDict, assert_type

from mongomock import Collection as MockCollection
from mongomock_motor import AsyncMongoMockCollection
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo.asynchronous.collection import AsyncCollection as PyMongoAsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.collection import Collection
from pymongo.database import Database

from quaestor import AsyncCollection, AsyncMigrationContext, MigrationContext, SyncCollection

Document = dict[str, Any]


class Order(TypedDict):
    """A document."""

    status: str


def take_orders(orders: list[Order]) -> int:
    return len(orders)


async def take_orders_async(orders: list[Order]) -> int:
    return len(orders)


def take_documents(documents: list[Document]) -> None:
    print(len(documents))


async def take_documents_async(documents: list[Document]) -> None:
    print(len(documents))


def synchronous(db: Database[Document], orders: Collection[Order], context: MigrationContext) -> None:
    assert_type(context.name, str)
    context.progress(1, 2)
    for batch in context.batches(db.users):
        assert_type(batch, list[Document])
    for batch in context.batches(db["users"], {"a": 1}, size=10, projection=["email"], pause=0.1, max_lag=10):
        context.logger.info("%d", len(batch))
    for order_batch in context.batches(orders, name="orders"):
        assert_type(order_batch, list[Order])
        assert_type(order_batch[0]["status"], str)
    context.for_each_batch(db.users, take_documents)
    context.for_each_batch(orders, take_orders, {"status": "new"}, projection={"status": 1}, transaction=False)
    context.for_each_batch(orders, lambda batch: print(batch[0]["status"]))


async def asynchronous(
    db: AsyncDatabase[Document],
    orders: PyMongoAsyncCollection[Order],
    motor: AsyncIOMotorCollection[Order],
    context: AsyncMigrationContext,
) -> None:
    assert_type(context.name, str)
    context.progress(1)
    async for batch in context.batches(db.users):
        assert_type(batch, list[Document])
    async for batch in context.batches(db["users"], {"a": 1}, size=10, projection=["email"], max_lag=None):
        context.logger.info("%d", len(batch))
    async for order_batch in context.batches(orders, name="orders"):
        assert_type(order_batch, list[Order])
        assert_type(order_batch[0]["status"], str)
    async for motor_batch in context.batches(motor):
        assert_type(motor_batch, list[Order])
    await context.for_each_batch(db.users, take_documents_async)
    await context.for_each_batch(orders, take_orders_async, None, size=10, pause=1, transaction=True)
    await context.for_each_batch(motor, take_orders_async)


async def mocks(
    mock: MockCollection[Document],
    async_mock: AsyncMongoMockCollection[Document],
    context: MigrationContext,
    async_context: AsyncMigrationContext,
) -> None:
    for batch in context.batches(mock):
        assert_type(batch, list[Document])
    async for async_batch in async_context.batches(async_mock):
        assert_type(async_batch, list[Document])


def accepted(
    sync: Collection[Order], mock: MockCollection[Document]
) -> tuple[SyncCollection[Order], SyncCollection[Any]]:
    return sync, mock


def accepted_async(
    pymongo: PyMongoAsyncCollection[Order], motor: AsyncIOMotorCollection[Order], mock: AsyncMongoMockCollection[Any]
) -> tuple[AsyncCollection[Order], AsyncCollection[Order], AsyncCollection[Any]]:
    return pymongo, motor, mock
