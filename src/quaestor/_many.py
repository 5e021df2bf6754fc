"""Runs, rollbacks and marks over many databases, several at once."""

from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from quaestor._author import find_release
from quaestor._core import engine as operations
from quaestor._core.definition import check_concurrency, check_names
from quaestor._core.lease import Terms
from quaestor._core.phases import Selection
from quaestor._core.scheduler import Schedule, Start, follow
from quaestor._core.store import Host
from quaestor._core.undo import Undo
from quaestor._hosts.calls import catch, catch_async, guard
from quaestor._hosts.loop import LoopHost
from quaestor._hosts.threads import ThreadHost
from quaestor._mongo.drivers import check_databases
from quaestor._mongo.mongo_store import check_prefix
from quaestor._mongo.outcomes import is_server_away
from quaestor._source import compute_checksum
from quaestor._text import add_note
from quaestor.databases import SYSTEM_DATABASES
from quaestor.errors import DatabaseSkippedError, InvalidDatabaseError, InvalidOptionError
from quaestor.events import (
    ChangesAccepted,
    DatabaseFinished,
    Event,
    Hook,
    MigrationApplied,
    MigrationRolledBack,
    RecordsMarked,
    RunFailed,
)
from quaestor.runners import AsyncRunner, MakeOperation, SyncRunner, make_run_id, make_scope, perform_part
from quaestor.status import DatabaseResult, MarkState, Work

_MOST_UNREACHABLE = 10  # a thousand databases behind a dead server would take hours
_FIELDS: Final[dict[Work, str]] = {"run": "applied", "rollback": "rolled_back", "mark": "marked"}
"""The field of a result with the migrations that were applied, rolled back or marked."""

if TYPE_CHECKING:  # the registry imports this module
    from quaestor.registry import MigrationRegistry


@dataclass(frozen=True)
class Options:
    """The options of all databases: arguments of `MigrationRegistry.run_many`."""

    prefix: str
    on_event: Hook | None
    lease_ttl: float
    lease_timeout: float | None
    patience: float
    concurrency: int
    release: str | None


def run(selection: Selection) -> MakeOperation:
    """Apply what is pending, as far as the selection goes."""
    return partial(operations.run, selection=selection)


def roll_back(undo: Undo) -> MakeOperation:
    """Undo what is meant, and what needs it."""
    return partial(operations.roll_back, undo=undo)


def mark(names: Collection[str], state: MarkState, *, with_dependencies: bool = False) -> MakeOperation:
    """Mark these migrations."""
    marked = check_names("names", names)
    if with_dependencies and state != "applied":
        raise InvalidOptionError(f"with_dependencies is for the state 'applied', not {state!r:.80}.")
    match state:
        case "applied":
            return partial(operations.mark_applied, names=marked, with_dependencies=with_dependencies)
        case "pending":
            return partial(operations.mark_pending, names=marked)
        case "accepted":
            return partial(operations.mark_accepted, names=marked, compute=compute_checksum)
    raise InvalidOptionError(f"state must be 'applied', 'pending' or 'accepted', not {state!r:.80}.")


def perform_many(
    registry: "MigrationRegistry",
    databases: Iterable[Any],
    other_db: Callable[[str], Any] | None,
    options: Options,
    make_operation: MakeOperation,
    *,
    is_async: bool,
) -> Coroutine[Any, Any, list[DatabaseResult]]:
    """Perform an operation on each of the databases. The coroutine of sync runs never suspends."""
    argument, prefix = "sync_db" if is_async else "async_db", options.prefix
    listed, terms = _check(databases, argument, other_db, options)
    work = make_operation(make_scope(registry, (), terms)).work  # raises now what it would raise in every database
    emit = guard(options.on_event)

    names = [str(number) for number in range(len(listed))]
    schedule = Schedule(names, {}, options.concurrency)
    run_id = make_run_id()
    results = _Results(listed, prefix, run_id, emit, work)
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

    def perform(number: int, hook: Hook) -> Any:
        db = listed[number]
        other = {} if other_db is None else {argument: other_db(db.name)}
        runner = make_runner(db, on_event=hook, **other)
        return perform_part(runner, make_operation, run_id, number)

    async def perform_one(start: Start) -> None:
        number, names, is_reported = int(start.name), list[str](), False

        def count(event: Event) -> None:
            nonlocal is_reported
            if isinstance(event, MigrationApplied | MigrationRolledBack):
                names.append(event.name)
            elif isinstance(event, RecordsMarked | ChangesAccepted):
                names.extend(event.names)
            is_reported = is_reported or isinstance(event, RunFailed)
            emit(event)

        step = partial(perform, number, count)
        # Not raised: it may be a StopIteration, which no coroutine can raise.
        _, error = await catch_async(step) if is_async else catch(step)
        async with lock:
            results.add(number, names, error, is_reported=is_reported)
            schedule.finish(start.name)
            if len(results.unreachable) >= _MOST_UNREACHABLE:
                schedule.stop()

    async def perform_all() -> list[DatabaseResult]:
        failures: list[BaseException] = []
        supervisor = partial(follow, schedule, perform_one, lock, failures)
        await host.supervise(supervisor, schedule.stop, reaches_all=True)
        if failures:  # a worker that was cancelled, or couldn't start
            raise failures[0]
        return results.complete()

    return perform_all()


class _Results:
    """The results of the databases."""

    def __init__(self, databases: Sequence[Any], prefix: str, run: str, emit: Hook, work: Work) -> None:
        self._names = [db.name for db in databases]
        self._prefix = prefix
        self._run = run
        self._emit = emit
        self._work: Work = work
        self._results: dict[int, DatabaseResult] = {}
        self.unreachable: list[str] = []  # the last databases in a row that found no server

    def add(self, number: int, names: list[str], error: BaseException | None, *, is_reported: bool = False) -> None:
        """Add the result of a database: what was done, and its error. `is_reported`: the error was emitted."""
        where = (self._names[number], self._prefix, self._run)
        if error is not None and not is_reported:
            self._emit(RunFailed(*where, error, work=self._work))
        done: dict[str, Any] = {_FIELDS[self._work]: names}
        result = self._results[number] = replace(DatabaseResult(where[0], [], error), **done)
        applied, rolled_back, marked = tuple(result.applied), tuple(result.rolled_back), tuple(result.marked)
        self._emit(DatabaseFinished(*where, applied, error, rolled_back=rolled_back, marked=marked, work=self._work))
        self.unreachable = [*self.unreachable, where[0]] if is_server_away(error) else []

    def complete(self) -> list[DatabaseResult]:
        """Return the results in order, those of databases that weren't started included."""
        skipped = DatabaseSkippedError(self.unreachable[:_MOST_UNREACHABLE])
        for number in range(len(self._names)):
            if number not in self._results:
                self.add(number, [], skipped)
        return [self._results[number] for number in range(len(self._names))]


def _check(databases: object, argument: str, other_db: object, options: Options) -> tuple[list[Any], Terms]:
    """Check what would fail in each of the databases. Returns them as a list, and how to acquire the leases."""
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
    find_release(options.release)
    return listed, Terms(options.lease_ttl, options.lease_timeout, options.patience)
