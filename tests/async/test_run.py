"""A run on every driver: what it applies, in which order, and what it leaves in the database."""

import dataclasses
import enum
import getpass
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import quaestor
from quaestor import AsyncRunner, Event, MigrationRegistry
from tests.functions import Broken, nothing_async
from tests.scenarios import SCENARIOS, Scenario, registry

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_scenario(db: Any, scenario: Scenario) -> None:
    """A run applies what the scenario says, in that order, and records exactly that."""
    if scenario.records:
        await db.app_migrations.insert_many(scenario.records)
    calls: list[str] = []
    migrations = registry(scenario, "async", calls)

    if scenario.fails:
        with pytest.raises(Broken):
            await migrations.run(db, "app")
    else:
        assert await migrations.run(db, "app") == scenario.applied

    assert calls == scenario.applied
    assert [document["migration"] async for document in db.effects.find(sort=[("_id", 1)])] == scenario.applied
    known = [record["_id"] for record in scenario.records]
    new = [record["name"] async for record in db.app_migrations.find({"_id": {"$nin": known}})]
    assert sorted(new) == sorted(scenario.applied)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_rerun(db: Any, scenario: Scenario) -> None:
    """A second run applies what the first one couldn't, and a third finds nothing to do."""
    if scenario.records:
        await db.app_migrations.insert_many(scenario.records)
    calls: list[str] = []
    if scenario.fails:
        with pytest.raises(Broken):
            await registry(scenario, "async", calls).run(db, "app")
    fixed = registry(dataclasses.replace(scenario, fails=None), "async", calls)

    await fixed.run(db, "app")

    recorded = [record.get("name") for record in scenario.records]
    assert sorted(calls) == sorted(name for name in scenario.migrations if name not in recorded)
    assert await fixed.run(db, "app") == []


async def test_record(db: Any, driver: str) -> None:
    """A record is `_id` and `name`, both the name, `appliedAt` in UTC, and who applied it, and how."""
    migrations, events = MigrationRegistry(), list[Event]()
    migrations.register("first")(nothing_async)
    migrations.register("second", transaction=driver != "mongomock")(nothing_async)
    migrations.register("third")(nothing_async)
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    await migrations.run(db, prefix="app", targets=["first", "second"], release="1.4.2", on_event=events.append)
    await AsyncRunner(migrations, db).mark_applied(["third"])

    records = [one async for one in db.app_migrations.find()]
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


async def test_run_id_of_many(db: Any) -> None:
    """All databases of a run over many have one run id in their records; each has a lease owner of its own."""
    migrations, events, owners = MigrationRegistry(), list[Event](), list[str]()

    @migrations.register("a")
    async def a(db: Any) -> None:
        owners.append((await db.app_migrations_lock.find_one())["owner"])

    await migrations.run_many([db, db], on_event=events.append)
    await db.app_migrations.delete_many({})
    await migrations.run_many([db, db])

    (run,) = {event.run for event in events}
    assert len({owner.partition("-")[0] for owner in owners}) == 2
    assert owners[0] in {f"{run}-0", f"{run}-1"}


async def test_default_prefix(db: Any) -> None:
    """Without a prefix the records are in `app_migrations`, in every call."""
    migrations = MigrationRegistry()
    migrations.register("a")(nothing_async)

    assert await migrations.run(db) == ["a"]

    assert [record["name"] async for record in db.app_migrations.find()] == ["a"]
    assert await AsyncRunner(migrations, db).run() == []
    assert [result.applied for result in await migrations.run_many([db])] == [[]]


async def test_prefixes_are_independent(db: Any) -> None:
    """Each prefix has its own records."""
    migrations = MigrationRegistry()
    migrations.register("first")(nothing_async)

    assert await migrations.run(db, "one") == ["first"]
    assert await migrations.run(db, "two") == ["first"]
    assert await migrations.run(db, "one") == []


async def test_runner(db: Any) -> None:
    """A runner can run as often as you like."""
    migrations = MigrationRegistry()
    migrations.register("first")(nothing_async)
    runner = AsyncRunner(migrations, db, "app")

    assert await runner.run() == ["first"]
    migrations.register("second")(nothing_async)
    assert await runner.run() == ["second"]
    assert await runner.run() == []


async def test_prefix_from_an_enum(db: Any) -> None:
    """A prefix of a subclass of str names the same collection as the equal str."""

    class Prefix(str, enum.Enum):  # noqa: UP042 - whose str() is another one
        APP = "app"

    migrations = MigrationRegistry()
    migrations.register("first")(nothing_async)

    assert await migrations.run(db, Prefix.APP) == ["first"]
    assert await migrations.run(db, "app") == []
