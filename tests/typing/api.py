"""Typed uses of the public surface: checked by mypy, never executed."""

from collections.abc import Mapping
from typing import Any, assert_never, assert_type

from mongomock import Database as MockDatabase
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from quaestor import (
    AsyncRunner,
    Event,
    Lease,
    LeaseAwaited,
    LeaseNotReleased,
    LeaseTimeoutError,
    MigrationApplied,
    MigrationDefinition,
    MigrationFailed,
    MigrationRegistry,
    MigrationRetried,
    MigrationStarted,
    MissingDatabaseError,
    RecordsIgnored,
    RunFinished,
    RunStarted,
    SessionsNotEnded,
    SyncRunner,
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


@registry.register("c", ("a", "b"), transaction=True)
async def c(db: AsyncIOMotorDatabase[Document]) -> None:
    await db.users.create_index("email")


def returned_unchanged(db: Database[Document]) -> None:
    assert_type(b(db), int)


assert_type(registry.migrations, Mapping[str, MigrationDefinition])


def hook(event: Event) -> None:
    assert_type(event.database, str)
    match event:
        case MigrationApplied(name=name, seconds=seconds):
            assert_type(name, str)
            assert_type(seconds, float)
        case MigrationFailed(error=error):
            assert_type(error, BaseException)
        case RunStarted(plan=names) | RunFinished(applied=names):
            assert_type(names, tuple[str, ...])
        case LeaseAwaited(holder=holder):
            assert_type(holder, Lease)
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
    assert_type(await runner.run(), list[str])
    assert_type(await runner.unlock(), Lease | None)


def synchronous(db: Database[Document], new: AsyncDatabase[Document], mock: MockDatabase[Any]) -> None:
    assert_type(registry.run_sync(db, "app"), list[str])
    assert_type(registry.run_sync(db, prefix="app", async_db=new, on_event=hook), list[str])
    assert_type(registry.run_sync(mock, "app"), list[str])
    assert_type(registry.run_sync(db, "app", lease_ttl=10, lease_timeout=0.5), list[str])
    runner = SyncRunner(registry, db, "app", async_db=new, on_event=hook, lease_ttl=10, lease_timeout=None)
    assert_type(runner.run(), list[str])
    assert_type(runner.unlock(), Lease | None)
    try:
        registry.run_sync(db, "app")
    except MissingDatabaseError as error:
        assert_type(error.migrations, list[str])
    except LeaseTimeoutError as error:
        assert_type(error.holder, Lease)


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
    registry.register("a")(7)  # type: ignore[type-var]  # not a function
    registry.migrations["a"].depends_on.append("b")  # type: ignore[attr-defined]  # read-only
    registry.migrations.clear()  # type: ignore[attr-defined]  # likewise
