"""The databases of the sync drivers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from quaestor import MigrationRegistry
from tests.databases import drivers, opened
from tools.commands import Commands


@pytest.fixture(params=drivers("pymongo", "mongomock"))
def driver(request: pytest.FixtureRequest) -> str:
    """Every driver; a test that needs certain ones is parametrized with them."""
    return str(request.param)


@pytest.fixture
def registry() -> MigrationRegistry:
    """A registry without migrations."""
    return MigrationRegistry()


@pytest.fixture
def commands() -> Commands:
    """The commands that the client of `db` sends."""
    return Commands()


@pytest.fixture
def client_options() -> dict[str, Any]:
    """The options of the client of `db`; a module can override them."""
    return {}


@pytest.fixture
def db(driver: str, place: tuple[str, str], commands: Commands, client_options: dict[str, Any]) -> Iterator[Any]:
    """A new database."""
    with opened(driver, *place, event_listeners=[commands], **client_options) as database:
        yield database


@pytest.fixture
def other(driver: str, db: Any, place: tuple[str, str]) -> Iterator[Any]:
    """The same database from another client, which sees only what is committed. A mock has one client."""
    if driver == "mongomock":
        yield db
    else:
        with opened("pymongo", *place) as database:
            yield database


@pytest.fixture
def other_driver(request: pytest.FixtureRequest, driver: str) -> str:
    """The driver for `async def` functions."""
    return getattr(request, "param", driver)


@pytest.fixture
def async_dbs(db: Any, other_driver: str, place: tuple[str, str]) -> Iterator[Callable[[str], Any]]:
    """Return the database for `async def` functions by its name, with a client of its own for each call."""
    clients: list[Any] = []

    def give(name: str) -> Any:
        if other_driver == "mongomock":
            import mongomock_motor

            return mongomock_motor.AsyncMongoMockClient(mock_mongo_client=db.client)[name]
        if other_driver == "motor":
            from motor.motor_asyncio import AsyncIOMotorClient

            clients.append(AsyncIOMotorClient(place[0]))
            return clients[-1][name]
        return AsyncMongoClient(place[0])[name]

    yield give
    for client in clients:
        client.close()


@pytest.fixture
def async_db(async_dbs: Callable[[str], Any], db: Any) -> Any:
    """The same database as `db` for `async def` functions."""
    return async_dbs(db.name)


@pytest.fixture
def several(driver: str, db: Any) -> Iterator[Callable[[int], list[Any]]]:
    """Return that many databases of one client."""
    given: list[Any] = []

    def give(count: int) -> list[Any]:
        given.extend(db.client[f"{db.name}_{number:02}"] for number in range(count))
        return list(given)

    yield give
    if driver != "mongomock":
        for one in given:
            one.client.drop_database(one.name)


@pytest.fixture
def dbs(several: Callable[[int], list[Any]]) -> list[Any]:
    """Five databases of one client."""
    return several(5)
