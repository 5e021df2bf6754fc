# Generated from tests/async/test_start_marks.py by tools/sync_tests.py
"""Migrations with after_crash="stop": what is left in the database, and how somebody continues."""

from datetime import UTC, datetime
from typing import Any

import pytest

from quaestor import (
    InterruptedMigrationError,
    InvalidOptionError,
    MigrationRegistry,
    SyncRunner,
    UnknownMigrationError,
)
from tests.databases import drivers
from tests.functions import Broken, nothing, recorded
from tools.commands import Commands

MARK: dict[str, Any] = {"_id": {"start": "b"}, "owner": "dead", "startedAt": datetime(2026, 1, 1)}  # noqa: DTZ001 - as stored
"""A mark that a killed run left."""


def make_registry(faults: list[str], called: list[str]) -> MigrationRegistry:
    """Three migrations, of which `b` must not be repeated unasked. It fails while there are faults."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    @registry.register("b", ["a"], after_crash="stop")
    def b(db: Any) -> None:
        called.append("b")
        if faults:
            raise Broken(faults.pop())

    @registry.register_rollback("b")
    def undo_b(db: Any) -> None:
        called.append("undo b")

    registry.register("c", ["b"])(nothing)
    return registry


def marks(db: Any) -> list[dict[str, Any]]:
    return list(db.app_migrations_lock.find({"_id": {"$ne": "lease"}}))


def test_failed_and_retried(db: Any) -> None:
    """A failed function leaves its mark beside the lease. Until it is to be retried, nothing runs, and plan, dry run
    and status say since when. Afterwards nothing is left but the records.
    """
    called: list[str] = []
    runner = SyncRunner(make_registry(["it broke"], called), db, "app")
    with pytest.raises(Broken):
        runner.run()
    [mark] = marks(db)
    assert (mark["_id"], mark.keys()) == ({"start": "b"}, {"_id", "owner", "startedAt"})
    since = mark["startedAt"].replace(tzinfo=UTC)

    for call in (runner.run, runner.plan):
        with pytest.raises(InterruptedMigrationError) as caught:
            call()
        assert caught.value.interrupted == {"b": since}
    status = runner.status()
    assert [(one.name, one.interrupted, one.interrupted_since) for one in status.migrations] == [
        ("a", False, None),
        ("b", True, since),
        ("c", False, None),
    ]
    assert (called, recorded(db)) == (["b"], ["a"])

    assert [one.name for one in runner.plan(retry=["b"])] == ["b", "c"]
    assert runner.run(retry=["b"]) == ["b", "c"]
    assert (called, marks(db), recorded(db)) == (["b", "b"], [], ["a", "b", "c"])
    assert not any(one.interrupted for one in runner.status().migrations)


@pytest.mark.parametrize("how", ["rollback", "mark_pending", "mark_applied"])
def test_continued(db: Any, how: str) -> None:
    """A rollback undoes what was left halfway; a mark says that it is complete, or that nothing of it is left."""
    db.app_migrations_lock.insert_one(MARK)
    called: list[str] = []
    runner = SyncRunner(make_registry([], called), db, "app")
    runner.run(["a"])
    assert getattr(runner, how)(["b"]) == ["b"]
    assert (marks(db), called) == ([], ["undo b"] if how == "rollback" else [])
    assert runner.run() == (["c"] if how == "mark_applied" else ["b", "c"])
    assert getattr(runner, how)(["c", "b"] if how == "mark_pending" else []) == (
        ["c", "b"] if how == "mark_pending" else []
    )


def test_void_mark(db: Any) -> None:
    """Beside a record a mark means nothing, and it goes with the record."""
    runner = SyncRunner(make_registry([], []), db, "app")
    runner.run()
    db.app_migrations_lock.insert_one(MARK)
    assert not any(one.interrupted for one in runner.status().migrations)
    assert runner.run() == []
    assert runner.mark_pending(["c", "b"]) == ["c", "b"]
    assert marks(db) == []


def test_later_mark_stays(db: Any) -> None:
    """A run that loses its lease in the function doesn't remove the mark that another one has written meanwhile."""
    registry = MigrationRegistry()
    theirs = MARK | {"owner": "theirs"}

    @registry.register("b", after_crash="stop")
    def b(db: Any) -> None:
        db.app_migrations_lock.replace_one({"_id": MARK["_id"]}, theirs)

    assert registry.run_sync(db, "app") == ["b"]
    assert marks(db) == [theirs]


def test_unreadable_marks(db: Any) -> None:
    """Documents beside the lease that aren't marks are left alone, and a mark without its fields still stops."""
    others: list[dict[str, Any]] = [{"_id": 7}, {"_id": {"start": 7}}, {"_id": {"end": "b"}}, {"_id": {"start": "b"}}]
    db.app_migrations_lock.insert_many(others)
    runner = SyncRunner(make_registry([], []), db, "app")
    with pytest.raises(InterruptedMigrationError):
        runner.run()
    assert runner.run(retry=["b"]) == ["a", "b", "c"]
    assert marks(db) == others[:3]


def test_bad_input(db: Any) -> None:
    """Names to retry are checked before anything is sent."""
    runner = SyncRunner(make_registry([], []), db, "app")
    with pytest.raises(UnknownMigrationError):
        runner.run(retry=["z"])
    with pytest.raises(InvalidOptionError, match="retry must be a list of names"):
        runner.plan(retry="b")
    with pytest.raises(UnknownMigrationError):
        make_registry([], []).run_many_sync([db], "app", retry=["z"])


def test_many(db: Any) -> None:
    """A run over many databases reports the error of each, and retries in each."""
    db.app_migrations_lock.insert_one(MARK)
    registry = make_registry([], [])
    [result] = registry.run_many_sync([db], "app")
    assert isinstance(result.error, InterruptedMigrationError)
    [result] = registry.run_many_sync([db], "app", retry=["b"])
    assert (result.error, result.applied) == (None, ["a", "b", "c"])
    assert registry.run_sync(db, "app", retry=["b"]) == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """The marks are one read, if such a migration is in the plan; each of them is two writes, with a majority."""
    registry = make_registry([], [])
    registry.run_sync(db, "app", targets=["a"])
    commands.sent.clear()

    assert registry.run_sync(db, "app") == ["b", "c"]

    before = ["find", "findAndModify", "find", "find"]
    assert commands.names == [*before, "update", "update", "insert", "delete", "update", "insert", "update"]
    written = [commands.sent[4], commands.sent[7]]
    assert [command["writeConcern"]["w"] for command in written] == ["majority", "majority"]
