"""What `plan` and `plan_rollback` say, and that they do nothing."""

from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
)
from tests.databases import drivers
from tests.operations import DIAMOND, records, registry
from tests.scenarios import SCENARIOS, Scenario
from tests.scenarios import registry as registry_of
from tools.commands import Commands

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one.fails is None], ids=str)
async def test_plan_of_a_run(db: Any, scenario: Scenario) -> None:
    """It is what the run does then, whatever the database holds."""
    if scenario.records:
        await db.app_migrations.insert_many(scenario.records)
    runner = AsyncRunner(registry_of(scenario, "async", []), db, "app")

    plan = [planned.name for planned in await runner.plan()]

    assert plan == await runner.run() == scenario.applied
    assert await runner.plan() == []


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
