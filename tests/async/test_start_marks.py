"""Migrations with after_crash="stop": what is left in the database, and how somebody continues."""

from datetime import UTC, datetime
from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    InterruptedMigrationError,
    InvalidOptionError,
    MigrationRegistry,
    UnknownMigrationError,
)
from tests.databases import drivers
from tests.functions import Broken, nothing_async, recorded_async
from tools.commands import Commands

pytestmark = pytest.mark.anyio

MARK: dict[str, Any] = {"_id": {"start": "b"}, "owner": "dead", "startedAt": datetime(2026, 1, 1)}  # noqa: DTZ001 - as stored
"""A mark that a killed run left."""


def make_registry(faults: list[str], called: list[str]) -> MigrationRegistry:
    """Three migrations, of which `b` must not be repeated unasked. It fails while there are faults."""
    registry = MigrationRegistry()
    registry.register("a")(nothing_async)

    @registry.register("b", ["a"], after_crash="stop")
    async def b(db: Any) -> None:
        called.append("b")
        if faults:
            raise Broken(faults.pop())

    @registry.register_rollback("b")
    async def undo_b(db: Any) -> None:
        called.append("undo b")

    registry.register("c", ["b"])(nothing_async)
    return registry


async def marks(db: Any) -> list[dict[str, Any]]:
    return [mark async for mark in db.app_migrations_lock.find({"_id": {"$ne": "lease"}})]


async def test_failed_and_retried(db: Any) -> None:
    """A failed function leaves its mark beside the lease. Until it is to be retried, nothing runs, and plan, dry run
    and status say since when. Afterwards nothing is left but the records.
    """
    called: list[str] = []
    runner = AsyncRunner(make_registry(["it broke"], called), db, "app")
    with pytest.raises(Broken):
        await runner.run()
    [mark] = await marks(db)
    assert (mark["_id"], mark.keys()) == ({"start": "b"}, {"_id", "owner", "startedAt"})
    since = mark["startedAt"].replace(tzinfo=UTC)

    for call in (runner.run, runner.plan):
        with pytest.raises(InterruptedMigrationError) as caught:
            await call()
        assert caught.value.interrupted == {"b": since}
    status = await runner.status()
    assert [(one.name, one.interrupted, one.interrupted_since) for one in status.migrations] == [
        ("a", False, None),
        ("b", True, since),
        ("c", False, None),
    ]
    assert (called, await recorded_async(db)) == (["b"], ["a"])

    assert [one.name for one in await runner.plan(retry=["b"])] == ["b", "c"]
    assert await runner.run(retry=["b"]) == ["b", "c"]
    assert (called, await marks(db), await recorded_async(db)) == (["b", "b"], [], ["a", "b", "c"])
    assert not any(one.interrupted for one in (await runner.status()).migrations)


@pytest.mark.parametrize("how", ["rollback", "mark_pending", "mark_applied"])
async def test_continued(db: Any, how: str) -> None:
    """A rollback undoes what was left halfway; a mark says that it is complete, or that nothing of it is left."""
    await db.app_migrations_lock.insert_one(MARK)
    called: list[str] = []
    runner = AsyncRunner(make_registry([], called), db, "app")
    await runner.run(["a"])
    assert await getattr(runner, how)(["b"]) == ["b"]
    assert (await marks(db), called) == ([], ["undo b"] if how == "rollback" else [])
    assert await runner.run() == (["c"] if how == "mark_applied" else ["b", "c"])
    assert await getattr(runner, how)(["c", "b"] if how == "mark_pending" else []) == (
        ["c", "b"] if how == "mark_pending" else []
    )


async def test_void_mark(db: Any) -> None:
    """Beside a record a mark means nothing, and it goes with the record."""
    runner = AsyncRunner(make_registry([], []), db, "app")
    await runner.run()
    await db.app_migrations_lock.insert_one(MARK)
    assert not any(one.interrupted for one in (await runner.status()).migrations)
    assert await runner.run() == []
    assert await runner.mark_pending(["c", "b"]) == ["c", "b"]
    assert await marks(db) == []


async def test_later_mark_stays(db: Any) -> None:
    """A run that loses its lease in the function doesn't remove the mark that another one has written meanwhile."""
    registry = MigrationRegistry()
    theirs = MARK | {"owner": "theirs"}

    @registry.register("b", after_crash="stop")
    async def b(db: Any) -> None:
        await db.app_migrations_lock.replace_one({"_id": MARK["_id"]}, theirs)

    assert await registry.run(db, "app") == ["b"]
    assert await marks(db) == [theirs]


async def test_unreadable_marks(db: Any) -> None:
    """Documents beside the lease that aren't marks are left alone, and a mark without its fields still stops."""
    others: list[dict[str, Any]] = [{"_id": 7}, {"_id": {"start": 7}}, {"_id": {"end": "b"}}, {"_id": {"start": "b"}}]
    await db.app_migrations_lock.insert_many(others)
    runner = AsyncRunner(make_registry([], []), db, "app")
    with pytest.raises(InterruptedMigrationError):
        await runner.run()
    assert await runner.run(retry=["b"]) == ["a", "b", "c"]
    assert await marks(db) == others[:3]


async def test_bad_input(db: Any) -> None:
    """Names to retry are checked before anything is sent."""
    runner = AsyncRunner(make_registry([], []), db, "app")
    with pytest.raises(UnknownMigrationError):
        await runner.run(retry=["z"])
    with pytest.raises(InvalidOptionError, match="retry must be a list of names"):
        await runner.plan(retry="b")
    with pytest.raises(UnknownMigrationError):
        await make_registry([], []).run_many([db], "app", retry=["z"])


async def test_many(db: Any) -> None:
    """A run over many databases reports the error of each, and retries in each."""
    await db.app_migrations_lock.insert_one(MARK)
    registry = make_registry([], [])
    [result] = await registry.run_many([db], "app")
    assert isinstance(result.error, InterruptedMigrationError)
    [result] = await registry.run_many([db], "app", retry=["b"])
    assert (result.error, result.applied) == (None, ["a", "b", "c"])
    assert await registry.run(db, "app", retry=["b"]) == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_commands(db: Any, commands: Commands) -> None:
    """The marks are one read, if such a migration is in the plan; each of them is two writes, with a majority."""
    registry = make_registry([], [])
    await registry.run(db, "app", targets=["a"])
    commands.sent.clear()

    assert await registry.run(db, "app") == ["b", "c"]

    before = ["find", "findAndModify", "find", "find"]
    assert commands.names == [*before, "update", "update", "insert", "delete", "update", "insert", "update"]
    written = [commands.sent[4], commands.sent[7]]
    assert [command["writeConcern"]["w"] for command in written] == ["majority", "majority"]
