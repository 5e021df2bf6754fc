"""The runner of asynchronous applications: PyMongo's async client and Motor."""

from datetime import UTC, datetime
from time import perf_counter
from typing import assert_never

from quaestor.core.effects import Effect, Emit, Execute, ReadRecords, Record
from quaestor.core.events import Hook
from quaestor.core.migration import MigrationDefinition
from quaestor.runners import bodies, documents
from quaestor.runners.databases import AsyncDatabase, SyncDatabase
from quaestor.runners.drive import drive_async
from quaestor.runners.setup import Registry, Setup


class AsyncRunner:
    """Applies the migrations of a registry to one database, in an event loop.

    Args:
        registry: The migrations (a `MigrationRegistry`).
        db: The database (PyMongo's `AsyncDatabase`, Motor's `AsyncIOMotorDatabase`, or mongomock-motor's).
        prefix: Names the records collection `{prefix}_migrations` (str).
        sync_db: The same database for `def` migrations, or None. See `MigrationRegistry.run`.
        on_event: Called with every event, a frozen value (plain function); None logs them to the logger `quaestor`.

    Raises:
        InvalidDatabaseError: `db` or `sync_db` is not such a database.
        InvalidPrefixError: The prefix cannot name the collection.
        InvalidOptionError: `on_event` is not a plain function.
    """

    def __init__(
        self,
        registry: Registry,
        db: AsyncDatabase,
        prefix: str,
        *,
        sync_db: SyncDatabase | None = None,
        on_event: Hook | None = None,
    ) -> None:
        self._setup = Setup(registry, "async", db, sync_db, prefix, on_event=on_event)

    async def run(self) -> list[str]:
        """Apply all that is pending. Returns and raises what `MigrationRegistry.run` does."""
        return await drive_async(self._setup.run(), self._perform)

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case ReadRecords():
                found = self._setup.records.find({}, documents.PROJECTION, batch_size=documents.BATCH_SIZE)
                return documents.records([document async for document in found])
            case Execute(migration):
                started = perf_counter()
                await self._execute(migration)
                return perf_counter() - started
            case Record(name):
                await self._setup.records.insert_one(documents.record(name, datetime.now(UTC)))
                return None
            case Emit(event):
                return self._setup.tell(event)
            case _:
                assert_never(effect)

    async def _execute(self, migration: MigrationDefinition) -> None:
        match migration.colour:
            case "sync":
                await bodies.call_in_thread(migration, self._setup.databases["sync"])
            case "async":
                await bodies.call_async(migration, self._setup.databases["async"])
            case _:
                assert_never(migration.colour)
