# Generated from tests/async/test_rollback_in_transactions.py by tools/sync_tests.py
"""Rollbacks whose function and record are one transaction."""

from typing import Any

import pytest

from quaestor import SyncRunner
from tests.databases import drivers
from tests.functions import (
    Broken,
    effects,
    nothing,
    outside,
    recorded,
)
from tests.operations import BREAKS, records, registry


@pytest.fixture(params=drivers("pymongo"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers of servers that have transactions."""
    return str(request.param)


def test_committed_together(db: Any, other: Any) -> None:
    """With transaction=True the work of the rollback and the record that goes are seen by others together."""
    migrations = registry({"b": ["a"]}, "sync", [], transaction=True)
    migrations.register("a", transaction=True)(nothing)
    seen = []

    @migrations.register_rollback("a")
    def undo(db: Any) -> None:
        db.users.insert_one({"_id": 1})
        seen.append(
            (
                outside(lambda: recorded(other)),
                outside(lambda: other.users.find().to_list(None)),
            )
        )

    runner = SyncRunner(migrations, db, "app")
    runner.run()

    assert runner.rollback(["a"]) == ["b", "a"]

    assert seen == [(["a"], [])]
    assert recorded(other) == effects(other) == []
    assert list(other.users.find()) == [{"_id": 1}]
    assert other.app_migrations_lock.find_one()["sessions"] == []


def test_failure(db: Any, other: Any) -> None:
    """A rollback that fails in its transaction leaves work and record as they were, and blocks nothing."""
    calls: list[str] = []
    needs = {"a": [], "b": ["a"], "c": ["b"]}
    registry(needs, "sync", calls, transaction=True).run_sync(db, "app")
    failing = registry(needs, "sync", calls, transaction=True, fails="undo b")

    with pytest.raises(Broken):
        SyncRunner(failing, db, "app").rollback(["a"])
    assert recorded(other) == effects(other) == ["a", "b"]

    assert SyncRunner(registry(needs, "sync", calls, transaction=True), db, "app").rollback(["a"]) == ["b", "a"]
    assert recorded(other) == effects(other) == []


@pytest.mark.parametrize("found", BREAKS.values(), ids=[*BREAKS])
def test_records_of_all_kinds(db: Any, found: list[dict[str, Any]]) -> None:
    """In a transaction, too, all records of the migration are removed."""
    db.app_migrations.insert_many([*found, *records("from tomorrow")])

    assert SyncRunner(registry({"a": []}, "sync", [], transaction=True), db, "app").rollback(["a"]) == ["a"]
    assert recorded(db) == ["from tomorrow"]


def test_rolled_back_by_another(db: Any, other: Any) -> None:
    """Where another process removes the record first, the transaction leaves nothing and the rollback goes on."""
    migrations = registry({"a": []}, "sync", [], transaction=True)
    migrations.register("b", ["a"], transaction=True)(nothing)
    calls = []

    @migrations.register_rollback("b")
    def undo(db: Any) -> None:
        calls.append("undo b")
        outside(lambda: other.app_migrations.delete_one({"_id": "b"}))
        db.users.insert_one({})

    db.app_migrations.insert_many(records("a", "b"))

    assert SyncRunner(migrations, db, "app").rollback(["a"]) == ["b", "a"]
    assert calls == ["undo b"]
    assert recorded(db) == list(db.users.find()) == []
