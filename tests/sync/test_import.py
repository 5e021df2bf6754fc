# Generated from tests/async/test_import.py by tools/sync_tests.py
"""Importing the history of another tool: what it has applied is recorded with its dates, and the rest runs."""

from datetime import UTC, datetime
from typing import Any

import pytest

from quaestor import (
    HistoryImported,
    HistoryMissingError,
    ImportedMigration,
    ImportResult,
    InvalidOptionError,
    MigrationRegistry,
    SyncRunner,
    UnknownMigrationError,
    UnplacedMigration,
)
from quaestor.events import Event
from tests.databases import drivers
from tests.functions import recorded
from tests.histories import FIRST, HISTORIES, SECOND, History
from tests.operations import registry
from tools.commands import Commands


def make_registry(history: History, calls: list[str]) -> MigrationRegistry:
    first, second, third = history.ours
    return registry({first: [], second: [first], third: [second]}, "sync", calls)


def read_dates(db: Any) -> dict[str, datetime]:
    return {record["name"]: record["appliedAt"].replace(tzinfo=UTC) for record in db.app_migrations.find()}


@pytest.mark.parametrize("history", HISTORIES, ids=[history.tool for history in HISTORIES])
def test_import(db: Any, history: History) -> None:
    """Two of three are recorded, and the third is run. The tool's collection stays as it was."""
    db[history.collection].insert_many(history.documents)
    theirs = list(db[history.collection].find())
    calls: list[str] = []
    runner = SyncRunner(make_registry(history, calls), db, "app")

    planned = runner.plan_import(history.tool)
    assert recorded(db) == []
    assert runner.import_history(history.tool) == planned
    assert read_dates(db) == {history.ours[0]: FIRST, history.ours[1]: SECOND}

    assert calls == []
    assert runner.run() == [history.ours[2]] == calls
    assert list(db[history.collection].find()) == theirs


def test_record_and_history(db: Any) -> None:
    """The record says that it was imported, and by whom; so does the history. `status` finds the function unchanged."""
    db.mongrator_migrations.insert_one({"_id": "a", "direction": "up", "applied_at": FIRST})
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app", release="1.4.2")
    runner.import_history("mongrator")

    (entry,) = runner.history()
    record = db.app_migrations.find_one({"_id": "a"})
    status = runner.status()

    assert (entry.what, entry.name, entry.release) == ("imported", "a", "1.4.2")
    assert (record["source"], record["release"], record["run"]) == ("import", "1.4.2", entry.run)
    assert (status.migrations[0].applied_at, status.migrations[0].changed) == (FIRST, False)
    assert status.order_conflicts == ()


def test_import_again(db: Any) -> None:
    """What is recorded stays as it is, also with another date; what the tool has applied since is added."""
    db.mongrator_migrations.insert_one({"_id": "a", "direction": "up", "applied_at": FIRST})
    events: list[Event] = []
    runner = SyncRunner(registry({"a": [], "b": []}, "sync", []), db, "app", on_event=events.append)
    runner.import_history("mongrator")
    db.mongrator_migrations.update_one({"_id": "a"}, {"$set": {"applied_at": SECOND}})
    db.mongrator_migrations.insert_one({"_id": "b", "direction": "up", "applied_at": SECOND})

    result = runner.import_history("mongrator")
    nothing = runner.import_history("mongrator")

    assert result.imported == (ImportedMigration("b", "b", SECOND),)
    assert (result.recorded, nothing.recorded, nothing.imported) == (("a",), ("a", "b"), ())
    assert read_dates(db) == {"a": FIRST, "b": SECOND}
    assert [event.names for event in events if isinstance(event, HistoryImported)] == [("a",), ("b",), ()]


def test_options(db: Any) -> None:
    """Names, collection and time zone are the caller's; what can't be placed is listed, and the rest is imported."""
    db.old.insert_many(
        [
            {"migration_datetime": "20260101", "created_at": datetime(2026, 7, 1, 12, tzinfo=UTC)},
            {"migration_datetime": "20260102", "created_at": datetime(2026, 7, 2, 12, tzinfo=UTC)},
        ]
    )
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app")

    result = runner.import_history(
        "mongodb-migrations", names={"20260101": "a", "gone": "a"}, collection="old", timezone="Europe/Berlin"
    )

    assert result == ImportResult(
        "mongodb-migrations",
        "old",
        (ImportedMigration("a", "20260101", datetime(2026, 7, 1, 10, tzinfo=UTC)),),
        unplaced=(UnplacedMigration("20260102", "no migration here has this name"),),
    )
    assert recorded(db) == ["a"]


def test_replaced_and_retired_names(db: Any) -> None:
    """They are recorded under the old names; the next run records what replaces them, and runs nothing."""
    db.mongrator_migrations.insert_many(
        [{"_id": name, "direction": "up", "applied_at": FIRST} for name in ("old_a", "old_b", "gone")]
    )
    calls: list[str] = []
    code = MigrationRegistry()
    code.retire("gone")

    @code.register("new", replaces=["old_a", "old_b"])
    def new(db: Any) -> None:
        calls.append("new")

    runner = SyncRunner(code, db, "app")
    result = runner.import_history("mongrator")

    assert [one.name for one in result.imported] == ["gone", "old_a", "old_b"]
    assert runner.run() == calls == []
    assert recorded(db) == ["gone", "new", "old_a", "old_b"]


def test_replacement(db: Any) -> None:
    """What it replaces is recorded with it, so an older release doesn't run that; what has a date there has its own."""
    db.mongrator_migrations.insert_many(
        [
            {"_id": "new", "direction": "up", "applied_at": SECOND},
            {"_id": "old_a", "direction": "up", "applied_at": FIRST},
        ]
    )
    code = MigrationRegistry()

    @code.register("new", replaces=["old_a", "old_b"])
    def new(db: Any) -> None: ...

    runner = SyncRunner(code, db, "app")
    result = runner.import_history("mongrator")

    assert [one.name for one in result.imported] == ["old_a", "new"]
    assert read_dates(db) == {"new": SECOND, "old_a": FIRST, "old_b": SECOND}
    assert runner.run() == []


def test_chain_of_replacements(db: Any) -> None:
    """What several of them replace, one by way of another, is recorded once."""
    db.mongrator_migrations.insert_many(
        [{"_id": name, "direction": "up", "applied_at": date} for name, date in (("b", FIRST), ("c", SECOND))]
    )
    code = MigrationRegistry()

    def nothing(db: Any) -> None: ...

    code.register("b", replaces=["a"])(nothing)
    code.register("c", replaces=["b"])(nothing)
    runner = SyncRunner(code, db, "app")
    result = runner.import_history("mongrator")

    assert [one.name for one in result.imported] == ["b", "c"]
    assert read_dates(db) == {"a": FIRST, "b": FIRST, "c": SECOND}
    assert runner.run() == []


def test_missing_collection(db: Any) -> None:
    """A collection that isn't there is probably a wrong name, so it's an error; an empty one isn't."""
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app")

    for call in (runner.plan_import, runner.import_history):
        with pytest.raises(HistoryMissingError, match="has no collection 'changelog', so migrate-mongo has applied"):
            call("migrate-mongo")
    db.create_collection("changelog")
    assert runner.import_history("migrate-mongo") == ImportResult("migrate-mongo", "changelog", ())


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_bad_input(db: Any, commands: Commands) -> None:
    """It's refused before anything is sent."""
    commands.sent.clear()
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app")
    wrong: Any = "mongratr"

    for call in (runner.plan_import, runner.import_history):
        with pytest.raises(InvalidOptionError):
            call(wrong)
        with pytest.raises(InvalidOptionError):
            call("mongrator", timezone="UTC")
        with pytest.raises(UnknownMigrationError):
            call("mongrator", names={"a": "aa"})
    assert commands.names == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """Records and history of the tool are read twice, the second time under the lease, and each migration is five
    commands, as a mark is.
    """
    db.mongrator_migrations.insert_one({"_id": "a", "direction": "up", "applied_at": FIRST})
    commands.sent.clear()
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app")

    runner.import_history("mongrator")

    reads = ["find", "find"]
    one = ["delete", "update", "insert", "delete", "update"]
    assert commands.names == [*reads, "findAndModify", *reads, *one, "update"]
