"""The runners: run, plan, status, verify, rollback, mark, import and unlock. Each `MigrationRegistry.run` uses one."""

import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from quaestor._author import find_release, make_author
from quaestor._core import engine as operations
from quaestor._core.catalog import Catalog
from quaestor._core.definition import check_concurrency
from quaestor._core.engine import Engine, Operation, Scope
from quaestor._core.imports import Source, make_source
from quaestor._core.lease import Terms
from quaestor._core.phases import Selection
from quaestor._core.undo import Undo
from quaestor._functions import MongoFunctions
from quaestor._hosts.calls import guard
from quaestor._hosts.loop import LoopHost
from quaestor._hosts.threads import ThreadHost, run_to_completion
from quaestor._mongo.drivers import check_databases, close_client
from quaestor._mongo.mongo_store import MongoStore, check_prefix
from quaestor._source import compute_checksum
from quaestor.databases import AsyncDatabase, SyncDatabase
from quaestor.events import Hook
from quaestor.status import (
    DEFAULT_PATIENCE,
    DEFAULT_TTL,
    HistoryEntry,
    ImportResult,
    Lease,
    Phase,
    PinnedPlan,
    PlannedMigration,
    Status,
    Tool,
)

if TYPE_CHECKING:  # the registry imports the runners
    from quaestor.registry import MigrationRegistry


MakeOperation: TypeAlias = Callable[[Scope], Operation]
"""Makes an operation. It checks the arguments, and that the dependencies can be put in order."""


def make_scope(registry: "MigrationRegistry", kinds: Collection[bool], terms: Terms) -> Scope:
    """Make the scope of one operation. Migrations that are registered later belong to the next one."""
    catalog = Catalog(dict(registry.migrations), frozenset(registry.retired))
    return Scope(catalog, kinds, terms, partial(datetime.now, UTC))


def make_run_id() -> str:
    """Make the id of a run: short enough for a line of a log, and never made twice."""
    return secrets.token_hex(8)


def _make_source(catalog: Catalog, tool: object, names: object, collection: object, timezone: object) -> Source:
    from quaestor.adapters import find_adapter  # late: once in the life of a database

    return make_source(find_adapter(tool), catalog, names=names, collection=collection, timezone=timezone)


class _Runner:
    """The checked arguments of a runner. `other_db` is the database of the other kind of function."""

    _is_async: bool

    def __init__(
        self,
        registry: "MigrationRegistry",
        db: Any,
        other_db: Any,
        prefix: str,
        on_event: Hook | None,
        *,
        release: str | None,
        terms: Terms,
    ) -> None:
        self._databases = check_databases(db, other_db, is_async=self._is_async)
        self._db = db
        self._prefix = check_prefix(prefix, db.name)
        self._emit = guard(on_event)
        self._release = find_release(release)
        self._terms = terms
        self._registry = registry
        self._ids: tuple[str, str] | None = None  # of a part of a run over many databases

    def _open(self, concurrency: int = 1) -> Engine:
        """Make the engine of one operation, which acquires the lease as an owner of its own."""
        run, owner = self._ids or [make_run_id()] * 2
        terms = replace(self._terms, owner=owner, is_concurrent=concurrency > 1)
        author = make_author(run, self._release)
        host = LoopHost() if self._is_async else ThreadHost(partial(close_client, self._databases.get(True)))
        scope = make_scope(self._registry, self._databases.keys(), terms)
        store = MongoStore(self._db, self._prefix, terms, author, host=host, emit=self._emit)
        functions = MongoFunctions(self._databases, self._prefix, terms, author, host=host, emit=self._emit)
        return Engine(scope, store, host, functions)


def perform_part(runner: "AsyncRunner | SyncRunner", make_operation: MakeOperation, run: str, number: int) -> Any:
    """Perform an operation as a part of one over many databases, among which the runner's own has this number.

    Returns what the methods of the runner return.
    """
    # The same database may be there twice, so the id of the run alone is no owner of a lease.
    runner._ids = (run, f"{run}-{number}")  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
    engine = runner._open()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - likewise
    return runner._perform(engine, make_operation(engine.scope))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


class AsyncRunner(_Runner):
    """Applies, rolls back and inspects the migrations of a registry in one database, in an event loop.

    Args:
        registry: The migrations.
        db: The database (PyMongo's `AsyncDatabase`, Motor's `AsyncIOMotorDatabase`, or mongomock-motor's).
        prefix: Names the application's own collections. See `MigrationRegistry.run`.
        sync_db: The same database for `def` migrations, or None. See `MigrationRegistry.run`.
        on_event: Called with every event. Defaults to `log_event`, which logs them to the logger `quaestor`.
        lease_ttl, lease_timeout, patience: Times in seconds. See `MigrationRegistry.run`.
        release: The release of the application, for the records. See `MigrationRegistry.run`.

    Raises:
        InvalidDatabaseError: `db` or `sync_db` isn't such a database.
        InvalidPrefixError: The prefix can't name collections.
        InvalidOptionError: `on_event` isn't a plain function, or a number of seconds or the release isn't valid.
    """

    _is_async = True

    def __init__(
        self,
        registry: "MigrationRegistry",
        db: AsyncDatabase,
        prefix: str = "app",
        *,
        sync_db: SyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE,
        release: str | None = None,
    ) -> None:
        terms = Terms(lease_ttl, lease_timeout, patience)
        super().__init__(registry, db, sync_db, prefix, on_event, release=release, terms=terms)

    def run(
        self,
        targets: Collection[str] | None = None,
        *,
        strict: bool = False,
        concurrency: int = 1,
        retry: Collection[str] = (),
        plan_id: str | None = None,
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> Coroutine[Any, Any, list[str]]:
        """Apply pending migrations. The arguments, the result and the errors are those of `MigrationRegistry.run`."""
        check_concurrency(concurrency)
        selection = Selection(targets, strict, retry, phase, steps, ignore_delays)
        engine = self._open(concurrency)
        return self._perform(engine, operations.run(engine.scope, selection, concurrency=concurrency, plan_id=plan_id))

    def plan(
        self,
        targets: Collection[str] | None = None,
        *,
        strict: bool = False,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> Coroutine[Any, Any, list[PlannedMigration]]:
        """Return what `run` would do, in order, and why. No lease is acquired, and nothing is written.

        It is one read; with an after_crash="stop" migration in the plan, two or three.

        Returns:
            One value for each migration, with its `reason`: in order, those that would be applied, then those that
            would wait (`is_waiting`).

        Raises:
            Exception: Whatever `run` would raise before the first function.
        """
        selection = Selection(targets, strict, retry, phase, steps, ignore_delays)
        engine = self._open()
        return self._explain(engine, operations.run(engine.scope, selection))

    def pin(
        self,
        targets: Collection[str] | None = None,
        *,
        strict: bool = False,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> Coroutine[Any, Any, PinnedPlan]:
        """Return the same plan with an id. `run` with this `plan_id` refuses any other plan.

        Raises:
            Exception: Whatever `run` would raise before the first function.
        """
        selection = Selection(targets, strict, retry, phase, steps, ignore_delays)
        engine = self._open()
        return self._pin(engine, operations.run(engine.scope, selection))

    async def status(self) -> Status:
        """Read what is applied, what is pending, and who holds the lease. No lease is acquired, and nothing is written.

        Raises:
            MissingDependencyError, CircularDependencyError: The dependencies can't be put in order; nothing was sent to
                the server.
        """
        with closing(self._open()) as engine:
            return await engine.read_status()

    async def history(self, names: Collection[str] | None = None, *, limit: int | None = None) -> list[HistoryEntry]:
        """Read who did what and when, newest first: the records ("applied"), and all that left none.

        These are failures, rollbacks, marks, unlocks, imports and restarted backfills. Of each migration's failures, at
        most 1,000 are kept.

        Args:
            names: Only these migrations, registered or not. Defaults to all.
            limit: How many entries to return at most. Defaults to all.

        Raises:
            UnknownMigrationError: A name isn't registered, and nothing has ever happened to it.
            InvalidOptionError: An argument isn't valid; nothing was sent to the server.
        """
        with closing(self._open()) as engine:
            return await engine.read_history(names, limit)

    def rollback(
        self,
        targets: Collection[str] | None = None,
        *,
        last: int | None = None,
        to: str | None = None,
        with_dependents: bool = True,
    ) -> Coroutine[Any, Any, list[str]]:
        """Roll back migrations, and before them every applied one that depends on them.

        For each, the function registered with `MigrationRegistry.register_rollback` is called, and then the record is
        removed; with transaction=True, in the same transaction. Migrations that aren't applied are skipped, except for
        those with after_crash="stop" that were interrupted or failed halfway.

        Pass exactly one of `targets`, `last` and `to`. The last two go by the dates in the records, where those of
        replaced and retired migrations don't count.

        Args:
            targets: The names to roll back; pass `registry.migrations` for all.
            last: How many to roll back, newest first, of those that no other applied migration needs.
            to: The migration after which everything is rolled back. It stays, and so does what it needs.
            with_dependents: Whether to roll back the applied migrations that depend on them as well. With False, they
                are an error: for a plan that was confirmed, because another instance may apply more meanwhile.

        Returns:
            The names rolled back by this call, in order.

        Raises:
            InvalidOptionError: Not exactly one is given, or one isn't valid; nothing was sent to the server. Or `to`
                isn't applied; nothing has run.
            UnknownMigrationError: A target, or `to`, isn't registered; nothing was sent to the server.
            UnknownRecordsError: `last` or `to` would roll back migrations that aren't registered; nothing has run.
            MigrationReplacedError: An applied migration replaces one of them; nothing has run.
            IrreversibleMigrationError: Some have no rollback; the error names them all. Nothing has run.
            DependencyConflictError: Without `with_dependents`, applied migrations depend on them; nothing has run.
            Exception: Whatever `run` raises. Migrations rolled back before a failure stay rolled back.
        """
        undo = Undo(targets, last, to, with_dependents)
        engine = self._open()
        return self._perform(engine, operations.roll_back(engine.scope, undo))

    def plan_rollback(
        self, targets: Collection[str] | None = None, *, last: int | None = None, to: str | None = None
    ) -> Coroutine[Any, Any, list[PlannedMigration]]:
        """Return what `rollback` would do, in order, and why. No lease is acquired, and nothing is written.

        Returns:
            One value for each migration, with its `reason`.

        Raises:
            Exception: Whatever `rollback` would raise before the first function.
        """
        undo = Undo(targets, last, to)
        engine = self._open()
        return self._explain(engine, operations.roll_back(engine.scope, undo))

    def mark_applied(
        self, names: Collection[str], *, with_dependencies: bool = False
    ) -> Coroutine[Any, Any, list[str]]:
        """Record migrations as applied, without running them: to adopt a database that is already migrated.

        An interrupted migration with after_crash="stop" counts as complete then.

        Args:
            names: Registered names; pass `registry.migrations` for all.
            with_dependencies: Whether to record their dependencies, direct or not, as well.

        Returns:
            The names recorded by this call, dependencies first.

        Raises:
            UnknownMigrationError: A name isn't registered; nothing was sent to the server.
            DependencyConflictError: One of them would be applied while its dependencies are pending; nothing was
                marked.
            Exception: Whatever the lease and the driver raise, as for `run`.
        """
        engine = self._open()
        return self._perform(engine, operations.mark_applied(engine.scope, names, with_dependencies=with_dependencies))

    def mark_pending(self, names: Collection[str]) -> Coroutine[Any, Any, list[str]]:
        """Remove the records of migrations, without undoing anything. The next run applies them again, if registered.

        An interrupted migration with after_crash="stop" then counts as never started.

        Args:
            names: Names that are registered or recorded.

        Returns:
            The names whose records, or start marks, this call removed, dependents first.

        Raises:
            UnknownMigrationError: A name is neither registered nor recorded; nothing was marked.
            DependencyConflictError: A migration that depends on one of them would stay applied; nothing was marked.
            MigrationReplacedError: An applied migration replaces one of them; nothing was marked.
            Exception: Whatever the lease and the driver raise, as for `run`.
        """
        engine = self._open()
        return self._perform(engine, operations.mark_pending(engine.scope, names))

    def mark_accepted(self, names: Collection[str]) -> Coroutine[Any, Any, list[str]]:
        """Record the present checksums of migrations, without running anything: the changes since are all right.

        `status` and `check` report an applied migration whose function has changed since, until it is accepted. From
        then on they compare with the function as it is now, also for a migration that was applied by an earlier
        release of quaestor, which recorded no checksum.

        Args:
            names: Registered names; pass `registry.migrations` for all.

        Returns:
            The names accepted by this call, dependencies first. Those that haven't changed, aren't applied or have no
            source are left out.

        Raises:
            UnknownMigrationError: A name isn't registered; nothing was sent to the server.
            Exception: Whatever the lease and the driver raise, as for `run`.
        """
        engine = self._open()
        return self._perform(engine, operations.mark_accepted(engine.scope, names, compute_checksum))

    def import_history(
        self,
        tool: Tool,
        *,
        names: Mapping[str, str] | None = None,
        collection: str | None = None,
        timezone: str | None = None,
    ) -> Coroutine[Any, Any, ImportResult]:
        """Record as applied what another tool has applied in this database, with its dates. No function is called.

        Stop the other tool first. Its collection isn't changed. Migrations that are recorded already are left as they
        are, so an import can be repeated.

        Args:
            tool: "pymongo-migrate", "mongodb-migrations", "migrate-mongo", "mongrator", "mongomig", "beanie", "mongock"
                or "flamingock".
            names: The names in that tool, each with the name here, where the two differ. All others must be the same
                here, or those of the tool's files (see the guide to moving from another tool). A name here may be
                registered, replaced or retired.
            collection: The collection with its history. Defaults to the tool's own default.
            timezone: The time zone of its dates, such as "Europe/Berlin", for "beanie" and "mongodb-migrations", which
                store local time. Defaults to UTC.

        Returns:
            What was recorded, and what couldn't be placed, with the reasons. Look at `unplaced` before the next run,
            which would apply these migrations again.

        Raises:
            HistoryMissingError: There is no such collection.
            InvalidOptionError: An argument isn't valid; nothing was sent to the server.
            UnknownMigrationError: `names` has a name that isn't known here; likewise.
            Exception: Whatever the lease and the driver raise, as for `run`.
        """
        engine = self._open()
        source = _make_source(engine.scope.catalog, tool, names, collection, timezone)
        return self._import(engine, source)

    def plan_import(
        self,
        tool: Tool,
        *,
        names: Mapping[str, str] | None = None,
        collection: str | None = None,
        timezone: str | None = None,
    ) -> Coroutine[Any, Any, ImportResult]:
        """Return what `import_history` would do. No lease is acquired, and nothing is written.

        Raises:
            Exception: Whatever `import_history` would raise before the first record.
        """
        engine = self._open()
        source = _make_source(engine.scope.catalog, tool, names, collection, timezone)
        return self._import(engine, source, dry_run=True)

    async def verify(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Call the verifications of applied migrations, and return those that fail.

        No lease is acquired, and nothing is written but by your functions. Migrations that aren't applied, or have no
        verification, are skipped.

        Args:
            names: The migrations to verify. Defaults to all.

        Returns:
            The names of the migrations that no longer hold, each with the reason (which verification failed, and how).

        Raises:
            MissingDependencyError, CircularDependencyError: The dependencies can't be put in order; nothing was sent to
                the server.
            UnknownMigrationError: A name isn't registered; likewise.
            MissingDatabaseError: A verification is a `def` function, but there is no `sync_db`; none was called.
            InvalidGuardError: A verification returned neither True, False nor None.
            UnfinishedMigrationError: A verification returned before its work was done.
            Exception: Whatever the driver raises if the server can't be reached.
        """
        with closing(self._open()) as engine:
            return await engine.verify(names)

    async def restart_backfill(self, name: str, *, backfill: str | None = None) -> list[str]:
        """Remove the checkpoint of a backfill, which then starts over when its migration runs again.

        Needed after a `BackfillChangedError`. Documents that were already processed are processed again.

        Args:
            name: The migration.
            backfill: The backfill's name; not needed if the migration has only one.

        Returns:
            The name of the backfill, as the only item; an empty list if there is no checkpoint.

        Raises:
            UnknownMigrationError: The migration isn't registered and has no checkpoint.
            InvalidOptionError: The migration has several backfills, or none of this name; nothing was done.
            Exception: Whatever the lease and the driver raise, as for `run`.
        """
        with closing(self._open()) as engine:
            return await engine.restart_backfill(name, backfill)

    async def protect(self, label: str | None) -> None:
        """Protect this database and prefix from mistakes on the command line, or, with None, end that.

        There, `rollback`, `mark pending` and `unlock` then require the name of the database (`--confirm`). The methods
        of runners aren't affected.

        Args:
            label: Shown in the status, such as "production".

        Raises:
            InvalidOptionError: The label is empty, or can't be stored; nothing was sent to the server.
        """
        with closing(self._open()) as engine:
            await engine.protect(label)

    async def read_protection(self) -> str | None:
        """Read the label under which this database and prefix are protected; None if they aren't. It is one read."""
        with closing(self._open()) as engine:
            return await engine.read_protection()

    async def unlock(self) -> Lease | None:
        """Release the lease of another instance, on any host, when you know that its holder hangs.

        A holder that is still running stops at its next step; its current function can't be stopped.

        Returns:
            The lease that was held, or None if there was none.
        """
        with closing(self._open()) as engine:
            return await engine.unlock()

    @staticmethod
    async def _perform(engine: Engine, operation: Operation) -> list[str]:
        """Perform an operation. The methods above check their arguments when called, and return this coroutine.

        It is a method so that Python's warning about a missing await names the class.
        """
        anyio.CancelScope()  # the first one imports modules, which may fail later for lack of memory or files
        with closing(engine):
            return await engine.perform(operation)

    @staticmethod
    async def _explain(engine: Engine, operation: Operation) -> list[PlannedMigration]:
        with closing(engine):
            return await engine.explain(operation)

    @staticmethod
    async def _import(engine: Engine, source: Source, *, dry_run: bool = False) -> ImportResult:
        anyio.CancelScope()  # see _perform
        with closing(engine):
            return await engine.import_history(source, dry_run=dry_run)

    @staticmethod
    async def _pin(engine: Engine, operation: Operation) -> PinnedPlan:
        with closing(engine):
            return await engine.pin(operation)


class SyncRunner(_Runner):
    """Does what `AsyncRunner` does, without an event loop, for PyMongo's `Database` and mongomock's.

    `async_db` is the same database for `async def` migrations: see `MigrationRegistry.run_sync`. The other arguments
    and the errors are those of `AsyncRunner`.
    """

    _is_async = False

    def __init__(
        self,
        registry: "MigrationRegistry",
        db: SyncDatabase,
        prefix: str = "app",
        *,
        async_db: AsyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE,
        release: str | None = None,
    ) -> None:
        terms = Terms(lease_ttl, lease_timeout, patience)
        super().__init__(registry, db, async_db, prefix, on_event, release=release, terms=terms)

    def run(
        self,
        targets: Collection[str] | None = None,
        *,
        strict: bool = False,
        concurrency: int = 1,
        retry: Collection[str] = (),
        plan_id: str | None = None,
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> list[str]:
        """Apply pending migrations. The arguments, result and errors are those of `MigrationRegistry.run_sync`."""
        check_concurrency(concurrency)
        selection = Selection(targets, strict, retry, phase, steps, ignore_delays)
        with closing(self._open(concurrency)) as engine:
            operation = operations.run(engine.scope, selection, concurrency=concurrency, plan_id=plan_id)
            return run_to_completion(engine.perform(operation))

    def plan(
        self,
        targets: Collection[str] | None = None,
        *,
        strict: bool = False,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> list[PlannedMigration]:
        """Return what `run` would do, in order, and why. See `AsyncRunner.plan`."""
        selection = Selection(targets, strict, retry, phase, steps, ignore_delays)
        with closing(self._open()) as engine:
            return run_to_completion(engine.explain(operations.run(engine.scope, selection)))

    def pin(
        self,
        targets: Collection[str] | None = None,
        *,
        strict: bool = False,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> PinnedPlan:
        """Return the same plan with an id, for `run`. See `AsyncRunner.pin`."""
        selection = Selection(targets, strict, retry, phase, steps, ignore_delays)
        with closing(self._open()) as engine:
            return run_to_completion(engine.pin(operations.run(engine.scope, selection)))

    def status(self) -> Status:
        """Read what is applied, what is pending, and who holds the lease. See `AsyncRunner.status`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.read_status())

    def history(self, names: Collection[str] | None = None, *, limit: int | None = None) -> list[HistoryEntry]:
        """Read who did what and when, newest first. See `AsyncRunner.history`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.read_history(names, limit))

    def rollback(
        self,
        targets: Collection[str] | None = None,
        *,
        last: int | None = None,
        to: str | None = None,
        with_dependents: bool = True,
    ) -> list[str]:
        """Roll back migrations, and before them every one that depends on them. See `AsyncRunner.rollback`."""
        undo = Undo(targets, last, to, with_dependents)
        with closing(self._open()) as engine:
            return run_to_completion(engine.perform(operations.roll_back(engine.scope, undo)))

    def plan_rollback(
        self, targets: Collection[str] | None = None, *, last: int | None = None, to: str | None = None
    ) -> list[PlannedMigration]:
        """Return what `rollback` would do, in order, and why. See `AsyncRunner.plan_rollback`."""
        undo = Undo(targets, last, to)
        with closing(self._open()) as engine:
            return run_to_completion(engine.explain(operations.roll_back(engine.scope, undo)))

    def mark_applied(self, names: Collection[str], *, with_dependencies: bool = False) -> list[str]:
        """Record migrations as applied, without running them. See `AsyncRunner.mark_applied`."""
        with closing(self._open()) as engine:
            operation = operations.mark_applied(engine.scope, names, with_dependencies=with_dependencies)
            return run_to_completion(engine.perform(operation))

    def mark_pending(self, names: Collection[str]) -> list[str]:
        """Remove the records of migrations, without undoing anything. See `AsyncRunner.mark_pending`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.perform(operations.mark_pending(engine.scope, names)))

    def mark_accepted(self, names: Collection[str]) -> list[str]:
        """Record the present checksums of migrations, without running anything. See `AsyncRunner.mark_accepted`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.perform(operations.mark_accepted(engine.scope, names, compute_checksum)))

    def import_history(
        self,
        tool: Tool,
        *,
        names: Mapping[str, str] | None = None,
        collection: str | None = None,
        timezone: str | None = None,
    ) -> ImportResult:
        """Record as applied what another tool has applied in this database. See `AsyncRunner.import_history`."""
        with closing(self._open()) as engine:
            source = _make_source(engine.scope.catalog, tool, names, collection, timezone)
            return run_to_completion(engine.import_history(source))

    def plan_import(
        self,
        tool: Tool,
        *,
        names: Mapping[str, str] | None = None,
        collection: str | None = None,
        timezone: str | None = None,
    ) -> ImportResult:
        """Return what `import_history` would do. See `AsyncRunner.plan_import`."""
        with closing(self._open()) as engine:
            source = _make_source(engine.scope.catalog, tool, names, collection, timezone)
            return run_to_completion(engine.import_history(source, dry_run=True))

    def verify(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Call the verifications of applied migrations, and return those that fail. See `AsyncRunner.verify`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.verify(names))

    def restart_backfill(self, name: str, *, backfill: str | None = None) -> list[str]:
        """Remove the checkpoint of a backfill, which then starts over. See `AsyncRunner.restart_backfill`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.restart_backfill(name, backfill))

    def protect(self, label: str | None) -> None:
        """Protect this database and prefix from mistakes on the command line. See `AsyncRunner.protect`."""
        with closing(self._open()) as engine:
            run_to_completion(engine.protect(label))

    def read_protection(self) -> str | None:
        """Read the label under which this database and prefix are protected. See `AsyncRunner.read_protection`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.read_protection())

    def unlock(self) -> Lease | None:
        """Release the lease of another instance. See `AsyncRunner.unlock`."""
        with closing(self._open()) as engine:
            return run_to_completion(engine.unlock())

    @staticmethod
    def _perform(engine: Engine, operation: Operation) -> list[str]:
        with closing(engine):
            return run_to_completion(engine.perform(operation))
