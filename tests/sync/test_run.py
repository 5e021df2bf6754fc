# Generated from tests/async/test_run.py by tools/sync_tests.py
"""A run on every driver: what it applies, in which order, and what it leaves in the database."""

import dataclasses
import enum
import getpass
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import quaestor
from quaestor import Event, MigrationRegistry, SyncRunner
from tests.functions import Broken, nothing
from tests.scenarios import SCENARIOS, Scenario, registry


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_scenario(db: Any, scenario: Scenario) -> None:
    """A run applies what the scenario says, in that order, and records exactly that."""
    if scenario.records:
        db.app_migrations.insert_many(scenario.records)
    calls: list[str] = []
    migrations = registry(scenario, "sync", calls)

    if scenario.fails:
        with pytest.raises(Broken):
            migrations.run_sync(db, "app")
    else:
        assert migrations.run_sync(db, "app") == scenario.applied

    assert calls == scenario.applied
    assert [document["migration"] for document in db.effects.find(sort=[("_id", 1)])] == scenario.applied
    known = [record["_id"] for record in scenario.records]
    new = [record["name"] for record in db.app_migrations.find({"_id": {"$nin": known}})]
    assert sorted(new) == sorted(scenario.applied)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_rerun(db: Any, scenario: Scenario) -> None:
    """A second run applies what the first one couldn't, and a third finds nothing to do."""
    if scenario.records:
        db.app_migrations.insert_many(scenario.records)
    calls: list[str] = []
    if scenario.fails:
        with pytest.raises(Broken):
            registry(scenario, "sync", calls).run_sync(db, "app")
    fixed = registry(dataclasses.replace(scenario, fails=None), "sync", calls)

    fixed.run_sync(db, "app")

    recorded = [record.get("name") for record in scenario.records]
    assert sorted(calls) == sorted(name for name in scenario.migrations if name not in recorded)
    assert fixed.run_sync(db, "app") == []


def test_record(db: Any, driver: str) -> None:
    """A record is `_id` and `name`, both the name, `appliedAt` in UTC, and who applied it, and how."""
    migrations, events = MigrationRegistry(), list[Event]()
    migrations.register("first")(nothing)
    migrations.register("second", transaction=driver != "mongomock")(nothing)
    migrations.register("third")(nothing)
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    migrations.run_sync(db, prefix="app", targets=["first", "second"], release="1.4.2", on_event=events.append)
    SyncRunner(migrations, db).mark_applied(["third"])

    records = list(db.app_migrations.find())
    assert [(one["_id"], one["name"], one["source"]) for one in records] == [
        ("first", "first", "run"),
        ("second", "second", "run"),
        ("third", "third", "mark"),
    ]
    for record in records:
        assert before <= record["appliedAt"].replace(tzinfo=UTC) <= datetime.now(UTC)
        assert (record["host"], record["quaestor"]) == (socket.gethostname(), quaestor.__version__)
        assert record["user"] == getpass.getuser()
    for record in records[:2]:
        assert (record["run"], record["release"]) == (events[0].run, "1.4.2")
        assert record["durationMs"] >= 0
    assert records[2]["run"] != events[0].run
    assert {"release", "durationMs"}.isdisjoint(records[2])


def test_run_id_of_many(db: Any) -> None:
    """All databases of a run over many have one run id in their records; each has a lease owner of its own."""
    migrations, events, owners = MigrationRegistry(), list[Event](), list[str]()

    @migrations.register("a")
    def a(db: Any) -> None:
        owners.append(db.app_migrations_lock.find_one()["owner"])

    migrations.run_many_sync([db, db], on_event=events.append)
    db.app_migrations.delete_many({})
    migrations.run_many_sync([db, db])

    (run,) = {event.run for event in events}
    assert len({owner.partition("-")[0] for owner in owners}) == 2
    assert owners[0] in {f"{run}-0", f"{run}-1"}


def test_default_prefix(db: Any) -> None:
    """Without a prefix the records are in `app_migrations`, in every call."""
    migrations = MigrationRegistry()
    migrations.register("a")(nothing)

    assert migrations.run_sync(db) == ["a"]

    assert [record["name"] for record in db.app_migrations.find()] == ["a"]
    assert SyncRunner(migrations, db).run() == []
    assert [result.applied for result in migrations.run_many_sync([db])] == [[]]


def test_prefixes_are_independent(db: Any) -> None:
    """Each prefix has its own records."""
    migrations = MigrationRegistry()
    migrations.register("first")(nothing)

    assert migrations.run_sync(db, "one") == ["first"]
    assert migrations.run_sync(db, "two") == ["first"]
    assert migrations.run_sync(db, "one") == []


def test_runner(db: Any) -> None:
    """A runner can run as often as you like."""
    migrations = MigrationRegistry()
    migrations.register("first")(nothing)
    runner = SyncRunner(migrations, db, "app")

    assert runner.run() == ["first"]
    migrations.register("second")(nothing)
    assert runner.run() == ["second"]
    assert runner.run() == []


def test_prefix_from_an_enum(db: Any) -> None:
    """A prefix of a subclass of str names the same collection as the equal str."""

    class Prefix(str, enum.Enum):  # noqa: UP042 - whose str() is another one
        APP = "app"

    migrations = MigrationRegistry()
    migrations.register("first")(nothing)

    assert migrations.run_sync(db, Prefix.APP) == ["first"]
    assert migrations.run_sync(db, "app") == []
