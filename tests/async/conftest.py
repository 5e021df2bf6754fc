"""The databases of the asynchronous drivers."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.databases import drivers, opened, opened_async


@pytest.fixture
def anyio_backend() -> str:
    """All asynchronous drivers of MongoDB are made for asyncio."""
    return "asyncio"


@pytest.fixture(
    params=drivers("pymongo", "motor", "mongomock"),
)
def driver(request: pytest.FixtureRequest) -> str:
    """Every driver; a test that is about one of them is parametrized with it."""
    return str(request.param)


@pytest.fixture
async def db(driver: str, place: tuple[str, str]) -> AsyncIterator[Any]:
    """A new database."""
    async with opened_async(driver, *place) as database:
        if driver == "pymongo":
            # PyMongo leaves a socket unclosed if it is closed while its monitor connects: a test may need no command.
            await database.client.admin.command("ping")
        yield database


@pytest.fixture
def sync_db(driver: str, place: tuple[str, str]) -> Iterator[Any]:
    """The same database for `def` migrations; None where `db` has one of its own."""
    if driver == "pymongo":
        with opened(driver, *place) as database:
            yield database
    else:
        yield None
