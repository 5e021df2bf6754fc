"""The runner of synchronous applications: PyMongo and mongomock."""

from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import assert_never

from quaestor.core.effects import Effect, Emit, Execute, ReadRecords, Record
from quaestor.core.events import Hook
from quaestor.core.migration import MigrationDefinition
from quaestor.runners import bodies, documents
from quaestor.runners.databases import AsyncDatabase, SyncDatabase
from quaestor.runners.drive import drive
from quaestor.runners.setup import Registry, Setup


class SyncRunner:
    """Applies the migrations of a registry to one database, with plain calls.

    Args:
        registry: The migrations (a `MigrationRegistry`).
        db: The database (PyMongo's `Database`, or mongomock's).
        prefix: Names the records collection `{prefix}_migrations` (str).
        async_db: The same database for `async def` migrations, or None. See `MigrationRegistry.run_sync`.
        on_event: Called with every event, a frozen value (plain function); None logs them to the logger `quaestor`.

    Raises:
        InvalidDatabaseError: `db` or `async_db` is not such a database.
        InvalidPrefixError: The prefix cannot name the collection.
        InvalidOptionError: `on_event` is not a plain function.
    """

    def __init__(
        self,
        registry: Registry,
        db: SyncDatabase,
        prefix: str,
        *,
        async_db: AsyncDatabase | None = None,
        on_event: Hook | None = None,
    ) -> None:
        self._setup = Setup(registry, "sync", db, async_db, prefix, on_event=on_event)

    def run(self) -> list[str]:
        """Apply all that is pending. Returns and raises what `MigrationRegistry.run_sync` does."""
        with closing(bodies.Portal(self._setup.databases.get("async"))) as portal:
            return drive(self._setup.run(), partial(self._perform, portal))

    def _perform(self, portal: bodies.Portal, effect: Effect) -> object:
        match effect:
            case ReadRecords():
                found = self._setup.records.find({}, documents.PROJECTION, batch_size=documents.BATCH_SIZE)
                return documents.records(found)
            case Execute(migration):
                started = perf_counter()
                self._execute(portal, migration)
                return perf_counter() - started
            case Record(name):
                self._setup.records.insert_one(documents.record(name, datetime.now(UTC)))
                return None
            case Emit(event):
                return self._setup.tell(event)
            case _:
                assert_never(effect)

    def _execute(self, portal: bodies.Portal, migration: MigrationDefinition) -> None:
        match migration.colour:
            case "sync":
                bodies.call(migration, self._setup.databases["sync"])
            case "async":
                portal.call(migration)
            case _:
                assert_never(migration.colour)
