"""Undoing migrations: which ones, in which order, what is left, and what a failure leaves."""

import logging
from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    Event,
    MigrationFailed,
    MigrationRegistry,
    RunFailed,
    log_event,
)
from tests.databases import drivers
from tests.functions import (
    Broken,
    effects_async,
    nothing_async,
    recorded_async,
)
from tests.operations import BREAKS, CHAIN, DIAMOND, ROLLBACKS, Case, records, registry
from tools.commands import Commands

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", ROLLBACKS, ids=str)
async def test_rollback(db: Any, case: Case) -> None:
    """The targets and all applied migrations that need them are rolled back, dependents first, as the plan says."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
        await db.effects.insert_many([{"_id": name} for name in case.recorded])
    calls: list[str] = []
    runner = AsyncRunner(registry(case.needs, "async", calls), db, "app")

    plan = await runner.plan_rollback(case.targets)
    assert calls == []
    assert await runner.rollback(case.targets) == list(case.planned)

    assert [(planned.name, planned.reason, planned.undo) for planned in plan] == [
        (name, reason, True) for name, reason in case.planned.items()
    ]
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
    assert await db.app_migrations_lock.find_one() == {"_id": "lease", "token": 4, "sessions": []}


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
@pytest.mark.parametrize(
    ("transaction", "each", "once"),
    [
        (False, ["update", "delete", "update"], ["update"]),
        (True, ["delete", "commitTransaction", "update", "update"], []),
    ],
)
async def test_commands(db: Any, commands: Commands, transaction: bool, each: list[str], once: list[str]) -> None:
    """A rollback costs what a run does, and an entry of the history for each migration."""
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


async def test_failure(db: Any) -> None:
    """A rollback that fails has removed exactly the records of what it undid, and can be repeated."""
    calls: list[str] = []
    events: list[Event] = []
    await registry(CHAIN, "async", calls).run(db, "app")
    failing = AsyncRunner(registry(CHAIN, "async", calls, fails="undo b"), db, "app", on_event=events.append)

    with pytest.raises(Broken) as caught:
        await failing.rollback(["a"])

    assert caught.value.__notes__ == ["quaestor: while rolling back migration 'b', 3 of 4"]
    assert events[-2:] == [
        MigrationFailed(db.name, "app", events[0].run, "b", 3, 4, caught.value, undo=True),
        RunFailed(db.name, "app", events[0].run, caught.value, work="rollback"),
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
