"""The databases of the synchronous drivers."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.databases import drivers, opened


@pytest.fixture(
    params=drivers("pymongo", "mongomock"),
)
def driver(request: pytest.FixtureRequest) -> str:
    """Every driver; a test that is about one of them is parametrized with it."""
    return str(request.param)


@pytest.fixture
def db(driver: str, place: tuple[str, str]) -> Iterator[Any]:
    """A new database."""
    with opened(driver, *place) as database:
        yield database
