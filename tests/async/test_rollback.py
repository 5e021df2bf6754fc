"""Undoing migrations: which ones, in which order, what is left, and what a failure leaves."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo import MongoClient

from quaestor import (
    AsyncRunner,
    Event,
    InvalidOptionError,
    IrreversibleMigrationError,
    LeaseAwaited,
    LeaseLostError,
    LeaseTimeoutError,
    MigrationFailed,
    MigrationRegistry,
    MigrationRolledBack,
    MigrationStarted,
    RecordsUnknown,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    TransactionsUnsupportedError,
    UnknownMigrationError,
    log_event,
)
from tests.databases import drivers
from tests.functions import (
    Broken,
    effects_async,
    notes_async,
    nothing_async,
    nowhere_async,
    recorded_async,
)
from tests.meeting import Moment, Told, start_async
from tests.operations import BAD_NAMES, BREAKS, CHAIN, DIAMOND, ROLLBACKS, Case, lock_of, records, registry
from tools.commands import Commands

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", ROLLBACKS, ids=str)
async def test_rollback(db: Any, case: Case) -> None:
    """The targets and all applied migrations that need them are rolled back, dependents first."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
        await db.effects.insert_many([{"_id": name} for name in case.recorded])
    calls: list[str] = []

    runner = AsyncRunner(registry(case.needs, "async", calls), db, "app")

    assert await runner.rollback(case.targets) == list(case.planned)

    assert calls == [f"undo {name}" for name in case.planned]
    assert await recorded_async(db) == await effects_async(db) == sorted(set(case.recorded) - case.planned.keys())


async def test_rollback_then_reapply(db: Any) -> None:
    """A migration that was rolled back is pending: a run applies it again, a rollback undoes it again."""
    runner = AsyncRunner(registry(DIAMOND, "async", []), db, "app")

    for _ in range(2):
        assert await runner.run() == ["aside", "top", "left", "right", "end"]
        assert await runner.rollback(DIAMOND) == ["end", "right", "left", "top", "aside"]
        assert await runner.rollback(DIAMOND) == []
        assert await recorded_async(db) == await effects_async(db) == []
    assert await db.app_migrations_lock.find_one() == {"_id": "lease", "token": 4, "sessions": [], "previous": None}


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
@pytest.mark.parametrize(
    ("transaction", "each", "once"),
    [
        (False, ["update", "delete"], ["update"]),
        (True, ["delete", "commitTransaction", "update"], []),
    ],
)
async def test_commands(db: Any, commands: Commands, transaction: bool, each: list[str], once: list[str]) -> None:
    """A rollback costs as much as a run: two reads and a lease, and per migration a check and a removed record."""
    migrations = MigrationRegistry()
    for number in range(5):
        migrations.register(str(number), transaction=transaction)(nothing_async)
        migrations.register_rollback(str(number))(nothing_async)
    await migrations.run(db, "app")
    commands.sent.clear()

    await AsyncRunner(migrations, db, "app").rollback(migrations.migrations)

    session = ["connectionStatus"] if transaction else []
    assert commands.names == ["find", *session, "findAndModify", "find", *each * 5, *once]
    deletes = [command for command in commands.sent if "delete" in command]
    assert {command["delete"] for command in deletes} == {"app_migrations"}
    if not transaction:
        assert {command["writeConcern"]["w"] for command in deletes} == {"majority"}


async def test_events(db: Any) -> None:
    """A hook gets every event of a rollback, in order; there is one event of unknown records."""
    told: list[Event] = []
    runner = AsyncRunner(registry({"a": [], "b": ["a"]}, "async", []), db, "app", on_event=told.append)
    await runner.run()
    await db.app_migrations.insert_many(records("from tomorrow"))
    told.clear()

    await runner.rollback(["a"])

    where = (db.name, "app")
    seconds = [event.seconds for event in told if isinstance(event, MigrationRolledBack)]
    assert told == [
        RecordsUnknown(*where, ("from tomorrow",)),
        RollbackStarted(*where, ("b", "a")),
        MigrationStarted(*where, "b", 1, 2, undo=True),
        MigrationRolledBack(*where, "b", 1, 2, seconds[0], undo=True),
        MigrationStarted(*where, "a", 2, 2, undo=True),
        MigrationRolledBack(*where, "a", 2, 2, seconds[1], undo=True),
        RollbackFinished(*where, ("b", "a")),
    ]
    assert all(0 <= one < 60 for one in seconds)


async def test_log(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that migrations are being undone, and not that they are applied."""
    runner = AsyncRunner(registry({"a": []}, "async", []), db, "app", on_event=log_event)
    await runner.run()
    caplog.clear()

    with caplog.at_level(logging.INFO, "quaestor"):
        await runner.rollback(["a"])
        await runner.rollback(["a"])

    where = f"[{db.name}/app]"
    assert caplog.messages[:2] == [f"{where} 1 migration to roll back: a", f"{where} Rolling back 'a' (1 of 1)"]
    assert caplog.messages[2].startswith(f"{where} Rolled back 'a' (1 of 1) in ")
    assert caplog.messages[3:] == [f"{where} Rolled back 1 migration", f"{where} Nothing to roll back: not applied."]


async def test_irreversible(db: Any) -> None:
    """The error names all applied migrations without a rollback; nothing has run."""
    calls: list[str] = []
    migrations = registry(CHAIN, "async", calls, irreversible=["a", "c", "d"])
    await db.app_migrations.insert_many(records("a", "b", "c"))

    with pytest.raises(IrreversibleMigrationError, match="No rollback is registered for c, a") as caught:
        await AsyncRunner(migrations, db, "app").rollback(["b", "a"])

    assert caught.value.names == ["c", "a"]
    assert calls == []
    assert await recorded_async(db) == ["a", "b", "c"]
    assert await db.app_migrations_lock.count_documents({}) == 0


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_irreversible_under_the_lease(db: Any, uri: str, name: str) -> None:
    """Migrations that are applied while a rollback waits count: if one is irreversible, nothing is undone."""
    calls: list[str] = []
    await db.app_migrations_lock.insert_one(lock_of())
    await db.app_migrations.insert_many(records("a"))

    def on_event(event: Event) -> None:
        if isinstance(event, LeaseAwaited):
            with MongoClient(uri) as client:
                client[name].app_migrations.insert_many(records("b"))
                client[name].app_migrations_lock.delete_one({})

    migrations = registry(CHAIN, "async", calls, irreversible=["b"])
    with pytest.raises(IrreversibleMigrationError) as caught:
        await AsyncRunner(migrations, db, "app", on_event=on_event).rollback(["a"])

    assert caught.value.names == ["b"]
    assert calls == []
    assert await recorded_async(db) == ["a", "b"]
    assert "owner" not in await db.app_migrations_lock.find_one()


async def test_failure(db: Any) -> None:
    """A rollback that fails has removed exactly the records of what it undid, and can be repeated."""
    calls: list[str] = []
    told: list[Event] = []
    await registry(CHAIN, "async", calls).run(db, "app")
    failing = AsyncRunner(registry(CHAIN, "async", calls, fails="undo b"), db, "app", on_event=told.append)

    with pytest.raises(Broken) as caught:
        await failing.rollback(["a"])

    assert caught.value.__notes__ == ["quaestor: while rolling back migration 'b', 3 of 4"]
    assert told[-2:] == [
        MigrationFailed(db.name, "app", "b", 3, 4, caught.value, undo=True),
        RunFailed(db.name, "app", caught.value, work="rollback"),
    ]
    assert await recorded_async(db) == ["a", "b"]
    assert await effects_async(db) == ["a"]  # what the function did before it failed is done
    assert "owner" not in await db.app_migrations_lock.find_one()
    assert await AsyncRunner(registry(CHAIN, "async", calls), db, "app").rollback(["a"]) == ["b", "a"]


@pytest.mark.parametrize("found", BREAKS.values(), ids=[*BREAKS])
async def test_records_of_all_kinds(db: Any, found: list[dict[str, Any]]) -> None:
    """All records of the migration are removed, those of version 0.1 included; all others stay."""
    others = [{"_id": 7}, {"_id": 8, "name": 7}, *records("from tomorrow")]
    await db.app_migrations.insert_many([*found, *others])
    calls: list[str] = []

    assert await AsyncRunner(registry({"a": []}, "async", calls), db, "app").rollback(["a"]) == ["a"]

    assert calls == ["undo a"]
    assert [record["_id"] async for record in db.app_migrations.find()] == [7, 8, "from tomorrow"]


@pytest.mark.driver("pymongo")
async def test_refused_before_the_first_command() -> None:
    """Unknown names and anything but a list of names are refused before the first command."""
    async with nowhere_async() as db:
        runner = AsyncRunner(registry(CHAIN, "async", []), db, "app")
        with pytest.raises(UnknownMigrationError, match="There is no migration 'x'"):
            await runner.rollback(["a", "x"])
        for names, words in [*BAD_NAMES, (None, "must be a list of names (str), not None")]:
            with pytest.raises(InvalidOptionError) as caught:
                await runner.rollback(names)
            assert f"targets {words}" in str(caught.value)


async def test_lease(db: Any) -> None:
    """A rollback acquires the lease, which names the operation, or waits for it until the timeout."""
    migrations = MigrationRegistry()
    seen = []
    migrations.register("a")(nothing_async)

    @migrations.register_rollback("a")
    async def looks(db: Any) -> None:
        seen.append(await db.app_migrations_lock.find_one())

    await db.app_migrations.insert_many(records("a"))
    runner = AsyncRunner(migrations, db, "app", lease_timeout=0)

    await db.app_migrations_lock.insert_one(lock_of())
    with pytest.raises(LeaseTimeoutError):
        await runner.rollback(["a"])
    assert (seen, await recorded_async(db)) == ([], ["a"])

    await db.app_migrations_lock.delete_many({})
    await runner.rollback(["a"])
    assert (seen[0]["work"], seen[0]["migrations"]) == ("rollback", ["a"])


async def test_waits_for_a_run(db: Any) -> None:
    """A rollback that waits for a run undoes what is recorded once it has the lease."""
    calls: list[str] = []
    migrations = registry({"a": [], "c": ["b"]}, "async", calls)
    await db.app_migrations.insert_many(records("a"))
    waiting, started = Moment(), []
    waits = AsyncRunner(migrations, db, "app", on_event=Told({LeaseAwaited: waiting.has_come}))

    @migrations.register("b")
    async def starts_a_rollback(db: Any) -> None:
        started.append(start_async(lambda: waits.rollback(["a", "b"])))
        await waiting.wait_async()

    migrations.register_rollback("b")(notes_async(calls, "undo b"))

    assert await migrations.run(db, "app") == ["b", "c"]
    assert await started[0].result_async() == ["c", "b", "a"]
    assert calls == ["c", "undo c", "undo b", "undo a"]


async def take(db: Any) -> None:
    """Another instance acquires the lease."""
    await db.app_migrations_lock.replace_one({"_id": "lease"}, lock_of())


async def unlock(db: Any) -> None:
    """Somebody unlocks it."""
    lease = await AsyncRunner(MigrationRegistry(), db, "app").unlock()
    assert lease is not None
    assert (lease.work, lease.migrations) == ("rollback", ("b",))


@pytest.mark.parametrize("lose", [take, unlock])
async def test_lost_lease(db: Any, lose: Callable[[Any], Awaitable[None]]) -> None:
    """When the lease is lost during a rollback, the record stays and nothing else is undone."""
    calls: list[str] = []
    migrations = registry({"a": []}, "async", calls)
    migrations.register("b", ["a"])(nothing_async)
    migrations.register_rollback("b")(lose)
    await db.app_migrations.insert_many(records("a", "b"))

    with pytest.raises(LeaseLostError) as caught:
        await AsyncRunner(migrations, db, "app").rollback(["a"])

    assert caught.value.migration == "b"
    assert calls == []
    assert await recorded_async(db) == ["a", "b"]


@pytest.mark.parametrize("driver", drivers("mongomock"))
async def test_no_transactions(db: Any) -> None:
    """Without transactions on the server nothing is undone, and the error names those that need them."""
    calls: list[str] = []
    migrations = registry({"a": []}, "async", calls)
    migrations.register("b", ["a"], transaction=True)(nothing_async)
    migrations.register_rollback("b")(nothing_async)
    await db.app_migrations.insert_many(records("a", "b"))

    with pytest.raises(TransactionsUnsupportedError) as caught:
        await AsyncRunner(migrations, db, "app").rollback(["a"])
    assert caught.value.migrations == ["b"]
    assert calls == []
