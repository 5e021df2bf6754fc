"""The registry of an application's migrations, and the calls that apply them."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence, Sized
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from quaestor._core.definition import (
    MigrationDefinition,
    check_name,
    check_names,
    check_text,
    identify,
    name_function,
    summarize,
    takes_context,
)
from quaestor.errors import DuplicateMigrationError, InvalidMigrationError, NoMigrationsError, UnknownMigrationError
from quaestor.status import DEFAULT_PATIENCE, DEFAULT_PATIENCE_OF_MANY, DEFAULT_TTL

if TYPE_CHECKING:  # the registry loads no driver and is quick: the runners are imported when they are first used
    from datetime import timedelta

    from pymongo.results import BulkWriteResult, DeleteResult, InsertManyResult, InsertOneResult, UpdateResult

    from quaestor._core.guards import GuardKind
    from quaestor.context import AsyncMigrationContext, MigrationContext
    from quaestor.databases import AsyncDatabase, SyncDatabase
    from quaestor.events import Hook
    from quaestor.status import AfterCrash, DatabaseResult, MarkState, Phase

    # An `async def` function that takes the context of a `def` function must be a type error. No type means "not
    # awaitable", so this lists what a `def` function with a context may return, although nothing uses it.
    NotAwaitable: TypeAlias = (
        float | str | Sized | BulkWriteResult | DeleteResult | InsertManyResult | InsertOneResult | UpdateResult | None
    )

    # A function of a migration. Any is the database, because the drivers share no type.
    F = TypeVar(
        "F",
        bound=Callable[[Any], object]
        | Callable[[Any, MigrationContext], NotAwaitable]
        | Callable[[Any, AsyncMigrationContext], Awaitable[object]],
    )

    # A precondition or a verification. Likewise.
    G = TypeVar(
        "G",
        bound=Callable[[Any], bool | Awaitable[bool | None] | None]
        | Callable[[Any, MigrationContext], bool | None]
        | Callable[[Any, AsyncMigrationContext], Awaitable[bool | None]],
    )


_registries: WeakValueDictionary[int, MigrationRegistry] = WeakValueDictionary()
"""All registries, by `id`: an application may have created a second one by mistake."""


class MigrationRegistry:
    """Collects named migrations and applies the pending ones to a database.

    Example::

        registry = MigrationRegistry()

        @registry.register("create_users_index")
        def create_users_index(db):
            db.users.create_index("email", unique=True)

        applied = registry.run_sync(db)
    """

    def __init__(self) -> None:
        self._migrations: dict[str, MigrationDefinition] = {}
        self._retired: set[str] = set()
        self._sources: set[str] = set()  # the modules that were being imported when something was registered
        callers = (module for function, module in _walk_stack() if function != "__init__" and module != __name__)
        self._made_in = next(callers, "an unknown module")
        _registries[id(self)] = self

    @property
    def migrations(self) -> Mapping[str, MigrationDefinition]:
        """All registered migrations by name, in the order of registration. Read-only."""
        return MappingProxyType(self._migrations)

    @property
    def retired(self) -> Collection[str]:
        """The retired names. Read-only."""
        return frozenset(self._retired)

    def sort(self) -> list[MigrationDefinition]:
        """Return the migrations in the order in which a run applies them to an empty database.

        Those that others replace are left out; a dependency on one becomes a dependency on its replacement.

        Raises:
            MissingDependencyError: A dependency isn't registered.
            CircularDependencyError: Migrations depend on each other.
        """
        from quaestor._core.catalog import Catalog  # late: few programs need it before a run

        return Catalog(self._migrations, frozenset(self._retired)).sort()

    def register(
        self,
        name: str,
        depends_on: Sequence[str] | None = None,
        *,
        transaction: bool = False,
        description: str | None = None,
        replace: bool = False,
        after_crash: AfterCrash = "rerun",
        replaces: Sequence[str] = (),
        phase: Phase = "deploy",
        delay: timedelta | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function as a migration, and return it unchanged.

        The function is called with the database. If it has a second argument without a default, it also gets a
        `MigrationContext` (an `async def` function: an `AsyncMigrationContext`).

        An `async def` function runs on the async database, any other on the sync one. A `def` wrapper of an `async def`
        (with functools.wraps) counts as async too, because nearly all wrappers return what they wrap.

        Args:
            name: The name in the database. Don't change it later: a renamed migration is a new one.
            depends_on: The names of migrations to apply before it, which may be registered later.
            transaction: Whether the function and its record are one transaction, applied together and exactly once.
                The transaction covers what the function does with the database it is given, in its own thread or task,
                one operation at a time, within MongoDB's limits for transactions. The function may be called several
                times. The same applies to its rollback.
            description: A summary in one line. Defaults to the first line of the function's docstring.
            replace: Whether to replace the migration if it was registered in the same module: for notebooks, where a
                cell runs again. Its rollback, preconditions and verifications stay. A run in progress isn't affected.
            after_crash: What a run does with the migration after it was interrupted or failed halfway: "rerun" repeats
                it; "stop" raises an `InterruptedMigrationError` until somebody has checked the data, for a function
                that must not run twice unasked. It isn't for transactions, which leave nothing half done.
            replaces: The names of the migrations that this one replaces, registered or not: the new name of a renamed
                migration, or what several were squashed into. Where all of them are applied, it counts as applied,
                and the next run records it; where none is, it runs in their place. Where only some are, the rest run
                first if they are still registered; otherwise a run raises a `PartlyReplacedError`. A dependency on
                one of them means this migration.
            phase: "deploy", or "post_deploy" for what may only run when no instance of the old release is left. See
                `run`.
            delay: Don't apply it until all its dependencies have been applied for that long (at most 3,650 days), by
                the clocks of the processes that run. It needs a dependency. In a new database, which had no records
                before the run, it doesn't wait.

        Raises:
            InvalidMigrationError: The name, the dependencies, the function or an option isn't valid; another migration
                replaces the same one; or the name is retired.
            DuplicateMigrationError: The name is taken; with `replace`, by another module.
            CircularDependencyError: It depends on itself.
        """
        check_name(name)  # now, because `@registry.register` without its argument never calls the decorator

        def decorator(function: F) -> F:
            definition = MigrationDefinition(
                name,
                function,
                [] if depends_on is None else depends_on,
                transaction=transaction,
                description=summarize(function) if description is None else description,
                after_crash=after_crash,
                # Checked, and made a tuple.
                replaces=replaces,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
                phase=phase,
                delay=delay,
            )
            self._check_replaces(definition)
            if (known := self._migrations.get(definition.name)) is not None:
                _check_duplicate(definition.name, known.execute, function, replace=replace)
                kept = {name: getattr(known, name) for name in ("rollback", "preconditions", "verifications")}
                definition = dataclasses.replace(definition, **kept)
            self._migrations[definition.name] = definition
            self._sources.update(module for function, module in _walk_stack() if function == "<module>")
            return function

        return decorator

    def retire(self, *names: str) -> None:
        """Declare that migrations are gone: their code was removed, every database has them, and none will need them.

        Their records are no longer unknown. A new database doesn't get them, so what they did must be part of another
        migration, or no longer needed.

        Raises:
            InvalidMigrationError: A name isn't valid, is registered, or another migration replaces it.
        """
        for name in names:
            check_text("A retired name", name, InvalidMigrationError)
            if name in self._migrations:
                raise InvalidMigrationError(f"Migration {name!r} is registered, so it can't be retired. Remove it.")
            for one in self._migrations.values():
                if name in one.replaces:
                    raise InvalidMigrationError(
                        f"Migration {one.name!r} replaces {name!r}, so that is known already. Don't retire it."
                    )
        self._retired.update(map(str.__str__, names))

    def _check_replaces(self, definition: MigrationDefinition) -> None:
        """Check that none of its names is retired, and none that it replaces is replaced by another one or itself."""
        if retired := next((name for name in (definition.name, *definition.replaces) if name in self._retired), None):
            doing = "is registered" if retired == definition.name else f"is replaced by {definition.name!r}"
            raise InvalidMigrationError(f"Migration {retired!r} {doing}, but it was retired. Remove one of the two.")
        if not definition.replaces:
            return
        others = {one.name: one.replaces for one in self._migrations.values() if one.name != definition.name}
        for name, replaced in others.items():
            if old := next((old for old in definition.replaces if old in replaced), None):
                raise InvalidMigrationError(
                    f"Migrations {name!r} and {definition.name!r} both replace {old!r}. Only one of them can."
                )
        ahead = list(definition.replaces)
        while ahead:
            if (old := ahead.pop()) == definition.name:
                raise InvalidMigrationError(
                    f"Migration {definition.name!r} replaces itself, by way of {', '.join(definition.replaces)}."
                )
            ahead.extend(others.get(old, ()))

    def register_rollback(self, name: str, *, replace: bool = False) -> Callable[[F], F]:
        """Register the decorated function as the rollback of a migration, and return it unchanged.

        It is called like the migration's function. It may be `async def` where that is `def`, or the other way round.

        Args:
            name: The migration, which must be registered already.
            replace: Whether to replace its rollback if that was registered in the same module. See `register`.

        Raises:
            UnknownMigrationError: There is no such migration yet.
            InvalidMigrationError: The name or the function isn't valid.
            DuplicateMigrationError: The migration has a rollback; with `replace`, from another module.
        """
        known = check_name(name, "register_rollback")
        self._check_registered(known)

        def decorator(function: F) -> F:
            # Also refuses None, which means no rollback in a definition.
            takes_context(f"The rollback of migration {known!r}", function)
            definition = self._migrations[known]
            if definition.rollback is not None:
                _check_duplicate(known, definition.rollback, function, rollback=True, replace=replace)
            self._migrations[known] = dataclasses.replace(definition, rollback=function)
            return function

        return decorator

    def register_precondition(self, name: str, *, replace: bool = False) -> Callable[[G], G]:
        """Register the decorated function as a precondition of a migration, and return it unchanged.

        A run calls it, holding the lease, before the migration begins and before its transaction. If it returns False
        or raises an exception, the migration doesn't begin, and the run ends with a `PreconditionFailedError`. If it
        returns True or None, it holds. It may be called several times, so it should only read.

        It is called like the migration's function, on the database of its own kind: it may be `async def` where that
        is `def`, or the other way round. A context that it takes can report progress and log, but has no backfills. A
        migration can have several preconditions, which are called in the order of registration. A rollback or a mark
        calls none.

        Args:
            name: The migration, which must be registered already.
            replace: Whether to replace the precondition of the same name if that was registered in the same module.
                See `register`.

        Raises:
            UnknownMigrationError: There is no such migration yet.
            InvalidMigrationError: The name or the function isn't valid.
            DuplicateMigrationError: The migration has a precondition of this name from the same module.
        """
        return self._register_guard("precondition", name, replace=replace)

    def register_verification(self, name: str, *, replace: bool = False) -> Callable[[G], G]:
        """Register the decorated function as a verification of a migration, and return it unchanged.

        A run calls it after the migration's function and before the record; with transaction=True in the same
        transaction, which is aborted if it fails. If it returns False or raises an exception, the migration isn't
        recorded, and the run ends with a `VerificationFailedError`. If it returns True or None, it holds. The runner's
        `verify()` calls it again later, so it should only read.

        With transaction=True it must be of the migration's kind: both `async def`, or both `def`. Otherwise everything
        that `register_precondition` says applies here too.

        Args:
            name: The migration, which must be registered already.
            replace: Whether to replace the verification of the same name if that was registered in the same module.
                See `register`.

        Raises:
            UnknownMigrationError: There is no such migration yet.
            InvalidMigrationError: The name or the function isn't valid.
            DuplicateMigrationError: The migration has a verification of this name from the same module.
        """
        return self._register_guard("verification", name, replace=replace)

    def _register_guard(self, kind: GuardKind, name: str, *, replace: bool) -> Callable[[G], G]:
        known = check_name(name, f"register_{kind}")
        self._check_registered(known)

        def decorator(function: G) -> G:
            takes_context(f"A {kind} of migration {known!r}", function)  # first: only a function has a name
            definition, field = self._migrations[known], f"{kind}s"
            others: tuple[Callable[..., object], ...] = getattr(definition, field)
            same = next((other for other in others if _is_same(other, function)), None)
            if same is not None and not replace:
                raise DuplicateMigrationError(known, name_function(same), guard=kind)
            kept = tuple(function if other is same else other for other in others)
            changed: Any = {field: (*others, function) if same is None else kept}
            self._migrations[known] = dataclasses.replace(definition, **changed)
            return function

        return decorator

    def _check_registered(self, name: str) -> None:
        if name not in self._migrations:
            from quaestor._text import find_similar  # late: only the message needs it

            raise UnknownMigrationError({name: find_similar(name, self._migrations)})

    def discover(self, package: str, *, exclude: Collection[str] = ()) -> list[str]:
        """Import a package and all modules in it, also nested ones, in sorted order, which registers their migrations.

        In the package itself, call it last, as `registry.discover(__name__)`, because its modules import the registry.
        Modules and packages named `tests`, `conftest`, `test_*` and `*_test` are skipped.

        Args:
            package: The dotted name, such as "myapp.migrations". It may be the name of a module.
            exclude: More modules and packages to skip, as names inside the package: "helpers", "archive.*".

        Returns:
            The names of the imported modules, in order.

        Raises:
            ImportError: A module calls `sys.exit()`.
            NoMigrationsError: None of the modules has registered a migration in this registry, or the package has no
                modules. (A package without modules may still discover itself.)
            InvalidOptionError: `exclude` isn't a list of names; nothing was imported.
            Exception: Whatever a module raised, unchanged, with a note that names the module.
        """
        from quaestor.discovery import discover, is_new_package  # late: many programs import the modules themselves

        before = len(self._migrations)
        names = discover(package, check_names("exclude", exclude))
        if len(self._migrations) > before:
            self._sources.update(names)  # because compiled modules leave no trace on the stack
        elif self._sources.isdisjoint(names) and not (names == [package] and is_new_package(package)):
            is_empty = names == [package] and hasattr(sys.modules[package], "__path__")
            raise NoMigrationsError(package, [] if is_empty else names, self._made_in, self._find_others(names))
        return names

    def _find_others(self, modules: Collection[str]) -> list[str]:
        """Find the modules that made other registries which these modules may use, or that are in the same file."""
        found, file = set(), _find_file(self._made_in)
        for other in list(_registries.values()):
            made_in, sources = other._made_in, other._sources  # noqa: SLF001 - of this class
            if other is not self and (not sources.isdisjoint(modules) or _find_file(made_in) == file is not None):
                found.add(made_in)
        return sorted(found)

    def run(
        self,
        db: AsyncDatabase,
        prefix: str = "app",
        *,
        sync_db: SyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 1,
        plan_id: str | None = None,
        release: str | None = None,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> Coroutine[Any, Any, list[str]]:
        """Apply all pending migrations, dependencies first, otherwise in alphabetical order.

        One instance at a time migrates a database and prefix. The others wait, and return an empty list when it has
        done the work.

        Args:
            db: The database (PyMongo's `AsyncDatabase`, Motor's `AsyncIOMotorDatabase`, or mongomock-motor's).
            prefix: Names the application's own collections: `{prefix}_migrations` (the records),
                `{prefix}_migrations_history`, `{prefix}_migrations_lock` and `{prefix}_migrations_progress`.
                Applications that share a database need different prefixes.
            sync_db: The same database for `def` migrations (PyMongo's `Database`), which run in a worker thread. Motor
                doesn't need it.
            on_event: Called with every event. Defaults to `log_event`, which logs them to the logger `quaestor`.
            lease_ttl: How long the lease of a killed process keeps others waiting, in seconds, from 1 to 86,400. The
                lease is renewed three times in that time.
            lease_timeout: How long to wait for another instance, in seconds. Defaults to no limit.
            patience: How long a run in progress waits for an unreachable server or a missing majority of the replica
                set, in seconds. After 5 s, and then every 30 s, it says so (`ServerAwaited`, `MajorityAwaited`).
            targets: Apply only these migrations and their dependencies. Defaults to all.
            strict: Whether to refuse a database with applied migrations that aren't registered: an older release on a
                newer database. By default that is a warning.
            concurrency: How many migrations may run at the same time, from 1 to 100. Each starts when its dependencies
                are recorded and a slot is free, `def` functions in a thread of their own, `async def` functions in a
                task. After a failure, an interruption or a cancellation nothing more starts; running migrations finish,
                and are recorded if they succeed. (Ctrl-C and cancellation cancel `async def` functions, and end
                backfills after their batch.)
            plan_id: Refuse any plan but the one with this id, which `AsyncRunner.pin` returned: whatever was reviewed
                is what runs. If nothing is left to apply, that isn't refused.
            release: The release of the application, such as "1.4.2", for the records and the history. Defaults to the
                environment variable QUAESTOR_RELEASE; if that isn't set, none is recorded.
            retry: Repeat these migrations with after_crash="stop", although they were interrupted or failed halfway.
            phase: "deploy" leaves the pending migrations of phase "post_deploy" for a later run, except for what the
                others depend on: for a rollout, while instances of the old release are left. Defaults to both phases,
                as does "post_deploy", after the rollout.
            steps: Call at most this many functions, the first ones of the plan. Defaults to all.
            ignore_delays: Whether to apply migrations whose `delay` isn't over. Otherwise they, and all that depend on
                them, are left for a later run (`MigrationsWaiting`).

        Returns:
            The names applied by this call, in the order of the plan.

        Raises:
            MissingDependencyError, CircularDependencyError: The dependencies can't be put in order; nothing was sent to
                the server.
            InvalidDatabaseError, InvalidPrefixError, InvalidOptionError: An argument isn't valid; likewise.
            UnknownMigrationError: A target, or a name in `retry`, isn't registered; likewise.
            UnknownRecordsError: `strict`, and applied migrations aren't registered; nothing has run.
            DependencyConflictError: `strict`, and applied migrations have pending dependencies; nothing has run.
            PartlyReplacedError: Only some of what a migration replaces is applied, and the rest isn't registered;
                nothing has run.
            InterruptedMigrationError: A pending migration with after_crash="stop" was interrupted or failed halfway,
                and `retry` doesn't name it; nothing has run.
            MigrationDelayedError: A target is delayed, or depends on a migration that is; nothing has run.
            PlanChangedError: The plan isn't the one with this `plan_id`; nothing has run.
            MissingDatabaseError: `def` migrations are pending, but there is no `sync_db`; nothing has run.
            RecordConflictError: A migration couldn't be recorded; nothing has run.
            TransactionsUnsupportedError: transaction=True, but the server has no transactions; nothing has run.
            LeaseTimeoutError: Another instance migrated for longer than `lease_timeout`; nothing has run here.
            LeaseLostError: Another instance may hold the lease by now; nothing more was started or recorded.
            OutageError: The server, or a majority, was away for longer than `patience`; likewise.
            TransactionFailedError: The server aborted a migration's transaction again and again.
            PreconditionFailedError: A precondition failed: its migration didn't begin.
            VerificationFailedError: A verification failed: its migration isn't recorded.
            UnfinishedMigrationError: A function returned before its work was done (an `await` is missing, say).
            Exception: Whatever a migration or the driver raised, unchanged; a migration's gets a note with its name.
            ExceptionGroup: All failures, if there are several, with a `concurrency` above 1.
        """
        from quaestor.runners import AsyncRunner

        runner = AsyncRunner(
            self,
            db,
            prefix,
            sync_db=sync_db,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
            patience=patience,
            release=release,
        )
        return runner.run(
            targets,
            strict=strict,
            concurrency=concurrency,
            retry=retry,
            plan_id=plan_id,
            phase=phase,
            steps=steps,
            ignore_delays=ignore_delays,
        )

    def run_sync(
        self,
        db: SyncDatabase,
        prefix: str = "app",
        *,
        async_db: AsyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 1,
        plan_id: str | None = None,
        release: str | None = None,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> list[str]:
        """Do what `run` does, without an event loop, for PyMongo's `Database` and mongomock's.

        `async_db` is the same database for `async def` migrations (PyMongo's `AsyncDatabase` or Motor's). They run in
        an event loop that lasts as long as the call. Drivers tie a client to the loop in which it is first used, so
        give every call a client of its own; PyMongo's is closed with the loop.

        The other arguments, the result and the errors are those of `run`. `MissingDatabaseError` is raised if
        `async def` migrations are pending, but there is no `async_db`.
        """
        from quaestor.runners import SyncRunner

        runner = SyncRunner(
            self,
            db,
            prefix,
            async_db=async_db,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
            patience=patience,
            release=release,
        )
        return runner.run(
            targets,
            strict=strict,
            concurrency=concurrency,
            retry=retry,
            plan_id=plan_id,
            phase=phase,
            steps=steps,
            ignore_delays=ignore_delays,
        )

    def run_many(
        self,
        databases: Iterable[AsyncDatabase],
        prefix: str = "app",
        *,
        sync_db: Callable[[str], SyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE_OF_MANY,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 8,
        release: str | None = None,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> Coroutine[Any, Any, list[DatabaseResult]]:
        """Apply all pending migrations in many databases (one for each tenant, say). Each has its own lease and
        records, and if one fails, the others continue.

        The databases may be of one client or of several. `sync_db` returns the same database for `def` migrations,
        given its name, such as `sync_client.get_database`; Motor doesn't need it. `concurrency` is how many databases
        are migrated at the same time, from 1 to 100; in each of them, one migration at a time. The other arguments
        are those of `run`. Every event names its database, and `patience` applies to each database.

        Returns:
            One result for each database, in the given order. Its `error` is what `run` would have raised, or a
            `DatabaseSkippedError` after ten databases in a row found no server.

        Raises:
            MissingDependencyError, CircularDependencyError: The graph isn't sound; nothing was sent to a server.
            InvalidDatabaseError, InvalidPrefixError, InvalidOptionError: An argument isn't valid; likewise.
            UnknownMigrationError: A target, or a name in `retry`, isn't registered; likewise.
            BaseException: A cancellation or Ctrl-C. No further database is started; runs in progress are cancelled, or
                end after their current migration. Only the events (`DatabaseFinished`) have the results so far.
        """
        from quaestor._core.phases import Selection
        from quaestor._many import Options, perform_many, run

        options = Options(prefix, on_event, lease_ttl, lease_timeout, patience, concurrency, release)
        operation = run(Selection(targets, strict, retry, phase, steps, ignore_delays))
        return perform_many(self, databases, sync_db, options, operation, is_async=True)

    def run_many_sync(
        self,
        databases: Iterable[SyncDatabase],
        prefix: str = "app",
        *,
        async_db: Callable[[str], AsyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE_OF_MANY,
        targets: Collection[str] | None = None,
        strict: bool = False,
        concurrency: int = 8,
        release: str | None = None,
        retry: Collection[str] = (),
        phase: Phase | None = None,
        steps: int | None = None,
        ignore_delays: bool = False,
    ) -> list[DatabaseResult]:
        """Do what `run_many` does, without an event loop, for PyMongo's `Database` and mongomock's, in threads.

        `async_db` returns the same database for `async def` migrations, given its name, with a client of its own for
        each, such as `lambda name: AsyncMongoClient(uri)[name]` (see `run_sync`). The other arguments, the result and
        the errors are those of `run_many`.
        """
        from quaestor._core.phases import Selection
        from quaestor._hosts.threads import run_to_completion
        from quaestor._many import Options, perform_many, run

        options = Options(prefix, on_event, lease_ttl, lease_timeout, patience, concurrency, release)
        operation = run(Selection(targets, strict, retry, phase, steps, ignore_delays))
        return run_to_completion(perform_many(self, databases, async_db, options, operation, is_async=False))

    def rollback_many(
        self,
        databases: Iterable[AsyncDatabase],
        prefix: str = "app",
        targets: Collection[str] | None = None,
        *,
        last: int | None = None,
        to: str | None = None,
        with_dependents: bool = True,
        sync_db: Callable[[str], SyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE_OF_MANY,
        concurrency: int = 8,
        release: str | None = None,
    ) -> Coroutine[Any, Any, list[DatabaseResult]]:
        """Roll back migrations in many databases, and before them every applied one that depends on them.

        Pass exactly one of `targets`, `last` and `to`; `last` and `to` go by the records of each database. These and
        `with_dependents` are as in `AsyncRunner.rollback`. The other arguments are those of `run_many`.

        Returns:
            One result for each database, in the given order, with what was `rolled_back` in it. Its `error` is what
            `AsyncRunner.rollback` would have raised, or a `DatabaseSkippedError`.

        Raises:
            InvalidOptionError: An argument isn't valid, or there isn't exactly one of the three; nothing was sent to a
                server.
            UnknownMigrationError: A target, or `to`, isn't registered; likewise.
            BaseException: Whatever `run_many` raises.
        """
        from quaestor._core.undo import Undo
        from quaestor._many import Options, perform_many, roll_back

        options = Options(prefix, on_event, lease_ttl, lease_timeout, patience, concurrency, release)
        operation = roll_back(Undo(targets, last, to, with_dependents))
        return perform_many(self, databases, sync_db, options, operation, is_async=True)

    def rollback_many_sync(
        self,
        databases: Iterable[SyncDatabase],
        prefix: str = "app",
        targets: Collection[str] | None = None,
        *,
        last: int | None = None,
        to: str | None = None,
        with_dependents: bool = True,
        async_db: Callable[[str], AsyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE_OF_MANY,
        concurrency: int = 8,
        release: str | None = None,
    ) -> list[DatabaseResult]:
        """Do what `rollback_many` does, without an event loop. `async_db` is as in `run_many_sync`."""
        from quaestor._core.undo import Undo
        from quaestor._hosts.threads import run_to_completion
        from quaestor._many import Options, perform_many, roll_back

        options = Options(prefix, on_event, lease_ttl, lease_timeout, patience, concurrency, release)
        operation = roll_back(Undo(targets, last, to, with_dependents))
        return run_to_completion(perform_many(self, databases, async_db, options, operation, is_async=False))

    def mark_many(
        self,
        databases: Iterable[AsyncDatabase],
        prefix: str,
        names: Collection[str],
        state: MarkState = "applied",
        *,
        with_dependencies: bool = False,
        sync_db: Callable[[str], SyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE_OF_MANY,
        concurrency: int = 8,
        release: str | None = None,
    ) -> Coroutine[Any, Any, list[DatabaseResult]]:
        """Mark migrations as "applied", "pending" or "accepted" in many databases, without running anything.

        `state` says what to do in each: what `AsyncRunner.mark_applied`, `mark_pending` or `mark_accepted` does with
        these `names`. `with_dependencies` is for "applied". The other arguments are those of `run_many`.

        Returns:
            One result for each database, in the given order, with what was `marked` in it. Its `error` is what that
            method would have raised, or a `DatabaseSkippedError`.

        Raises:
            InvalidOptionError: An argument isn't valid; nothing was sent to a server.
            UnknownMigrationError: A name isn't registered; likewise. (As "pending", a name may also be recorded only,
                so this is the error of each database that doesn't know it.)
            BaseException: Whatever `run_many` raises.
        """
        from quaestor._many import Options, mark, perform_many

        options = Options(prefix, on_event, lease_ttl, lease_timeout, patience, concurrency, release)
        return perform_many(
            self, databases, sync_db, options, mark(names, state, with_dependencies=with_dependencies), is_async=True
        )

    def mark_many_sync(
        self,
        databases: Iterable[SyncDatabase],
        prefix: str,
        names: Collection[str],
        state: MarkState = "applied",
        *,
        with_dependencies: bool = False,
        async_db: Callable[[str], AsyncDatabase] | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
        patience: float = DEFAULT_PATIENCE_OF_MANY,
        concurrency: int = 8,
        release: str | None = None,
    ) -> list[DatabaseResult]:
        """Do what `mark_many` does, without an event loop. `async_db` is as in `run_many_sync`."""
        from quaestor._hosts.threads import run_to_completion
        from quaestor._many import Options, mark, perform_many

        options = Options(prefix, on_event, lease_ttl, lease_timeout, patience, concurrency, release)
        operation = mark(names, state, with_dependencies=with_dependencies)
        return run_to_completion(perform_many(self, databases, async_db, options, operation, is_async=False))


def _check_duplicate(
    name: str, first: Callable[..., object], second: Callable[..., object], *, rollback: bool = False, replace: bool
) -> None:
    """Check that the second function may replace the first, which was registered under the same name."""
    if not (replace and _is_of_same_file(first, second)):
        again = name_function(second) if _is_same(first, second) else None
        raise DuplicateMigrationError(name, name_function(first), rollback, again)


def _is_of_same_file(first: Callable[..., object], second: Callable[..., object]) -> bool:
    module, other_module = identify(first)[0], identify(second)[0]
    return module == other_module or _find_file(module) == _find_file(other_module) is not None


def _is_same(first: Callable[..., object], second: Callable[..., object]) -> bool:
    """Say whether two functions have the same name in the same file."""
    return _is_of_same_file(first, second) and identify(first)[1] == identify(second)[1]


def _find_file(module: str) -> str | None:
    """Find the file of a module. One that was run as a script has another name than where it is imported."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else os.path.realpath(file)


def _walk_stack() -> Iterator[tuple[str, str]]:
    """Walk up the calls in progress: the name of each function ("<module>" for an import), and its module."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame.f_code.co_name, frame.f_globals.get("__name__", "")
        frame = frame.f_back
