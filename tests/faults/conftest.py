"""A server that these tests break, and applications on it with every driver."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.faults.applications import COMMANDS, DRIVERS, Application, Failing, application
from tests.faults.instance import Instance, Orders, Start
from tests.faults.works import WORKS, prepared
from tools.faults import Fault, fail_command
from tools.mongod import NoServerError
from tools.replica_set import ReplicaSet, replica_set


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="play the chaos in its long form (tests/faults/chaos.py), and kill at every step with every driver",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore the sockets that the drivers leave to the garbage collector when connecting fails; allow more time."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(r"ignore:unclosed (<socket|transport):ResourceWarning"))
            if item.get_closest_marker("timeout") is None:  # otherwise it would override that of a module
                item.add_marker(pytest.mark.timeout(300))


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether everything is tried, with every driver."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def uri() -> Iterator[str]:
    """The URI of a replica set of one, started for these tests: only such a server can be made to fail."""
    try:
        with replica_set(nodes=1) as group:
            yield group.uri
    except NoServerError as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """The URI of a server that wants a password, with a user who may do everything."""
    with replica_set(nodes=1, auth=True) as group:
        yield group.uri


@pytest.fixture(scope="module")
def members() -> Iterator[ReplicaSet]:
    """Three nodes."""
    with replica_set(nodes=3) as group:
        yield group


@pytest.fixture
def group(members: ReplicaSet) -> ReplicaSet:
    """All three, whatever the last test did to them."""
    members.restart()
    return members


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


@pytest.fixture
def other(driver: str, uri: str, name: str) -> Application:
    """Another instance, with a client of its own."""
    return application(driver, uri, name, appname="other")


@pytest.fixture
def failing(uri: str, name: str) -> Failing:
    """Makes a command of COMMANDS fail, for the application alone."""

    def fail(command: str, **fault: Any) -> AbstractContextManager[Fault]:
        verb, collection = COMMANDS[command]
        return fail_command(uri, [verb], namespace=f"{name}.{collection}", appName="app", **fault)

    return fail


@pytest.fixture
def orders(driver: str, uri: str, name: str) -> Orders:
    """Orders to run WORKS."""
    return Orders(driver=driver, uri=uri, database=name, works=WORKS)


@pytest.fixture
def work_db(orders: Orders) -> Iterator[Any]:
    """The database of these orders, as the test itself looks at it."""
    with prepared(orders.uri, orders.database, orders.works) as db:
        yield db


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts an instance; it ends with the test, at the latest."""
    with ExitStack() as stack:

        def start(orders: Orders, **options: Any) -> Instance:
            return stack.enter_context(Instance(orders, **options))

        yield start
