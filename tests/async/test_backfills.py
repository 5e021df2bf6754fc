"""Backfills: their batches, their checkpoints, and where they resume."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern
from pymongo.errors import OperationFailure

from quaestor import (
    AsyncMigrationContext,
    AsyncRunner,
    BackfillRestarted,
    BackfillStarted,
    BatchesInTransactionError,
    CollectionChangedError,
    DuplicateBackfillError,
    Event,
    InvalidOptionError,
    LeaseLostError,
    MigrationApplied,
    MigrationFailed,
    MigrationProgressed,
    MigrationRegistry,
    MigrationRetried,
    MigrationStarted,
    ReplicasAwaited,
    RunFailed,
    RunFinished,
    RunStarted,
    TransactionsUnsupportedError,
    UnfinishedMigrationError,
)
from quaestor._core import backfill as core
from quaestor._mongo import backfill_documents
from tests.databases import drivers, in_transactions, opened_async
from tests.functions import Broken, nothing_async, numbers, outside_async
from tests.leases import HELD
from tests.meeting import Meeting, start_async
from tests.scenarios import BAD_BATCH_OPTIONS, CODEC, IDS
from tools.commands import Commands

pytestmark = pytest.mark.anyio

real = pytest.mark.parametrize("driver", drivers("pymongo", "motor"), indirect=True)
"""For what the mocks do not have."""
either_way = in_transactions("pymongo", "motor")

Batch = list[dict[str, Any]]


class Told(list[Event]):
    """A hook that keeps the events of backfills."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, BackfillStarted | BackfillRestarted | MigrationProgressed | MigrationRetried):
            self.append(event)

    @property
    def changes(self) -> int:
        """The number of backfills that started anew because they had changed."""
        return sum(isinstance(event, BackfillRestarted) for event in self)


class Calls(list[list[Any]]):
    """The `_id`s of the batches that it is called with; the calls with these numbers raise Broken."""

    def __init__(self, *failing: int) -> None:
        self._failing = failing

    def __call__(self, batch: Batch) -> None:
        self.append(numbers(batch))
        if len(self) in self._failing:
            raise Broken


@pytest.fixture
def told() -> Told:
    """A new hook."""
    return Told()


def backfill_async(registry: MigrationRegistry, *args: Any, **options: Any) -> Callable[[Any], Any]:
    """Register a migration `a` that calls the decorated function with the database and each batch of `things`."""

    def decorator(function: Any) -> Any:
        @registry.register("a")
        async def a(db: Any, context: AsyncMigrationContext) -> None:
            async def body(batch: Any) -> None:
                await function(db, batch)

            await context.for_each_batch(db.things, body, *args, **options)

        return function

    return decorator


async def kept_async(db: Any) -> Batch:
    """The checkpoints, oldest first."""
    return [one async for one in db.app_migrations_progress.find().sort("updatedAt", 1)]


async def fill_async(collection: Any, count: int) -> None:
    """Insert documents with the numbers from 0 on."""
    await collection.insert_many([{"_id": number, "even": number % 2 == 0} for number in range(count)])


@pytest.mark.parametrize("size", [1, 2, 5, 6, 1000])
async def test_batches(db: Any, registry: MigrationRegistry, size: int) -> None:
    """The batches hold all documents in the order of `_id`; the last one has the rest."""
    await fill_async(db.things, 6)
    seen = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        seen.extend([batch async for batch in context.batches(db.things, size=size)])

    assert await registry.run(db, "app") == ["a"]
    assert seen == [
        [{"_id": number, "even": number % 2 == 0} for number in range(first, min(first + size, 6))]
        for first in range(0, 6, size)
    ]
    assert await kept_async(db) == []


@either_way
async def test_bodies(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A body gets the same batches, of the documents that match."""
    await fill_async(db.things, 10)
    seen = []

    @backfill_async(registry, {"even": True}, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        seen.append(numbers(batch))
        await db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$inc": {"seen": 1}})

    assert await registry.run(db, "app") == ["a"]
    assert seen == [[0, 2], [4, 6], [8]]
    assert [document.get("seen", 0) async for document in db.things.find().sort("_id", 1)] == [1, 0] * 5
    assert await kept_async(db) == []


@real
@pytest.mark.parametrize("size", [1, 2, 1000])
async def test_ids_of_all_types(db: Any, registry: MigrationRegistry, size: int) -> None:
    """Whatever the `_id`s are, each document comes once, in the order of MongoDB."""
    things = db.things.with_options(codec_options=CODEC)
    await things.insert_many([{"_id": one, "place": place} for place, one in reversed(list(enumerate(IDS)))])
    assert [document["place"] async for document in things.find().sort("_id", 1)] == list(range(len(IDS)))
    seen = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for batch in context.batches(things, size=size):
            assert 1 <= len(batch) <= size
            seen.extend([document["place"] for document in batch])

    await registry.run(db, "app")

    assert seen == list(range(len(IDS)))


@real
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("size", [1, 3])
async def test_ids_of_all_types_after_failures(
    db: Any, registry: MigrationRegistry, size: int, told: Told, *, transaction: bool
) -> None:
    """The same when it fails after each batch and resumes: one batch comes twice, in a transaction none."""
    things = db.things.with_options(codec_options=CODEC)
    await things.insert_many([{"_id": one, "place": place} for place, one in reversed(list(enumerate(IDS)))])
    seen: list[list[int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        calls = 0

        async def body(batch: Batch) -> None:
            nonlocal calls
            calls += 1
            places = [document["place"] for document in batch]
            await db.seen.insert_many([{"place": place} for place in places])
            if calls == 2:
                raise Broken
            seen.append(places)

        await context.for_each_batch(things, body, size=size, transaction=transaction)

    for _ in range(len(IDS)):
        try:
            await registry.run(db, "app", on_event=told)
        except Broken:
            continue
        break

    assert [place for places in seen for place in places] == list(range(len(IDS)))
    wrote = [document["place"] async for document in db.seen.find().sort("_id", 1)]
    # What the failed call of a body has written is there as well, where it was no transaction: all but the first batch.
    twice = [] if transaction else [place for places in seen[1:] for place in places]
    assert sorted(wrote) == sorted([*range(len(IDS)), *twice])
    assert told.changes == 0
    assert await db.app_migrations.count_documents({}) == 1


@real
async def test_collation(db: Any, registry: MigrationRegistry) -> None:
    """With a case-insensitive collation each document comes once as well."""
    things = await db.create_collection("things", collation={"locale": "en", "strength": 2})
    await things.insert_many([{"_id": {"of": one, "kind": kind}} for one in "cab" for kind in (1, 2)])
    await things.insert_many([{"_id": one} for one in ("d", "B", "a", "C")])
    seen = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        number = -1
        async for batch in context.batches(db.things, size=1):
            number += 1
            if number == 1:
                raise Broken
            seen.extend(numbers(batch))

    while await db.app_migrations.count_documents({}) == 0:
        try:
            await registry.run(db, "app")
        except Broken:
            continue

    strings = [one for one in seen if isinstance(one, str)]
    assert strings == ["a", "B", "C", "d"]
    assert seen == numbers([one async for one in things.find().sort("_id", 1)])


async def test_resumes(db: Any, registry: MigrationRegistry) -> None:
    """A migration that fails between two batches resumes with the one it was at; its checkpoint stays until then."""
    await fill_async(db.things, 10)
    seen: list[list[int]] = []
    failures = [3, 1, 2]

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        fails_at = failures.pop(0) if failures else None
        async for batch in context.batches(db.things, size=2):
            seen.append(numbers(batch))
            if len(seen) == fails_at:
                raise Broken

    for expected in ([[0, 1], [2, 3], [4, 5]], [[4, 5]], [[4, 5], [6, 7]]):
        seen.clear()
        with pytest.raises(Broken):
            await registry.run(db, "app")
        assert seen == expected
        (left,) = await kept_async(db)
        done = expected[-1][0]
        assert (left["done"], left["total"], left["batches"], left["finished"]) == (done, 10, done // 2, False)
        assert (left["collection"], left["_id"]["migration"], left["_id"]["undo"]) == ("things", "a", False)
        assert isinstance(left["updatedAt"], datetime)
        assert await db.app_migrations.count_documents({}) == 0

    seen.clear()
    assert await registry.run(db, "app") == ["a"]
    assert seen == [[6, 7], [8, 9]]
    assert await kept_async(db) == []
    assert await registry.run(db, "app") == []


@either_way
@pytest.mark.parametrize("failure", [Broken, KeyboardInterrupt, SystemExit])
async def test_failure_of_a_body(
    db: Any, registry: MigrationRegistry, failure: type[BaseException], *, transaction: bool
) -> None:
    """The caller gets the very exception of a body. Its batch comes again; a transaction leaves nothing of it."""
    await fill_async(db.things, 5)
    calls: list[list[int]] = []

    @backfill_async(registry, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))
        await db.log.insert_one({"of": numbers(batch)})
        if len(calls) == 2:
            raise failure

    with pytest.raises(failure) as caught:
        await registry.run(db, "app")
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]
    assert [entry["of"] async for entry in db.log.find()] == ([[0, 1]] if transaction else [[0, 1], [2, 3]])
    assert [left["done"] for left in await kept_async(db)] == [2]

    assert await registry.run(db, "app", lease_timeout=0) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4]]
    assert [entry["of"] async for entry in db.log.find()] == (
        [[0, 1], [2, 3], [4]] if transaction else [[0, 1], [2, 3], [2, 3], [4]]
    )
    assert await kept_async(db) == []


async def test_several_backfills(db: Any, registry: MigrationRegistry, told: Told) -> None:
    """The backfills of a migration have checkpoints of their own; a finished one does not start again."""
    await fill_async(db.things, 4)
    await fill_async(db.others, 2)
    seen: list[tuple[str, list[int]]] = []
    fails: list[tuple[str, list[int]]] = [("second", [2, 3]), ("filtered", [1]), ("others", [0, 1]), ("none", [])]

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        for title, batches in (
            ("first", context.batches(db.things, size=2)),
            ("second", context.batches(db.things, size=2, name="second")),
            ("filtered", context.batches(db.things, {"even": False}, size=1, name="filtered")),
            ("others", context.batches(db.others)),
        ):
            async for batch in batches:
                seen.append((title, numbers(batch)))
                if fails[0] == seen[-1]:
                    raise Broken

    counts = []
    while await db.app_migrations.count_documents({}) == 0:
        try:
            await registry.run(db, "app", on_event=told)
        except Broken:
            fails.pop(0)
            counts.append(sorted(left["finished"] for left in await kept_async(db)))

    assert seen == [
        ("first", [0, 1]), ("first", [2, 3]), ("second", [0, 1]), ("second", [2, 3]), ("second", [2, 3]),
        ("filtered", [1]), ("filtered", [1]), ("filtered", [3]), ("others", [0, 1]), ("others", [0, 1]),
    ]  # fmt: skip
    assert counts == [[False, True], [False, True, True], [False, True, True, True]]
    assert told.changes == 0
    assert await kept_async(db) == []


async def test_nested(db: Any, registry: MigrationRegistry, told: Told) -> None:
    """A backfill inside another one's batch is a backfill of its own; both resume where they left off."""
    await fill_async(db.things, 3)
    await fill_async(db.others, 2)
    seen: list[tuple[int, int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for outer in context.batches(db.things, size=1):
            async for inner in context.batches(db.others, name=f"others {outer[0]['_id']}", size=1):
                seen.append((outer[0]["_id"], inner[0]["_id"]))
                if seen == [(0, 0), (0, 1), (1, 0), (1, 1)]:
                    raise Broken

    with pytest.raises(Broken):
        await registry.run(db, "app", on_event=told)
    await registry.run(db, "app", on_event=told)

    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 1), (2, 0), (2, 1)]
    assert told.changes == 0


@either_way
async def test_concurrent_backfills(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """Backfills can be concurrent; each has a checkpoint and a session of its own."""
    collections = ("things", "others", "more")
    for name in collections:
        await fill_async(db[name], 9)
    meeting = Meeting(len(collections))
    seen: dict[str, list[int]] = {name: [] for name in collections}

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def over(name: str) -> None:
            async def body(batch: Batch) -> None:
                if batch[0]["_id"] == 0:
                    await meeting.wait_async()
                await db[name].update_many({"_id": {"$in": numbers(batch)}}, {"$inc": {"seen": 1}})
                seen[name].extend(numbers(batch))

            await context.for_each_batch(db[name], body, size=2, transaction=transaction)

        for started in [start_async(partial(over, name)) for name in collections]:
            await started.result_async()

    assert await registry.run(db, "app") == ["a"]
    assert seen == {name: list(range(9)) for name in collections}
    for name in collections:
        assert await db[name].count_documents({"seen": 1}) == 9
    assert await kept_async(db) == []


async def test_changed_filter(db: Any, registry: MigrationRegistry) -> None:
    """A changed filter is an event, and the backfill starts again."""
    await fill_async(db.things, 6)
    filters: list[dict[str, Any] | None] = [None, {"even": True}, {"even": True}]
    seen = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        number = -1
        async for batch in context.batches(db.things, filters[0], size=2):
            number += 1
            seen.append(numbers(batch))
            if number == 1 and len(filters) > 1:
                raise Broken

    told: list[Told] = []
    while filters:
        told.append(Told())
        try:
            await registry.run(db, "app", on_event=told[-1])
        except Broken:
            assert len(filters) > 1
        filters.pop(0)

    assert seen == [[0, 1], [2, 3], [0, 2], [4], [4]]
    assert [one.changes for one in told] == [0, 1, 0]
    assert told[1][0] == BackfillRestarted(db.name, "app", "a", 1, 1, "things", "things")
    assert await kept_async(db) == []


async def test_changed_collection(db: Any, registry: MigrationRegistry) -> None:
    """A backfill of the same name over another collection restarts; with another size or projection it resumes."""
    await fill_async(db.things, 6)
    await fill_async(db.others, 2)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("others", {"size": 1}),
        ("things", {"size": 2}),
        ("things", {"size": 3, "projection": ["_id"]}),
        ("things", {"size": 1}),
    ]
    seen: list[list[Any]] = []
    changes = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        name, options = calls[0]
        number = -1
        async for batch in context.batches(db[name], name="renamed", **options):
            number += 1
            seen[-1].append(numbers(batch))
            if number == 1 and len(calls) > 1:
                raise Broken

    while calls:
        told = Told()
        seen.append([])
        try:
            await registry.run(db, "app", on_event=told)
        except Broken:
            assert len(calls) > 1
        calls.pop(0)
        changes.append(told.changes)

    assert seen == [[[0], [1]], [[0, 1], [2, 3]], [[2, 3, 4], [5]], [[5]]]
    assert changes == [0, 1, 0, 0]


@either_way
async def test_written_during_the_backfill(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """Documents inserted beyond the end, or that match again, are not visited; deleted ones are not missed."""
    await db.things.insert_many([{"_id": number, "todo": True} for number in range(0, 60, 10)])
    seen = []

    @backfill_async(registry, {"todo": True}, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        seen.append(numbers(batch))
        if seen == [[0, 10]]:
            await db.things.insert_many([{"_id": one, "todo": True} for one in (-1, 5, 60, 1000, "x")])
            await db.things.delete_one({"_id": 20})
            await db.things.delete_one({"_id": 50})
        await db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$set": {"again": 1}})

    assert await registry.run(db, "app") == ["a"]
    assert seen == [[0, 10], [30, 40]]


async def test_inserted_between_runs(db: Any, registry: MigrationRegistry) -> None:
    """A resumed backfill ends where the first attempt would have ended."""
    await fill_async(db.things, 4)
    seen = Calls(2)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for batch in context.batches(db.things, size=2):
            seen(batch)

    with pytest.raises(Broken):
        await registry.run(db, "app")
    await db.things.insert_many([{"_id": number} for number in (-1, 0.5, 2.5, 4, 5, "x")])
    await registry.run(db, "app")

    assert seen == [[0, 1], [2, 3], [2, 2.5], [3]]


@either_way
@pytest.mark.parametrize("projection", [["name"], {"name": 1}, {"name": True, "_id": 1}, {"other": 0}], ids=str)
async def test_projection(db: Any, registry: MigrationRegistry, projection: Any, *, transaction: bool) -> None:
    """Documents have the fields of the projection, and `_id`."""
    await db.things.insert_many([{"_id": number, "name": "x", "other": "y"} for number in range(3)])
    seen: Batch = []

    @backfill_async(registry, projection=projection, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        seen.extend(batch)

    await registry.run(db, "app")

    assert seen == [{"_id": number, "name": "x"} for number in range(3)]


@pytest.mark.parametrize("driver", drivers("mongomock"))
@pytest.mark.parametrize(("options", "words"), BAD_BATCH_OPTIONS, ids=str)
async def test_bad_arguments(db: Any, registry: MigrationRegistry, options: dict[str, Any], words: str) -> None:
    """Bad arguments are refused by the call, before anything is done."""
    await fill_async(db.things, 1)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        with pytest.raises(InvalidOptionError) as in_loop:
            context.batches(db.things, **options)
        with pytest.raises(InvalidOptionError) as in_body:
            await context.for_each_batch(db.things, nothing_async, **options)
        assert words in str(in_loop.value)
        assert str(in_body.value) == str(in_loop.value)

    await registry.run(db, "app")
    assert "app_migrations_progress" not in await db.list_collection_names()


async def test_bad_collections(db: Any, registry: MigrationRegistry) -> None:
    """What is no collection is refused; so are a body and a choice that are none."""

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        for collection, kind in ((db, type(db).__name__), ("things", "str"), (None, "None")):
            with pytest.raises(InvalidOptionError) as refused:
                context.batches(collection)
            assert str(refused.value).endswith(f"driver's, such as db.users, not {kind}.")
        with pytest.raises(InvalidOptionError, match="must be a function that takes a list of documents, not 'a'"):
            await context.for_each_batch(db.things, "a")  # type: ignore[arg-type]  # that is the point
        with pytest.raises(InvalidOptionError, match="transaction must be True or False, not 1"):
            await context.for_each_batch(db.things, nothing_async, transaction=1)  # type: ignore[arg-type]  # likewise

    await registry.run(db, "app")
    assert "app_migrations_progress" not in await db.list_collection_names()


@real
async def test_committed_together(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """Others see what a body wrote together with the checkpoint, before the next batch."""
    await fill_async(db.things, 6)
    looks = []

    async def look() -> tuple[int, int]:
        (left,) = await kept_async(other)
        return await other.things.count_documents({"seen": True}), left["done"]

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            await db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$set": {"seen": True}})
            looks.append((await db.things.count_documents({"seen": True}), *await outside_async(look)))

        await context.for_each_batch(db.things, body, size=2)
        looks.append((6, *await look()))

    await registry.run(db, "app")

    assert looks == [(2, 0, 0), (4, 2, 2), (6, 4, 4), (6, 6, 6)]


@real
async def test_conflict(db: Any, registry: MigrationRegistry, other: Any, told: Told) -> None:
    """When another client has written a document of the batch, the body is called again with the current documents, and
    nothing is overwritten.
    """
    await db.things.insert_many([{"_id": number, "price": 10} for number in range(4)])
    calls = []

    @backfill_async(registry, size=2)
    async def body(db: Any, batch: Batch) -> None:
        calls.append([(document["_id"], document["price"]) for document in batch])
        if len(calls) == 2:
            await outside_async(lambda: other.things.update_one({"_id": 3}, {"$set": {"price": 70}}))
        for document in batch:
            await db.things.update_one({"_id": document["_id"]}, {"$set": {"price": document["price"] * 2}})

    await registry.run(db, "app", on_event=told)

    assert calls == [[(0, 10), (1, 10)], [(2, 10), (3, 10)], [(2, 10), (3, 70)]]
    assert [document["price"] async for document in other.things.find().sort("_id", 1)] == [20, 20, 20, 140]
    (retried,) = [event for event in told if isinstance(event, MigrationRetried)]
    assert (retried.name, retried.attempt) == ("a", 2)
    assert isinstance(retried.error, OperationFailure)
    assert retried.error.has_error_label("TransientTransactionError")


@real
async def test_in_a_transaction(db: Any, registry: MigrationRegistry) -> None:
    """Inside a transaction, be it a migration's or a batch's, there is no backfill."""
    await fill_async(db.things, 2)
    refused = []

    def refuse(call: Callable[[], object]) -> None:
        with pytest.raises(BatchesInTransactionError, match=r"'[ab]'"):
            call()
        refused.append(call)

    @registry.register("a", transaction=True)
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        refuse(lambda: context.batches(db.things))
        for transaction in (False, True):
            with pytest.raises(BatchesInTransactionError) as caught:
                await context.for_each_batch(db.things, nothing_async, transaction=transaction)
            assert caught.value.name == "a"

    @registry.register("b", ["a"])
    async def b(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            refuse(lambda: context.batches(db.things))
            for transaction in (False, True):
                with pytest.raises(BatchesInTransactionError):
                    await context.for_each_batch(db.others, nothing_async, transaction=transaction)

        await context.for_each_batch(db.things, body)

    assert await registry.run(db, "app") == ["a", "b"]
    assert len(refused) == 2


@pytest.mark.parametrize("driver", drivers("mongomock"), indirect=True)
async def test_no_transactions(db: Any, registry: MigrationRegistry) -> None:
    """Without transactions on the server a backfill that needs them is refused before its first batch."""
    await fill_async(db.things, 2)
    calls: list[Any] = []

    @backfill_async(registry)
    async def body(db: Any, batch: Batch) -> None:
        calls.append(batch)

    with pytest.raises(TransactionsUnsupportedError, match="calls for_each_batch with transaction=True") as caught:
        await registry.run(db, "app")

    assert caught.value.in_batches
    assert caught.value.migrations == ["a"]
    assert calls == await kept_async(db) == []


@real
async def test_write_concern(db: Any, registry: MigrationRegistry, driver: str, uri: str, name: str) -> None:
    """A collection with a write concern of its own is refused in transactions, as the server would; without it, and
    without transactions, it works.
    """
    await fill_async(db.things, 2)
    seen: list[list[int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            seen.append(numbers(batch))

        with pytest.raises(
            InvalidOptionError, match=r"'things' has the write concern \{'w': 1\}, which MongoDB refuses"
        ):
            await context.for_each_batch(db.things, body)
        assert "app_migrations_progress" not in await db.list_collection_names()
        await context.for_each_batch(db.things, body, transaction=False)
        await context.for_each_batch(db.with_options(write_concern=WriteConcern()).things, body, name="again")

    async with opened_async(driver, uri, name, w=1) as weak:
        await registry.run(weak, "app")
    assert seen == [[0, 1], [0, 1]]


@real
async def test_another_database(db: Any, registry: MigrationRegistry, told: Told) -> None:
    """A collection of another database of the client works; events name its database too."""
    another = db.client[f"{db.name}_2"]
    await fill_async(db.things, 2)
    await fill_async(another.things, 3)
    seen: list[list[int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            seen.append(numbers(batch))
            await another.things.update_many({}, {"$inc": {"seen": 1}})

        await context.for_each_batch(another.things, body, size=2)
        await context.for_each_batch(db.things, body, size=2, transaction=False)

    try:
        await registry.run(db, "app", on_event=told)
    finally:
        await db.client.drop_database(another.name)
    assert seen == [[0, 1], [2], [0, 1]]
    started = [event.collection for event in told if isinstance(event, BackfillStarted)]
    assert started == [f"{another.name}.things", "things"]


@real
@pytest.mark.parametrize("transaction", [False, True])
async def test_client_that_reads_from_secondaries(
    db: Any, registry: MigrationRegistry, driver: str, uri: str, name: str, *, transaction: bool
) -> None:
    """Batches are read from the primary and checkpoints are saved with majority concern, whatever the client does."""
    await fill_async(db.things, 5)
    seen: list[list[int]] = []
    commands = Commands()

    @backfill_async(registry, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        seen.append(numbers(batch))

    options = {"readPreference": "secondaryPreferred", "readConcernLevel": "local"}
    async with opened_async(driver, uri, name, event_listeners=[commands], **options) as weak:
        await registry.run(weak, "app")

    assert seen == [[0, 1], [2, 3], [4]]
    assert {command.get("$readPreference", {"mode": "primary"})["mode"] for command in commands.sent} == {"primary"}
    saved = [command for command in commands.sent if command.get("update") == "app_migrations_progress"]
    assert len(saved) == (4 if transaction else 3)  # otherwise the last one is the end of the backfill too
    within = [command for command in saved if command.get("autocommit") is False]
    assert len(within) == (3 if transaction else 0)
    assert {command["writeConcern"]["w"] for command in saved if command not in within} == {"majority"}
    committed = [command for command in commands.sent if "commitTransaction" in command]
    assert {command["writeConcern"]["w"] for command in committed} == ({"majority"} if transaction else set())


@either_way
async def test_pause(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """The checkpoint is saved before a pause; there is no pause after the last batch."""
    await fill_async(db.things, 3)
    looks: list[tuple[list[int], int]] = []

    @backfill_async(registry, size=1, pause=0.001, max_lag=0, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        (left,) = await outside_async(lambda: kept_async(db))
        looks.append((numbers(batch), left["done"]))

    await registry.run(db, "app")

    assert looks == [([0], 0), ([1], 1), ([2], 2)]


@either_way
async def test_events(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """There is an event at the start and after each batch, also when a backfill resumes."""
    await fill_async(db.things, 5)
    told: list[Event] = []
    calls = Calls(2)

    @backfill_async(registry, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        calls(batch)

    def simple(event: Event) -> tuple[object, ...]:
        match event:
            case BackfillStarted():
                return "started", event.collection, event.done, event.total
            case MigrationProgressed():
                assert event.rate is None or event.rate > 0
                assert not event.due
                return "progress", event.done, event.total
        return (type(event),)

    with pytest.raises(Broken):
        await registry.run(db, "app", on_event=told.append)
    await registry.run(db, "app", on_event=told.append)

    assert [simple(event) for event in told] == [
        (RunStarted,), (MigrationStarted,), ("started", "things", 0, 5), ("progress", 2, 5), (MigrationFailed,),
        (RunFailed,),
        (RunStarted,), (MigrationStarted,), ("started", "things", 2, 5), ("progress", 4, 5), ("progress", 5, 5),
        (MigrationApplied,), (RunFinished,),
    ]  # fmt: skip
    assert told[2] == BackfillStarted(db.name, "app", "a", 1, 1, "things", "things", 0, 5)
    assert isinstance(told[3], MigrationProgressed)
    assert told[3] == MigrationProgressed(db.name, "app", "a", 1, 1, 2, 5, told[3].rate)


@either_way
@pytest.mark.parametrize("by", ["another owner", "unlock"])
async def test_lease_lost(db: Any, registry: MigrationRegistry, by: str, *, transaction: bool) -> None:
    """Once the lease is lost there is no further batch; the next run resumes with it, or with the one before."""
    await fill_async(db.things, 6)
    calls: list[list[int]] = []

    async def take_away() -> None:
        if by == "unlock":
            await AsyncRunner(registry, db, "app").unlock()
        else:
            await db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)

    @backfill_async(registry, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))
        if len(calls) == 2:
            await outside_async(take_away)

    with pytest.raises(LeaseLostError, match="'a' was stopped") as caught:
        await registry.run(db, "app")
    assert caught.value.in_batches
    assert caught.value.migration == "a"
    assert calls == [[0, 1], [2, 3]]
    assert await db.app_migrations.count_documents({}) == 0

    if by != "unlock":
        assert await AsyncRunner(registry, db, "app").unlock() is not None
    calls.append([])
    assert await registry.run(db, "app") == ["a"]
    # The checkpoint of the last batch was saved during the next read, before the lease was checked.
    assert calls[3:] == [[4, 5]]


@either_way
async def test_progress_of_a_later_run(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A run that was frozen while a later one went on saves nothing and gets no further batch."""
    await fill_async(db.things, 6)
    calls: list[list[int]] = []

    @backfill_async(registry, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))
        if len(calls) == 2:
            await outside_async(lambda: db.app_migrations_progress.update_one({}, {"$inc": {"token": 1}}))

    with pytest.raises(LeaseLostError) as caught:
        await registry.run(db, "app")
    assert caught.value.in_batches
    assert calls == [[0, 1], [2, 3]]
    assert [left["done"] for left in await kept_async(db)] == [2]


@real
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("change", ["dropped", "renamed", "replaced"])
async def test_collection_changed(
    db: Any, registry: MigrationRegistry, uri: str, change: str, *, transaction: bool
) -> None:
    """A collection that is dropped, renamed or replaced meanwhile is an error; the next run starts again."""
    await fill_async(db.things, 6)
    await fill_async(db.others, 3)
    calls: list[list[int]] = []

    def hook(event: Event) -> None:
        told(event)
        if isinstance(event, MigrationProgressed) and event.done == 4:  # not in a transaction
            with MongoClient(uri) as client:
                changing = client[db.name]
                if change == "dropped":
                    changing.things.drop()
                elif change == "renamed":
                    changing.things.rename("elsewhere")
                else:
                    changing.others.rename("things", dropTarget=True)

    @backfill_async(registry, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))

    told = Told()
    with pytest.raises(CollectionChangedError, match="'things' was dropped, renamed or replaced") as caught:
        await registry.run(db, "app", on_event=hook)
    assert (caught.value.name, caught.value.collection) == ("a", "things")
    assert await db.app_migrations.count_documents({}) == 0
    assert told.changes == 0

    calls.clear()
    again = Told()
    assert await registry.run(db, "app", on_event=again) == ["a"]
    assert calls == ([[0, 1], [2]] if change == "replaced" else [])
    assert again.changes == 1


@either_way
async def test_nothing_to_do(db: Any, registry: MigrationRegistry, told: Told, *, transaction: bool) -> None:
    """A missing or empty collection, or a filter that matches nothing, has no batch."""
    await fill_async(db.things, 3)
    await db.empty.insert_one({})
    await db.empty.delete_many({})
    calls: list[Any] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            calls.append(batch)

        await context.for_each_batch(db.missing, body, transaction=transaction)
        await context.for_each_batch(db.empty, body, transaction=transaction)
        await context.for_each_batch(db.things, body, {"even": "no"}, transaction=transaction)
        calls.extend([batch async for batch in context.batches(db.missing, name="again")])

    assert await registry.run(db, "app", on_event=told) == ["a"]
    assert calls == []
    assert "missing" not in await db.list_collection_names()
    assert await kept_async(db) == []


@either_way
async def test_rollback(db: Any, registry: MigrationRegistry, told: Told, *, transaction: bool) -> None:
    """A rollback has backfills of its own; it resumes where it failed, and leaves no checkpoint when it is done."""
    await fill_async(db.things, 6)
    calls = Calls(2)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        calls.extend([numbers(batch) async for batch in context.batches(db.things, size=2)])

    @registry.register_rollback("a")
    async def undo_a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            calls(batch)

        await context.for_each_batch(db.things, body, size=2, transaction=transaction)

    runner = AsyncRunner(registry, db, "app", on_event=told)
    await runner.run()
    calls.clear()
    told.clear()
    with pytest.raises(Broken):
        await runner.rollback(["a"])
    assert told[:1] == [BackfillStarted(db.name, "app", "a", 1, 1, "things", "things", 0, 6, undo=True)]
    assert [(left["_id"]["undo"], left["done"]) for left in await kept_async(db)] == [(True, 2)]
    (status,) = (await runner.status()).migrations
    assert [(one.undo, one.done, one.total) for one in status.backfills] == [(True, 2, 6)]

    assert await runner.rollback(["a"]) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4, 5]]
    assert await kept_async(db) == []
    calls.clear()
    assert await runner.run() == ["a"]
    assert calls == [[0, 1], [2, 3], [4, 5]]


async def test_break(db: Any, registry: MigrationRegistry) -> None:
    """A loop may be left with `break`: the migration goes on and is recorded."""
    await fill_async(db.things, 6)
    seen: list[list[int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for batch in context.batches(db.things, size=2):
            seen.append(numbers(batch))
            if len(seen) == 2:
                break
        again = context.batches(db.things, {"even": True}, size=2, name="even")
        seen.extend([numbers(batch) async for batch in again])

    assert await registry.run(db, "app") == ["a"]
    assert seen == [[0, 1], [2, 3], [0, 2], [4]]
    assert await kept_async(db) == []


async def test_break_and_failure(db: Any, registry: MigrationRegistry) -> None:
    """When the migration fails after a `break`, the batch of the `break` comes again."""
    await fill_async(db.things, 6)
    seen: list[list[int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for batch in context.batches(db.things, size=2):
            seen.append(numbers(batch))
            if 2 in numbers(batch):
                break
        if len(seen) == 2:
            raise Broken

    with pytest.raises(Broken):
        await registry.run(db, "app")
    assert await registry.run(db, "app") == ["a"]
    assert seen == [[0, 1], [2, 3], [2, 3]]


@either_way
async def test_unfinished_body(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A body that returns a generator or an awaitable has done nothing: an error, and its batch comes again."""
    await fill_async(db.things, 3)
    calls: list[list[int]] = []

    def generator(batch: Batch) -> Iterator[None]:
        yield

    async def coroutine(batch: Batch) -> Any:
        return nothing_async(batch)  # stays async

    async def body(batch: Batch) -> None:
        calls.append(numbers(batch))

    bodies: list[Any] = [generator, coroutine, body]

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        await context.for_each_batch(db.things, bodies.pop(0), size=2, transaction=transaction)

    with pytest.raises(UnfinishedMigrationError, match="returned a generator from the body of for_each_batch"):
        await registry.run(db, "app")
    with pytest.raises(UnfinishedMigrationError, match=r"an awaitable \(coroutine\) from the body of for_each_batch"):
        await registry.run(db, "app")
    assert await registry.run(db, "app") == ["a"]
    assert calls == [[0, 1], [2]]


async def test_marked(db: Any, registry: MigrationRegistry) -> None:
    """Marking a migration as applied or pending removes its checkpoints."""
    await fill_async(db.things, 6)
    seen: list[list[int]] = []

    async def goes_over(db: Any, context: AsyncMigrationContext) -> None:
        async for batch in context.batches(db.things, size=2):
            seen.append(numbers(batch))
            if numbers(batch) == [2, 3]:
                raise Broken

    registry.register("a")(goes_over)
    registry.register_rollback("a")(goes_over)
    runner = AsyncRunner(registry, db, "app")

    with pytest.raises(Broken):
        await runner.run()
    assert [left["done"] for left in await kept_async(db)] == [2]
    assert await runner.mark_applied(["a"]) == ["a"]
    assert await kept_async(db) == []
    with pytest.raises(Broken):
        await runner.rollback(["a"])
    assert [left["done"] for left in await kept_async(db)] == [2]
    assert await runner.mark_pending(["a"]) == ["a"]
    assert await kept_async(db) == []
    with pytest.raises(Broken):
        await runner.run()
    assert seen == [[0, 1], [2, 3]] * 3


@pytest.mark.parametrize("matching", [0, 40])
async def test_estimate(
    db: Any, registry: MigrationRegistry, monkeypatch: pytest.MonkeyPatch, matching: int, told: Told
) -> None:
    """In a large collection the number of matching documents is estimated from a sample."""
    monkeypatch.setattr(core, "COUNTED", 39)
    monkeypatch.setattr(core, "SAMPLE", 20)
    await fill_async(db.things, 40)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for _ in context.batches(db.things, {"_id": {"$gte": 40 - matching}}, size=20):
            pass

    await registry.run(db, "app", on_event=told)

    started = BackfillStarted(db.name, "app", "a", 1, 1, "things", "things", 0, matching)
    assert [event for event in told if isinstance(event, BackfillStarted)] == [started]


@real
@pytest.mark.parametrize("transaction", [False, True])
async def test_replicas_awaited(
    db: Any, registry: MigrationRegistry, monkeypatch: pytest.MonkeyPatch, *, transaction: bool
) -> None:
    """While replication lag exceeds the limit no batch is read; there is an event."""
    lags = iter([70.0, 5.0, 7.0, 2.0, 0.0])  # the first one doesn't matter
    monkeypatch.setattr(backfill_documents, "read_lag", lambda reply, known: next(lags))
    monkeypatch.setattr(core, "LAG_POLL", (0.0, 0.001))
    await fill_async(db.things, 3)
    told: list[Event] = []

    @backfill_async(registry, size=1, max_lag=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        """Nothing."""

    await registry.run(db, "app", on_event=told.append)

    (awaited,) = [event for event in told if isinstance(event, ReplicasAwaited)]
    assert awaited == ReplicasAwaited(db.name, "app", "a", 1, 1, 5.0, awaited.seconds)
    assert isinstance(told[told.index(awaited) - 1], MigrationProgressed)
    assert next(lags, None) is None


@real
async def test_inserted_at_the_start(
    db: Any, registry: MigrationRegistry, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that others insert while the end is being determined don't make any document come twice."""
    inserts: list[list[Any]] = [[], ["zz", 60], ["zzz", 70, -1], ["zzzz", 80]]
    asked = backfill_documents.match_other_types

    def watched(bounds: Iterable[object]) -> dict[str, Any]:
        others = tuple(bounds)
        if inserted := inserts.pop(0):
            with MongoClient(uri) as client:
                client[db.name].things.insert_many([{"_id": one} for one in inserted])
        return asked(others)

    monkeypatch.setattr(backfill_documents, "match_other_types", watched)
    await db.things.insert_many([{"_id": one} for one in (0, 1, 2, "a", "z")])
    seen: list[Any] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for batch in context.batches(db.things, size=2):
            seen.extend(numbers(batch))

    await registry.run(db, "app")

    assert seen == [-1, 0, 1, 2, 60, "a", "z"]
    assert inserts == [["zzzz", 80]]  # it asked for strings, for numbers, and whether that was all


@real
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("view", {"viewOn": "things", "pipeline": []}), ("timeseries", {"timeseries": {"timeField": "at"}})],
    ids=str,
)
async def test_view_or_time_series(
    db: Any, registry: MigrationRegistry, kind: str, options: dict[str, Any], *, transaction: bool
) -> None:
    """A view or a time series, in which an `_id` may occur twice, is refused before the first batch."""
    await fill_async(db.things, 6)
    await db.create_collection("measured", **options)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            raise Broken

        await context.for_each_batch(db.measured, body, size=2, transaction=transaction)

    with pytest.raises(InvalidOptionError, match=f"'measured' is a {kind}: a backfill needs a collection"):
        await registry.run(db, "app")

    assert await kept_async(db) == []
    assert await db.app_migrations.count_documents({}) == 0


@real
@pytest.mark.parametrize("began", [False, True])
async def test_advanced_in_a_transaction(db: Any, registry: MigrationRegistry, *, began: bool) -> None:
    """A loop made outside of a transactional body can't be advanced inside, started or not."""
    await fill_async(db.things, 3)
    await fill_async(db.others, 3)
    refused: list[list[int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        batches = context.batches(db.others, size=1)
        if began:
            assert [numbers(await anext(batches)), numbers(await anext(batches))] == [[0], [1]]

        async def body(batch: Batch) -> None:
            with pytest.raises(BatchesInTransactionError, match="'a'"):
                await anext(batches)
            refused.append(numbers(batch))

        await context.for_each_batch(db.things, body)

    assert await registry.run(db, "app") == ["a"]
    assert refused == [[0, 1, 2]]
    assert await kept_async(db) == []


@either_way
async def test_caught_by_the_migration(db: Any, registry: MigrationRegistry, told: Told, *, transaction: bool) -> None:
    """A migration that catches the error of a body and starts the backfill again resumes with that batch. Once the
    backfill has ended, a second one of its name is refused, and a named one starts from the beginning.
    """
    await fill_async(db.things, 5)
    calls = Calls(2, 3)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: Batch) -> None:
            await db.log.insert_one({"of": numbers(batch)})
            calls(batch)

        for _ in range(2):
            with pytest.raises(Broken):
                await context.for_each_batch(db.things, body, size=2, transaction=transaction)
        await context.for_each_batch(db.things, body, size=2, transaction=transaction)
        assert [(left["done"], left["finished"]) for left in await kept_async(db)] == [(5, True)]
        with pytest.raises(DuplicateBackfillError):
            context.batches(db.things, size=5)
        calls.extend([numbers(batch) async for batch in context.batches(db.things, size=5, name="again")])

    assert await registry.run(db, "app", on_event=told) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [2, 3], [4], [0, 1, 2, 3, 4]]
    twice = [] if transaction else [[2, 3]] * 2
    assert sorted([entry["of"] async for entry in db.log.find()]) == sorted([[0, 1], [2, 3], [4], *twice])
    assert [event.done for event in told if isinstance(event, BackfillStarted)] == [0, 2, 2, 0]
    assert told.changes == 0
    assert await kept_async(db) == []


@either_way
@pytest.mark.parametrize("outer", ["loop", "body"])
async def test_nested_after_failures(
    db: Any, registry: MigrationRegistry, outer: str, told: Told, *, transaction: bool
) -> None:
    """A backfill that starts inside each batch of another one belongs to that batch: after a failure both resume where
    they left off.
    """
    await fill_async(db.things, 3)
    await fill_async(db.others, 3)
    seen: list[tuple[int, int]] = []
    fails = [(0, 1), (1, 0), (1, 2), (2, 2), (9, 9)]

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def over_others(thing: Batch) -> None:
            async def body(batch: Batch) -> None:
                seen.append((thing[0]["_id"], batch[0]["_id"]))
                await db.log.insert_one({"of": seen[-1]})
                if seen[-1] == fails[0]:
                    raise Broken

            name = f"others of {thing[0]['_id']}"
            await context.for_each_batch(db.others, body, name=name, size=1, transaction=transaction)

        if outer == "body":
            await context.for_each_batch(db.things, over_others, size=1, transaction=False)
        else:
            async for thing in context.batches(db.things, size=1):
                await over_others(thing)

    while await db.app_migrations.count_documents({}) == 0:
        try:
            await registry.run(db, "app", on_event=told)
        except Broken:
            fails.pop(0)

    pairs = [(thing, one) for thing in range(3) for one in range(3)]
    twice = [(0, 1), (1, 0), (1, 2), (2, 2)]
    assert seen == sorted(pairs + twice)
    assert sorted([tuple(entry["of"]) async for entry in db.log.find()]) == sorted(
        pairs + ([] if transaction else twice)
    )
    assert fails == [(9, 9)]
    assert told.changes == 0
    assert await kept_async(db) == []


@either_way
async def test_dropped_lock(db: Any, registry: MigrationRegistry, told: Told, *, transaction: bool) -> None:
    """When the lock's collection was dropped, and tokens start from 1, the next run resumes all the same."""
    await fill_async(db.things, 7)
    calls: list[list[int]] = []
    tokens: list[int] = []

    @backfill_async(registry, size=2, transaction=transaction)
    async def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))
        (left,) = await outside_async(lambda: kept_async(db))
        tokens.append(left["token"])
        if len(calls) in {2, 4}:
            raise Broken

    for _ in range(2):
        with pytest.raises(Broken):
            await registry.run(db, "app")
    await db.app_migrations_lock.drop()
    assert await registry.run(db, "app", on_event=told) == ["a"]

    assert calls == [[0, 1], [2, 3], [2, 3], [4, 5], [4, 5], [6]]
    assert tokens == [1, 1, 2, 2, 1, 1]
    assert told.changes == 0
    assert await kept_async(db) == []


@real
async def test_own_codec(db: Any, registry: MigrationRegistry) -> None:
    """Batches are decoded by the collection's codec, checkpoints are not."""
    raw = db.things.with_options(codec_options=CodecOptions(document_class=RawBSONDocument, tz_aware=True))
    await db.things.insert_many([{"_id": {"n": number}} for number in range(4)])
    calls: list[list[int]] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: list[Any]) -> None:
            assert all(isinstance(document, RawBSONDocument) for document in batch)
            calls.append([document["_id"]["n"] for document in batch])
            if len(calls) == 2:
                raise Broken

        await context.for_each_batch(raw, body, size=2)

    with pytest.raises(Broken):
        await registry.run(db, "app")
    await registry.run(db, "app")

    assert calls == [[0, 1], [2, 3], [2, 3]]


@real
async def test_codec_that_changes_ids(db: Any, registry: MigrationRegistry) -> None:
    """Codec options that change an `_id` are refused, because the document can't be found by it."""
    await db.things.insert_one({"_id": DatetimeMS(2**62)})
    clamped = CodecOptions[Any](datetime_conversion=DatetimeConversion.DATETIME_CLAMP)

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        async for _ in context.batches(db.things.with_options(codec_options=clamped)):
            raise Broken

    with pytest.raises(InvalidOptionError, match="The `_id`s of 'things' don't survive the codec options"):
        await registry.run(db, "app")
