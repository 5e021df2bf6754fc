# Generated from tests/async/test_backfills.py by tools/sync_tests.py
"""Backfills: their batches, their checkpoints, and where they resume."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import bson
import pytest
from bson import InvalidBSON
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, UpdateOne
from pymongo.errors import BulkWriteError, InvalidOperation, OperationFailure

from quaestor import (
    BackfillChangedError,
    BackfillRestarted,
    BackfillStarted,
    BatchesInTransactionError,
    CollectionChangedError,
    CollectionMissing,
    DuplicateBackfillError,
    Event,
    Hook,
    InvalidOptionError,
    LeaseLostError,
    MigrationApplied,
    MigrationContext,
    MigrationFailed,
    MigrationProgressed,
    MigrationRegistry,
    MigrationRetried,
    MigrationStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    SyncRunner,
    TransactionsUnsupportedError,
    UnfinishedMigrationError,
)
from quaestor._mongo import backfill_documents, backfill_store
from quaestor.events import level_of
from tests.databases import drivers, in_transactions
from tests.functions import Broken, nothing, nothing_async, numbers, outside
from tests.leases import HELD
from tests.meeting import Meeting, Moment, start
from tests.scenarios import CODEC, IDS
from tools.commands import Commands

real = pytest.mark.parametrize("driver", drivers("pymongo"), indirect=True)
"""For what the mocks do not have."""
either_way = in_transactions("pymongo")

Batch = list[dict[str, Any]]


class Events(list[Event]):
    """A hook that keeps the events of backfills."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, BackfillStarted | BackfillRestarted | MigrationProgressed | MigrationRetried):
            self.append(event)

    @property
    def restarts(self) -> int:
        """The number of backfills that restarted because they had changed."""
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
def events() -> Events:
    """A new hook."""
    return Events()


def backfill(registry: MigrationRegistry, *args: Any, **options: Any) -> Callable[[Any], Any]:
    """Register a migration `a` that calls the decorated function with the database and each batch of `things`."""

    def decorator(function: Any) -> Any:
        @registry.register("a")
        def a(db: Any, context: MigrationContext) -> None:
            def body(batch: Any) -> None:
                function(db, batch)

            context.for_each_batch(db.things, body, *args, **options)

        return function

    return decorator


def retry(registry: MigrationRegistry, db: Any, on_event: Hook | None = None) -> int:
    """Run until it succeeds. Returns how often a function failed."""
    for failures in range(200):
        with contextlib.suppress(Broken):
            assert registry.run_sync(db, "app", on_event=on_event) == ["a"]
            return failures
    raise AssertionError


def checkpoints(db: Any) -> Batch:
    """Read the checkpoints, oldest first."""
    return list(db.app_migrations_progress.find().sort("updatedAt", 1))


def fill(collection: Any, count: int) -> None:
    """Insert documents with the numbers from 0 on."""
    collection.insert_many([{"_id": number, "even": number % 2 == 0} for number in range(count)])


@pytest.mark.parametrize("size", [1, 2, 5, 6, 1000])
def test_batches(db: Any, registry: MigrationRegistry, size: int) -> None:
    """The batches hold all documents in the order of `_id`; the last one has the rest."""
    fill(db.things, 6)
    seen = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        seen.extend(list(context.batches(db.things, size=size)))

    assert registry.run_sync(db, "app") == ["a"]
    assert seen == [
        [{"_id": number, "even": number % 2 == 0} for number in range(first, min(first + size, 6))]
        for first in range(0, 6, size)
    ]
    assert checkpoints(db) == []


@either_way
def test_bodies(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A body gets the same batches, of the documents that match."""
    fill(db.things, 10)
    seen = []

    @backfill(registry, {"even": True}, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        seen.append(numbers(batch))
        db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$inc": {"seen": 1}})

    assert registry.run_sync(db, "app") == ["a"]
    assert seen == [[0, 2], [4, 6], [8]]
    assert [document.get("seen", 0) for document in db.things.find().sort("_id", 1)] == [1, 0] * 5
    assert checkpoints(db) == []


@real
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("size", [1, 1000])
def test_ids_of_all_types(
    db: Any, registry: MigrationRegistry, size: int, events: Events, *, transaction: bool
) -> None:
    """Whatever the `_id`s are, each document comes once, in the order of MongoDB. If the migration fails after each
    batch, and resumes, one batch comes twice; in a transaction none.
    """
    things = db.things.with_options(codec_options=CODEC)
    things.insert_many([{"_id": one, "place": place} for place, one in reversed(list(enumerate(IDS)))])
    assert [document["place"] for document in things.find().sort("_id", 1)] == list(range(len(IDS)))
    seen: list[list[int]] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        calls = 0

        def body(batch: Batch) -> None:
            nonlocal calls
            calls += 1
            places = [document["place"] for document in batch]
            db.seen.insert_many([{"place": place} for place in places])
            if calls == 2:
                raise Broken
            seen.append(places)

        context.for_each_batch(things, body, size=size, transaction=transaction)

    assert retry(registry, db, events) == len(seen) - 1
    assert [place for places in seen for place in places] == list(range(len(IDS)))
    wrote = [document["place"] for document in db.seen.find().sort("_id", 1)]
    # Without a transaction, the failed call of a body has left its writes too, in all batches but the first.
    twice = [] if transaction else [place for places in seen[1:] for place in places]
    assert sorted(wrote) == sorted([*range(len(IDS)), *twice])
    assert events.restarts == 0


@real
def test_collation(db: Any, registry: MigrationRegistry) -> None:
    """With a case-insensitive collation each document comes once as well."""
    things = db.create_collection("things", collation={"locale": "en", "strength": 2})
    things.insert_many([{"_id": {"of": one, "kind": kind}} for one in "cab" for kind in (1, 2)])
    things.insert_many([{"_id": one} for one in ("d", "B", "a", "C")])
    seen = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        number = -1
        for batch in context.batches(db.things, size=1):
            number += 1
            if number == 1:
                raise Broken
            seen.extend(numbers(batch))

    retry(registry, db)

    strings = [one for one in seen if isinstance(one, str)]
    assert strings == ["a", "B", "C", "d"]
    assert seen == numbers(list(things.find().sort("_id", 1)))


def test_resumes(db: Any, registry: MigrationRegistry) -> None:
    """A migration that fails between two batches resumes with the one it was at; its checkpoint stays until then."""
    fill(db.things, 10)
    seen: list[list[int]] = []
    failures = [3, 1, 2]

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        fails_at = failures.pop(0) if failures else None
        for batch in context.batches(db.things, size=2):
            seen.append(numbers(batch))
            if len(seen) == fails_at:
                raise Broken

    for expected in ([[0, 1], [2, 3], [4, 5]], [[4, 5]], [[4, 5], [6, 7]]):
        seen.clear()
        with pytest.raises(Broken):
            registry.run_sync(db, "app")
        assert seen == expected
        (left,) = checkpoints(db)
        done = expected[-1][0]
        assert (left["done"], left["total"], left["batches"], left["finished"]) == (done, 10, done // 2, False)
        assert (left["collection"], left["_id"]["migration"], left["_id"]["undo"]) == ("things", "a", False)
        assert isinstance(left["updatedAt"], datetime)
        assert db.app_migrations.count_documents({}) == 0

    seen.clear()
    assert registry.run_sync(db, "app") == ["a"]
    assert seen == [[6, 7], [8, 9]]
    assert checkpoints(db) == []
    assert registry.run_sync(db, "app") == []


@either_way
@pytest.mark.parametrize("failure", [Broken, KeyboardInterrupt, SystemExit])
def test_failure_of_a_body(
    db: Any, registry: MigrationRegistry, failure: type[BaseException], *, transaction: bool
) -> None:
    """The caller gets the very exception of a body. Its batch comes again; a transaction leaves nothing of it."""
    fill(db.things, 5)
    calls: list[list[int]] = []

    @backfill(registry, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))
        db.log.insert_one({"of": numbers(batch)})
        if len(calls) == 2:
            raise failure

    with pytest.raises(failure) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__ == [
        "quaestor: at the `_id`s from 2 to 3 of the backfill 'things'",
        "quaestor: in migration 'a', 1 of 1",
    ]
    assert [entry["of"] for entry in db.log.find()] == ([[0, 1]] if transaction else [[0, 1], [2, 3]])
    assert [left["done"] for left in checkpoints(db)] == [2]

    assert registry.run_sync(db, "app", lease_timeout=0) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4]]
    assert [entry["of"] for entry in db.log.find()] == (
        [[0, 1], [2, 3], [4]] if transaction else [[0, 1], [2, 3], [2, 3], [4]]
    )
    assert checkpoints(db) == []


def test_several_backfills(db: Any, registry: MigrationRegistry, events: Events) -> None:
    """The backfills of a migration have checkpoints of their own. A finished one doesn't start again, and a second one
    of its name is refused.
    """
    fill(db.things, 4)
    fill(db.others, 2)
    seen: list[tuple[str, list[int]]] = []
    fails: list[tuple[str, list[int]]] = [("second", [2, 3]), ("filtered", [1]), ("others", [0, 1]), ("none", [])]
    finished = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        finished.append([left["finished"] for left in checkpoints(db)])
        for title, batches in (
            ("first", context.batches(db.things, size=2)),
            ("second", context.batches(db.things, size=2, name="second")),
            ("filtered", context.batches(db.things, {"even": False}, size=1, name="filtered")),
            ("others", context.batches(db.others)),
        ):
            for batch in batches:
                seen.append((title, numbers(batch)))
                if fails[0] == seen[-1]:
                    del fails[0]
                    raise Broken
        with pytest.raises(DuplicateBackfillError):
            context.batches(db.things)

    assert retry(registry, db, events) == 3
    assert seen == [
        ("first", [0, 1]), ("first", [2, 3]), ("second", [0, 1]), ("second", [2, 3]), ("second", [2, 3]),
        ("filtered", [1]), ("filtered", [1]), ("filtered", [3]), ("others", [0, 1]), ("others", [0, 1]),
    ]  # fmt: skip
    assert list(map(sorted, finished)) == [[], [False, True], [False, True, True], [False, True, True, True]]
    assert events.restarts == 0
    assert checkpoints(db) == []


@either_way
def test_concurrent_backfills(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """Backfills can be concurrent, even if one starts in a batch of another; each has a checkpoint and a session."""
    collections = ("things", "others", "more")
    for name in collections:
        fill(db[name], 9)
    meeting = Meeting(len(collections))
    in_a_batch = {name: Moment() for name in collections}
    seen: dict[str, list[int]] = {name: [] for name in collections}

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def over(name: str) -> None:
            def body(batch: Batch) -> None:
                if batch[0]["_id"] == 0:
                    in_a_batch[name].has_come()
                    meeting.wait()
                db[name].update_many({"_id": {"$in": numbers(batch)}}, {"$inc": {"seen": 1}})
                seen[name].extend(numbers(batch))

            context.for_each_batch(db[name], body, size=2, transaction=transaction)

        concurrent = []
        for name in collections:
            concurrent.append(start(partial(over, name)))
            in_a_batch[name].wait()
        for started in concurrent:
            started.result()

    assert registry.run_sync(db, "app") == ["a"]
    assert seen == {name: list(range(9)) for name in collections}
    for name in collections:
        assert db[name].count_documents({"seen": 1}) == 9
    assert checkpoints(db) == []


def test_changed_between_runs(db: Any, registry: MigrationRegistry) -> None:
    """A backfill restarts, with an event, if its collection or filter has changed; with another size or projection it
    resumes.
    """
    fill(db.things, 6)
    fill(db.others, 2)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("others", {"size": 1}),
        ("things", {"size": 2}),
        ("things", {"size": 3, "projection": ["_id"]}),
        ("things", {"size": 2, "filter": {"even": True}}),
        ("things", {"size": 1, "filter": {"even": True}}),
    ]
    seen: list[list[Any]] = []
    restarts = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        name, options = calls.pop(0)
        seen.append([])
        for batch in context.batches(db[name], name="renamed", **options):
            seen[-1].append(numbers(batch))
            if len(seen[-1]) == 2 and calls:
                raise Broken

    while calls:
        events = Events()
        with contextlib.suppress(Broken):
            registry.run_sync(db, "app", on_event=events)
        restarts.append(events.restarts)
        if len(calls) == 3:
            assert events[0] == BackfillRestarted(db.name, "app", events[0].run, "a", 1, 1, "renamed", "things")

    assert seen == [[[0], [1]], [[0, 1], [2, 3]], [[2, 3, 4], [5]], [[0, 2], [4]], [[4]]]
    assert restarts == [0, 1, 0, 1, 0]


@either_way
def test_written_during_the_backfill(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """Documents inserted beyond the end, or that match again, are not visited; deleted ones are not missed."""
    db.things.insert_many([{"_id": number, "todo": True} for number in range(0, 60, 10)])
    seen = []

    @backfill(registry, {"todo": True}, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        seen.append(numbers(batch))
        if seen == [[0, 10]]:
            db.things.insert_many([{"_id": one, "todo": True} for one in (-1, 5, 60, 1000, "x")])
            db.things.delete_one({"_id": 20})
            db.things.delete_one({"_id": 50})
        db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$set": {"again": 1}})

    assert registry.run_sync(db, "app") == ["a"]
    assert seen == [[0, 10], [30, 40]]


@either_way
@pytest.mark.parametrize("projection", [["name"], {"name": 1}, {"name": True, "_id": 1}, {"other": 0}], ids=str)
def test_projection(db: Any, registry: MigrationRegistry, projection: Any, *, transaction: bool) -> None:
    """Documents have the fields of the projection, and `_id`."""
    db.things.insert_many([{"_id": number, "name": "x", "other": "y"} for number in range(3)])
    seen: Batch = []

    @backfill(registry, projection=projection, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        seen.extend(batch)

    registry.run_sync(db, "app")

    assert seen == [{"_id": number, "name": "x"} for number in range(3)]


def test_bad_arguments(db: Any, registry: MigrationRegistry) -> None:
    """Bad arguments are refused by the call, before anything is done."""
    options: list[tuple[dict[str, Any], str]] = [
        ({"size": 0}, "size must be a whole number of documents, 1 or more, not 0."),
        ({"pause": -1}, "pause must be a number of seconds, from 0 to 86,400, not -1."),
        ({"max_lag": "10"}, "max_lag must be a number of seconds, from 0 to 86,400, not '10'."),
        ({"projection": {"_id": 0}}, "projection must keep `_id` as it is"),
        ({"filter": [("a", 1)]}, "filter must be a dict, not [('a', 1)]."),
        ({"name": ""}, "The name of a backfill"),
        ({"collection": "things"}, "collection must be"),
        ({"collection": None}, "(db.users, say), not None."),
        ({"collection": db}, f"not {type(db).__name__}."),
    ]
    only_with_body: list[tuple[dict[str, Any], str]] = [
        ({"body": "a"}, "must be a function that takes a list of documents, not 'a'"),
        ({"transaction": 1}, "transaction must be True or False, not 1"),
    ]

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for one, words in options:
            with pytest.raises(InvalidOptionError) as refused:
                context.batches(**{"collection": db.things} | one)
            assert words in str(refused.value)
        for one, words in options + only_with_body:
            with pytest.raises(InvalidOptionError) as refused:
                context.for_each_batch(**{"collection": db.things, "body": nothing} | one)
            assert words in str(refused.value)

    registry.run_sync(db, "app")
    assert "app_migrations_progress" not in db.list_collection_names()


@real
def test_committed_together(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """Others see what a body wrote together with the checkpoint, before the next batch."""
    fill(db.things, 6)
    looks = []

    def look() -> tuple[int, int]:
        (left,) = checkpoints(other)
        return other.things.count_documents({"seen": True}), left["done"]

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$set": {"seen": True}})
            looks.append((db.things.count_documents({"seen": True}), *outside(look)))

        context.for_each_batch(db.things, body, size=2)
        looks.append((6, *look()))

    registry.run_sync(db, "app")

    assert looks == [(2, 0, 0), (4, 2, 2), (6, 4, 4), (6, 6, 6)]


@real
def test_conflict(db: Any, registry: MigrationRegistry, other: Any, events: Events) -> None:
    """When another client has written a document of the batch, the body is called again with the current documents, and
    nothing is overwritten.
    """
    db.things.insert_many([{"_id": number, "price": 10} for number in range(4)])
    calls = []

    @backfill(registry, size=2)
    def body(db: Any, batch: Batch) -> None:
        calls.append([(document["_id"], document["price"]) for document in batch])
        if len(calls) == 2:
            outside(lambda: other.things.update_one({"_id": 3}, {"$set": {"price": 70}}))
        for document in batch:
            db.things.update_one({"_id": document["_id"]}, {"$set": {"price": document["price"] * 2}})

    registry.run_sync(db, "app", on_event=events)

    assert calls == [[(0, 10), (1, 10)], [(2, 10), (3, 10)], [(2, 10), (3, 70)]]
    assert [document["price"] for document in other.things.find().sort("_id", 1)] == [20, 20, 20, 140]
    (retried,) = [event for event in events if isinstance(event, MigrationRetried)]
    assert (retried.name, retried.attempt) == ("a", 2)
    assert isinstance(retried.error, OperationFailure)
    assert retried.error.has_error_label("TransientTransactionError")


@real
def test_in_a_transaction(db: Any, registry: MigrationRegistry) -> None:
    """In a transaction, of a migration or of a batch, no backfill can start, and none from outside can advance."""
    fill(db.things, 2)
    fill(db.others, 2)
    refused = []

    def refuse(call: Callable[[], object]) -> None:
        with pytest.raises(BatchesInTransactionError, match=r"'[ab]'"):
            call()
        refused.append(call)

    @registry.register("a", transaction=True)
    def a(db: Any, context: MigrationContext) -> None:
        refuse(lambda: context.batches(db.things))
        for transaction in (False, True):
            with pytest.raises(BatchesInTransactionError) as caught:
                context.for_each_batch(db.things, nothing, transaction=transaction)
            assert caught.value.name == "a"

    @registry.register("b", ["a"])
    def b(db: Any, context: MigrationContext) -> None:
        outside = context.batches(db.others, size=1, name="outside")
        assert numbers(next(outside)) == [0]

        def body(batch: Batch) -> None:
            refuse(lambda: context.batches(db.things))
            with pytest.raises(BatchesInTransactionError):
                next(outside)
            for transaction in (False, True):
                with pytest.raises(BatchesInTransactionError):
                    context.for_each_batch(db.others, nothing, transaction=transaction)

        context.for_each_batch(db.things, body)

    assert registry.run_sync(db, "app") == ["a", "b"]
    assert len(refused) == 2


@pytest.mark.parametrize("driver", drivers("mongomock"), indirect=True)
def test_no_transactions(db: Any, registry: MigrationRegistry) -> None:
    """Without transactions on the server a backfill that needs them is refused before its first batch."""
    fill(db.things, 2)
    calls: list[Any] = []

    @backfill(registry)
    def body(db: Any, batch: Batch) -> None:
        calls.append(batch)

    with pytest.raises(TransactionsUnsupportedError, match="calls for_each_batch with transaction=True") as caught:
        registry.run_sync(db, "app")

    assert caught.value.in_batches
    assert caught.value.migrations == ["a"]
    assert calls == checkpoints(db) == []


def test_never_started(db: Any, registry: MigrationRegistry) -> None:
    """A function that asks for batches, and has no loop over them, has done nothing: an error, not a record."""

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        context.batches(db.things)

    with pytest.raises(UnfinishedMigrationError, match="without starting a backfill"):
        registry.run_sync(db, "app")
    assert db.app_migrations.count_documents({}) == 0


@real
def test_another_database(db: Any, registry: MigrationRegistry, events: Events) -> None:
    """A collection of another database of the client works; events name its database too."""
    another = db.client[f"{db.name}_2"]
    fill(db.things, 2)
    fill(another.things, 3)
    seen: list[list[int]] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            seen.append(numbers(batch))
            another.things.update_many({}, {"$inc": {"seen": 1}})

        context.for_each_batch(another.things, body, size=2)
        context.for_each_batch(db.things, body, size=2, transaction=False)

    try:
        registry.run_sync(db, "app", on_event=events)
    finally:
        db.client.drop_database(another.name)
    assert seen == [[0, 1], [2], [0, 1]]
    started = [event.collection for event in events if isinstance(event, BackfillStarted)]
    assert started == [f"{another.name}.things", "things"]


@either_way
def test_pause(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A backfill that pauses, and waits for replicas, has the same batches, and its checkpoint by the next one."""
    fill(db.things, 3)
    looks: list[tuple[list[int], int]] = []

    @backfill(registry, size=1, pause=0.001, max_lag=0, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        (left,) = outside(lambda: checkpoints(db))
        looks.append((numbers(batch), left["done"]))

    registry.run_sync(db, "app")

    assert looks == [([0], 0), ([1], 1), ([2], 2)]


@either_way
def test_events(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """There is an event at the start and after each batch, also when a backfill resumes."""
    fill(db.things, 5)
    events: list[Event] = []
    calls = Calls(2)

    @backfill(registry, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
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
        registry.run_sync(db, "app", on_event=events.append)
    registry.run_sync(db, "app", on_event=events.append)

    assert [simple(event) for event in events] == [
        (RunStarted,), (MigrationStarted,), ("started", "things", 0, 5), ("progress", 2, 5), (MigrationFailed,),
        (RunFailed,),
        (RunStarted,), (MigrationStarted,), ("started", "things", 2, 5), ("progress", 4, 5), ("progress", 5, 5),
        (MigrationApplied,), (RunFinished,),
    ]  # fmt: skip
    assert events[2] == BackfillStarted(db.name, "app", events[0].run, "a", 1, 1, "things", "things", 0, 5)
    assert isinstance(events[3], MigrationProgressed)
    assert events[3] == MigrationProgressed(
        db.name, "app", events[0].run, "a", 1, 1, 2, 5, events[3].rate, backfill="things"
    )


@either_way
@pytest.mark.parametrize("by", ["another owner", "unlock", "a later run"])
def test_lease_lost(db: Any, registry: MigrationRegistry, by: str, *, transaction: bool) -> None:
    """Once the lease is lost, or a later run has claimed the checkpoint, there is no further batch. The next run
    resumes with it, or with the one before.
    """
    fill(db.things, 6)
    calls: list[list[int]] = []

    def lose() -> None:
        if by == "unlock":
            SyncRunner(registry, db, "app").unlock()
        elif by == "another owner":
            db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)
        else:
            db.app_migrations_progress.update_one({}, {"$inc": {"token": 1}})

    @backfill(registry, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))
        if len(calls) == 2:
            outside(lose)

    with pytest.raises(LeaseLostError, match="'a' was stopped") as caught:
        registry.run_sync(db, "app")
    assert caught.value.in_batches
    assert caught.value.migration == "a"
    assert calls == [[0, 1], [2, 3]]
    assert db.app_migrations.count_documents({}) == 0

    SyncRunner(registry, db, "app").unlock()
    assert registry.run_sync(db, "app") == ["a"]
    # The checkpoint of the last batch is saved during the next read, before the lease is checked.
    assert calls[2:] == ([[2, 3], [4, 5]] if by == "a later run" else [[4, 5]])


@real
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda db: db.things.drop(), []),
        (lambda db: db.things.rename("elsewhere"), []),
        (lambda db: db.others.rename("things", dropTarget=True), [[0, 1], [2]]),
    ],
    ids=["dropped", "renamed", "replaced"],
)
def test_collection_changed(
    db: Any, registry: MigrationRegistry, uri: str, change: Callable[[Any], object], left: Any, *, transaction: bool
) -> None:
    """A collection that is dropped, renamed or replaced meanwhile is an error; the next run's backfill restarts. In
    transactions it is refused until it is restarted by hand.
    """
    fill(db.things, 6)
    fill(db.others, 3)
    calls: list[list[int]] = []

    def hook(event: Event) -> None:
        if isinstance(event, MigrationProgressed) and event.done == 4:  # not in a transaction
            with MongoClient(uri) as client:
                change(client[db.name])

    @backfill(registry, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))

    with pytest.raises(CollectionChangedError, match="'things' was dropped, renamed or replaced") as caught:
        registry.run_sync(db, "app", on_event=hook)
    assert (caught.value.name, caught.value.collection) == ("a", "things")
    assert db.app_migrations.count_documents({}) == 0

    calls.clear()
    events = Events()
    if transaction:
        with pytest.raises(BackfillChangedError, match="The collection of the backfill 'things'") as refused:
            registry.run_sync(db, "app", on_event=events)
        assert (refused.value.name, refused.value.backfill, refused.value.changed) == ("a", "things", "collection")
        assert calls == []
        assert SyncRunner(registry, db, "app").restart_backfill("a") == ["things"]
    assert registry.run_sync(db, "app", on_event=events) == ["a"]
    assert calls == left
    assert events.restarts == (not transaction)


@either_way
def test_nothing_to_do(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A missing or empty collection, or a filter that matches nothing, has no batch."""
    fill(db.things, 3)
    db.empty.insert_one({})
    db.empty.delete_many({})
    calls: list[Any] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            calls.append(batch)

        for collection, matching in ((db.missing, {}), (db.empty, {}), (db.things, {"even": "no"})):
            context.for_each_batch(collection, body, matching, transaction=transaction)
        calls.extend(list(context.batches(db.missing, name="again")))

    assert registry.run_sync(db, "app") == ["a"]
    assert calls == []
    assert "missing" not in db.list_collection_names()


@either_way
def test_rollback(db: Any, registry: MigrationRegistry, events: Events, *, transaction: bool) -> None:
    """A rollback has backfills of its own; it resumes where it failed, and leaves no checkpoint when it is done."""
    fill(db.things, 6)
    calls = Calls(2)

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        calls.extend([numbers(batch) for batch in context.batches(db.things, size=2)])

    @registry.register_rollback("a")
    def undo_a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            calls(batch)

        context.for_each_batch(db.things, body, size=2, transaction=transaction)

    runner = SyncRunner(registry, db, "app", on_event=events)
    runner.run()
    calls.clear()
    events.clear()
    with pytest.raises(Broken):
        runner.rollback(["a"])
    assert events[:1] == [
        BackfillStarted(db.name, "app", events[0].run, "a", 1, 1, "things", "things", 0, 6, undo=True)
    ]
    assert [(left["_id"]["undo"], left["done"]) for left in checkpoints(db)] == [(True, 2)]
    (status,) = runner.status().migrations
    assert [(one.undo, one.done, one.total) for one in status.backfills] == [(True, 2, 6)]

    assert runner.rollback(["a"]) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3], [4, 5]]
    assert checkpoints(db) == []
    calls.clear()
    assert runner.run() == ["a"]
    assert calls == [[0, 1], [2, 3], [4, 5]]


def test_break(db: Any, registry: MigrationRegistry) -> None:
    """A loop can be left with `break`: the migration continues, and is recorded. If it fails later, the batch of the
    `break` comes again.
    """
    fill(db.things, 6)
    seen: list[list[int]] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for batch in context.batches(db.things, size=2):
            seen.append(numbers(batch))
            if 2 in numbers(batch):
                break
        if len(seen) == 2:
            raise Broken
        again = context.batches(db.things, {"even": True}, size=2, name="even")
        seen.extend([numbers(batch) for batch in again])

    assert retry(registry, db) == 1
    assert seen == [[0, 1], [2, 3], [2, 3], [0, 2], [4]]
    assert checkpoints(db) == []


@either_way
def test_unfinished_body(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A body that returns a generator or an awaitable has done nothing: an error, and its batch comes again."""
    fill(db.things, 3)
    calls: list[list[int]] = []

    def generator(batch: Batch) -> Iterator[None]:
        yield

    def coroutine(batch: Batch) -> Any:
        return nothing_async(batch)

    def body(batch: Batch) -> None:
        calls.append(numbers(batch))

    bodies: list[Any] = [generator, coroutine, body]

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        context.for_each_batch(db.things, bodies.pop(0), size=2, transaction=transaction)

    with pytest.raises(UnfinishedMigrationError, match="returned a generator in the body of for_each_batch"):
        registry.run_sync(db, "app")
    with pytest.raises(UnfinishedMigrationError, match=r"an awaitable \(coroutine\) in the body of for_each_batch"):
        registry.run_sync(db, "app")
    assert registry.run_sync(db, "app") == ["a"]
    assert calls == [[0, 1], [2]]


@pytest.mark.parametrize(("counted", "matching", "total"), [(39, 0, None), (39, 40, 40), (40, 10, 10)])
def test_estimate(
    db: Any,
    registry: MigrationRegistry,
    monkeypatch: pytest.MonkeyPatch,
    counted: int,
    matching: int,
    total: int | None,
    events: Events,
) -> None:
    """Matching documents are counted in a small collection, and estimated from a sample in a large one. If none of the
    sample matches, their number is unknown.
    """
    monkeypatch.setattr(backfill_store, "COUNTED", counted)
    monkeypatch.setattr(backfill_store, "SAMPLE", 20)
    fill(db.things, 40)

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.things, {"_id": {"$gte": 40 - matching}}, size=20):
            pass

    registry.run_sync(db, "app", on_event=events)

    started = BackfillStarted(db.name, "app", events[0].run, "a", 1, 1, "things", "things", 0, total)
    assert [event for event in events if isinstance(event, BackfillStarted)] == [started]


@real
def test_inserted_at_the_start(db: Any, registry: MigrationRegistry, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    db.things.insert_many([{"_id": one} for one in (0, 1, 2, "a", "z")])
    seen: list[Any] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for batch in context.batches(db.things, size=2):
            seen.extend(numbers(batch))

    registry.run_sync(db, "app")

    assert seen == [-1, 0, 1, 2, 60, "a", "z"]
    assert inserts == [["zzzz", 80]]  # it asked for strings, for numbers, and whether that was all


@real
@pytest.mark.parametrize(
    ("kind", "options"),
    [("view", {"viewOn": "things", "pipeline": []}), ("timeseries", {"timeseries": {"timeField": "at"}})],
    ids=str,
)
def test_view_or_time_series(db: Any, registry: MigrationRegistry, kind: str, options: dict[str, Any]) -> None:
    """A view or a time series, in which an `_id` may occur twice, is refused before the first batch."""
    if kind == "timeseries" and db.command("buildInfo")["versionArray"] < [5]:
        pytest.skip("MongoDB 4.4 has no time series")
    fill(db.things, 6)
    db.create_collection("measured", **options)

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        context.for_each_batch(db.measured, nothing)

    with pytest.raises(InvalidOptionError, match=f"'measured' is a {kind}: a backfill needs a collection"):
        registry.run_sync(db, "app")
    assert checkpoints(db) == []


@either_way
@pytest.mark.parametrize("outer", ["loop", "body"])
def test_nested(db: Any, registry: MigrationRegistry, outer: str, events: Events, *, transaction: bool) -> None:
    """A backfill inside each batch of another one is a backfill of its own; after a failure both resume."""
    fill(db.things, 3)
    fill(db.others, 3)
    seen: list[tuple[int, int]] = []
    twice = [(0, 1), (1, 0), (1, 2), (2, 2)]
    fails = [*twice, None]

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def over_others(thing: Batch) -> None:
            def body(batch: Batch) -> None:
                seen.append((thing[0]["_id"], batch[0]["_id"]))
                db.log.insert_one({"of": seen[-1]})
                if seen[-1] == fails[0]:
                    del fails[0]
                    raise Broken

            name = f"others of {thing[0]['_id']}"
            context.for_each_batch(db.others, body, name=name, size=1, transaction=transaction)

        if outer == "body":
            context.for_each_batch(db.things, over_others, size=1, transaction=False)
        else:
            for thing in context.batches(db.things, size=1):
                over_others(thing)

    assert retry(registry, db, events) == len(twice)
    pairs = [(thing, one) for thing in range(3) for one in range(3)]
    assert seen == sorted(pairs + twice)
    written = [tuple(entry["of"]) for entry in db.log.find()]
    assert sorted(written) == sorted(pairs + ([] if transaction else twice))
    assert events.restarts == 0
    assert checkpoints(db) == []


@real
def test_own_codec(db: Any, registry: MigrationRegistry) -> None:
    """Batches are decoded by the collection's codec, checkpoints are not."""
    raw = db.things.with_options(codec_options=CodecOptions(document_class=RawBSONDocument, tz_aware=True))
    db.things.insert_many([{"_id": {"n": number}} for number in range(4)])
    calls: list[list[int]] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: list[Any]) -> None:
            assert all(isinstance(document, RawBSONDocument) for document in batch)
            calls.append([document["_id"]["n"] for document in batch])
            if len(calls) == 2:
                raise Broken

        context.for_each_batch(raw, body, size=2)

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    registry.run_sync(db, "app")

    assert calls == [[0, 1], [2, 3], [2, 3]]


CLAMPED: CodecOptions[Any] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_CLAMP)
REPLACED: CodecOptions[Any] = CodecOptions(unicode_decode_error_handler="replace")
FAR = DatetimeMS(2**62)


def mojibake(*path: str) -> RawBSONDocument:
    """A document with invalid UTF-8 in the field of this name, which has another `_id` unless it is that."""
    document = ({} if "_id" in path else {"_id": 7}) | {path[0]: "valid" if len(path) == 1 else {path[1]: "valid"}}
    return RawBSONDocument(bson.encode(document).replace(b"valid", b"val\xffd"))


@real
@pytest.mark.parametrize(
    ("document", "options", "refused"),
    [
        ({"_id": FAR}, CLAMPED, r"The `_id` DatetimeMS\(4611686018427387904\) doesn't survive the codec options"),
        ({"_id": {"at": FAR}}, CLAMPED, "doesn't survive the codec options"),
        ({"_id": 7, "at": FAR}, CLAMPED, None),
        (mojibake("_id"), REPLACED, "doesn't survive the codec options"),
        (mojibake("_id", "of"), REPLACED, "doesn't survive the codec options"),
        (mojibake("name"), REPLACED, None),
    ],
)
@pytest.mark.parametrize("transaction", [False, True])
def test_lossy_codec(
    db: Any, registry: MigrationRegistry, document: Any, options: CodecOptions[Any], refused: str, *, transaction: bool
) -> None:
    """Codec options that change an `_id` are refused, because it finds its document no more. Other fields may change;
    the checkpoints hold the `_id`s as they are stored.
    """
    db.things.insert_many([{"_id": 1}, document])
    calls = Calls(2)

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            calls(batch)

        things = db.things.with_options(codec_options=options)
        context.for_each_batch(things, body, size=1, transaction=transaction)

    if refused is not None:
        with pytest.raises(InvalidOptionError, match=refused):
            registry.run_sync(db, "app")
        assert calls in ([], [[1]])
        return
    assert retry(registry, db) == 1
    assert calls == [[1], [7], [7]]


@real
def test_invalid_document(db: Any, registry: MigrationRegistry) -> None:
    """The error about a document that can't be decoded names its `_id`."""
    db.things.insert_many([{"_id": 1}, mojibake("name")])

    @backfill(registry, transaction=False)
    def body(db: Any, batch: Batch) -> None:
        raise Broken

    with pytest.raises(InvalidBSON) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__[0] == "quaestor: this is the document of 'things' with the `_id` 7"


@real
@pytest.mark.parametrize("transaction", [False, True])
def test_document_that_fails(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """The error of a bulk write in a batch names the `_id` of its document, and no value."""
    db.things.insert_many([{"_id": number, "name": f"secret {number}"} for number in range(4)])

    @backfill(registry, size=2, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        db.things.bulk_write([UpdateOne({"_id": one}, {"$inc": {"name": 1}}) for one in numbers(batch)])

    with pytest.raises(BulkWriteError) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__[0] == "quaestor: at the `_id` 0 of the backfill 'things'"


def test_loop_that_fails(db: Any, registry: MigrationRegistry) -> None:
    """An error in a loop is noted with the batch of each loop that hasn't ended."""
    fill(db.things, 4)
    fill(db.others, 2)

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.others):
            pass
        for batch in context.batches(db.things, size=1):
            if 2 in numbers(batch):
                raise Broken

    with pytest.raises(Broken) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__ == [
        "quaestor: at the `_id` 2 of the backfill 'things'",
        "quaestor: in migration 'a', 1 of 1",
    ]


@either_way
@pytest.mark.parametrize("is_old", [False, True])
def test_order_of_a_filter(
    db: Any, registry: MigrationRegistry, events: Events, *, transaction: bool, is_old: bool
) -> None:
    """A backfill resumes if its filter differs in an order that has no meaning, and from a checkpoint of an earlier
    release if it doesn't differ.
    """
    fill(db.things, 6)
    calls = Calls(2)
    filters: list[dict[str, Any]] = [
        {"$or": [{"even": True}, {"even": False}], "_id": {"$in": [0, 1, 2, 3], "$gte": 0}},
        {"_id": {"$gte": 0, "$in": [3, 2, 0, 1]}, "$or": [{"even": False}, {"even": True}]},
    ]

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            calls(batch)

        context.for_each_batch(db.things, body, filters.pop(0), size=2, transaction=transaction)

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    if is_old:
        old = backfill_documents.make_fingerprint(f"{db.name}.things", filters[0], CodecOptions())
        db.app_migrations_progress.update_one({}, {"$set": {"fingerprint": old}})
    assert registry.run_sync(db, "app", on_event=events) == ["a"]
    assert calls == [[0, 1], [2, 3], [2, 3]]
    assert events.restarts == 0


@real
@pytest.mark.parametrize("transaction", [False, True])
def test_filter_changed(db: Any, registry: MigrationRegistry, events: Events, *, transaction: bool) -> None:
    """Another filter restarts a backfill. In transactions it is refused, and nothing is done, until a person restarts
    it: with the name of the backfill, if there are several.
    """
    fill(db.things, 6)
    calls, before = Calls(2), [{"even": True}]

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            calls(batch)

        context.for_each_batch(db.others, body, transaction=transaction)
        matching = before.pop() if before else None
        context.for_each_batch(db.things, body, matching, size=2, transaction=transaction)

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    if transaction:
        with pytest.raises(
            BackfillChangedError, match="The filter of the backfill 'things' of migration 'a' has"
        ) as no:
            registry.run_sync(db, "app")
        assert (no.value.name, no.value.backfill, no.value.changed) == ("a", "things", "filter")
        assert len(calls) == 2
        runner = SyncRunner(registry, db, "app")
        with pytest.raises(InvalidOptionError, match="'others', 'things'"):
            runner.restart_backfill("a")
        assert runner.restart_backfill("a", backfill="things") == ["things"]
    assert registry.run_sync(db, "app", on_event=events) == ["a"]
    assert calls == [[0, 2], [4], [0, 1], [2, 3], [4, 5]]
    assert events.restarts == (not transaction)


@either_way
def test_missing_collection(db: Any, registry: MigrationRegistry, driver: str, *, transaction: bool) -> None:
    """A collection that doesn't exist is a warning: its name may be misspelled. A mock can't tell."""
    events: list[Event] = []

    @backfill(registry, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        raise Broken

    assert registry.run_sync(db, "app", on_event=events.append) == ["a"]
    missing = [event for event in events if isinstance(event, CollectionMissing)]
    assert missing == (
        []
        if driver == "mongomock"
        else [CollectionMissing(db.name, "app", events[0].run, "a", 1, 1, "things", "things")]
    )
    assert {level_of(event) for event in missing} <= {"WARNING"}


@real
def test_sparse_matches(db: Any, registry: MigrationRegistry, commands: Commands, other: Any) -> None:
    """In its transaction a batch examines the documents that it found before, and no others. It leaves out those that
    don't match any more, and takes no new ones.
    """
    db.things.insert_many([{"_id": one, "todo": one % 50 == 0} for one in range(200)])
    calls: list[list[int]] = []
    found = commands.sent

    @backfill(registry, {"todo": True}, size=3)
    def body(db: Any, batch: Batch) -> None:
        if not calls:
            outside(lambda: db.command("profile", 2))
        calls.append(numbers(batch))
        db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$set": {"todo": False}})

    registry.run_sync(db, "app")
    db.command("profile", 0)
    assert calls == [[0, 50, 100], [150]]
    reads = [sent["filter"]["$and"][1] for sent in found if sent.get("find") == "things" and "autocommit" in sent]
    assert reads == [{"_id": {"$in": [0, 50, 100]}}, {"_id": {"$in": [150]}}]
    profiled = {"ns": f"{db.name}.things", "command.find": "things", "command.autocommit": False}
    assert [one["docsExamined"] for one in db.system.profile.find(profiled)] == [1]


@real
@pytest.mark.parametrize("leaves", [[0], [0, 1, 2], [2]])
def test_changed_between_the_reads(
    db: Any, registry: MigrationRegistry, monkeypatch: pytest.MonkeyPatch, other: Any, leaves: list[int]
) -> None:
    """Documents that leave a batch after it was found, or come into its range, break nothing: no other is skipped."""
    db.things.insert_many([{"_id": one, "todo": True} for one in range(6)])
    calls: list[list[Any]] = []
    changes: list[dict[str, Any]] = []
    read = backfill_store.MongoBackfillStore.read_found

    def change_and_read(*arguments: Any) -> Any:
        if not changes:
            changes.append({"_id": {"$in": leaves}})
            outside(lambda: other.things.update_many(changes[0], {"$set": {"todo": False}}))
            outside(lambda: other.things.insert_one({"_id": 0.5, "todo": True}))
        return read(*arguments)

    monkeypatch.setattr(backfill_store.MongoBackfillStore, "read_found", change_and_read)

    @backfill(registry, {"todo": True}, size=3)
    def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))
        db.things.update_many({"_id": {"$in": numbers(batch)}}, {"$inc": {"seen": 1}})

    left = [one for one in (0, 1, 2) if one not in leaves]
    registry.run_sync(db, "app")
    assert calls == [*([left] if left else []), [3, 4, 5]]
    assert db.things.count_documents({"seen": 1}) == len(left) + 3


@real
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("encrypts", [False, True])
def test_max_bytes(
    db: Any,
    registry: MigrationRegistry,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    *,
    transaction: bool,
    encrypts: bool,
) -> None:
    """A batch has as many documents as fit in max_bytes, and one at least; so it's read in parts. One `find` is enough
    for each batch. A client that encrypts automatically can't read raw batches, and reads documents.
    """
    sizes = [5_000_000, 5_000_000, 5_000_000, 5_000_000, 12_000_000, 1_000, 1_000]
    db.things.insert_many([{"_id": one, "of": b"x" * size} for one, size in enumerate(sizes)])
    calls: list[list[int]] = []
    if encrypts:

        def refuse(*arguments: Any, **options: Any) -> None:
            raise InvalidOperation

        monkeypatch.setattr(type(db.things), "find_raw_batches", refuse)

    @backfill(registry, max_bytes=11_000_000, transaction=transaction)
    def body(db: Any, batch: Batch) -> None:
        calls.append(numbers(batch))

    registry.run_sync(db, "app")
    assert calls == [[0, 1], [2, 3], [4], [5, 6]]
    finds = [sent for sent in commands.sent if sent.get("find") == "things" and sent.get("projection") != {"_id": 1}]
    assert len(finds) == len(calls)
