"""Opening a database with every driver there is, in both colours. Drivers are imported when they are asked for."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient


def drivers(*names: str) -> list[Any]:
    """The parameters of a test that is run once with each of these drivers."""
    return [pytest.param(name, marks=pytest.mark.driver(name)) for name in names]


@contextlib.contextmanager
def opened(driver: str, uri: str, name: str, **options: Any) -> Iterator[Any]:
    """A synchronous database; the options are the client's."""
    if driver == "mongomock":
        import mongomock

        yield mongomock.MongoClient()[name]
        return
    with MongoClient(uri, **options) as client:
        yield client[name]


@contextlib.asynccontextmanager
async def opened_async(driver: str, uri: str, name: str, **options: Any) -> AsyncIterator[Any]:
    """An asynchronous database; the options are the client's."""
    if driver == "mongomock":
        import mongomock_motor

        yield mongomock_motor.AsyncMongoMockClient()[name]
    elif driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient

        client = AsyncIOMotorClient(uri, **options)
        try:
            yield client[name]
        finally:
            client.close()
    else:
        async with AsyncMongoClient(uri, **options) as client:
            yield client[name]
