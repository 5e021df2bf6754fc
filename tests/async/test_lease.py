"""One instance migrates at a time: it acquires the lease, waits for it, loses it, releases it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quaestor import (
    AsyncRunner,
    Event,
    LeaseAwaited,
    LeaseLostError,
    LeaseTimeoutError,
    MigrationRegistry,
    RunFailed,
    RunFinished,
)
from tests.databases import drivers, watched_async
from tests.functions import Broken, is_free_async, notes_async
from tests.leases import DEAD, HELD, lock_document
from tests.meeting import Events, Moment, start_async

pytestmark = pytest.mark.anyio


async def lock(db: Any) -> dict[str, Any]:
    """The document of the lease."""
    document: dict[str, Any] = await db.app_migrations_lock.find_one({"_id": "lease"})
    return document


async def test_lock_document(db: Any, registry: MigrationRegistry) -> None:
    """While a run migrates the lock document names it, its times and its migration; then it is free."""
    seen = []

    async def looks(db: Any) -> None:
        seen.append(await lock(db))

    for name in ("a", "b"):
        registry.register(name)(looks)

    await registry.run(db, "app", lease_ttl=20)

    first, second = seen
    assert first == lock_document(first, migrations=["a"])
    assert second == lock_document(first, migrations=["b"], renewed=second, recording="a", upcoming=["b"])
    assert (first["beat"], first["ttl"]) == (0, 20)
    assert second["beat"] > first["beat"]
    assert second["renewedAt"] >= first["renewedAt"]
    # A server reads its clock once for a command; a mock reads it for each field.
    assert abs(first["renewedAt"] - first["since"]) < timedelta(seconds=5)
    assert await lock(db) == {"_id": "lease", "token": 1, "sessions": []}


async def test_lease_timeout(db: Any, registry: MigrationRegistry) -> None:
    """A run waits until the timeout for a lease that stays held; the error names the holder, and nothing has run."""
    await db.app_migrations_lock.insert_one(HELD)
    calls = []

    registry.register("a")(notes_async(calls, "a"))

    events: list[Event] = []

    with pytest.raises(LeaseTimeoutError, match=r"held by elsewhere \(process 4711\).* in migration 'x'") as caught:
        await registry.run(db, "app", lease_timeout=0.2, on_event=events.append)

    assert isinstance(caught.value, TimeoutError)
    assert caught.value.seconds >= 0.2
    assert (caught.value.holder.host, caught.value.holder.pid) == ("elsewhere", 4711)
    assert caught.value.holder.since == datetime(2026, 1, 1, tzinfo=UTC)
    *waited, failed = events  # a server that takes longer than the timeout to answer leaves no time to wait
    assert all(isinstance(event, LeaseAwaited) and event.holder == caught.value.holder for event in waited)
    assert failed == RunFailed(db.name, "app", failed.run, caught.value)
    assert calls == []
    assert await lock(db) == HELD


async def test_take_over(db: Any, registry: MigrationRegistry) -> None:
    """A lease that nobody renews is taken over, with the token of the dead holder plus one."""
    await db.app_migrations_lock.insert_one(DEAD)
    seen = []

    @registry.register("a")
    async def looks(db: Any) -> None:
        seen.append(await lock(db))

    assert await registry.run(db, "app") == ["a"]

    assert (seen[0]["token"], seen[0]["previous"]) == (DEAD["token"] + 1, DEAD["owner"])
    assert await lock(db) == {"_id": "lease", "token": DEAD["token"] + 1, "sessions": [], "previous": "another"}


@pytest.mark.parametrize("failure", [Broken, asyncio.CancelledError])
async def test_released_after_a_failure(db: Any, registry: MigrationRegistry, failure: type[BaseException]) -> None:
    """A run that fails or is interrupted releases the lease at once."""

    @registry.register("a")
    async def fails(db: Any) -> None:
        raise failure

    with pytest.raises(failure):
        await registry.run(db, "app")
    assert await is_free_async(db)


async def test_second_instance_waits(db: Any, registry: MigrationRegistry) -> None:
    """An instance that starts while another one migrates waits, and then finds nothing to do."""
    calls = []
    waiting, second = Moment(), []
    events = Events({LeaseAwaited: waiting.has_come})

    @registry.register("a")
    async def starts_another(db: Any) -> None:
        calls.append("a")
        second.append(start_async(lambda: registry.run(db, "app", on_event=events)))
        await waiting.wait_async()

    registry.register("b")(notes_async(calls, "b"))

    assert await registry.run(db, "app") == ["a", "b"]
    assert await second[0].result_async() == []
    assert isinstance(events[-1], RunFinished)
    assert calls == ["a", "b"]
    assert await is_free_async(db)


async def acquire(db: Any) -> None:
    """Another instance acquires the lease, as if this one were dead."""
    await db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)


async def remove(db: Any) -> None:
    """Somebody removes the lease document."""
    await db.app_migrations_lock.delete_one({"_id": "lease"})


@pytest.mark.parametrize("lose", [acquire, remove])
async def test_lost_in_a_function(db: Any, registry: MigrationRegistry, lose: Callable[[Any], Awaitable[None]]) -> None:
    """If the lease is lost while a function runs, it isn't recorded, and nothing more starts. A next holder's lease is
    left alone.
    """
    calls = []
    registry.register("a")(lose)

    registry.register("b")(notes_async(calls, "b"))

    with pytest.raises(LeaseLostError, match="function of 'a' may have run") as caught:
        await registry.run(db, "app")

    assert caught.value.migration == "a"
    assert calls == []
    assert await db.app_migrations.count_documents({}) == 0
    assert await lock(db) == (HELD if lose is acquire else None)


async def test_expired_in_a_function(db: Any, registry: MigrationRegistry) -> None:
    """A lease that has expired, while nobody else took it over, is renewed, and the run goes on."""

    @registry.register("a")
    async def expires(db: Any) -> None:
        long_ago = {"renewedAt": DEAD["renewedAt"]}
        await db.app_migrations_lock.update_one({"_id": "lease"}, {"$set": long_ago})
        assert (await AsyncRunner(registry, db, "app").status()).lease is None

    @registry.register("b")
    async def looks(db: Any) -> None:
        assert (await AsyncRunner(registry, db, "app").status()).lease is not None

    assert await registry.run(db, "app") == ["a", "b"]


async def test_record_of_another(db: Any, registry: MigrationRegistry) -> None:
    """When another instance has written the record meanwhile, it must hold the lease: stop."""
    calls = []

    @registry.register("a")
    async def a(db: Any) -> None:
        await db.app_migrations.insert_one({"_id": "a", "name": "a"})

    registry.register("b")(notes_async(calls, "b"))

    with pytest.raises(LeaseLostError):
        await registry.run(db, "app")
    assert calls == []


async def test_unlock(db: Any, registry: MigrationRegistry) -> None:
    """`unlock` releases the lease and returns its holder, who stops at its next step; the next run works."""
    unlocked = []

    @registry.register("a")
    async def is_unlocked(db: Any) -> None:
        if not unlocked:
            unlocked.append(await AsyncRunner(registry, db, "app").unlock())

    with pytest.raises(LeaseLostError):
        await registry.run(db, "app")
    assert unlocked[0].migrations == ("a",)
    assert unlocked[0].token == 1
    assert await AsyncRunner(registry, db, "app").unlock() is None
    assert await registry.run(db, "app", lease_timeout=0) == ["a"]


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_kept_alive(db: Any, registry: MigrationRegistry) -> None:
    """While a function runs the lease is renewed."""
    seen = []

    @registry.register("a")
    async def takes_its_time(db: Any) -> None:
        async with watched_async(db.app_migrations_lock) as changes:
            seen.append(await lock(db))
            await anext(changes)
        seen.append(await lock(db))

    assert await registry.run(db, "app", lease_ttl=1) == ["a"]
    before, after = seen
    assert after["beat"] > before["beat"]
    assert after["renewedAt"] > before["renewedAt"]
