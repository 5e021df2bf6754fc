"""Runners for the settings of a command, as long as the command needs them.

Always synchronous ones: they call functions of both colours, given a database for each, and the command line has no
event loop of its own. An address `mongomock://` stands for an empty database in memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from quaestor._core.definition import Colour, colour_of
from quaestor._core.lease import DEFAULT_TTL
from quaestor._hosts.sync import SyncRunner
from quaestor.cli.settings import MOCK, CommandError, Settings
from quaestor.events import Hook
from quaestor.registry import MigrationRegistry

_WAITING_OPTION = "serverSelectionTimeoutMS"
_WAITING = 10_000  # milliseconds for a server to be found: a person is waiting


@dataclass(frozen=True)
class Server:
    """The databases of a server.

    Attributes:
        db: The synchronous database of a name (function).
        async_db: The asynchronous one, with a client of its own for each (function); None if none will be asked for.
        names: The names of those that there are, and that the user may see (function that returns a list of str).
    """

    db: Callable[[str], Any]
    async_db: Callable[[str], Any] | None
    names: Callable[[], list[str]]

    def runner(
        self,
        registry: MigrationRegistry,
        db: str,
        prefix: str,
        on_event: Hook,
        *,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
    ) -> SyncRunner:
        """A runner for the registry and the database of this name."""
        return SyncRunner(
            registry,
            self.db(db),
            prefix,
            async_db=None if self.async_db is None else self.async_db(db),
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
        )


@contextmanager
def connected(registry: MigrationRegistry, settings: Settings) -> Iterator[Server]:
    """The server of the settings, for the migrations of the registry."""
    colours = _colours(registry)
    if settings.uri.startswith(MOCK):
        yield _mock(colours)
        return
    # An option of the URI would be overridden by one given beside it.
    waiting: dict[str, Any] = {} if _WAITING_OPTION.lower() in settings.uri.lower() else {_WAITING_OPTION: _WAITING}

    def async_db(name: str) -> Any:
        # Made in no event loop: it belongs to that of the runner, which closes it with its loop.
        return AsyncMongoClient[dict[str, Any]](settings.uri, **waiting)[name]

    with MongoClient[dict[str, Any]](settings.uri, **waiting) as client:
        yield Server(
            client.get_database,
            async_db if "async" in colours else None,
            lambda: [db["name"] for db in client.list_databases(nameOnly=True, authorizedDatabases=True)],
        )


def _colours(registry: MigrationRegistry) -> set[Colour]:
    functions = [
        function
        for migration in registry.migrations.values()
        for function in (migration.execute, migration.rollback)
        if function is not None
    ]
    return set(map(colour_of, functions))


def _mock(colours: set[Colour]) -> Server:
    try:
        import mongomock

        client: Any = mongomock.MongoClient()
        if "async" not in colours:
            return Server(client.get_database, None, client.list_database_names)
        import mongomock_motor
    except ModuleNotFoundError as error:
        package = (error.name or "").replace("_", "-")
        raise CommandError(f"{MOCK} needs {package}. Install it: pip install {package}") from error
    asynchronous: Any = mongomock_motor.AsyncMongoMockClient(mock_mongo_client=client)
    return Server(client.get_database, asynchronous.get_database, client.list_database_names)
