"""Runs, events, values and errors: checked by mypy and basedpyright, never executed."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, assert_never, assert_type

from mongomock import Database as MockDatabase
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

import quaestor
from quaestor import (
    AsyncRunner,
    BackfillChangedError,
    BackfillRestarted,
    BackfillStarted,
    BackfillStatus,
    BatchesInTransactionError,
    ChangesAccepted,
    CollectionChangedError,
    DatabaseFinished,
    DatabaseResult,
    DependenciesPending,
    DependencyConflictError,
    Event,
    HistoryEntry,
    HistoryImported,
    HistoryMissingError,
    HistoryNotWritten,
    ImportedMigration,
    ImportResult,
    InterruptedMigrationError,
    InvalidGuardError,
    IrreversibleMigrationError,
    Lease,
    LeaseAwaited,
    LeaseLostError,
    LeaseNotReleased,
    LeaseTimeoutError,
    MigrationApplied,
    MigrationDefinition,
    MigrationDelayedError,
    MigrationEvent,
    MigrationFailed,
    MigrationProgressed,
    MigrationRegistry,
    MigrationRolledBack,
    MigrationStatus,
    MigrationsWaiting,
    MissingDatabaseError,
    OtherPrefixesFound,
    PinnedPlan,
    PlanChangedError,
    PlannedMigration,
    PreconditionFailedError,
    PrimaryChanged,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    RegistryEmpty,
    ReplacementRecorded,
    ReplicasAwaited,
    RollbackFinished,
    RollbackStarted,
    RunEvent,
    RunFailed,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
    SimilarDatabaseFound,
    Status,
    SyncRunner,
    TransactionFailedError,
    TransactionsUnsupportedError,
    UnknownMigrationError,
    UnknownRecordsError,
    UnplacedMigration,
    VerificationFailedError,
    log_event,
)
from quaestor.adapters import register_folder
from quaestor.status import Tool

Document = dict[str, Any]
assert_type(quaestor.__version__, str)
registry = MigrationRegistry()

assert_type(registry.migrations, Mapping[str, MigrationDefinition])
assert_type(registry.migrations["a"].description, str)
assert_type(registry.migrations["a"].verifications, tuple[Callable[..., object], ...])
assert_type(registry.discover("app.migrations"), list[str])
assert_type(registry.discover("app.migrations", exclude=["helpers"]), list[str])
assert_type(registry.sort(), list[MigrationDefinition])


def hook(event: Event) -> None:
    assert_type((event.database, event.prefix, event.run), tuple[str, str, str])
    if isinstance(event, MigrationEvent):
        assert_type((event.name, event.position, event.count, event.undo), tuple[str, int, int, bool])
    elif isinstance(event, RunEvent):
        log_event(event)
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
        case ChangesAccepted(names=names):
            assert_type(names, tuple[str, ...])
        case HistoryImported(names=names, tool=tool):
            assert_type(names, tuple[str, ...])
            assert_type(tool, Tool)
        case MigrationProgressed(done=done, total=total, rate=rate, due=due):
            assert_type(done, int)
            assert_type(total, int | None)
            assert_type(rate, float | None)
            assert_type(due, bool)
        case BackfillStarted(backfill=backfill, collection=collection, done=done, total=total):
            assert_type((backfill, collection), tuple[str, str])
            assert_type(done, int)
            assert_type(total, int | None)
        case OtherPrefixesFound(prefixes=names):
            assert_type(names, tuple[str, ...])
        case SimilarDatabaseFound(similar=similar):
            assert_type(similar, str)
        case BackfillRestarted(collection=collection):
            assert_type(collection, str)
        case ReplicasAwaited(lag=lag, seconds=seconds):
            assert_type(lag, float)
            assert_type(seconds, float)
        case LeaseAwaited(holder=holder):
            assert_type(holder, Lease)
        case DatabaseFinished(applied=names, rolled_back=undone, marked=marked, error=failure, work=work):
            assert_type((names, undone, marked), tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]])
            assert_type(failure, BaseException | None)
            assert_type(work, Literal["run", "rollback", "mark"])
        case DependenciesPending(conflicts=conflicts):
            assert_type(conflicts, Mapping[str, Sequence[str]])
        case MigrationsWaiting(delayed=delayed, dependents=names, post_deploy=others):
            assert_type(others, tuple[str, ...])
            assert_type(delayed, Mapping[str, datetime | None])
            assert_type(names, tuple[str, ...])
        case HistoryNotWritten(what=what, name=subject, error=reason):
            assert_type((what, subject), tuple[str, str | None])
            assert_type(reason, Exception)
        case ReplacementRecorded(name=subject, replaces=names):
            assert_type((subject, names), tuple[str, tuple[str, ...]])
        case RecordsIgnored() | SessionsNotEnded() | LeaseNotReleased() | RegistryEmpty() | PrimaryChanged():
            log_event(event)
        case MigrationEvent(name=name, position=position, count=count):
            assert_type((name, position, count), tuple[str, int, int])
        case RunFailed(error=error, work=work):
            assert_type(error, BaseException)
            assert_type(work, Literal["run", "rollback", "mark"])
        case RunEvent():
            log_event(event)
    assert_type(str(event), str)


async def asynchronous(db: AsyncDatabase[Document], motor: AsyncIOMotorDatabase[Document], old: Database[Any]) -> None:
    assert_type(await registry.run(db, "app"), list[str])
    assert_type(await registry.run(db, prefix="app", sync_db=old, on_event=hook), list[str])
    assert_type(await registry.run(motor, "app"), list[str])
    assert_type(await registry.run(db, "app", lease_ttl=10, lease_timeout=0.5), list[str])
    assert_type(await registry.run(db), list[str])
    assert_type(await AsyncRunner(registry, db).run(), list[str])
    runner = AsyncRunner(registry, db, "app", sync_db=old, on_event=hook, lease_ttl=10, lease_timeout=None)
    assert_type(await registry.run(db, "app", targets=["a"], strict=True), list[str])
    assert_type(await runner.run(), list[str])
    assert_type(await runner.run({"a", "b"}, strict=True), list[str])
    assert_type(await runner.plan(), list[PlannedMigration])
    assert_type(await runner.plan(("a",), retry=["a"]), list[PlannedMigration])
    assert_type(await runner.run(retry={"a"}), list[str])
    assert_type(await runner.status(), Status)
    assert_type(await runner.history(), list[HistoryEntry])
    assert_type(await runner.history({"a"}, limit=10), list[HistoryEntry])
    assert_type(await runner.verify(), dict[str, str])
    assert_type(await runner.verify(registry.migrations), dict[str, str])
    assert_type(await runner.rollback(registry.migrations), list[str])
    assert_type(await runner.rollback(last=2), list[str])
    await runner.rollback(["a"], with_dependents=False)
    assert_type(await runner.plan_rollback(["a"]), list[PlannedMigration])
    assert_type(await runner.plan_rollback(to="a"), list[PlannedMigration])
    assert_type(await runner.mark_applied(["a"]), list[str])
    assert_type(await runner.mark_applied(["a"], with_dependencies=True), list[str])
    assert_type(await runner.run(phase="deploy", steps=2, ignore_delays=True), list[str])
    assert_type(await runner.plan(phase="post_deploy", steps=2, ignore_delays=True), list[PlannedMigration])
    assert_type(await runner.pin(phase=None, steps=None), PinnedPlan)
    assert_type(await registry.run(db, phase="deploy", steps=2, ignore_delays=True), list[str])
    assert_type(await registry.run_many([db], phase="deploy", steps=2, ignore_delays=True), list[DatabaseResult])
    assert_type(await runner.mark_pending(["a"]), list[str])
    assert_type(await runner.mark_accepted(["a"]), list[str])
    assert_type(await runner.plan_import("beanie", timezone="Europe/Berlin"), ImportResult)
    assert_type(await runner.import_history("mongrator", names={"b": "a"}, collection="old"), ImportResult)
    assert_type(await runner.unlock(), Lease | None)
    assert_type(await runner.protect("production"), None)
    assert_type(await runner.protect(None), None)
    assert_type(await runner.read_protection(), str | None)
    assert_type(await runner.pin(["a"], strict=True), PinnedPlan)
    assert_type(await runner.run(plan_id=(await runner.pin()).id), list[str])
    assert_type(await registry.run(db, plan_id="0123456789abcdef"), list[str])
    assert_type(await registry.run(db, "app", concurrency=4), list[str])
    assert_type(await runner.run(concurrency=4), list[str])
    assert_type(await registry.run_many([db, db], "app"), list[DatabaseResult])
    assert_type(await registry.run_many((motor for _ in range(2)), prefix="app", strict=True), list[DatabaseResult])
    await registry.run_many([db], "app", sync_db=old.client.get_database, on_event=hook, targets={"a"}, concurrency=2)
    await registry.run_many([db], sync_db=None, lease_ttl=10, lease_timeout=0.5, release="1.4.2")
    assert_type(await registry.rollback_many([db, db], "app", ["a"]), list[DatabaseResult])
    await registry.rollback_many((motor for _ in range(2)), prefix="app", targets={"a"}, on_event=hook, concurrency=2)
    await registry.rollback_many([db], "app", ["a"], sync_db=old.client.get_database, patience=10, release="1.4.2")
    await registry.rollback_many([db], last=2)
    await registry.rollback_many([db], "app", ["a"], with_dependents=False)
    await registry.rollback_many([db], "app", to="a")
    assert_type(await registry.mark_many([db, db], "app", registry.migrations), list[DatabaseResult])
    await registry.mark_many([db], "app", ["a"], with_dependencies=True)
    await registry.mark_many([db], "app", ["a"], "pending", sync_db=None, on_event=hook, lease_ttl=10)
    await registry.mark_many((motor for _ in range(2)), prefix="app", names={"a"}, state="accepted", concurrency=2)


def synchronous(db: Database[Document], new: AsyncDatabase[Document], mock: MockDatabase[Any]) -> None:
    assert_type(registry.run_sync(db, "app"), list[str])
    assert_type(registry.run_sync(db, prefix="app", async_db=new, on_event=hook), list[str])
    assert_type(registry.run_sync(mock, "app"), list[str])
    assert_type(registry.run_sync(db, "app", lease_ttl=10, lease_timeout=0.5), list[str])
    assert_type(registry.run_sync(db), list[str])
    assert_type(SyncRunner(registry, db).run(), list[str])
    runner = SyncRunner(registry, db, "app", async_db=new, on_event=hook, lease_ttl=10, lease_timeout=None)
    assert_type(registry.run_sync(db, "app", targets=["a"], strict=True), list[str])
    assert_type(runner.run(), list[str])
    assert_type(runner.run({"a", "b"}, strict=True), list[str])
    assert_type(runner.plan(), list[PlannedMigration])
    assert_type(runner.plan(("a",), retry=["a"]), list[PlannedMigration])
    assert_type(runner.run(retry={"a"}), list[str])
    assert_type(runner.status(), Status)
    assert_type(runner.history(), list[HistoryEntry])
    assert_type(runner.history(["a"], limit=10), list[HistoryEntry])
    assert_type(runner.verify(["a"]), dict[str, str])
    assert_type(runner.rollback(registry.migrations), list[str])
    assert_type(runner.plan_rollback(["a"]), list[PlannedMigration])
    assert_type(runner.mark_applied(["a"]), list[str])
    assert_type(runner.mark_pending(["a"]), list[str])
    assert_type(runner.mark_accepted({"a"}), list[str])
    assert_type(runner.plan_import("beanie", timezone="Europe/Berlin"), ImportResult)
    assert_type(runner.import_history("mongrator", names={"b": "a"}, collection="old"), ImportResult)
    assert_type(register_folder(registry, "old", tool="mongrator"), list[str])
    assert_type(runner.unlock(), Lease | None)
    assert_type(runner.protect("production"), None)
    assert_type(runner.protect(None), None)
    assert_type(runner.read_protection(), str | None)
    assert_type(runner.pin(["a"], strict=True), PinnedPlan)
    assert_type(runner.run(plan_id=runner.pin().id), list[str])
    assert_type(registry.run_sync(db, plan_id="0123456789abcdef"), list[str])
    assert_type(registry.run_sync(db, "app", concurrency=4), list[str])
    assert_type(runner.run(["a"], concurrency=4), list[str])
    assert_type(runner.run(phase="deploy", steps=2, ignore_delays=True), list[str])
    assert_type(runner.rollback(last=2), list[str])
    runner.rollback(["a"], with_dependents=False)
    assert_type(runner.plan_rollback(to="a"), list[PlannedMigration])
    assert_type(runner.mark_applied(["a"], with_dependencies=True), list[str])
    assert_type(registry.run_sync(db, phase="deploy", steps=2, ignore_delays=True), list[str])
    assert_type(registry.run_many_sync([db], phase="deploy", steps=2, ignore_delays=True), list[DatabaseResult])
    assert_type(registry.run_many_sync([db, db], "app"), list[DatabaseResult])
    assert_type(registry.run_many_sync((mock for _ in range(2)), prefix="app", strict=True), list[DatabaseResult])
    registry.run_many_sync([db], "app", async_db=lambda name: new.client[name], on_event=hook, targets=["a"])
    registry.run_many_sync([db], async_db=None, lease_ttl=10, lease_timeout=None, concurrency=2, release="1.4.2")
    assert_type(registry.rollback_many_sync([db, db], "app", ["a"]), list[DatabaseResult])
    registry.rollback_many_sync((mock for _ in range(2)), prefix="app", targets={"a"}, on_event=hook, concurrency=2)
    registry.rollback_many_sync([db], "app", ["a"], async_db=lambda name: new.client[name], lease_timeout=None)
    registry.rollback_many_sync([db], last=2)
    registry.rollback_many_sync([db], "app", ["a"], with_dependents=False)
    registry.rollback_many_sync([db], "app", to="a")
    assert_type(registry.mark_many_sync([db, db], "app", registry.migrations), list[DatabaseResult])
    registry.mark_many_sync([db], "app", ["a"], with_dependencies=True)
    registry.mark_many_sync([db], "app", ["a"], "pending", async_db=None, on_event=hook, lease_ttl=10)
    registry.mark_many_sync((mock for _ in range(2)), prefix="app", names={"a"}, state="accepted", concurrency=2)
    for result in registry.run_many_sync([db], "app"):
        results(result)


def results(result: DatabaseResult) -> None:
    assert_type(result.database, str)
    assert_type((result.applied, result.rolled_back, result.marked), tuple[list[str], list[str], list[str]])
    assert_type(result.error, BaseException | None)


def imports(result: ImportResult) -> None:
    assert_type(result.imported, tuple[ImportedMigration, ...])
    assert_type((result.imported[0].theirs, result.imported[0].applied_at), tuple[str, datetime])
    assert_type(result.not_applied + result.unplaced, tuple[UnplacedMigration, ...])
    assert_type((result.unplaced[0].name, result.unplaced[0].reason), tuple[str, str])


def lease(held: Lease) -> None:
    assert_type((held.owner, held.host, held.pid), tuple[str, str, int])
    assert_type(held.migrations, tuple[str, ...])
    assert_type(held.upcoming, tuple[str, ...])
    assert_type(held.recording, str | None)


def history(entry: HistoryEntry) -> None:
    assert_type((entry.name, entry.host, entry.user), tuple[str | None, str | None, str | None])
    assert_type(entry.at, datetime | None)
    assert_type(entry.duration_ms, float | None)
    assert_type(entry.undo, bool)
    if entry.error is not None:
        assert_type((entry.error.type, entry.error.message), tuple[str, str])
    if entry.record is not None:
        assert_type((entry.record.checksum, entry.record.source), tuple[str | None, str | None])


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
    except (PreconditionFailedError, VerificationFailedError, InvalidGuardError) as error:
        assert_type((error.name, error.function), tuple[str, str])
    except InterruptedMigrationError as error:
        assert_type((error.names, error.interrupted), tuple[list[str], dict[str, datetime]])
    except (UnknownRecordsError, IrreversibleMigrationError) as error:
        assert_type(error.names, list[str])
    except MigrationDelayedError as error:
        assert_type(error.delayed, dict[str, datetime | None])
    except HistoryMissingError as error:
        assert_type((error.tool, error.collection, error.database), tuple[str, str, str])
    except PlanChangedError as error:
        assert_type((error.expected, error.found, error.migrations), tuple[str, str, list[str]])
    except DependencyConflictError as error:
        assert_type(error.conflicts, dict[str, list[str]])
    except LeaseLostError as error:
        assert_type((error.migration, error.in_batches), tuple[str | None, bool])
    except (TransactionFailedError, BatchesInTransactionError) as error:
        assert_type(error.name, str)
    except TransactionsUnsupportedError as error:
        assert_type((error.migrations, error.in_batches), tuple[list[str], bool])
    except BackfillChangedError as error:
        assert_type((error.name, error.backfill, error.changed), tuple[str, str, str])
    except CollectionChangedError as error:
        assert_type((error.name, error.collection), tuple[str, str])


def values(status: Status, planned: PlannedMigration) -> None:
    assert_type((status.database, status.prefix), tuple[str, str])
    assert_type(status.migrations, tuple[MigrationStatus, ...])
    assert_type(status.lease, Lease | None)
    assert_type(status.protected_as, str | None)
    assert_type(status.names("unknown"), list[str])
    one = status.migrations[0]
    assert_type((one.name, one.description), tuple[str, str])
    assert_type(one.applied_at, datetime | None)
    assert_type(one.depends_on, tuple[str, ...])
    assert_type((one.transaction, one.has_rollback, one.interrupted), tuple[bool, bool, bool])
    assert_type(one.interrupted_since, datetime | None)
    assert_type(one.phase, Literal["deploy", "post_deploy"])
    assert_type((one.replaces, one.replaced_by), tuple[tuple[str, ...], str | None])
    assert_type(one.backfills, tuple[BackfillStatus, ...])
    kept = one.backfills[-1]
    assert_type(kept.name, str)
    assert_type((kept.collection, kept.done, kept.total), tuple[str, int, int | None])
    assert_type((kept.finished, kept.updated_at, kept.undo), tuple[bool, datetime, bool])
    match one.state:
        case "applied" | "pending" | "waiting" | "replaced" | "retired" | "unknown":
            pass
        case _:
            assert_never(one.state)
    assert_type((planned.name, planned.reason), tuple[str, str])
    assert_type((planned.asked_for, planned.undo), tuple[bool, bool])
    assert_type((planned.because_of, planned.completes), tuple[tuple[str, ...], str | None])
    assert_type((planned.replaces, planned.waits_for), tuple[tuple[str, ...], tuple[str, ...]])
    assert_type((planned.is_recorded_only, planned.is_waiting, planned.is_delayed), tuple[bool, bool, bool])
    assert_type(planned.delayed_until, datetime | None)
    assert_type(planned.waits_for_phase, Literal["deploy", "post_deploy"] | None)
    pinned = PinnedPlan("0123456789abcdef", (planned,))
    assert_type((pinned.id, pinned.migrations), tuple[str, tuple[PlannedMigration, ...]])
