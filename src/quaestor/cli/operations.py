"""A runner for the settings of a command, as long as the command needs it.

Always a synchronous one: it calls functions of both colours, given a database for each, and the command line has no
event loop of its own. An address `mongomock://` stands for an empty database in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from quaestor.cli.settings import MOCK, CommandError, Settings
from quaestor.core.events import Hook
from quaestor.core.lease import DEFAULT_TTL
from quaestor.core.migration import Colour, colour_of
from quaestor.registry import MigrationRegistry
from quaestor.runners.sync import SyncRunner

_WAITING_OPTION = "serverSelectionTimeoutMS"
_WAITING = 10_000  # milliseconds for a server to be found: a person is waiting


@contextmanager
def opened(
    registry: MigrationRegistry,
    settings: Settings,
    on_event: Hook,
    *,
    lease_ttl: float = DEFAULT_TTL,
    lease_timeout: float | None = None,
) -> Iterator[SyncRunner]:
    """A runner for the registry and the database of the settings."""
    with _databases(settings, _colours(registry)) as (db, async_db):
        yield SyncRunner(
            registry,
            db,
            settings.prefix,
            async_db=async_db,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
        )


def _colours(registry: MigrationRegistry) -> set[Colour]:
    functions = [
        function
        for migration in registry.migrations.values()
        for function in (migration.execute, migration.rollback)
        if function is not None
    ]
    return set(map(colour_of, functions))


@contextmanager
def _databases(settings: Settings, colours: set[Colour]) -> Iterator[tuple[Any, Any]]:
    """The synchronous database; and the asynchronous one if it will be asked for, else None."""
    if settings.uri.startswith(MOCK):
        yield _mocks(settings, colours)
        return
    # An option of the URI would be overridden by one given beside it.
    waiting: dict[str, Any] = {} if _WAITING_OPTION.lower() in settings.uri.lower() else {_WAITING_OPTION: _WAITING}
    with MongoClient[dict[str, Any]](settings.uri, **waiting) as client:
        # Made in no event loop: it belongs to that of the runner, which closes it with its loop.
        asynchronous = AsyncMongoClient[dict[str, Any]](settings.uri, **waiting) if "async" in colours else None
        yield client[settings.db], None if asynchronous is None else asynchronous[settings.db]


def _mocks(settings: Settings, colours: set[Colour]) -> tuple[Any, Any]:
    try:
        import mongomock

        client: Any = mongomock.MongoClient()
        if "async" not in colours:
            return client[settings.db], None
        import mongomock_motor
    except ModuleNotFoundError as error:
        package = (error.name or "").replace("_", "-")
        raise CommandError(f"{MOCK} needs {package}. Install it: pip install {package}") from error
    return client[settings.db], mongomock_motor.AsyncMongoMockClient(mock_mongo_client=client)[settings.db]
