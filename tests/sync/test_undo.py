# Generated from tests/async/test_undo.py by tools/sync_tests.py
"""Rolling back the last migrations, or everything after one; marks with what they depend on."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quaestor import (
    DependencyConflictError,
    InvalidOptionError,
    IrreversibleMigrationError,
    SyncRunner,
    UnknownMigrationError,
    UnknownRecordsError,
)
from tests.functions import nothing, recorded
from tests.operations import DIAMOND, registry

HISTORY = ["top", "right", "aside", "left", "end"]
"""The migrations of the diamond in the order in which they were recorded."""


def record(db: Any, *names: str) -> None:
    """Write records of consecutive days."""
    dates = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(len(names))]
    db.app_migrations.insert_many(
        [{"_id": name, "name": name, "appliedAt": date} for name, date in zip(names, dates, strict=True)]
    )


def test_last(db: Any) -> None:
    """The last ones by their records, as the plan says."""
    calls: list[str] = []
    runner = SyncRunner(registry(DIAMOND, "sync", calls), db, "app")
    record(db, *HISTORY)

    assert [(one.name, one.undo, one.reason) for one in runner.plan_rollback(last=3)] == [
        ("end", True, "asked for"),
        ("left", True, "asked for"),
        ("aside", True, "asked for"),
    ]
    assert runner.rollback(last=3) == ["end", "left", "aside"]
    assert calls == ["undo end", "undo left", "undo aside"]
    assert runner.rollback(last=99) == ["right", "top"]
    assert runner.rollback(last=1) == []


def test_to(db: Any) -> None:
    """What was recorded after it, without what it needs, and with what depends on that."""
    runner = SyncRunner(registry(DIAMOND, "sync", []), db, "app")
    record(db, *HISTORY)

    assert [one.name for one in runner.plan_rollback(to="right")] == ["end", "left", "aside"]
    assert runner.rollback(to="right") == ["end", "left", "aside"]
    assert runner.rollback(to="right") == []
    assert recorded(db) == ["right", "top"]


def test_refused(db: Any) -> None:
    """Unknown records among the last, and a migration without a rollback, are refused, and nothing is undone."""
    calls: list[str] = []
    migrations = registry(DIAMOND, "sync", calls, irreversible=["left"])
    runner = SyncRunner(migrations, db, "app")
    record(db, *HISTORY, "from tomorrow")

    for ask in (runner.rollback, runner.plan_rollback):
        with pytest.raises(UnknownRecordsError, match="from tomorrow"):
            ask(last=1)
        with pytest.raises(UnknownRecordsError, match="from tomorrow"):
            ask(to="end")
    migrations.register("from tomorrow")(nothing)
    with pytest.raises(IrreversibleMigrationError) as caught:
        runner.rollback(last=3)
    assert caught.value.names == ["left", "from tomorrow"]
    assert calls == []
    db.app_migrations.delete_one({"_id": "end"})
    with pytest.raises(InvalidOptionError, match="'end' isn't applied"):
        runner.rollback(to="end")


def test_bad_arguments(db: Any) -> None:
    """They are refused when the method is called."""
    runner = SyncRunner(registry(DIAMOND, "sync", []), db, "app")
    for ask in (runner.rollback, runner.plan_rollback):
        with pytest.raises(InvalidOptionError, match="exactly one of targets, last and to"):
            ask()
        with pytest.raises(InvalidOptionError, match="exactly one"):
            ask(["top"], last=1)
        with pytest.raises(InvalidOptionError, match="last must be a whole number, at least 1, not 0"):
            ask(last=0)
        with pytest.raises(UnknownMigrationError, match="Did you mean 'top'"):
            ask(to="tip")


def test_mark_with_dependencies(db: Any) -> None:
    """A mark can take along what the migration depends on, directly or not."""
    calls: list[str] = []
    runner = SyncRunner(registry(DIAMOND, "sync", calls), db, "app")
    record(db, "right")
    with pytest.raises(DependencyConflictError):
        runner.mark_applied(["end"])
    assert runner.mark_applied(["end"], with_dependencies=True) == ["top", "left", "end"]
    assert runner.mark_applied(["end"], with_dependencies=True) == []
    assert calls == []
    assert recorded(db) == ["end", "left", "right", "top"]


def test_mark_with_replaced_dependencies(db: Any) -> None:
    """A dependency on a replaced migration means its replacement, which is recorded with what it replaces."""
    migrations = registry({"new": [], "a": ["old"]}, "sync", [])
    migrations.register("later", ["a"])(nothing)
    migrations.register("replacing", replaces=["old", "older"])(nothing)
    runner = SyncRunner(migrations, db, "app")
    assert runner.mark_applied(["later"], with_dependencies=True) == ["replacing", "a", "later"]
    assert recorded(db) == ["a", "later", "old", "older", "replacing"]
