"""Open a database with any driver, sync or async. A driver is imported when it is used."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import ConfigurationError, OperationFailure
from pymongo.server_api import ServerApi


def drivers(*names: str) -> list[Any]:
    """The parameters of a test that runs once with each of these drivers."""
    return [pytest.param(name, marks=pytest.mark.driver(name)) for name in names]


def pairs(*drivers: tuple[str, str | None]) -> pytest.MarkDecorator:
    """Parametrize a test with the drivers of `db` and of the database for functions of the other kind."""
    params = [
        # Where Motor is installed PyMongo is.
        pytest.param(
            first, second, marks=[pytest.mark.driver(name) for name in {first, second} - {None, "pymongo"} or {first}]
        )
        for first, second in drivers
    ]
    return pytest.mark.parametrize(("driver", "other_driver"), params, indirect=True)


real_kinds = pairs(("pymongo", "pymongo"), ("pymongo", "motor"))
"""Parametrizes a sync test of `def` and `async def` functions with the drivers of both, of real servers."""
real_kinds_async = pairs(("pymongo", "pymongo"), ("motor", "pymongo"), ("motor", None))
"""The same for async tests; Motor and mongomock-motor need no database for `def` functions."""
both_kinds = pairs(("pymongo", "pymongo"), ("pymongo", "motor"), ("mongomock", "mongomock"))
"""The same as `real_kinds`, with the mocks."""
both_kinds_async = pairs(("pymongo", "pymongo"), ("motor", "pymongo"), ("motor", None), ("mongomock", None))
"""The same as `real_kinds_async`, with the mocks."""


def in_transactions(*names: str) -> pytest.MarkDecorator:
    """Parametrize a test with these drivers, in transactions and not, and with mongomock, which has none."""
    params = [
        pytest.param(name, transaction, marks=pytest.mark.driver(name))
        for name in (*names, "mongomock")
        for transaction in (False, True)
        if (name, transaction) != ("mongomock", True)
    ]
    return pytest.mark.parametrize(("driver", "transaction"), params, indirect=["driver"])


def strict_options(uri: str) -> dict[str, Any]:
    """The options of a client with the Stable API in strict mode; skips the test on a server without it."""
    options = {"server_api": ServerApi("1", strict=True)}
    with MongoClient[dict[str, Any]](uri, **options) as client:
        try:
            client.quaestor_test.nothing.find_one()  # MongoDB 4.4 takes a ping with any option
        except (OperationFailure, ConfigurationError) as error:
            pytest.skip(f"no Stable API: {error}")
    return options


@contextlib.contextmanager
def opened(driver: str, uri: str, name: str, **options: Any) -> Iterator[Any]:
    """A sync database; the options are the client's."""
    if driver == "mongomock":
        import mongomock

        yield mongomock.MongoClient()[name]
        return
    with MongoClient(uri, **options) as client:
        yield client[name]


@contextlib.asynccontextmanager
async def opened_async(driver: str, uri: str, name: str, **options: Any) -> AsyncIterator[Any]:
    """An async database; the options are the client's."""
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


@contextlib.contextmanager
def watched(collection: Any) -> Iterator[Any]:
    """The changes of a collection from now on."""
    with collection.watch() as changes:
        yield changes


@contextlib.asynccontextmanager
async def watched_async(collection: Any) -> AsyncIterator[Any]:
    """The changes of a collection from now on. PyMongo's `watch` is awaited, Motor's isn't."""
    watching = collection.watch()
    async with await watching if inspect.isawaitable(watching) else watching as changes:
        yield changes
