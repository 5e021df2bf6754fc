"""What all tests share: the choice of drivers, and the server that those of real drivers run on."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from pymongo import MongoClient

from tools import mongod

settings.register_profile("untimed", deadline=None)  # how long an example takes is not what is tested
settings.load_profile("untimed")

DRIVERS = ("pymongo", "motor", "mongomock")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--drivers", help=f"run the tests that touch a database with these alone, of {','.join(DRIVERS)} (default: all)"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --drivers, look only where the tests that touch a database are: the others need what is not installed."""
    if config.getoption("--drivers") is None or collection_path.is_dir():
        return None
    return True if collection_path.parent.name not in {"async", "sync"} else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --drivers, keep the tests that are about a database and use no other driver."""
    chosen = config.getoption("--drivers")
    if chosen is None:
        return
    others = set(DRIVERS) - set(chosen.split(","))

    def kept(item: pytest.Item) -> bool:
        needed = {mark.args[0] for mark in item.iter_markers("driver")}
        return bool(needed) and not needed & others

    config.hook.pytest_deselected(items=[item for item in items if not kept(item)])
    items[:] = [item for item in items if kept(item)]


@pytest.fixture(scope="session")
def uri() -> Iterator[str]:
    """The URI of a real server. Where none can be had the tests end at once, failed, and say what to do."""
    try:
        with mongod.server() as address:
            yield address
    except mongod.NoServerError as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture
def name(uri: str) -> Iterator[str]:
    """The name of a new database on the real server, dropped in the end."""
    unused = f"quaestor_test_{uuid.uuid4().hex[:12]}"
    yield unused
    with MongoClient(uri) as client:
        client.drop_database(unused)


@pytest.fixture
def place(request: pytest.FixtureRequest, driver: str) -> tuple[str, str]:
    """The URI and the name of a new database for this driver; the mocks need no server."""
    if driver == "mongomock":
        return "", "quaestor_test"
    return request.getfixturevalue("uri"), request.getfixturevalue("name")
