"""What `plan` and `plan_rollback` say, and that they do nothing."""

from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    Event,
    InvalidOptionError,
    IrreversibleMigrationError,
    MissingDependencyError,
    RecordConflictError,
    TransactionsUnsupportedError,
    UnknownMigrationError,
)
from tests.databases import drivers
from tests.functions import nothing_async, nowhere_async
from tests.operations import BAD_NAMES, CHAIN, DIAMOND, ROLLBACKS, TARGETS, Case, lock_of, records, registry
from tests.scenarios import SCENARIOS, Scenario
from tests.scenarios import registry as registry_of
from tools.commands import Commands

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", TARGETS, ids=str)
async def test_plan(db: Any, case: Case) -> None:
    """A plan has the names in order, each with the reason; no function is called."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []

    plan = await AsyncRunner(registry(case.needs, "async", calls), db, "app").plan(case.targets)

    assert {planned.name: planned.reason for planned in plan} == case.planned
    assert [planned.name for planned in plan] == list(case.planned)
    assert [planned.asked_for for planned in plan] == [reason == "asked for" for reason in case.planned.values()]
    assert not any(planned.undo for planned in plan)
    assert calls == []


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one.fails is None], ids=str)
async def test_plan_of_a_run(db: Any, scenario: Scenario) -> None:
    """It is what the run does then, whatever the database holds."""
    if scenario.records:
        await db.app_migrations.insert_many(scenario.records)
    runner = AsyncRunner(registry_of(scenario, "async", []), db, "app")

    plan = [planned.name for planned in await runner.plan()]

    assert plan == await runner.run() == scenario.applied
    assert await runner.plan() == []


@pytest.mark.parametrize("case", ROLLBACKS, ids=str)
async def test_plan_rollback(db: Any, case: Case) -> None:
    """The plan of a rollback has the names in order, each with the reason; no function is called."""
    if case.recorded:
        await db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []

    plan = await AsyncRunner(registry(case.needs, "async", calls), db, "app").plan_rollback(case.targets)

    assert {planned.name: planned.reason for planned in plan} == case.planned
    assert [planned.name for planned in plan] == list(case.planned)
    assert all(planned.undo for planned in plan)
    assert calls == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_one_command(db: Any, commands: Commands) -> None:
    """A plan is one find, also with transactions, and changes nothing in the database."""
    await db.app_migrations.insert_many(records("top", "left"))
    before = [one async for one in db.app_migrations.find()]
    runner = AsyncRunner(registry(DIAMOND, "async", [], transaction=True), db, "app")
    commands.sent.clear()

    assert len(await runner.plan()) == 3
    assert len(await runner.plan(["end"])) == 2
    assert len(await runner.plan_rollback(["top"])) == 2

    assert commands.names == ["find"] * 3
    assert {command["find"] for command in commands.sent} == {"app_migrations"}
    assert {command["readConcern"]["level"] for command in commands.sent} == {"majority"}
    assert [one async for one in db.app_migrations.find()] == before
    assert await db.list_collection_names() == ["app_migrations"]


async def test_no_events(db: Any) -> None:
    """A plan emits no events."""
    await db.app_migrations.insert_many(records("a", "from tomorrow"))
    told: list[Event] = []
    runner = AsyncRunner(registry(CHAIN, "async", []), db, "app", on_event=told.append)

    await runner.plan()
    await runner.plan_rollback(["a"])

    assert told == []


async def test_plan_during_a_run(db: Any) -> None:
    """A plan neither waits for the lease of another nor touches it."""
    held = lock_of()
    await db.app_migrations_lock.insert_one(held)
    await db.app_migrations.insert_many(records("a"))
    runner = AsyncRunner(registry(CHAIN, "async", []), db, "app", lease_timeout=0)

    assert [planned.name for planned in await runner.plan()] == ["b", "c", "d"]
    assert [planned.name for planned in await runner.plan_rollback(["a"])] == ["a"]
    assert [one async for one in db.app_migrations_lock.find()] == [held]


@pytest.mark.driver("pymongo")
async def test_refused_before_the_first_command() -> None:
    """An unsound graph, unknown names and anything but a list of names are refused before the first command."""
    migrations = registry(CHAIN, "async", [])
    async with nowhere_async() as db:
        runner = AsyncRunner(migrations, db, "app")
        for plan in (runner.plan, runner.plan_rollback):
            with pytest.raises(UnknownMigrationError, match="There is no migration 'x'"):
                await plan(["x"])
            for names, words in BAD_NAMES:
                with pytest.raises(InvalidOptionError) as caught:
                    await plan(names)
                assert f"targets {words}" in str(caught.value)
        migrations.register("e", depends_on=["x"])(nothing_async)
        with pytest.raises(MissingDependencyError):
            await runner.plan()


async def test_refused_after_the_read(db: Any) -> None:
    """A plan refuses the same records that a run or a rollback refuses."""
    migrations = registry(CHAIN, "async", [], irreversible=["a", "c"])
    runner = AsyncRunner(migrations, db, "app")
    await db.app_migrations.insert_one({"_id": "d", "name": "other"})
    with pytest.raises(RecordConflictError):
        await runner.plan()

    await db.app_migrations.insert_many(records("a", "b", "c"))
    with pytest.raises(IrreversibleMigrationError) as caught:
        await runner.plan_rollback(["a"])
    assert caught.value.names == ["c", "a"]


@pytest.mark.parametrize("driver", drivers("mongomock"))
async def test_refused_without_transactions(db: Any) -> None:
    """Without transactions on the server a plan that needs them is refused like the run."""
    runner = AsyncRunner(registry(CHAIN, "async", [], transaction=True), db, "app")

    with pytest.raises(TransactionsUnsupportedError):
        await runner.run()
    with pytest.raises(TransactionsUnsupportedError):
        await runner.plan()
