"""The migrations that instances run, and what they leave in a database."""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, PyMongoError

from quaestor import AsyncMigrationContext, MigrationContext
from tests.bodies import run_body, run_body_async

COUNTERS = ("begun", "ended", "undo_begun", "undo_ended")
"""The fields of a document that a migration and its rollback count up."""

Way: TypeAlias = Literal["loop", "function", "transaction"]
"""How a backfill runs: `batches`, or `for_each_batch` without or with transactions."""


@dataclass(frozen=True)
class Work:
    """A migration: it changes its document in `work`, works for some time, and changes the document once more. Its
    rollback does the same to other fields.

    A backfill goes over `things` instead, doing with each batch what `changes` does, and so does its rollback.

    Attributes:
        name: Also the document's `_id`.
        transaction, depends_on: As for `register`.
        seconds: How long it works.
        held: It waits for a line between the two changes, after having said `stopped`.
        way: It is a backfill, run this way; with each batch it works for so long, or waits, between log and change.
        crossed: Its functions are of the other kind than the driver: `def` for an async one.
        fails: It raises a ValueError instead of changing its document once more.
        stops: It is registered with after_crash="stop".
        checked: It has a precondition and a verification, which read its document.
        replaces, phase: As for `register`.
        delay: Likewise, in seconds.
        retired: It isn't registered: its name is retired.
    """

    name: str
    transaction: bool = False
    depends_on: Sequence[str] = ()
    seconds: float = 0
    held: bool = False
    way: Way | None = None
    crossed: bool = False
    fails: bool = False
    stops: bool = False
    checked: bool = False
    replaces: Sequence[str] = ()
    phase: Literal["deploy", "post_deploy"] = "deploy"
    delay: float | None = None
    retired: bool = False


PLAIN, IN_TRANSACTION, LAST = Work("a"), Work("b", transaction=True), Work("c")
WORKS = (PLAIN, IN_TRANSACTION, LAST)
NAMES = [work.name for work in WORKS]
"""Migrations of both kinds, in order."""


@dataclass(frozen=True)
class Left:
    """What instances have left in a database.

    Attributes:
        records: The names that are recorded, in order; each as often as it is.
        begun: How often the function of each migration made its first change, so that it stayed.
        ended: The same of the second.
        undo_begun, undo_ended: The same of the rollback of each.
        holder: The owner in the lock document; None where the lease is free.
    """

    records: list[str]
    begun: dict[str, int]
    ended: dict[str, int]
    undo_begun: dict[str, int]
    undo_ended: dict[str, int]
    holder: str | None


@contextlib.contextmanager
def prepared(uri: str, database: str, works: Iterable[Work]) -> Iterator[Any]:
    """A database with the documents that the migrations change; it is dropped in the end."""
    with MongoClient[dict[str, Any]](uri) as client:
        client[database].work.insert_many({"_id": work.name, **dict.fromkeys(COUNTERS, 0)} for work in works)
        yield client[database]
        client.drop_database(database)


def once(works: Iterable[Work]) -> Left:
    """What is left when every migration ran once."""
    counts = {work.name: 1 for work in works}
    never = dict.fromkeys(counts, 0)
    return Left(sorted(counts), begun=counts, ended=counts, undo_begun=never, undo_ended=never, holder=None)


def undone(works: Iterable[Work]) -> Left:
    """What is left when every migration ran once, and was then undone once."""
    applied = once(works)
    return replace(applied, records=[], undo_begun=applied.begun, undo_ended=applied.ended)


def left(db: Any) -> Left:
    """What there is in a database that was `prepared`."""
    work = list(db.work.find())
    return Left(
        records=sorted(record["name"] for record in db.app_migrations.find()),
        **{counter: {document["_id"]: document[counter] for document in work} for counter in COUNTERS},
        holder=(db.app_migrations_lock.find_one("lease") or {}).get("owner"),
    )


SIZE = 4
"""How many documents are in a batch of a backfill over `things`."""

BATCHES: list[list[object]] = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], ["a", "b", "c"]]
"""The batches of such a backfill, by `_id`."""

THINGS = [thing for batch in BATCHES for thing in batch]
"""The `_id`s of the documents that it goes over."""

OTHERS: list[object] = [5.5, "bb", "d"]
"""Those of documents of other kinds, among them and beyond."""

FILTER = {"kind": 1}
"""What it asks for."""


def stock(db: Any) -> None:
    """Put in what a backfill goes over, and documents that it leaves alone."""
    for kind, ids in ((1, THINGS), (2, OTHERS)):
        db.things.insert_many({"_id": one, "kind": kind} for one in ids)


@contextlib.contextmanager
def stocked(uri: str, database: str) -> Iterator[Any]:
    """A database that a backfill can go over; it is dropped in the end."""
    with MongoClient[dict[str, Any]](uri) as client:
        stock(client[database])
        yield client[database]
        client.drop_database(database)


def changes(
    db: Any, documents: Sequence[Any], meanwhile: Any = None, *, transaction: bool, prefix: str = ""
) -> Generator[Any, Any, None]:
    """What is done with a batch, written once for all drivers: it is logged, and then its documents are marked by this
    call. It yields each operation, and `meanwhile` between the two.

    Args:
        db: The database.
        documents: The batch.
        meanwhile: What is yielded there; None: nothing.
        transaction: It is part of one, so that it does not send an operation again that a fault has met.
        prefix: Of the log and of the field, for those of a rollback.
    """
    call = ObjectId()
    ids = [document["_id"] for document in documents]
    entry = {"ids": ids, "pid": os.getpid(), "at": time.monotonic_ns()}  # of a clock that all processes share
    # Sent once more, both are as they were: a call counts once, however often its writes had to be sent.
    yield from send(lambda: db[f"{prefix}log"].update_one({"_id": call}, {"$set": entry}, upsert=True), transaction)
    if meanwhile is not None:
        yield meanwhile
    marks = {"$addToSet": {f"{prefix}marks": call}}
    yield from send(lambda: db.things.update_many({"_id": {"$in": ids}}, marks), transaction)


def make_backfill(
    is_async: bool, way: Way, change: Callable[[Any, list[Any]], Generator[Any, Any, None]], **options: Any
) -> Callable[..., object]:
    """Make a function that goes over `things` this way. `change` says what is done with a batch, for every driver."""

    def body(db: Any, documents: list[Any]) -> None:
        run_body(change(db, documents))

    async def body_async(db: Any, documents: list[Any]) -> None:
        await run_body_async(change(db, documents))

    def function(db: Any, context: MigrationContext) -> None:
        if way == "loop":
            for documents in context.batches(db.things, **options):
                body(db, documents)
        else:
            context.for_each_batch(db.things, partial(body, db), transaction=way == "transaction", **options)

    async def function_async(db: Any, context: AsyncMigrationContext) -> None:
        if way == "loop":
            async for documents in context.batches(db.things, **options):
                await body_async(db, documents)
        else:
            body = partial(body_async, db)
            await context.for_each_batch(db.things, body, transaction=way == "transaction", **options)

    return function_async if is_async else function


def _can_be_repeated(error: PyMongoError) -> bool:
    """Whether a write that failed so may be sent again. Drivers do that once, and not at all on a connection that was
    made while its server stepped down.
    """
    return isinstance(error, AutoReconnect) or error.has_error_label("RetryableWriteError")


def send(operation: Any, transaction: bool) -> Generator[Any, Any, None]:
    """Yield a write, again if a fault met it; in a transaction that is for the library."""
    while True:
        try:
            yield operation()
        except PyMongoError as error:
            if transaction or not _can_be_repeated(error):
                raise
        else:
            return


@dataclass(frozen=True)
class Gone:
    """How far backfills over `things` have come.

    Attributes:
        records: The names of the migrations that are recorded.
        log: The batches that were handed over, by `_id`, in order; in transactions those that were committed.
        marks: How often each document was changed.
        kept: How many checkpoints there are.
    """

    records: list[str]
    log: list[list[object]]
    marks: dict[object, int]
    kept: int

    @property
    def again(self) -> list[list[object]]:
        """The batches that were handed over although they had been before."""
        return [batch for number, batch in enumerate(self.log) if batch in self.log[:number]]


def gone(db: Any, prefix: str = "") -> Gone:
    """What there is in a database that was `stocked`. The prefix is that of `changes`."""
    return Gone(
        records=sorted(record["name"] for record in db.app_migrations.find()),
        log=[entry["ids"] for entry in db[f"{prefix}log"].find().sort("at", 1)],
        marks={thing["_id"]: len(thing.get(f"{prefix}marks", ())) for thing in db.things.find()},
        kept=db.app_migrations_progress.count_documents({}),
    )


MARKED_ONCE: dict[object, int] = dict.fromkeys(THINGS, 1) | dict.fromkeys(OTHERS, 0)
"""`Gone.marks` where all is as it should be."""


def gone_once(*records: str) -> Gone:
    """What is left where a backfill handed over every batch once."""
    return Gone(list(records), log=BATCHES, marks=MARKED_ONCE, kept=0)


def check_gone(found: Gone, record: str, way: Way | None, disturbed: int) -> None:
    """Check that a backfill that was disturbed so often did all it had to, and no more than it may."""
    if way == "transaction":
        assert found == gone_once(record)
        return
    assert (found.records, found.kept) == ([record], 0), found
    assert [batch for number, batch in enumerate(found.log) if batch not in found.log[:number]] == BATCHES, found
    assert len(found.again) <= disturbed, found
    assert all(found.marks[thing] >= 1 for thing in THINGS), found
    assert sum(found.marks.values()) <= len(THINGS) + SIZE * disturbed, found
    assert not any(found.marks[other] for other in OTHERS), found
