"""What users hold: the registry of their migrations, and the two calls that apply them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from quaestor.core.lease import DEFAULT_TTL
from quaestor.core.migration import MigrationDefinition, checked_name
from quaestor.errors import DuplicateMigrationError

if TYPE_CHECKING:  # the registry loads no driver: the runners are imported when they are first used
    from quaestor.core.events import Hook
    from quaestor.runners.databases import AsyncDatabase, SyncDatabase

F = TypeVar("F", bound=Callable[[Any], object])  # Any: the database of whichever driver


class MigrationRegistry:
    """Collects named migrations and applies those that a database does not have yet.

    Example:
        registry = MigrationRegistry()

        @registry.register("create_users_index")
        def create_users_index(db):
            db.users.create_index("email", unique=True)

        applied = registry.run_sync(db, "myapp")
    """

    def __init__(self) -> None:
        self._migrations: dict[str, MigrationDefinition] = {}

    @property
    def migrations(self) -> Mapping[str, MigrationDefinition]:
        """All registered migrations by name, in the order of registration. Read-only."""
        return MappingProxyType(self._migrations)

    def register(
        self, name: str, depends_on: Sequence[str] | None = None, *, transaction: bool = False
    ) -> Callable[[F], F]:
        """A decorator that registers a function as a migration and returns it unchanged.

        An `async def` function runs on the asynchronous database, any other on the synchronous one. A `def` around an
        `async def` (by functools.wraps) counts as asynchronous too, for nearly all of them return what they wrap.

        Args:
            name: What it is recorded under (str): choose it for good, a renamed migration is a new one.
            depends_on: The names of migrations to apply before it (list of str), registered before or after it.
            transaction: Whether all that the function does through the database it is given, in its own thread or task,
                and its record are one transaction (bool): applied together and exactly once. It may be called several
                times, does one operation after the other, and can do what MongoDB allows in a transaction.

        Raises:
            InvalidMigrationError: The name, the dependencies or the function cannot be used.
            DuplicateMigrationError: The name is taken.
            CircularDependencyError: It depends on itself.
        """
        checked_name(name)  # at once, so that `@registry.register` without its argument is found

        def decorator(function: F) -> F:
            definition = MigrationDefinition(
                name, function, [] if depends_on is None else depends_on, transaction=transaction
            )
            if definition.name in self._migrations:
                raise DuplicateMigrationError(definition.name, _origin(self._migrations[definition.name]))
            self._migrations[definition.name] = definition
            return function

        return decorator

    async def run(
        self,
        db: AsyncDatabase,
        prefix: str,
        *,
        sync_db: SyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
    ) -> list[str]:
        """Apply all that is pending, dependencies first; of those that are ready, the alphabetically first.

        One instance at a time migrates a database and prefix: the others wait for it, and return an empty list when it
        has done the work.

        Args:
            db: The database (PyMongo's `AsyncDatabase`, Motor's `AsyncIOMotorDatabase`, or mongomock-motor's).
            prefix: Names the collections `{prefix}_migrations` (the records) and `{prefix}_migrations_lock` (str).
            sync_db: The same database for `def` migrations (PyMongo's `Database`), which run in a worker thread; or
                None. With Motor it is not needed.
            on_event: Called with every event, a frozen value (plain function); None logs them to the logger `quaestor`.
            lease_ttl: How long the lease of a process that was killed keeps others waiting (float, seconds, from 1 to
                86,400). It is renewed after every third of that time.
            lease_timeout: How long to wait for another instance (float, seconds); None: for as long as it takes.

        Returns:
            The names applied by this call, in order.

        Raises:
            MissingDependencyError, CircularDependencyError: The graph is not sound; nothing was sent to the server.
            InvalidDatabaseError, InvalidPrefixError, InvalidOptionError: An argument cannot be used; likewise.
            MissingDatabaseError: `def` migrations are pending and there is no `sync_db`; nothing has run.
            RecordConflictError: A migration could not be recorded; nothing has run.
            TransactionsUnsupportedError: transaction=True, and the server has no transactions; nothing has run.
            LeaseTimeoutError: Another instance migrated for longer than `lease_timeout`; nothing has run here.
            LeaseLostError: Another instance may hold the lease by now; nothing more was started or recorded.
            TransactionFailedError: The server aborted a migration's transaction again and again.
            UnfinishedMigrationError: A function returned a generator, or a `def` function an awaitable.
            Exception: What a migration or the driver raised, as it is. A migration's carries a note with its name.
        """
        from quaestor.runners.asynchronous import AsyncRunner

        return await AsyncRunner(
            self,
            db,
            prefix,
            sync_db=sync_db,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
        ).run()

    def run_sync(
        self,
        db: SyncDatabase,
        prefix: str,
        *,
        async_db: AsyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
    ) -> list[str]:
        """The same as `run`, with plain calls, for PyMongo's `Database` and mongomock's.

        Args:
            db: The database (PyMongo's `Database`, or mongomock's).
            prefix: Names the collections `{prefix}_migrations` (the records) and `{prefix}_migrations_lock` (str).
            async_db: The same database for `async def` migrations (PyMongo's `AsyncDatabase` or Motor's), which run in
                an event loop that lasts as long as the call; or None. Drivers tie a client to the loop in which it is
                first used, so give every call one of its own; PyMongo's is closed with the loop, once there was one.
            on_event: As for `run`.
            lease_ttl: As for `run`.
            lease_timeout: As for `run`.

        Returns:
            The names applied by this call, in order.

        Raises:
            MissingDatabaseError: `async def` migrations are pending and there is no `async_db`; nothing has run.
            Exception: All else as `run`.
        """
        from quaestor.runners.sync import SyncRunner

        return SyncRunner(
            self,
            db,
            prefix,
            async_db=async_db,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
        ).run()


def _origin(definition: MigrationDefinition) -> str:
    function = getattr(definition.execute, "func", definition.execute)  # a partial says nothing by itself
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
