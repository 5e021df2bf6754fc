"""Typed uses of the public surface: checked by mypy, never executed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, assert_never, assert_type

from mongomock import Database as MockDatabase
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from quaestor import (
    AsyncMigrationContext,
    AsyncRunner,
    BatchesInTransactionError,
    CollectionChangedError,
    DatabaseFinished,
    DatabaseResult,
    DependencyConflictError,
    Event,
    IrreversibleMigrationError,
    Lease,
    LeaseAwaited,
    LeaseLostError,
    LeaseNotReleased,
    LeaseTimeoutError,
    MigrationApplied,
    MigrationContext,
    MigrationDefinition,
    MigrationFailed,
    MigrationProgressed,
    MigrationRegistry,
    MigrationRetried,
    MigrationRolledBack,
    MigrationStarted,
    MigrationStatus,
    MissingDatabaseError,
    PassChanged,
    PassStarted,
    PassStatus,
    PlannedMigration,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    ReplicasAwaited,
    RollbackFinished,
    RollbackStarted,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
    Status,
    SyncRunner,
    TransactionFailedError,
    TransactionsUnsupportedError,
    UnknownMigrationError,
    UnknownRecordsError,
    log_event,
)

Document = dict[str, Any]
registry = MigrationRegistry()


@registry.register("a")
async def a(db: AsyncDatabase[Document]) -> None:
    await db.users.create_index("email")


@registry.register("b", depends_on=["a"])
def b(db: Database[Document]) -> int:
    return db.users.update_many({}, {"$set": {"status": "new"}}).modified_count


@registry.register("c", ("a", "b"), transaction=True, description="Says what it does.")
async def c(db: AsyncIOMotorDatabase[Document]) -> None:
    await db.users.create_index("email")


@registry.register_rollback("b")
def undo_b(db: Database[Document]) -> int:
    return db.users.update_many({}, {"$unset": {"status": ""}}).modified_count


@registry.register_rollback("c")
async def undo_c(db: AsyncDatabase[Document]) -> None:
    await db.users.drop_index("email_1")


@registry.register("d")
def d(db: Database[Document], context: MigrationContext) -> None:
    assert_type(context.name, str)
    context.progress(1, 2)
    for batch in context.batches(db.users):
        assert_type(batch, list[Document])
    for batch in context.batches(db.users, {"status": "new"}, size=10, projection=["email"], pause=0.1, max_lag=10):
        context.logger.info("%d", len(batch))
    context.for_each_batch(db.users, list_body)
    context.for_each_batch(db.users, list_body, {"status": "new"}, projection={"email": 1}, transaction=False)


@registry.register("e")
async def e(db: AsyncDatabase[Document], context: AsyncMigrationContext) -> None:
    assert_type(context.name, str)
    context.progress(1)
    async for batch in context.batches(db.users):
        assert_type(batch, list[Document])
    async for batch in context.batches(db.users, {"status": "new"}, size=10, projection=["email"], max_lag=None):
        context.logger.info("%d", len(batch))
    await context.for_each_batch(db.users, awaited_body)
    await context.for_each_batch(db.users, awaited_body, None, size=10, pause=1, transaction=True)


async def other_drivers(
    motor: AsyncIOMotorDatabase[Document],
    mock: MockDatabase[Any],
    context: MigrationContext,
    async_context: AsyncMigrationContext,
) -> None:
    for batch in context.batches(mock.users):
        assert_type(batch, list[Document])
    async for batch in async_context.batches(motor.users):
        assert_type(batch, list[Document])
    await async_context.for_each_batch(motor.users, awaited_body)


@registry.register_rollback("d")
def undo_d(db: Database[Document], context: MigrationContext) -> None:
    context.for_each_batch(db.users, list_body)


def list_body(documents: list[Document]) -> int:
    return len(documents)


async def awaited_body(documents: list[Document]) -> int:
    return len(documents)


def returned_unchanged(db: Database[Document]) -> None:
    assert_type(b(db), int)
    assert_type(undo_b(db), int)


assert_type(registry.migrations, Mapping[str, MigrationDefinition])
assert_type(registry.migrations["a"].description, str)
assert_type(registry.discover("app.migrations"), list[str])


def hook(event: Event) -> None:
    assert_type(event.database, str)
    match event:
        case MigrationApplied(name=name, seconds=seconds) | MigrationRolledBack(name=name, seconds=seconds):
            assert_type(name, str)
            assert_type(seconds, float)
        case MigrationFailed(error=error, undo=undo):
            assert_type(error, BaseException)
            assert_type(undo, bool)
        case RunStarted(plan=names) | RunFinished(applied=names):
            assert_type(names, tuple[str, ...])
        case RollbackStarted(plan=names) | RollbackFinished(rolled_back=names) | RecordsUnknown(names=names):
            assert_type(names, tuple[str, ...])
        case RecordsMarked(names=names, applied=applied):
            assert_type(names, tuple[str, ...])
            assert_type(applied, bool)
        case MigrationProgressed(done=done, whole=whole, rate=rate, due=due):
            assert_type(done, int)
            assert_type(whole, int | None)
            assert_type(rate, float | None)
            assert_type(due, bool)
        case PassStarted(collection=collection, done=done, whole=whole):
            assert_type(collection, str)
            assert_type(done, int)
            assert_type(whole, int | None)
        case PassChanged(collection=collection):
            assert_type(collection, str)
        case ReplicasAwaited(lag=lag, seconds=seconds):
            assert_type(lag, float)
            assert_type(seconds, float)
        case LeaseAwaited(holder=holder):
            assert_type(holder, Lease)
        case DatabaseFinished(applied=names, error=failure):
            assert_type(names, tuple[str, ...])
            assert_type(failure, BaseException | None)
        case RecordsIgnored() | SessionsNotEnded() | LeaseNotReleased() | MigrationStarted() | MigrationRetried():
            log_event(event)
        case _:
            assert_never(event)


async def asynchronous(db: AsyncDatabase[Document], motor: AsyncIOMotorDatabase[Document], old: Database[Any]) -> None:
    assert_type(await registry.run(db, "app"), list[str])
    assert_type(await registry.run(db, prefix="app", sync_db=old, on_event=hook), list[str])
    assert_type(await registry.run(motor, "app"), list[str])
    assert_type(await registry.run(db, "app", lease_ttl=10, lease_timeout=0.5), list[str])
    runner = AsyncRunner(registry, db, "app", sync_db=old, on_event=hook, lease_ttl=10, lease_timeout=None)
    assert_type(await registry.run(db, "app", targets=["a"], strict=True), list[str])
    assert_type(await runner.run(), list[str])
    assert_type(await runner.run({"a", "b"}, strict=True), list[str])
    assert_type(await runner.plan(), list[PlannedMigration])
    assert_type(await runner.plan(("a",)), list[PlannedMigration])
    assert_type(await runner.status(), Status)
    assert_type(await runner.rollback(registry.migrations), list[str])
    assert_type(await runner.plan_rollback(["a"]), list[PlannedMigration])
    assert_type(await runner.mark_applied(["a"]), list[str])
    assert_type(await runner.mark_pending(["a"]), list[str])
    assert_type(await runner.unlock(), Lease | None)
    assert_type(await registry.run(db, "app", concurrency=4), list[str])
    assert_type(await runner.run(concurrency=4), list[str])
    assert_type(await registry.run_many([db, db], "app"), list[DatabaseResult])
    assert_type(await registry.run_many((motor for _ in range(2)), prefix="app", strict=True), list[DatabaseResult])
    await registry.run_many([db], "app", sync_db=old.client.get_database, on_event=hook, targets={"a"}, concurrency=2)
    await registry.run_many([db], "app", sync_db=None, lease_ttl=10, lease_timeout=0.5)


def synchronous(db: Database[Document], new: AsyncDatabase[Document], mock: MockDatabase[Any]) -> None:
    assert_type(registry.run_sync(db, "app"), list[str])
    assert_type(registry.run_sync(db, prefix="app", async_db=new, on_event=hook), list[str])
    assert_type(registry.run_sync(mock, "app"), list[str])
    assert_type(registry.run_sync(db, "app", lease_ttl=10, lease_timeout=0.5), list[str])
    runner = SyncRunner(registry, db, "app", async_db=new, on_event=hook, lease_ttl=10, lease_timeout=None)
    assert_type(registry.run_sync(db, "app", targets=["a"], strict=True), list[str])
    assert_type(runner.run(), list[str])
    assert_type(runner.run({"a", "b"}, strict=True), list[str])
    assert_type(runner.plan(), list[PlannedMigration])
    assert_type(runner.plan(("a",)), list[PlannedMigration])
    assert_type(runner.status(), Status)
    assert_type(runner.rollback(registry.migrations), list[str])
    assert_type(runner.plan_rollback(["a"]), list[PlannedMigration])
    assert_type(runner.mark_applied(["a"]), list[str])
    assert_type(runner.mark_pending(["a"]), list[str])
    assert_type(runner.unlock(), Lease | None)
    assert_type(registry.run_sync(db, "app", concurrency=4), list[str])
    assert_type(runner.run(["a"], concurrency=4), list[str])
    assert_type(registry.run_many_sync([db, db], "app"), list[DatabaseResult])
    assert_type(registry.run_many_sync((mock for _ in range(2)), prefix="app", strict=True), list[DatabaseResult])
    registry.run_many_sync([db], "app", async_db=lambda name: new.client[name], on_event=hook, targets=["a"])
    registry.run_many_sync([db], "app", async_db=None, lease_ttl=10, lease_timeout=None, concurrency=2)
    for result in registry.run_many_sync([db], "app"):
        results(result)


def results(result: DatabaseResult) -> None:
    assert_type(result.database, str)
    assert_type(result.applied, list[str])
    assert_type(result.error, BaseException | None)


def lease(held: Lease) -> None:
    assert_type((held.owner, held.host, held.pid), tuple[str, str, int])
    assert_type(held.migrations, tuple[str, ...])
    assert_type(held.upcoming, tuple[str, ...])
    assert_type(held.recording, str | None)


def errors(runner: SyncRunner) -> None:
    try:
        runner.run()
    except MissingDatabaseError as error:
        assert_type(error.migrations, list[str])
    except LeaseTimeoutError as error:
        assert_type(error.holder, Lease)
    except UnknownMigrationError as error:
        assert_type(error.suggestions, dict[str, str | None])
        assert_type(error.names, list[str])
    except (UnknownRecordsError, IrreversibleMigrationError) as error:
        assert_type(error.names, list[str])
    except DependencyConflictError as error:
        assert_type(error.conflicts, dict[str, list[str]])
    except LeaseLostError as error:
        assert_type((error.migration, error.in_batches), tuple[str | None, bool])
    except (TransactionFailedError, BatchesInTransactionError) as error:
        assert_type(error.name, str)
    except TransactionsUnsupportedError as error:
        assert_type((error.migrations, error.in_batches), tuple[list[str], bool])
    except CollectionChangedError as error:
        assert_type((error.name, error.collection), tuple[str, str])


def values(status: Status, planned: PlannedMigration) -> None:
    assert_type((status.database, status.prefix), tuple[str, str])
    assert_type(status.migrations, tuple[MigrationStatus, ...])
    assert_type(status.lease, Lease | None)
    assert_type(status.names("unknown"), list[str])
    one = status.migrations[0]
    assert_type((one.name, one.description), tuple[str, str])
    assert_type(one.applied_at, datetime | None)
    assert_type(one.depends_on, tuple[str, ...])
    assert_type((one.transaction, one.has_rollback, one.interrupted), tuple[bool, bool, bool])
    assert_type(one.passes, tuple[PassStatus, ...])
    kept = one.passes[-1]
    assert_type((kept.collection, kept.done, kept.total), tuple[str, int, int | None])
    assert_type((kept.finished, kept.updated_at, kept.undo), tuple[bool, datetime, bool])
    match one.state:
        case "applied" | "pending" | "unknown":
            pass
        case _:
            assert_never(one.state)
    assert_type((planned.name, planned.reason), tuple[str, str])
    assert_type((planned.asked_for, planned.undo), tuple[bool, bool])
    assert_type(planned.because_of, tuple[str, ...])


async def awaited(event: Event) -> None: ...


# A checker that misses one of these mistakes reports its `type: ignore` as unused.


async def mistakes(db: Database[Document], new: AsyncDatabase[Document]) -> None:
    await registry.run(db, "app")  # type: ignore[arg-type]  # a synchronous database in the asynchronous call
    registry.run_sync(new, "app")  # type: ignore[arg-type]  # and the reverse
    registry.run_sync(db, "app", on_event=awaited)  # type: ignore[arg-type]  # a hook is not awaited
    registry.run_sync(db)  # type: ignore[call-arg]  # no prefix
    registry.register("a", depends_on=[1])  # type: ignore[list-item]  # a name that is not a str
    registry.register("a", [], True)  # type: ignore[call-arg]  # a flag without its name
    registry.register("a")(lambda: None)  # type: ignore[type-var]  # takes no database
    registry.register_rollback("a")(lambda: None)  # type: ignore[type-var]  # likewise
    registry.register("a")(7)  # type: ignore[type-var]  # not a function
    registry.register("a", description=7)  # type: ignore[arg-type]  # not a str
    SyncRunner(registry, db, "app").rollback()  # type: ignore[call-arg]  # it is said what is undone
    SyncRunner(registry, db, "app").rollback([1])  # type: ignore[list-item]  # a name that is not a str
    SyncRunner(registry, db, "app").status().names("done")  # type: ignore[arg-type]  # no state is called so
    registry.migrations["a"].depends_on.append("b")  # type: ignore[attr-defined]  # read-only
    registry.migrations.clear()  # type: ignore[attr-defined]  # likewise


async def mistakes_with_many(db: Database[Document], new: AsyncDatabase[Document], result: DatabaseResult) -> None:
    await registry.run(new, "app", concurrency="4")  # type: ignore[arg-type]  # not a number
    await registry.run_many([db], "app")  # type: ignore[list-item]  # synchronous databases in the asynchronous call
    registry.run_many_sync([new], "app")  # type: ignore[list-item]  # and the reverse
    registry.run_many_sync(db, "app")  # type: ignore[arg-type]  # one database, not a list
    registry.run_many_sync([db], "app", async_db=new)  # type: ignore[arg-type]  # a database, not what gives it
    await registry.run_many([new], "app", sync_db=lambda name: new)  # type: ignore[arg-type, return-value]  # wrong colour
    await registry.run_many([new], "app", on_event=awaited)  # type: ignore[arg-type]  # a hook is not awaited
    result.error = None  # type: ignore[misc]  # read-only


async def mistakes_in_passes(
    db: Database[Document],
    new: AsyncDatabase[Document],
    context: MigrationContext,
    async_context: AsyncMigrationContext,
) -> None:
    context.batches(new.users)  # type: ignore[arg-type]  # an asynchronous collection in a synchronous function
    async_context.batches(db.users)  # type: ignore[arg-type]  # and the reverse
    context.batches("users")  # type: ignore[arg-type]  # not a collection
    context.batches(db.users, {}, 10)  # type: ignore[call-arg]  # an option without its name
    for _ in async_context.batches(new.users):  # type: ignore[attr-defined]  # an asynchronous iterator
        pass
    await async_context.for_each_batch(new.users, list_body)  # type: ignore[arg-type]  # a body that is not awaited
    context.for_each_batch(db.users)  # type: ignore[call-arg]  # no body
