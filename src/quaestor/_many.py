"""Runs over many databases, several at once."""

from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from quaestor._core import plan
from quaestor._core.definition import check_names
from quaestor._core.scheduler import Schedule, Start, supervise
from quaestor._core.store import Host
from quaestor._hosts.calls import catch, catch_async, guard
from quaestor._hosts.loop import LoopHost
from quaestor._hosts.threads import ThreadHost
from quaestor._mongo.drivers import check_databases
from quaestor._mongo.mongo_store import check_prefix
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


def run_many(
    registry: "MigrationRegistry",
    databases: Iterable[Any],
    other_db: Callable[[str], Any] | None,
    options: Options,
    *,
    is_async: bool,
) -> Coroutine[Any, Any, list[DatabaseResult]]:
    """See `MigrationRegistry.run_many`. The coroutine of sync runs never suspends."""
    argument, prefix = "sync_db" if is_async else "async_db", options.prefix
    # What would fail in each of the runs:
    check_concurrency(options.concurrency)
    if other_db is not None and not callable(other_db):
        raise InvalidOptionError(
            f"{argument} must be a function that returns the database of a name, such as client.get_database, not "
            f"{type(other_db).__name__}."
        )
    listed = _check_all(databases, is_async=is_async)
    check_prefix(prefix, "")  # it can still be too long for some of them
    check_terms(options.lease_ttl, options.lease_timeout)
    plan.check_graph(registry.migrations)
    targets = None if options.targets is None else check_names("targets", options.targets)
    plan.check_known(targets or (), registry.migrations)
    emit = guard(options.on_event)

    names = [str(number) for number in range(len(listed))]
    schedule = Schedule(names, {}, options.concurrency)
    results: dict[str, DatabaseResult] = {}

    def run(db: Any, hook: Hook) -> Any:
        other = {} if other_db is None else {argument: other_db(db.name)}
        terms: dict[str, Any] = {"lease_ttl": options.lease_ttl, "lease_timeout": options.lease_timeout}
        runner = (AsyncRunner if is_async else SyncRunner)(registry, db, prefix, on_event=hook, **terms, **other)
        return runner.run(targets, strict=options.strict)

    async def run_one(start: Start) -> None:
        db, applied = listed[int(start.name)], []

        def count(event: Event) -> None:
            if isinstance(event, MigrationApplied):
                applied.append(event.name)
            emit(event)

        work = partial(run, db, count)
        # Not raised: it may be a StopIteration, which no coroutine can raise.
        _, error = await catch_async(work) if is_async else catch(work)
        results[start.name] = DatabaseResult(db.name, applied, error)
        emit(DatabaseFinished(db.name, prefix, tuple(applied), error))
        schedule.finish(start.name)

    async def run_all() -> list[DatabaseResult]:
        host: Host = LoopHost() if is_async else ThreadHost()
        failures: list[BaseException] = []
        supervisor = partial(supervise, schedule, run_one, nullcontext(), failures)
        await host.supervise(supervisor, schedule.stop, reaches_all=True)
        if failures:  # a worker that was cancelled, or couldn't start, before its run
            raise failures[0]
        return [results[name] for name in names]

    return run_all()


def _check_all(databases: object, *, is_async: bool) -> list[Any]:
    if not isinstance(databases, Iterable) or isinstance(databases, str):  # a single one, say, or a client
        raise InvalidOptionError(f"databases must be a list of them, not {type(databases).__name__}.")
    listed = list(databases)
    for number, db in enumerate(listed):
        try:
            check_databases(db, None, is_async=is_async)
        except InvalidDatabaseError as error:
            error.add_note(f"quaestor: it is databases[{number}]")
            raise
    return listed
