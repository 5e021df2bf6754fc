"""Importing the history of another tool: what it has applied is recorded with its dates, and the rest runs."""

from datetime import UTC, datetime
from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    HistoryImported,
    HistoryMissingError,
    ImportedMigration,
    ImportResult,
    InvalidOptionError,
    MigrationRegistry,
    UnknownMigrationError,
    UnplacedMigration,
)
from quaestor.events import Event
from tests.databases import drivers
from tests.functions import recorded_async
from tests.histories import FIRST, HISTORIES, SECOND, History
from tests.operations import registry
from tools.commands import Commands

pytestmark = pytest.mark.anyio


def make_registry(history: History, calls: list[str]) -> MigrationRegistry:
    first, second, third = history.ours
    return registry({first: [], second: [first], third: [second]}, "async", calls)


async def read_dates(db: Any) -> dict[str, datetime]:
    return {record["name"]: record["appliedAt"].replace(tzinfo=UTC) async for record in db.app_migrations.find()}


@pytest.mark.parametrize("history", HISTORIES, ids=[history.tool for history in HISTORIES])
async def test_import(db: Any, history: History) -> None:
    """Two of three are recorded, and the third is run. The tool's collection stays as it was."""
    await db[history.collection].insert_many(history.documents)
    theirs = [document async for document in db[history.collection].find()]
    calls: list[str] = []
    runner = AsyncRunner(make_registry(history, calls), db, "app")

    planned = await runner.plan_import(history.tool)
    assert await recorded_async(db) == []
    assert await runner.import_history(history.tool) == planned
    assert await read_dates(db) == {history.ours[0]: FIRST, history.ours[1]: SECOND}

    assert calls == []
    assert await runner.run() == [history.ours[2]] == calls
    assert [document async for document in db[history.collection].find()] == theirs


async def test_record_and_history(db: Any) -> None:
    """The record says that it was imported, and by whom; so does the history. `status` finds the function unchanged."""
    await db.mongrator_migrations.insert_one({"_id": "a", "direction": "up", "applied_at": FIRST})
    runner = AsyncRunner(registry({"a": []}, "async", []), db, "app", release="1.4.2")
    await runner.import_history("mongrator")

    (entry,) = await runner.history()
    record = await db.app_migrations.find_one({"_id": "a"})
    status = await runner.status()

    assert (entry.what, entry.name, entry.release) == ("imported", "a", "1.4.2")
    assert (record["source"], record["release"], record["run"]) == ("import", "1.4.2", entry.run)
    assert (status.migrations[0].applied_at, status.migrations[0].changed) == (FIRST, False)
    assert status.order_conflicts == ()


async def test_import_again(db: Any) -> None:
    """What is recorded stays as it is, also with another date; what the tool has applied since is added."""
    await db.mongrator_migrations.insert_one({"_id": "a", "direction": "up", "applied_at": FIRST})
    events: list[Event] = []
    runner = AsyncRunner(registry({"a": [], "b": []}, "async", []), db, "app", on_event=events.append)
    await runner.import_history("mongrator")
    await db.mongrator_migrations.update_one({"_id": "a"}, {"$set": {"applied_at": SECOND}})
    await db.mongrator_migrations.insert_one({"_id": "b", "direction": "up", "applied_at": SECOND})

    result = await runner.import_history("mongrator")
    nothing = await runner.import_history("mongrator")

    assert result.imported == (ImportedMigration("b", "b", SECOND),)
    assert (result.recorded, nothing.recorded, nothing.imported) == (("a",), ("a", "b"), ())
    assert await read_dates(db) == {"a": FIRST, "b": SECOND}
    assert [event.names for event in events if isinstance(event, HistoryImported)] == [("a",), ("b",), ()]


async def test_options(db: Any) -> None:
    """Names, collection and time zone are the caller's; what can't be placed is listed, and the rest is imported."""
    await db.old.insert_many(
        [
            {"migration_datetime": "20260101", "created_at": datetime(2026, 7, 1, 12, tzinfo=UTC)},
            {"migration_datetime": "20260102", "created_at": datetime(2026, 7, 2, 12, tzinfo=UTC)},
        ]
    )
    runner = AsyncRunner(registry({"a": []}, "async", []), db, "app")

    result = await runner.import_history(
        "mongodb-migrations", names={"20260101": "a", "gone": "a"}, collection="old", timezone="Europe/Berlin"
    )

    assert result == ImportResult(
        "mongodb-migrations",
        "old",
        (ImportedMigration("a", "20260101", datetime(2026, 7, 1, 10, tzinfo=UTC)),),
        unplaced=(UnplacedMigration("20260102", "no migration here has this name"),),
    )
    assert await recorded_async(db) == ["a"]


async def test_replaced_and_retired_names(db: Any) -> None:
    """They are recorded under the old names; the next run records what replaces them, and runs nothing."""
    await db.mongrator_migrations.insert_many(
        [{"_id": name, "direction": "up", "applied_at": FIRST} for name in ("old_a", "old_b", "gone")]
    )
    calls: list[str] = []
    code = MigrationRegistry()
    code.retire("gone")

    @code.register("new", replaces=["old_a", "old_b"])
    async def new(db: Any) -> None:
        calls.append("new")

    runner = AsyncRunner(code, db, "app")
    result = await runner.import_history("mongrator")

    assert [one.name for one in result.imported] == ["gone", "old_a", "old_b"]
    assert await runner.run() == calls == []
    assert await recorded_async(db) == ["gone", "new", "old_a", "old_b"]


async def test_replacement(db: Any) -> None:
    """What it replaces is recorded with it, so an older release doesn't run that; what has a date there has its own."""
    await db.mongrator_migrations.insert_many(
        [
            {"_id": "new", "direction": "up", "applied_at": SECOND},
            {"_id": "old_a", "direction": "up", "applied_at": FIRST},
        ]
    )
    code = MigrationRegistry()

    @code.register("new", replaces=["old_a", "old_b"])
    async def new(db: Any) -> None: ...

    runner = AsyncRunner(code, db, "app")
    result = await runner.import_history("mongrator")

    assert [one.name for one in result.imported] == ["old_a", "new"]
    assert await read_dates(db) == {"new": SECOND, "old_a": FIRST, "old_b": SECOND}
    assert await runner.run() == []


async def test_chain_of_replacements(db: Any) -> None:
    """What several of them replace, one by way of another, is recorded once."""
    await db.mongrator_migrations.insert_many(
        [{"_id": name, "direction": "up", "applied_at": date} for name, date in (("b", FIRST), ("c", SECOND))]
    )
    code = MigrationRegistry()

    async def nothing(db: Any) -> None: ...

    code.register("b", replaces=["a"])(nothing)
    code.register("c", replaces=["b"])(nothing)
    runner = AsyncRunner(code, db, "app")
    result = await runner.import_history("mongrator")

    assert [one.name for one in result.imported] == ["b", "c"]
    assert await read_dates(db) == {"a": FIRST, "b": FIRST, "c": SECOND}
    assert await runner.run() == []


async def test_missing_collection(db: Any) -> None:
    """A collection that isn't there is probably a wrong name, so it's an error; an empty one isn't."""
    runner = AsyncRunner(registry({"a": []}, "async", []), db, "app")

    for call in (runner.plan_import, runner.import_history):
        with pytest.raises(HistoryMissingError, match="has no collection 'changelog', so migrate-mongo has applied"):
            await call("migrate-mongo")
    await db.create_collection("changelog")
    assert await runner.import_history("migrate-mongo") == ImportResult("migrate-mongo", "changelog", ())


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_bad_input(db: Any, commands: Commands) -> None:
    """It's refused before anything is sent."""
    commands.sent.clear()
    runner = AsyncRunner(registry({"a": []}, "async", []), db, "app")
    wrong: Any = "mongratr"

    for call in (runner.plan_import, runner.import_history):
        with pytest.raises(InvalidOptionError):
            await call(wrong)
        with pytest.raises(InvalidOptionError):
            await call("mongrator", timezone="UTC")
        with pytest.raises(UnknownMigrationError):
            await call("mongrator", names={"a": "aa"})
    assert commands.names == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_commands(db: Any, commands: Commands) -> None:
    """Records and history of the tool are read twice, the second time under the lease, and each migration is five
    commands, as a mark is.
    """
    await db.mongrator_migrations.insert_one({"_id": "a", "direction": "up", "applied_at": FIRST})
    commands.sent.clear()
    runner = AsyncRunner(registry({"a": []}, "async", []), db, "app")

    await runner.import_history("mongrator")

    reads = ["find", "find"]
    one = ["delete", "update", "insert", "delete", "update"]
    assert commands.names == [*reads, "findAndModify", *reads, *one, "update"]
