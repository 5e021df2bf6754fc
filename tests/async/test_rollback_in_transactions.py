"""Rollbacks whose function and record are one transaction."""

from typing import Any

import pytest

from quaestor import AsyncRunner
from tests.databases import drivers
from tests.functions import Broken, effects_async, nothing_async, outside_async, recorded_async
from tests.operations import BREAKS, records, registry

pytestmark = pytest.mark.anyio


@pytest.fixture(params=drivers("pymongo", "motor"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers of servers that have transactions."""
    return str(request.param)


async def test_committed_together(db: Any, other: Any) -> None:
    """With transaction=True the work of the rollback and the record that goes are seen by others together."""
    migrations = registry({"b": ["a"]}, "async", [], transaction=True)
    migrations.register("a", transaction=True)(nothing_async)
    seen = []

    @migrations.register_rollback("a")
    async def undo(db: Any) -> None:
        await db.users.insert_one({"_id": 1})
        seen.append(
            (
                await outside_async(lambda: recorded_async(other)),
                await outside_async(lambda: other.users.find().to_list(None)),
            )
        )

    runner = AsyncRunner(migrations, db, "app")
    await runner.run()

    assert await runner.rollback(["a"]) == ["b", "a"]

    assert seen == [(["a"], [])]
    assert await recorded_async(other) == await effects_async(other) == []
    assert [one async for one in other.users.find()] == [{"_id": 1}]
    assert (await other.app_migrations_lock.find_one())["sessions"] == []


async def test_failure(db: Any, other: Any) -> None:
    """A rollback that fails in its transaction leaves work and record as they were, and blocks nothing."""
    calls: list[str] = []
    needs = {"a": [], "b": ["a"], "c": ["b"]}
    await registry(needs, "async", calls, transaction=True).run(db, "app")
    failing = registry(needs, "async", calls, transaction=True, fails="undo b")

    with pytest.raises(Broken):
        await AsyncRunner(failing, db, "app").rollback(["a"])
    assert await recorded_async(other) == await effects_async(other) == ["a", "b"]

    assert await AsyncRunner(registry(needs, "async", calls, transaction=True), db, "app").rollback(["a"]) == ["b", "a"]
    assert await recorded_async(other) == await effects_async(other) == []


@pytest.mark.parametrize("found", BREAKS.values(), ids=[*BREAKS])
async def test_records_of_all_kinds(db: Any, found: list[dict[str, Any]]) -> None:
    """In a transaction, too, all records of the migration are removed."""
    await db.app_migrations.insert_many([*found, *records("from tomorrow")])

    assert await AsyncRunner(registry({"a": []}, "async", [], transaction=True), db, "app").rollback(["a"]) == ["a"]
    assert await recorded_async(db) == ["from tomorrow"]


async def test_rolled_back_by_another(db: Any, other: Any) -> None:
    """Where another process removes the record first, the transaction leaves nothing and the rollback goes on."""
    migrations = registry({"a": []}, "async", [], transaction=True)
    migrations.register("b", ["a"], transaction=True)(nothing_async)
    calls = []

    @migrations.register_rollback("b")
    async def undo(db: Any) -> None:
        calls.append("undo b")
        await outside_async(lambda: other.app_migrations.delete_one({"_id": "b"}))
        await db.users.insert_one({})

    await db.app_migrations.insert_many(records("a", "b"))

    assert await AsyncRunner(migrations, db, "app").rollback(["a"]) == ["b", "a"]
    assert calls == ["undo b"]
    assert await recorded_async(db) == [one async for one in db.users.find()] == []
