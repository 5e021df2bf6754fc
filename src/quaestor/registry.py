"""What users hold: the registry of their migrations, and the two calls that apply them."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from quaestor._core.definition import MigrationDefinition, checked_name, summary, wants_context
from quaestor._core.lease import DEFAULT_TTL
from quaestor._core.plan import check_known
from quaestor.errors import DuplicateMigrationError

if TYPE_CHECKING:  # the registry loads no driver and is quick: the runners are imported when they are first used
    from quaestor._core.many import DatabaseResult
    from quaestor._mongo.drivers import AsyncDatabase, SyncDatabase
    from quaestor.context import AsyncMigrationContext, MigrationContext
    from quaestor.events import Hook

# Any: the database of whichever driver
F = TypeVar(
    "F",
    bound="Callable[[Any], object] | Callable[[Any, MigrationContext], object] "
    "| Callable[[Any, AsyncMigrationContext], Awaitable[object]]",
)


class MigrationRegistry:
    """Collects named migrations and applies those that a database does not have yet.

    Example::

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
        self,
        name: str,
        depends_on: Sequence[str] | None = None,
        *,
        transaction: bool = False,
        description: str | None = None,
    ) -> Callable[[F], F]:
        """A decorator that registers a function as a migration and returns it unchanged.

        The function is called with the database; and with a `MigrationContext`, if it has a second argument without a
        default (an `async def` function with an `AsyncMigrationContext`).

        An `async def` function runs on the asynchronous database, any other on the synchronous one. A `def` around an
        `async def` (by functools.wraps) counts as asynchronous too, for nearly all of them return what they wrap.

        Args:
            name: What it is recorded under (str): choose it for good, a renamed migration is a new one.
            depends_on: The names of migrations to apply before it (list of str), registered before or after it.
            transaction: Whether all that the function does through the database it is given, in its own thread or task,
                and its record are one transaction (bool): applied together and exactly once. It may be called several
                times, does one operation after the other, and can do what MongoDB allows in a transaction. The same
                goes for its rollback.
            description: What it does, in one line (str); None: the first line of the function's docstring.

        Raises:
            InvalidMigrationError: The name, the dependencies or the function cannot be used.
            DuplicateMigrationError: The name is taken.
            CircularDependencyError: It depends on itself.
        """
        checked_name(name)  # at once, so that `@registry.register` without its argument is found

        def decorator(function: F) -> F:
            definition = MigrationDefinition(
                name,
                function,
                [] if depends_on is None else depends_on,
                transaction=transaction,
                description=summary(function) if description is None else description,
            )
            if definition.name in self._migrations:
                raise DuplicateMigrationError(definition.name, _origin(self._migrations[definition.name].execute))
            self._migrations[definition.name] = definition
            return function

        return decorator

    def register_rollback(self, name: str) -> Callable[[F], F]:
        """A decorator that registers the function which undoes a migration, and returns it unchanged.

        It is called like the migration's own, and may be `async def` where that is `def`, or the other way round.

        Args:
            name: The migration (str), which is registered before.

        Raises:
            UnknownMigrationError: There is no such migration yet.
            InvalidMigrationError: The name or the function cannot be used.
            DuplicateMigrationError: The migration has a rollback.
        """
        known = checked_name(name, "register_rollback")
        check_known([known], self._migrations)

        def decorator(function: F) -> F:
            wants_context(f"The rollback of migration {known!r}", function)  # also None, which stands for none
            definition = self._migrations[known]
            if definition.rollback is not None:
                raise DuplicateMigrationError(known, _origin(definition.rollback), rollback=True)
            self._migrations[known] = dataclasses.replace(definition, rollback=function)
            return function

        return decorator

    def discover(self, package: str) -> list[str]:
        """Import a package and every module in it, nested ones too, in sorted order, so that decorators run.

        In the package itself call it last, as `registry.discover(__name__)`, for its modules import the registry.

        Args:
            package: The dotted name (str), such as "myapp.migrations"; the name of a module is good too.

        Returns:
            The names of the modules imported (list of str), in order.

        Raises:
            Exception: What a module raised, as it is, with a note of which module it was.
        """
        from quaestor.discovery import discover  # late: most programs import their migrations by themselves

        return discover(package)

    async def run(
        self,
        db: AsyncDatabase,
        prefix: str,
        *,
        sync_db: SyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 1,
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
            targets: Apply these (list of str) and what they need, and nothing else; None: all that is pending.
            strict: Whether to refuse a database that has migrations recorded which are not registered (bool): an older
                release on a newer database. Else that is said in a warning.
            concurrency: How many migrations may run at the same time (int, from 1 to 100) that do not need each other:
                each begins when what it needs is recorded and fewer than that are running, `def` functions in a thread
                of their own, `async def` functions in a task. 1: one after the other. After a failure, an interruption
                or a cancellation nothing more begins; what is running comes to its end, and is recorded if it does well
                (on Ctrl-C and cancellation `async def` functions are cancelled, and passes end after their batch).

        Returns:
            The names applied by this call, in the order of the plan.

        Raises:
            MissingDependencyError, CircularDependencyError: The graph is not sound; nothing was sent to the server.
            InvalidDatabaseError, InvalidPrefixError, InvalidOptionError: An argument cannot be used; likewise.
            UnknownMigrationError: A target is not registered; likewise.
            UnknownRecordsError: `strict`, and records are of no registered migration; nothing has run.
            MissingDatabaseError: `def` migrations are pending and there is no `sync_db`; nothing has run.
            RecordConflictError: A migration could not be recorded; nothing has run.
            TransactionsUnsupportedError: transaction=True, and the server has no transactions; nothing has run.
            LeaseTimeoutError: Another instance migrated for longer than `lease_timeout`; nothing has run here.
            LeaseLostError: Another instance may hold the lease by now; nothing more was started or recorded.
            TransactionFailedError: The server aborted a migration's transaction again and again.
            UnfinishedMigrationError: A function returned a generator, or a `def` function an awaitable.
            Exception: What a migration or the driver raised, as it is. A migration's carries a note with its name.
            ExceptionGroup: `concurrency` is more than 1, and so are the failures: all of these.
        """
        from quaestor._hosts.asynchronous import AsyncRunner

        return await AsyncRunner(
            self,
            db,
            prefix,
            sync_db=sync_db,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
        ).run(targets, strict=strict, concurrency=concurrency)

    def run_sync(
        self,
        db: SyncDatabase,
        prefix: str,
        *,
        async_db: AsyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 1,
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
            targets: As for `run`.
            strict: As for `run`.
            concurrency: As for `run`. `async def` functions run in tasks of one event loop.

        Returns:
            The names applied by this call, in order.

        Raises:
            MissingDatabaseError: `async def` migrations are pending and there is no `async_db`; nothing has run.
            Exception: All else as `run`.
        """
        from quaestor._hosts.sync import SyncRunner

        return SyncRunner(
            self,
            db,
            prefix,
            async_db=async_db,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
        ).run(targets, strict=strict, concurrency=concurrency)

    async def run_many(
        self,
        databases: Iterable[AsyncDatabase],
        prefix: str,
        *,
        sync_db: Callable[[str], SyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 8,
    ) -> list[DatabaseResult]:
        """Apply all that is pending in many databases: one for each tenant, say. Each has a lease and records of its
        own; where one fails the others go on.

        Args:
            databases: The databases (list of what `run` takes), of one client or of several.
            prefix: As for `run`.
            sync_db: Gives the same database for `def` migrations by its name (function), such as
                `sync_client.get_database`; or None. With Motor it is not needed.
            on_event: As for `run`; an event says of which database it is.
            lease_ttl: As for `run`.
            lease_timeout: As for `run`.
            targets: As for `run`.
            strict: As for `run`.
            concurrency: How many databases are migrated at the same time (int, from 1 to 100). In each of them one
                migration runs after the other.

        Returns:
            One result for each, in the order given, with `.database` (its name), `.applied` (names, in the order in
            which they were recorded) and `.error` (None, or what `run` would have raised).

        Raises:
            MissingDependencyError, CircularDependencyError: The graph is not sound; nothing was sent to a server.
            InvalidDatabaseError, InvalidPrefixError, InvalidOptionError: An argument cannot be used; likewise.
            UnknownMigrationError: A target is not registered; likewise.
            BaseException: A cancellation, likewise Ctrl-C: no other database is begun then, and in those under way the
                run is cancelled, or ends after the migration that it is in. The results so far are told by events
                alone (`DatabaseFinished`).
        """
        from quaestor._hosts.many import Options, run_many_async

        options = Options(prefix, on_event, lease_ttl, lease_timeout, targets, strict, concurrency)
        return await run_many_async(self, databases, sync_db, options)

    def run_many_sync(
        self,
        databases: Iterable[SyncDatabase],
        prefix: str,
        *,
        async_db: Callable[[str], AsyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 8,
    ) -> list[DatabaseResult]:
        """The same as `run_many`, with plain calls, for PyMongo's `Database` and mongomock's.

        Args:
            databases: The databases (list of what `run_sync` takes). They are migrated in threads.
            prefix: As for `run_many`.
            async_db: Gives the same database for `async def` migrations by its name (function), with a client of its
                own for each, such as `lambda name: AsyncMongoClient(uri)[name]`; or None. See `run_sync`.
            on_event: As for `run_many`.
            lease_ttl: As for `run_many`.
            lease_timeout: As for `run_many`.
            targets: As for `run_many`.
            strict: As for `run_many`.
            concurrency: As for `run_many`.

        Returns:
            One result for each, in the order given.

        Raises:
            Exception: As `run_many`.
        """
        from quaestor._hosts.many import Options, run_many

        options = Options(prefix, on_event, lease_ttl, lease_timeout, targets, strict, concurrency)
        return run_many(self, databases, async_db, options)


def _origin(registered: Callable[..., object]) -> str:
    function = getattr(registered, "func", registered)  # a partial says nothing by itself
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
