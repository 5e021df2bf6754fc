"""A server that these tests break, and applications on it with every driver."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.faults.applications import DRIVERS, Application, application
from tools.mongod import NoServerError
from tools.replica_set import replica_set


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="play the chaos in its long form (tests/faults/chaos.py)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave alone the sockets that the drivers leave to the garbage collector when connecting fails."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(r"ignore:unclosed (<socket|transport):ResourceWarning"))


@pytest.fixture(scope="session")
def uri() -> Iterator[str]:
    """The URI of a replica set of one, started for these tests: only such a server can be made to fail."""
    try:
        with replica_set(nodes=1) as group:
            yield group.uri
    except NoServerError as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture
def db(uri: str, name: str) -> Iterator[Any]:
    """The database of the test, as the test itself looks at it."""
    with MongoClient(uri) as client:
        yield client[name]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Every driver that needs a server."""
    return str(request.param)


@pytest.fixture
def app(driver: str, uri: str, name: str) -> Application:
    """The application that meets the faults."""
    return application(driver, uri, name)
