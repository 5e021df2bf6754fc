# Generated from tests/async/test_marks.py by tools/sync_tests.py
"""Correcting the records without running anything: to adopt a database, or to say that something is not done."""

from typing import Any

import pytest

from quaestor import (
    SyncRunner,
)
from tests.databases import drivers
from tests.functions import recorded
from tests.operations import (
    BREAKS,
    CHAIN,
    MARKS_APPLIED,
    MARKS_PENDING,
    Case,
    records,
    registry,
)
from tools.commands import Commands


@pytest.mark.parametrize("case", MARKS_APPLIED, ids=str)
def test_mark_applied(db: Any, case: Case) -> None:
    """The names are recorded, dependencies first; no function is called, now or by the next run."""
    if case.recorded:
        db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = SyncRunner(registry(case.needs, "sync", calls), db, "app")

    assert runner.mark_applied(case.targets) == list(case.planned)

    assert calls == []
    assert recorded(db) == sorted({*case.recorded, *case.planned})
    assert set(runner.run()) == case.needs.keys() - {*case.recorded, *case.planned}


@pytest.mark.parametrize("case", MARKS_PENDING, ids=str)
def test_mark_pending(db: Any, case: Case) -> None:
    """The records of the names are removed, dependents first, also unknown ones; no rollback is called or needed."""
    if case.recorded:
        db.app_migrations.insert_many(records(*case.recorded))
    calls: list[str] = []
    runner = SyncRunner(registry(case.needs, "sync", calls, irreversible=case.needs), db, "app")

    assert runner.mark_pending(case.targets) == list(case.planned)

    assert calls == []
    assert recorded(db) == sorted(set(case.recorded) - case.planned.keys())


@pytest.mark.parametrize("found", BREAKS.values(), ids=[*BREAKS])
def test_records_of_all_kinds(db: Any, found: list[dict[str, Any]]) -> None:
    """Records of version 0.1 count, and all of them are removed when the migration is marked pending."""
    others = [{"_id": 7}, {"_id": 8, "name": 7}, *records("from tomorrow")]
    db.app_migrations.insert_many([*found, *others])
    runner = SyncRunner(registry({"a": []}, "sync", []), db, "app")

    assert runner.mark_applied(["a"]) == []
    assert runner.mark_pending(["a"]) == ["a"]
    assert [record["_id"] for record in db.app_migrations.find()] == [7, 8, "from tomorrow"]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """A mark is two reads, a lease, and for each migration a check, a record and an entry of the history. The
    checkpoints of its rollback are removed before, and its own after. Transactional migrations need no transaction.
    """
    runner = SyncRunner(registry(CHAIN, "sync", [], transaction=True), db, "app")
    before = ["find", "findAndModify", "find"]

    runner.mark_applied(["a", "b"])
    assert commands.names == [*before, *["delete", "update", "insert", "delete", "update"] * 2, "update"]
    commands.sent.clear()
    runner.mark_pending(["a", "b"])
    assert commands.names == [*before, *["delete", "update", "delete", "delete", "update"] * 2, "update"]

    assert recorded(db) == []
