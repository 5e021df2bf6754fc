# Generated from tests/async/test_planning.py by tools/sync_tests.py
"""What `plan` and `plan_rollback` say, and that they do nothing."""

from typing import Any

import pytest

from quaestor import (
    SyncRunner,
)
from tests.databases import drivers
from tests.operations import DIAMOND, records, registry
from tests.scenarios import SCENARIOS, Scenario
from tests.scenarios import registry as registry_of
from tools.commands import Commands


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one.fails is None], ids=str)
def test_plan_of_a_run(db: Any, scenario: Scenario) -> None:
    """It is what the run does then, whatever the database holds."""
    if scenario.records:
        db.app_migrations.insert_many(scenario.records)
    runner = SyncRunner(registry_of(scenario, "sync", []), db, "app")

    plan = [planned.name for planned in runner.plan()]

    assert plan == runner.run() == scenario.applied
    assert runner.plan() == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_one_command(db: Any, commands: Commands) -> None:
    """A plan is one find, also with transactions, and changes nothing in the database."""
    db.app_migrations.insert_many(records("top", "left"))
    before = list(db.app_migrations.find())
    runner = SyncRunner(registry(DIAMOND, "sync", [], transaction=True), db, "app")
    commands.sent.clear()

    assert len(runner.plan()) == 3
    assert len(runner.plan(["end"])) == 2
    assert len(runner.plan_rollback(["top"])) == 2

    assert commands.names == ["find"] * 3
    assert {command["find"] for command in commands.sent} == {"app_migrations"}
    assert {command["readConcern"]["level"] for command in commands.sent} == {"majority"}
    assert list(db.app_migrations.find()) == before
    assert db.list_collection_names() == ["app_migrations"]
