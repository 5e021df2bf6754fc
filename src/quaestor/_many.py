"""Runs over many databases, several at once."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from quaestor._author import find_release
from quaestor._core.catalog import Catalog
from quaestor._core.definition import check_concurrency
from quaestor._core.lease import Terms
from quaestor._core.phases import Selection
from quaestor._core.scheduler import Schedule, Start, follow
from quaestor._core.store import Host
from quaestor._hosts.calls import catch, catch_async, guard
from quaestor._hosts.loop import LoopHost
from quaestor._hosts.threads import ThreadHost
from quaestor._mongo.drivers import check_databases
from quaestor._mongo.mongo_store import check_prefix
from quaestor._mongo.outcomes import is_server_away
from quaestor._text import add_note
from quaestor.databases import SYSTEM_DATABASES
from quaestor.errors import DatabaseSkippedError, InvalidDatabaseError, InvalidOptionError
from quaestor.events import DatabaseFinished, Event, Hook, MigrationApplied, RunFailed
from quaestor.runners import AsyncRunner, SyncRunner, join_run, make_run_id
from quaestor.status import DatabaseResult

_MOST_UNREACHABLE = 10  # a thousand databases behind a dead server would take hours

if TYPE_CHECKING:  # the registry imports this module
    from quaestor.registry import MigrationRegistry


@dataclass(frozen=True)
class Options:
    """The options of all runs: arguments of `MigrationRegistry.run_many`."""

    prefix: str
    on_event: Hook | None
    lease_ttl: float
    lease_timeout: float | None
    patience: float
    concurrency: int
    release: str | None
    selection: Selection


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
    listed = _check(registry, databases, argument, other_db, options)
    emit = guard(options.on_event)

    names = [str(number) for number in range(len(listed))]
    schedule = Schedule(names, {}, options.concurrency)
    run_id = make_run_id()
    results = _Results(listed, prefix, run_id, emit)
    host: Host = LoopHost() if is_async else ThreadHost()
    lock = host.lock()
    make_runner: Any = partial(
        AsyncRunner if is_async else SyncRunner,
        registry,
        prefix=prefix,
        lease_ttl=options.lease_ttl,
        lease_timeout=options.lease_timeout,
        patience=options.patience,
        release=options.release,
    )

    def run(number: int, hook: Hook) -> Any:
        db = listed[number]
        other = {} if other_db is None else {argument: other_db(db.name)}
        runner = make_runner(db, on_event=hook, **other)
        join_run(runner, run_id, number)
        return runner.run(**asdict(options.selection))

    async def run_one(start: Start) -> None:
        number, applied, is_reported = int(start.name), [], False

        def count(event: Event) -> None:
            nonlocal is_reported
            if isinstance(event, MigrationApplied):
                applied.append(event.name)
            is_reported = is_reported or isinstance(event, RunFailed)
            emit(event)

        work = partial(run, number, count)
        # Not raised: it may be a StopIteration, which no coroutine can raise.
        _, error = await catch_async(work) if is_async else catch(work)
        async with lock:
            results.add(number, applied, error, is_reported=is_reported)
            schedule.finish(start.name)
            if len(results.unreachable) >= _MOST_UNREACHABLE:
                schedule.stop()

    async def run_all() -> list[DatabaseResult]:
        failures: list[BaseException] = []
        supervisor = partial(follow, schedule, run_one, lock, failures)
        await host.supervise(supervisor, schedule.stop, reaches_all=True)
        if failures:  # a worker that was cancelled, or couldn't start, before its run
            raise failures[0]
        return results.complete()

    return run_all()


class _Results:
    """The results of the runs."""

    def __init__(self, databases: Sequence[Any], prefix: str, run: str, emit: Hook) -> None:
        self._names = [db.name for db in databases]
        self._prefix = prefix
        self._run = run
        self._emit = emit
        self._results: dict[int, DatabaseResult] = {}
        self.unreachable: list[str] = []  # the last databases in a row that found no server

    def add(self, number: int, applied: list[str], error: BaseException | None, *, is_reported: bool = False) -> None:
        """Add the result of a database. `is_reported`: its run has emitted the error."""
        name = self._names[number]
        if error is not None and not is_reported:
            self._emit(RunFailed(name, self._prefix, self._run, error))
        self._results[number] = DatabaseResult(name, applied, error)
        self._emit(DatabaseFinished(name, self._prefix, self._run, tuple(applied), error))
        self.unreachable = [*self.unreachable, name] if is_server_away(error) else []

    def complete(self) -> list[DatabaseResult]:
        """Return the results in order, those of databases that weren't started included."""
        skipped = DatabaseSkippedError(self.unreachable[:_MOST_UNREACHABLE])
        for number in range(len(self._names)):
            if number not in self._results:
                self.add(number, [], skipped)
        return [self._results[number] for number in range(len(self._names))]


def _check(
    registry: "MigrationRegistry", databases: object, argument: str, other_db: object, options: Options
) -> list[Any]:
    """Check what would fail in each of the runs. Returns the databases."""
    check_concurrency(options.concurrency)
    if other_db is not None and not callable(other_db):
        raise InvalidOptionError(
            f"{argument} must be a function that returns a database by its name, such as client.get_database, not "
            f"{type(other_db).__name__}."
        )
    if not isinstance(databases, Iterable) or isinstance(databases, str):  # a single one, say, or a client
        raise InvalidOptionError(f"databases must be a list of databases, not {type(databases).__name__}.")
    listed = list(databases)
    for number, db in enumerate(listed):
        try:
            check_databases(db, None, is_async=argument == "sync_db")
        except InvalidDatabaseError as error:
            add_note(error, f"it is databases[{number}]")
            raise
        if db.name in SYSTEM_DATABASES:
            raise InvalidDatabaseError(f"databases[{number}] is {db.name!r}, MongoDB's own database. Leave it out.")
    check_prefix(options.prefix, "")  # it can still be too long for some of them
    Terms(options.lease_ttl, options.lease_timeout, options.patience)
    find_release(options.release)
    catalog = Catalog(registry.migrations, frozenset(registry.retired))
    catalog.check()
    options.selection.check(catalog)
    return listed
