"""Runs over many databases, several at once."""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from quaestor._core import plan
from quaestor._core.scheduler import Schedule, Start, supervise
from quaestor._core.store import Workers
from quaestor._hosts.calls import Outcome, catch, catch_async, guard
from quaestor._hosts.loop import LoopHost
from quaestor._hosts.threads import ThreadHost, run_to_completion
from quaestor._mongo.drivers import check_databases
from quaestor._mongo.mongo_store import check_prefix
from quaestor.databases import AsyncDatabase, SyncDatabase
from quaestor.errors import InvalidDatabaseError, InvalidOptionError
from quaestor.events import DatabaseFinished, Event, Hook, MigrationApplied
from quaestor.runners import AsyncRunner, SyncRunner, check_concurrency, check_terms
from quaestor.status import DatabaseResult

if TYPE_CHECKING:  # the registry imports this module
    from quaestor.registry import MigrationRegistry


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


class _Host(Protocol):
    async def supervise_runs(self, supervisor: Callable[[Workers[str]], Any]) -> None: ...


def run_many_sync(
    registry: "MigrationRegistry",
    databases: Iterable[SyncDatabase],
    async_db: Callable[[str], AsyncDatabase] | None,
    options: Options,
) -> list[DatabaseResult]:
    """See `MigrationRegistry.run_many_sync`."""
    listed, options = _check(registry, databases, "async_db", async_db, options)
    ttl, timeout = options.lease_ttl, options.lease_timeout

    def run(db: SyncDatabase, hook: Hook) -> list[str]:
        other = None if async_db is None else async_db(db.name)
        runner = SyncRunner(
            registry, db, options.prefix, async_db=other, on_event=hook, lease_ttl=ttl, lease_timeout=timeout
        )
        return runner.run(options.targets, strict=options.strict)

    async def attempt(db: SyncDatabase, hook: Hook) -> Outcome[list[str]]:
        return catch(lambda: run(db, hook))  # not raised: it may be a StopIteration, which no coroutine can raise

    return run_to_completion(_run_all(ThreadHost(), listed, attempt, options))


def run_many(
    registry: "MigrationRegistry",
    databases: Iterable[AsyncDatabase],
    sync_db: Callable[[str], SyncDatabase] | None,
    options: Options,
) -> Coroutine[Any, Any, list[DatabaseResult]]:
    """See `MigrationRegistry.run_many`."""
    listed, options = _check(registry, databases, "sync_db", sync_db, options)
    ttl, timeout = options.lease_ttl, options.lease_timeout

    async def run(db: AsyncDatabase, hook: Hook) -> list[str]:
        other = None if sync_db is None else sync_db(db.name)
        runner = AsyncRunner(
            registry, db, options.prefix, sync_db=other, on_event=hook, lease_ttl=ttl, lease_timeout=timeout
        )
        return await runner.run(options.targets, strict=options.strict)

    return _run_all(LoopHost(), listed, lambda db, hook: catch_async(lambda: run(db, hook)), options)


async def _run_all(
    host: _Host,
    databases: Sequence[Any],
    attempt: Callable[[Any, Hook], Awaitable[Outcome[list[str]]]],
    options: Options,
) -> list[DatabaseResult]:
    """Run on each database, the next as soon as one has ended. Returns their results, in order."""
    emit = guard(options.on_event)
    results: dict[str, DatabaseResult] = {}
    names = {str(number): db for number, db in enumerate(databases)}
    schedule = Schedule(list(names), {}, options.concurrency)

    async def run_one(start: Start) -> None:
        db, applied = names[start.name], []

        def count(event: Event) -> None:
            if isinstance(event, MigrationApplied):
                applied.append(event.name)
            emit(event)

        _, error = await attempt(db, count)
        results[start.name] = DatabaseResult(db.name, applied, error)
        emit(DatabaseFinished(db.name, options.prefix, tuple(applied), error))
        schedule.finish(start.name)

    failures: list[BaseException] = []
    await host.supervise_runs(partial(supervise, schedule, run_one, nullcontext(), failures))
    if failures:  # a worker that was cancelled, or couldn't start, before its run
        raise failures[0]
    return [results[name] for name in names]


def _check(
    registry: "MigrationRegistry", databases: Iterable[Any], argument: str, other: object, options: Options
) -> tuple[list[Any], Options]:
    """Check what would fail in each of the runs. Returns the databases as a list, and the checked options."""
    check_concurrency(options.concurrency)
    if other is not None and not callable(other):
        raise InvalidOptionError(
            f"{argument} must be a function that returns the database of a name, such as client.get_database, not "
            f"{type(other).__name__}."
        )
    if not isinstance(databases, Iterable) or isinstance(databases, str):  # a single one, say, or a client
        raise InvalidOptionError(f"databases must be a list of them, not {type(databases).__name__}.")
    listed = list(databases)
    for number, db in enumerate(listed):
        try:
            check_databases(db, None, is_async=argument == "sync_db")
        except InvalidDatabaseError as error:
            error.add_note(f"quaestor: it is databases[{number}]")
            raise
    check_prefix(options.prefix, "")  # it can still be too long for some of them
    check_terms(options.lease_ttl, options.lease_timeout)
    plan.check_graph(registry.migrations)
    if options.targets is not None:
        options = replace(options, targets=plan.check_names("targets", options.targets))
        plan.check_known(options.targets or (), registry.migrations)
    return listed, options
