"""Migrations that replace others, in the release after them: renamed, squashed, or with some of them applied."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    Event,
    InvalidMigrationError,
    LeaseLostError,
    MigrationRegistry,
    MigrationReplacedError,
    PartlyReplacedError,
    RecordsUnknown,
    ReplacementRecorded,
    RunFinished,
    UnknownRecordsError,
)
from tests.databases import drivers, in_transactions
from tests.functions import notes_async, nothing_async, outside_async, recorded_async
from tests.operations import LONG_AGO, records
from tools.commands import Commands

pytestmark = pytest.mark.anyio

EVERYTHING = ["last", "new", "old_a", "old_b"]


def older(calls: list[str]) -> MigrationRegistry:
    """The release before."""
    registry = MigrationRegistry()
    for name, needs in {"old_a": [], "old_b": ["old_a"], "last": ["old_b"]}.items():
        registry.register(name, needs)(notes_async(calls, name))
        registry.register_rollback(name)(notes_async(calls, f"undo {name}"))
    return registry


def newer(calls: list[str], *kept: str, transaction: bool = False) -> MigrationRegistry:
    """The release with the replacement, in which these of the replaced migrations are still registered."""
    registry = MigrationRegistry()
    for name in kept:
        registry.register(name, transaction=transaction)(notes_async(calls, name))
    registry.register("last", ["old_b"], transaction=transaction)(notes_async(calls, "last"))
    registry.register_rollback("last")(notes_async(calls, "undo last"))
    registry.register("new", replaces=["old_a", "old_b"], transaction=transaction)(notes_async(calls, "new"))
    registry.register_rollback("new")(notes_async(calls, "undo new"))
    return registry


async def find_sources(db: Any) -> dict[str, str | None]:
    """What wrote each record; None: another tool, or an old release."""
    return {record["_id"]: record.get("source") async for record in db.app_migrations.find()}


@in_transactions("pymongo", "motor")
async def test_none_applied(db: Any, transaction: bool) -> None:
    """The replacement runs, and what it replaces is recorded, too: an older release doesn't run that again."""
    calls: list[str] = []

    assert await newer(calls, "old_a", transaction=transaction).run(db, "app") == ["new", "last"]

    assert calls == ["new", "last"]
    replaced = {"old_a": "replaces", "old_b": "replaces"}
    assert await find_sources(db) == {"new": "run", "last": "run", **replaced}
    found = {record["_id"]: record async for record in db.app_migrations.find()}
    assert found["old_a"]["appliedAt"] == found["old_b"]["appliedAt"] == found["new"]["appliedAt"]
    assert "durationMs" in found["new"]
    assert {"durationMs", "checksum"}.isdisjoint(found["old_a"])
    assert found["old_a"]["run"] == found["new"]["run"]
    assert await older(calls).run(db, "app") == []
    assert calls == ["new", "last"]


async def test_all_applied(db: Any) -> None:
    """The replacement counts as applied, and is recorded with the latest of their dates. No function is called."""
    calls: list[str] = []
    events: list[Event] = []
    dates = [LONG_AGO, LONG_AGO + timedelta(days=1)]
    await db.app_migrations.insert_many(
        [record | {"appliedAt": date} for record, date in zip(records("old_b", "old_a"), dates, strict=True)]
    )
    runner = AsyncRunner(newer(calls), db, "app", on_event=events.append)
    before = {one.name: (one.state, one.applied_at) for one in (await runner.status()).migrations}
    assert before["new"] == ("applied", dates[1])
    assert before["last"] == ("pending", None)

    assert await runner.run() == ["last"]

    assert calls == ["last"]
    (recorded,) = [event for event in events if isinstance(event, ReplacementRecorded)]
    assert (recorded.name, recorded.replaces) == ("new", ("old_a", "old_b"))
    assert not [event for event in events if isinstance(event, RecordsUnknown)]
    record = await db.app_migrations.find_one({"_id": "new"})
    assert (record["appliedAt"].replace(tzinfo=UTC), record["source"]) == (dates[1], "replaces")
    assert record["checksum"]
    after = {one.name: (one.state, one.applied_at) for one in (await runner.status()).migrations}
    assert {name: state for name, (state, _) in after.items()} == {
        "new": "applied",
        "last": "applied",
        "old_a": "replaced",
        "old_b": "replaced",
    }
    assert after["new"] == before["new"]
    assert await runner.run() == []
    assert events[-1] == RunFinished(db.name, "app", events[-1].run, ())


async def test_renamed(db: Any) -> None:
    """Replacing one name is a rename, also of several releases at once."""
    calls: list[str] = []
    await older(calls).run(db, "app")
    renamed = MigrationRegistry()
    renamed.register("a_2", replaces=["old_a"])(nothing_async)
    renamed.register("a_3", replaces=["a_2"])(nothing_async)
    renamed.register("old_b", ["a_2"])(nothing_async)
    renamed.register("last", ["old_b", "old_a"])(nothing_async)

    assert await renamed.run(db, "app", strict=True) == []

    assert await recorded_async(db) == ["a_2", "a_3", "last", "old_a", "old_b"]
    status = await AsyncRunner(renamed, db, "app").status()
    assert status.names("applied") == ["a_3", "old_b", "last"]
    assert status.names("replaced") == ["a_2", "old_a"]
    assert status.order_conflicts == ()


@in_transactions("pymongo", "motor")
async def test_some_applied(db: Any, transaction: bool) -> None:
    """If the rest is registered, it runs first, and then the replacement counts as applied."""
    calls: list[str] = []
    await db.app_migrations.insert_many(records("old_a"))

    assert await newer(calls, "old_a", "old_b", transaction=transaction).run(db, "app") == ["old_b", "last"]

    assert calls == ["old_b", "last"]
    assert await find_sources(db) == {"old_a": None, "old_b": "run", "new": "replaces", "last": "run"}


async def test_some_applied_and_the_rest_is_gone(db: Any) -> None:
    """A run is refused, and so is its plan. Nothing has run; the status shows what is there."""
    calls: list[str] = []
    await db.app_migrations.insert_many(records("old_a"))
    runner = AsyncRunner(newer(calls, "old_a"), db, "app")

    for call in (runner.run, runner.plan, runner.pin):
        with pytest.raises(PartlyReplacedError) as caught:
            await call()
        assert (caught.value.name, caught.value.recorded, caught.value.missing) == ("new", ["old_a"], ["old_b"])

    assert calls == []
    status = await runner.status()
    assert (status.names("pending"), status.names("replaced")) == (["new", "last"], ["old_a"])
    assert await runner.mark_applied(["old_b"]) == ["old_b"]
    assert await runner.run() == ["last"]
    assert await recorded_async(db) == EVERYTHING


@in_transactions("pymongo", "motor")
@pytest.mark.parametrize("has_record", [True, False])
async def test_rollback(db: Any, transaction: bool, has_record: bool) -> None:
    """The records of what it replaces are removed, too, also if it only counts as applied; then it can run again."""
    calls: list[str] = []
    registry = newer(calls, transaction=transaction)
    runner = AsyncRunner(registry, db, "app")
    if has_record:
        await runner.run()
    else:
        await older([]).run(db, "app")
    with pytest.raises(MigrationReplacedError) as caught:
        await runner.rollback(["old_a"])
    assert caught.value.replacements == {"old_a": "new"}
    calls.clear()

    assert await runner.rollback(["new"]) == ["last", "new"]

    assert calls == ["undo last", "undo new"]
    assert await recorded_async(db) == []
    assert await runner.run() == ["new", "last"]
    assert await recorded_async(db) == EVERYTHING


@in_transactions("pymongo", "motor")
async def test_recorded_meanwhile(db: Any, other: Any, transaction: bool) -> None:
    """A process of an older release that wakes and records a part of it stops the run; in a transaction, without a
    trace. The next run sees what is there.
    """
    registry = MigrationRegistry()

    @registry.register("new", replaces=["old_a", "old_b"], transaction=transaction)
    async def new(db: Any) -> None:
        await outside_async(lambda: other.app_migrations.insert_one({"_id": "old_b", "name": "old_b"}))

    with pytest.raises(LeaseLostError):
        await registry.run(db, "app")

    assert await recorded_async(db) == (["old_b"] if transaction else ["new", "old_a", "old_b"])
    registry.register("old_a")(nothing_async)
    assert await registry.run(db, "app") == (["old_a"] if transaction else [])
    assert await recorded_async(db) == ["new", "old_a", "old_b"]


async def test_marks(db: Any) -> None:
    """A mark writes and removes the records of what it replaces with its own."""
    runner = AsyncRunner(newer([]), db, "app")

    assert await runner.mark_applied(["new", "old_b"]) == ["new"]
    assert await find_sources(db) == {"new": "mark", "old_a": "replaces", "old_b": "replaces"}
    with pytest.raises(MigrationReplacedError):
        await runner.mark_pending(["old_b"])
    assert await runner.mark_pending(["new"]) == ["new"]
    assert await recorded_async(db) == []
    assert [(one.what, one.name) for one in await runner.history()] == [
        ("marked_pending", "new"),
        ("marked_applied", "new"),
    ]


async def test_retired(db: Any) -> None:
    """A retired migration isn't unknown, but the status has it."""
    calls: list[str] = []
    await db.app_migrations.insert_many(records("gone", "from tomorrow"))
    registry = newer(calls)
    registry.retire("gone", "never there")
    events: list[Event] = []

    await registry.run(db, "app", on_event=events.append)

    assert [event.names for event in events if isinstance(event, RecordsUnknown)] == [("from tomorrow",)]
    status = await AsyncRunner(registry, db, "app").status()
    assert (status.names("retired"), status.names("unknown")) == (["gone"], ["from tomorrow"])
    with pytest.raises(UnknownRecordsError):
        await registry.run(db, "app", strict=True)
    registry.retire("from tomorrow")
    assert await registry.run(db, "app", strict=True) == []
    with pytest.raises(InvalidMigrationError):
        registry.retire("old_a")


async def test_history(db: Any) -> None:
    """A record that was written without a call is in the history with what wrote it."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    await older([]).run(db, "app")
    runner = AsyncRunner(newer([]), db, "app")
    await runner.run()

    (entry,) = await runner.history(["new"])
    assert entry.record is not None
    assert (entry.what, entry.record.source, entry.duration_ms) == ("applied", "replaces", None)
    assert entry.at is not None
    assert before < entry.at


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_commands(db: Any, commands: Commands) -> None:
    """A replacement is recorded with what it replaces by one command. The start marks are read once, under the lease;
    the checkpoints of what is replaced are removed. One that only counts as applied needs a check and an insert.
    """
    await newer([]).run(db, "app", targets=["new"])
    under_lease = commands.names[commands.names.index("findAndModify") + 1 :]
    assert under_lease == ["find", "find", "delete", "update", "insert", "delete", "update"]
    (inserted,) = [sent for sent in commands.sent if "insert" in sent]
    assert [record["_id"] for record in inserted["documents"]] == ["new", "old_a", "old_b"]

    await db.app_migrations.delete_one({"_id": "new"})
    commands.sent.clear()
    await newer([]).run(db, "app", targets=["new"])
    assert commands.names == ["find", "findAndModify", "find", "update", "insert", "update"]
