"""The databases of the async drivers."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from quaestor import MigrationRegistry
from tests.databases import drivers, opened_async
from tools.commands import Commands


@pytest.fixture
def anyio_backend() -> str:
    """All async drivers of MongoDB are made for asyncio."""
    return "asyncio"


@pytest.fixture(params=drivers("pymongo", "motor", "mongomock"))
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
async def db(
    driver: str, place: tuple[str, str], commands: Commands, client_options: dict[str, Any]
) -> AsyncIterator[Any]:
    """A new database."""
    async with opened_async(driver, *place, event_listeners=[commands], **client_options) as database:
        if driver == "pymongo":
            # PyMongo leaves a socket unclosed if it is closed while its monitor connects: a test may need no command.
            await database.client.admin.command("ping")
        yield database


@pytest.fixture
async def other(driver: str, db: Any, place: tuple[str, str]) -> AsyncIterator[Any]:
    """The same database from another client, which sees only what is committed. A mock has one client."""
    if driver == "mongomock":
        yield db
    else:
        async with opened_async("pymongo", *place) as database:
            yield database


@pytest.fixture
def other_driver(request: pytest.FixtureRequest, driver: str) -> str | None:
    """The driver for `def` functions; None where the async one brings its own."""
    return getattr(request, "param", "pymongo" if driver == "pymongo" else None)


@pytest.fixture
def sync_dbs(other_driver: str | None, place: tuple[str, str]) -> Iterator[Callable[[str], Any] | None]:
    """Return the database for `def` functions by its name."""
    if other_driver is None:
        yield None
    else:
        with MongoClient[dict[str, Any]](place[0]) as client:
            yield client.get_database


@pytest.fixture
def sync_db(sync_dbs: Callable[[str], Any] | None, place: tuple[str, str]) -> Any:
    """The same database as `db` for `def` functions."""
    return sync_dbs and sync_dbs(place[1])


@pytest.fixture
async def several(driver: str, db: Any) -> AsyncIterator[Callable[[int], list[Any]]]:
    """Return that many databases of one client."""
    given: list[Any] = []

    def give(count: int) -> list[Any]:
        given.extend(db.client[f"{db.name}_{number:02}"] for number in range(count))
        return list(given)

    yield give
    if driver != "mongomock":
        for one in given:
            await one.client.drop_database(one.name)


@pytest.fixture
def dbs(several: Callable[[int], list[Any]]) -> list[Any]:
    """Five databases of one client."""
    return several(5)
