"""Migrations that run at the same time: what starts when, what is recorded, and how a failing run ends."""

import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from quaestor import (
    AsyncMigrationContext,
    AsyncRunner,
    BackfillStarted,
    Lease,
    MigrationApplied,
    MigrationContext,
    MigrationFailed,
    MigrationRegistry,
    MigrationRetried,
    MigrationStarted,
)
from tests.databases import both_kinds_async, drivers, in_transactions
from tests.functions import Broken, each, fill_async, is_free_async, nothing_async, outside_async, recorded_async
from tests.meeting import Count, Events, Meeting, Moment, worker_async

pytestmark = pytest.mark.anyio

real = pytest.mark.parametrize("driver", drivers("pymongo", "motor"), indirect=True)
"""For what the mocks do not have."""


@pytest.mark.parametrize(("count", "concurrency"), [(2, 2), (4, 4), (2, 100)])
async def test_concurrent(db: Any, registry: MigrationRegistry, count: int, concurrency: int) -> None:
    """Migrations run at the same time, up to the concurrency; a concurrency above the number of migrations is fine."""
    meeting, at_once = Meeting(count), Count()

    async def meets(db: Any) -> None:
        with at_once.one_more():
            await meeting.wait_async()

    plan = list("abcdefgh"[: 2 * count])
    for name in plan:
        registry.register(name)(meets)

    assert await registry.run(db, "app", concurrency=concurrency) == plan
    assert concurrency > count or at_once.most == count
    assert await recorded_async(db) == plan
    assert await is_free_async(db)


@both_kinds_async
async def test_both_kinds(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """`def` and `async def` functions run concurrently, two of each, and those that need them after them."""
    meeting, later = Meeting(4), Meeting(2)

    def plain(db: Any) -> None:
        meeting.wait()

    async def awaited(db: Any) -> None:  # stays async
        await meeting.wait_async()

    for name, function in {"a": plain, "b": awaited, "c": plain, "d": awaited}.items():
        registry.register(name)(function)

    @registry.register("e", depends_on=["a", "b"])
    def needs_both(db: Any) -> None:
        assert db.app_migrations.count_documents({"_id": {"$in": ["a", "b"]}}) == 2
        later.wait()

    @registry.register("f", depends_on=["c", "d"])
    async def needs_both_too(db: Any) -> None:  # stays async
        assert await db.app_migrations.count_documents({"_id": {"$in": ["c", "d"]}}) == 2
        await later.wait_async()

    assert await registry.run(db, "app", sync_db=sync_db, concurrency=4) == list("abcdef")
    assert await recorded_async(db) == list("abcdef")


@pytest.mark.parametrize("options", [{}, {"concurrency": 1}], ids=str)
async def test_one_at_a_time(db: Any, registry: MigrationRegistry, options: Any) -> None:
    """By default they run one at a time, in alphabetical order, in the task or thread of the caller."""
    calls = []

    @each(registry, {"d": [], "c": ["d"], "a": ["c"], "b": []})
    async def body(name: str, db: Any) -> None:
        calls.append((name, worker_async()))

    assert await registry.run(db, "app", **options) == ["b", "d", "c", "a"]
    assert calls == [(name, worker_async()) for name in ["b", "d", "c", "a"]]


@pytest.mark.parametrize(("second", "group"), [(LookupError, ExceptionGroup), (SystemExit, BaseExceptionGroup)])
async def test_several_failures(
    db: Any, registry: MigrationRegistry, second: type[BaseException], group: type[BaseExceptionGroup[Any]]
) -> None:
    """Several failures are raised as a group, each with its note; the others are recorded."""
    errors, meeting, failed = {"a": Broken("own"), "b": second("own")}, Meeting(3), Moment()

    @each(registry, dict.fromkeys("abc", ()))
    async def body(name: str, db: Any) -> None:
        await meeting.wait_async()
        if name in errors:
            raise errors[name]
        await failed.wait_async()

    registry.register("d", depends_on=["c"])(nothing_async)
    events = Events({MigrationFailed: failed.has_come})

    with pytest.raises(group, match="2 migrations failed") as caught:
        await registry.run(db, "app", on_event=events, concurrency=3)

    assert type(caught.value) is group
    assert sorted(map(id, caught.value.exceptions)) == sorted(map(id, errors.values()))
    assert [error.__notes__ for error in errors.values()] == [
        ["quaestor: in migration 'a', 1 of 4"],
        ["quaestor: in migration 'b', 2 of 4"],
    ]
    failures = {event.name: event.error for event in events if isinstance(event, MigrationFailed)}
    assert failures == errors
    assert await recorded_async(db) == ["c"]
    assert await is_free_async(db)


@both_kinds_async
@pytest.mark.parametrize("kind", [Broken, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("is_async", [False, True])
async def test_failure(
    db: Any, registry: MigrationRegistry, sync_db: Any, is_async: bool, kind: type[BaseException]
) -> None:
    """What a function raises waits for the others, and leaves unchanged; nothing more starts."""
    error, meeting, failed = kind("own"), Meeting(3), Moment()

    def plain(db: Any) -> None:
        meeting.wait()
        raise error

    async def awaited(db: Any) -> None:  # stays async
        await meeting.wait_async()
        raise error

    def goes_on(db: Any) -> None:
        meeting.wait()
        failed.wait()

    async def awaits_the_others(db: Any) -> None:  # stays async
        await meeting.wait_async()
        await failed.wait_async()

    for name, function in {
        "a": awaited if is_async else plain,
        "b": goes_on,
        "c": awaits_the_others,
        "d": nothing_async,
        "e": nothing_async,
    }.items():
        registry.register(name)(function)
    events = Events({MigrationFailed: failed.has_come})

    with pytest.raises(kind) as caught:
        await registry.run(db, "app", sync_db=sync_db, on_event=events, concurrency=3)

    assert caught.value is error
    assert error.__notes__ == ["quaestor: in migration 'a', 1 of 5"]
    assert sorted(events.names(MigrationStarted)) == ["a", "b", "c"]
    assert await recorded_async(db) == ["b", "c"]
    assert events.names(MigrationFailed) == ["a"]
    assert await is_free_async(db)


@both_kinds_async
async def test_one_event_at_a_time(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """Functions that have an event at the same time call the hook one after the other."""
    meeting = Meeting(2)
    events = Events({BackfillStarted: lambda: time.sleep(0.2)})  # the other function has the same meanwhile

    @registry.register("a")
    def goes_over(db: Any, context: MigrationContext) -> None:
        meeting.wait()
        for _ in context.batches(db.a, size=1):
            meeting.wait()

    @registry.register("b")
    async def goes_over_too(db: Any, context: AsyncMigrationContext) -> None:  # stays async
        await meeting.wait_async()
        async for _ in context.batches(db.b, size=1):
            await meeting.wait_async()

    for name in "ab":
        await fill_async(db[name], 5)

    await registry.run(db, "app", sync_db=sync_db, on_event=events, concurrency=2)

    assert sorted(events.names(BackfillStarted)) == ["a", "b"]
    assert events.calls.most == 1


@real
async def test_transactions(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """Transactions run concurrently, each in a session of its own that the lock names, and each counts once."""
    meeting, events = Meeting(3), Events()
    calls: dict[str, int] = {}
    sessions = []
    await db.create_collection("effects")

    @each(registry, {"a": [], "b": [], "c": [], "d": ["a"], "e": ["b"]}, transaction=True)
    async def body(name: str, db: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        await db.effects.insert_one({"migration": name})
        if calls[name] == 1 and name in "abc":
            await meeting.wait_async()
            sessions.append((await outside_async(other.app_migrations_lock.find_one))["sessions"])

    assert await registry.run(db, "app", on_event=events, concurrency=3) == list("abcde")

    effects = sorted([document["migration"] async for document in db.effects.find()])
    assert effects == await recorded_async(db) == list("abcde")
    assert [len(named) for named in sessions] == [3, 3, 3]
    assert sum(calls.values()) == 5 + len(events.names(MigrationRetried))
    assert sorted(events.names(MigrationApplied)) == list("abcde")
    assert await is_free_async(db)


@in_transactions("pymongo", "motor")
async def test_backfills(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """Concurrent backfills over one collection have a checkpoint each: a failed one resumes at its last batch."""
    await fill_async(db.things, 6)
    meeting, failing = Meeting(2), [True]
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def function(name: str) -> Callable[[Any, AsyncMigrationContext], Awaitable[None]]:
        async def body(batch: list[dict[str, Any]]) -> None:
            if failing:
                await meeting.wait_async()
                if name == "a" and batch[0]["_id"] == 4:
                    raise Broken
            seen[name].append(batch[0]["_id"])

        async def function(db: Any, context: AsyncMigrationContext) -> None:
            await context.for_each_batch(db.things, body, size=2, transaction=transaction)

        return function

    for name in "ab":
        registry.register(name)(function(name))

    with pytest.raises(Broken):
        await registry.run(db, "app", concurrency=2)
    assert await recorded_async(db) == ["b"]
    (left,) = (await AsyncRunner(registry, db, "app").status()).migrations[0].backfills
    assert (left.collection, left.done) == ("things", 4)
    failing.clear()

    assert await registry.run(db, "app", concurrency=2) == ["a"]
    assert seen == {"a": [0, 2, 4], "b": [0, 2, 4]}
    assert await db.app_migrations_progress.count_documents({}) == 0
    assert await is_free_async(db)


async def test_status(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """A status names all migrations in progress, and no others."""
    meeting = Meeting(2)
    seen: dict[str, Lease | None] = {}

    async def look(name: str, db: Any) -> None:
        await meeting.wait_async()
        seen[name] = (await AsyncRunner(registry, other, "app").status()).lease
        await meeting.wait_async()

    each(registry, {"a": [], "b": [], "c": ["a", "b"], "d": ["a", "b"]})(look)

    assert await registry.run(db, "app", concurrency=2) == ["a", "b", "c", "d"]
    assert (await AsyncRunner(registry, other, "app").status()).lease is None

    in_progress = {name: sorted(lease.migrations) for name, lease in seen.items() if lease is not None}
    assert in_progress == {"a": ["a", "b"], "b": ["a", "b"], "c": ["c", "d"], "d": ["c", "d"]}


async def test_generator_exit(db: Any) -> None:
    """A GeneratorExit of a function becomes a RuntimeError."""
    registry, events = MigrationRegistry(), Events()

    @registry.register("a")
    async def ends(db: Any) -> None:
        raise GeneratorExit

    registry.register("b")(nothing_async)

    with pytest.raises(RuntimeError, match="GeneratorExit") as caught:
        await registry.run(db, "app", on_event=events, concurrency=2)

    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 2"]
    assert events.names(MigrationFailed) == ["a"]
    assert await recorded_async(db) == ["b"]
    assert await is_free_async(db)


@both_kinds_async
async def test_context_variables(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """Functions see the context variables of the caller, and not what another function sets."""
    variable = contextvars.ContextVar("variable", default="nobody's")
    meeting = Meeting(2)
    seen = []

    def plain(db: Any) -> None:
        seen.append(variable.get())
        variable.set("of another")
        meeting.wait()

    async def awaited(db: Any) -> None:  # stays async
        seen.append(variable.get())
        variable.set("of another")
        await meeting.wait_async()

    for name, function in {"a": plain, "b": awaited}.items():
        registry.register(name)(function)
        registry.register(f"after {name}", depends_on=["a", "b"])(function)

    variable.set("the caller's")
    assert len(await registry.run(db, "app", sync_db=sync_db, concurrency=2)) == 4
    assert seen == ["the caller's"] * 4
