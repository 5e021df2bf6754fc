"""Runs over many databases, a number of them at once: in threads, or in tasks. Both in pairs."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from quaestor._core.definition import Colour
from quaestor._core.many import DatabaseResult, Migrate, many
from quaestor._core.plan import checked_names
from quaestor._hosts import hooks
from quaestor._hosts.asynchronous import AsyncRunner
from quaestor._hosts.bodies import outcome, outcome_async
from quaestor._hosts.branches import Tasks, Threads
from quaestor._hosts.setup import Registry, check_concurrency, check_terms
from quaestor._hosts.sync import SyncRunner
from quaestor._mongo import drivers as databases
from quaestor._mongo.drivers import AsyncDatabase, SyncDatabase
from quaestor.errors import InvalidDatabaseError, InvalidOptionError
from quaestor.events import DatabaseFinished, Event, Hook, MigrationApplied


@dataclass(frozen=True)
class Options:
    """How each of the runs is done. The fields are arguments of `MigrationRegistry.run_many`."""

    prefix: str
    on_event: Hook | None
    lease_ttl: float
    lease_timeout: float | None
    targets: Collection[str] | None
    strict: bool
    concurrency: int


def run_many(
    registry: Registry,
    dbs: Iterable[SyncDatabase],
    async_db: Callable[[str], AsyncDatabase] | None,
    options: Options,
) -> list[DatabaseResult]:
    """See `MigrationRegistry.run_many_sync`."""
    listed = _checked("sync", dbs, async_db, options)
    targets = None if options.targets is None else checked_names("targets", options.targets)
    tell = hooks.guarded(options.on_event)

    def perform(effect: Migrate) -> DatabaseResult:
        tally = _Tally(listed[effect.number].name, options.prefix, tell)

        def run() -> None:
            SyncRunner(
                registry,
                listed[effect.number],
                options.prefix,
                async_db=None if async_db is None else async_db(tally.database),
                on_event=tally.count,
                lease_ttl=options.lease_ttl,
                lease_timeout=options.lease_timeout,
            ).run(targets, strict=options.strict)

        return tally.result(outcome(run)[1])

    flow = many(registry.migrations, targets, len(listed), options.concurrency)
    return Threads(perform).drive(flow)


async def run_many_async(
    registry: Registry,
    dbs: Iterable[AsyncDatabase],
    sync_db: Callable[[str], SyncDatabase] | None,
    options: Options,
) -> list[DatabaseResult]:
    """See `MigrationRegistry.run_many`."""
    listed = _checked("async", dbs, sync_db, options)
    targets = None if options.targets is None else checked_names("targets", options.targets)
    tell = hooks.guarded(options.on_event)

    async def perform(effect: Migrate) -> DatabaseResult:
        tally = _Tally(listed[effect.number].name, options.prefix, tell)

        async def run() -> None:
            await AsyncRunner(
                registry,
                listed[effect.number],
                options.prefix,
                sync_db=None if sync_db is None else sync_db(tally.database),
                on_event=tally.count,
                lease_ttl=options.lease_ttl,
                lease_timeout=options.lease_timeout,
            ).run(targets, strict=options.strict)

        return tally.result((await outcome_async(run()))[1])

    flow = many(registry.migrations, targets, len(listed), options.concurrency)
    return await Tasks(perform).drive(flow)


@dataclass
class _Tally:
    """Counts what is applied in a database, whether its run goes well or not."""

    database: str
    prefix: str
    tell: Hook
    applied: list[str] = field(default_factory=list)

    def count(self, event: Event) -> None:
        """The hook of its run."""
        if isinstance(event, MigrationApplied):
            self.applied.append(event.name)
        self.tell(event)

    def result(self, error: BaseException | None) -> DatabaseResult:
        """What became of it; that is told, too."""
        self.tell(DatabaseFinished(self.database, self.prefix, tuple(self.applied), error))
        return DatabaseResult(self.database, self.applied, error)


def _checked(colour: Colour, dbs: Iterable[Any], other: object, options: Options) -> list[Any]:
    """The databases, when all that would be wrong with each of them is found to be right."""
    check_concurrency(options.concurrency)
    if other is not None and not callable(other):
        argument = "sync_db" if colour == "async" else "async_db"
        raise InvalidOptionError(
            f"{argument} must be a function that gives the database of a name, such as client.get_database, not "
            f"{type(other).__name__}."
        )
    if not isinstance(dbs, Iterable) or isinstance(dbs, str):  # one alone, say, or a client
        raise InvalidOptionError(f"databases must be a list of them, not {type(dbs).__name__}.")
    listed = list(dbs)
    for number, db in enumerate(listed):
        try:
            databases.by_colour(colour, db, None)
        except InvalidDatabaseError as error:
            error.add_note(f"quaestor: it is databases[{number}]")
            raise
    databases.checked_prefix(options.prefix, "")  # it can still be too long for some of them
    check_terms(options.lease_ttl, options.lease_timeout)
    return listed
