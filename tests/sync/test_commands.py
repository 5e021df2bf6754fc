"""What a run sends to the server, and with which guarantees."""

from collections.abc import Iterator
from typing import Any

import pytest

from quaestor import MigrationRegistry
from tests.databases import drivers, opened
from tests.functions import nothing
from tools.commands import Commands

pytestmark = pytest.mark.parametrize("driver", drivers("pymongo"))


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def db(driver: str, uri: str, name: str, commands: Commands) -> Iterator[Any]:
    """A database whose client is watched, and whose defaults are the weakest there are."""
    options = {"w": 0, "readPreference": "secondaryPreferred", "readConcernLevel": "local"}
    with opened(driver, uri, name, event_listeners=[commands], **options) as database:
        yield database


def migrations(count: int) -> MigrationRegistry:
    registry = MigrationRegistry()
    for number in range(count):
        registry.register(f"migration_{number:04}")(nothing)
    return registry


def test_nothing_to_do_is_one_command(db: Any, commands: Commands) -> None:
    """With all of 200 applied a run is one find, answered in one batch."""
    migrations(200).run_sync(db, "app")
    commands.sent.clear()

    assert migrations(200).run_sync(db, "app") == []

    assert commands.names == ["find"]


def test_applying_is_a_read_and_a_write_each(db: Any, commands: Commands) -> None:
    """N migrations cost one find and N inserts besides their own commands."""
    migrations(7).run_sync(db, "app")

    assert commands.names == ["find"] + ["insert"] * 7


def test_majority_on_the_primary(db: Any, commands: Commands) -> None:
    """Records are read and written with majority concern on the primary, whatever the client's defaults are."""
    migrations(1).run_sync(db, "app")

    find, insert = commands.sent
    assert (find["find"], insert["insert"]) == ("app_migrations", "app_migrations")
    assert find["readConcern"]["level"] == "majority"
    assert insert["writeConcern"] == {"w": "majority"}
    assert find.get("$readPreference", {"mode": "primary"})["mode"] == "primary"


def test_unsound_graph_sends_nothing(db: Any, commands: Commands) -> None:
    """An unsound graph is refused before the first command, pending or not."""
    unsound = MigrationRegistry()
    unsound.register("a", depends_on=["b"])(nothing)

    with pytest.raises(ValueError, match="not registered"):
        unsound.run_sync(db, "app")
    unsound.register("b", depends_on=["a"])(nothing)
    with pytest.raises(ValueError, match="Circular dependency: a -> b -> a"):
        unsound.run_sync(db, "app")

    assert commands.sent == []


def test_own_codec(driver: str, uri: str, name: str) -> None:
    """Options of the user's client that change what documents look like do not touch the records."""
    from bson.raw_bson import RawBSONDocument

    with opened(driver, uri, name, document_class=RawBSONDocument, tz_aware=True) as db:
        migrations(2).run_sync(db, "app")
        assert migrations(3).run_sync(db, "app") == ["migration_0002"]
