"""One history of `async def` and `def` migrations, run from an event loop."""

import asyncio
import gc
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from quaestor import (
    AsyncMigrationContext,
    AsyncRunner,
    Event,
    InvalidDatabaseError,
    InvalidOptionError,
    MigrationProgressed,
    MigrationRegistry,
    UnfinishedMigrationError,
)
from tests.databases import drivers, in_transactions
from tests.functions import NOWHERE, effects_async, is_free_async, nothing_async, recorded_async
from tests.unfinished import UNFINISHED, drop_command, drop_helper

pytestmark = pytest.mark.anyio


async def test_where_the_other_kind_runs(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A `def` migration runs in a worker thread, and the event loop stays free meanwhile."""
    started, loop_is_free = threading.Event(), threading.Event()
    seen = []

    @registry.register("a")
    def waits_for_the_loop(db: Any) -> None:
        started.set()
        assert loop_is_free.wait(timeout=30)
        seen.append(threading.current_thread())

    running = asyncio.ensure_future(registry.run(db, "app", sync_db=sync_db))
    await asyncio.to_thread(started.wait)
    loop_is_free.set()

    assert await running == ["a"]
    assert seen != [threading.current_thread()]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
async def test_failure_of_the_other_kind(
    db: Any, registry: MigrationRegistry, sync_db: Any, kind: type[BaseException]
) -> None:
    """An exception of the other kind reaches the caller as it is."""
    error = kind("own")

    @registry.register("a")
    def fails(db: Any) -> None:
        raise error

    with pytest.raises(kind) as caught:
        await registry.run(db, "app", sync_db=sync_db)

    assert caught.value is error
    assert await recorded_async(db) == []


async def test_empty_iterator_of_the_other_kind(db: Any, registry: MigrationRegistry, sync_db: Any) -> None:
    """A StopIteration cannot leave a coroutine: Python makes a RuntimeError of it, which shows it as its cause."""

    @registry.register("a")
    def looks_for_one(db: Any) -> None:
        next(db.users.find())

    with pytest.raises(RuntimeError) as caught:
        await registry.run(db, "app", sync_db=sync_db)
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]


@pytest.mark.parametrize("gather", [lambda start: start(), lambda start: [start(), start()]], ids=["one", "a list"])
async def test_forgotten_await(db: Any, registry: MigrationRegistry, gather: Callable[..., Any]) -> None:
    """An `async def` that returns what it should have awaited has done nothing either. Python needn't warn as well."""

    @registry.register("a")
    async def forgets(db: Any) -> Any:
        return gather(lambda: nothing_async(db))

    with pytest.raises(UnfinishedMigrationError, match=r"'a' returned an awaitable \(coroutine\)"):
        await registry.run(db, "app")
    gc.collect()
    assert await recorded_async(db) == []


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize(("function", "words"), UNFINISHED)
@in_transactions("pymongo", "motor")
async def test_unfinished(
    db: Any, registry: MigrationRegistry, function: Any, words: str, *, transaction: bool
) -> None:
    """A function that leaves its work undone is an error, not a record, and what it left doesn't write later."""
    registry.register("a", transaction=transaction)(function)
    others = asyncio.all_tasks()

    with pytest.raises(UnfinishedMigrationError, match=words):
        await registry.run(db, "app")
    assert await recorded_async(db) == []
    assert await is_free_async(db)
    named = {task for task in asyncio.all_tasks() - others if "write_late" in repr(task)}
    assert named == set()
    # Motor has sent a forgotten command; it isn't recorded, and in a transaction it is undone.
    assert await effects_async(db) == [] or (function is drop_command and not transaction)


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize(("function", "words"), UNFINISHED[1:])
@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_unfinished_rollback_and_body(db: Any, registry: MigrationRegistry, function: Any, words: str) -> None:
    """Likewise a rollback, whose migration stays recorded, and a body, whose batch comes again."""
    await db.effects.insert_one({"_id": "first"})
    functions = [nothing_async, function]

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        await context.for_each_batch(db.effects, lambda _: functions.pop()(db), transaction=len(functions) == 2)

    registry.register_rollback("a")(function)

    with pytest.raises(UnfinishedMigrationError, match=words.replace(", so", " in the body of for_each_batch, so")):
        await registry.run(db, "app")
    assert await registry.run(db, "app") == ["a"]
    with pytest.raises(UnfinishedMigrationError, match=words):
        await AsyncRunner(registry, db, "app").rollback(["a"])
    assert (functions, await recorded_async(db)) == ([], ["a"])


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_nothing_left(
    db: Any, registry: MigrationRegistry, sync_db: Any, place: tuple[str, str], recwarn: pytest.WarningsRecorder
) -> None:
    """What has ended is fine, and neither the application's other tasks and coroutines nor a client's are to blame."""
    client = AsyncMongoClient[dict[str, Any]](place[0])
    began = asyncio.Event()
    started: list[Any] = []

    async def application() -> None:
        await began.wait()
        nothing_async(db)
        started.append(asyncio.create_task(asyncio.Event().wait()))

    def hook(event: Event) -> None:
        if isinstance(event, MigrationProgressed):
            started.append(asyncio.create_task(asyncio.Event().wait()))

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> Any:
        context.progress(1)
        began.set()
        await asyncio.gather(other, db.effects.insert_one({"_id": "a"}))
        await client[place[1]].effects.find_one()
        await asyncio.to_thread(lambda: None)
        cancelled = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        cancelled.cancel()
        cycle: list[Any] = [nothing_async(db)]  # of anybody: nobody knows whose a cycle was
        cycle.append(cycle)
        del cycle
        gc.collect()
        await (task := asyncio.create_task(nothing_async(db)))
        return task

    @registry.register("b")
    def b(db: Any) -> Any:
        return db.effects.aggregate([{"$out": "copy"}])

    other = asyncio.create_task(application())
    assert await registry.run(db, "app", sync_db=sync_db, on_event=hook) == ["a", "b"]
    assert [task.cancel() for task in started] == [True, True]
    assert await db.copy.count_documents({}) == 1
    await client.close()
    assert sum("nothing_async' was never awaited" in str(warning.message) for warning in recwarn) == 2


@pytest.mark.parametrize("fails", [True, False])
async def test_failure_beside_tasks(db: Any, registry: MigrationRegistry, *, fails: bool) -> None:
    """A failing function's tasks end before the lease is released; a task's failure that nobody has seen counts."""
    error, seen = LookupError("own"), []

    async def task() -> None:
        if not fails:
            raise error
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(await is_free_async(db))

    @registry.register("a")
    async def a(db: Any) -> None:
        asyncio.create_task(task())  # noqa: RUF006 - the mistake
        await asyncio.sleep(0)
        if fails:
            raise error

    with pytest.raises(LookupError) as caught:
        await registry.run(db, "app")
    assert caught.value is error
    assert error.__notes__ == ["quaestor: in migration 'a', 1 of 1"]
    assert (seen, await recorded_async(db)) == ([False] * fails, [])


@pytest.mark.parametrize("filters", ["error", "ignore", "always"])
async def test_warning_of_a_forgotten_await(
    db: Any, registry: MigrationRegistry, monkeypatch: pytest.MonkeyPatch, filters: Any
) -> None:
    """Python's own warning stays as it is, with the user's line; of two at once only the one that forgot is blamed."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))
    before, loop = vars(warnings).copy(), asyncio.get_running_loop()
    registry.register("a")(drop_helper)
    registry.register("b")(nothing_async)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("ignore")  # a mock's own
        warnings.simplefilter(filters, RuntimeWarning)
        with pytest.raises(UnfinishedMigrationError, match="'a' returned without awaiting 'write_late'"):
            await registry.run(db, "app", concurrency=2)

    assert await recorded_async(db) == ["b"]
    assert [type(one) for one in raised] == [RuntimeWarning] * (filters == "error")
    assert [Path(one.filename).name for one in shown] == ["unfinished.py"] * (filters == "always")
    assert vars(warnings)["_warn_unawaited_coroutine"] is before["_warn_unawaited_coroutine"]
    assert not {"create_task", "run_in_executor"} & vars(loop).keys()


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "db must be a database, not None: pass client['name']"),
        (lambda: NOWHERE, "db must be a database, not str: pass client['name']"),
        (dict, "db must be a database, not dict"),
        (lambda: AsyncMongoClient(NOWHERE), "db is a client (AsyncMongoClient), not a database: pass client["),
        (lambda: MongoClient(NOWHERE, connect=False)["app"], "db is a sync database (Database): call `registry"),
        (lambda: AsyncMongoClient(NOWHERE)["app"]["users"], "db must be a database, not AsyncCollection"),
    ],
)
async def test_not_a_database(make: Any, words: str) -> None:
    """Anything but a database of this kind is refused, and says what to do; a password is not repeated."""
    with pytest.raises(InvalidDatabaseError) as caught:
        _ = MigrationRegistry().run(make(), "app")  # at the call: a sync program may not await it
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NOWHERE, "sync_db must be a database, not str"),
        (lambda: MongoClient(NOWHERE, connect=False), "sync_db is a client (MongoClient), not a database"),
        (lambda: AsyncMongoClient(NOWHERE)["app"], "sync_db must be a sync database, not AsyncDatabase"),
        (lambda: MongoClient(NOWHERE, connect=False)["other"], "the same database, but they are 'app' and 'other'"),
    ],
)
async def test_not_the_other_database(make: Any, words: str) -> None:
    """The database for the other kind is checked like the first, and must be the same one."""
    db = AsyncMongoClient(NOWHERE)["app"]
    with pytest.raises(InvalidDatabaseError) as caught:
        AsyncRunner(MigrationRegistry(), db, "app", sync_db=make())
    assert words in str(caught.value)


@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_many_with_a_wrong_database(dbs: list[Any]) -> None:
    """A sync database, and what gives no database of a name, are refused."""
    with pytest.raises(InvalidDatabaseError, match="db is a sync database"):
        await MigrationRegistry().run_many([*dbs, MongoClient(NOWHERE, connect=False)["app"]], "app")
    with pytest.raises(InvalidOptionError, match="sync_db must be a function that returns a database by its name"):
        await MigrationRegistry().run_many(dbs, "app", sync_db=7)  # type: ignore[arg-type]
