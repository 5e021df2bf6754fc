"""The migrations that instances run, and what they leave in a database."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pymongo import MongoClient

COUNTERS = ("begun", "ended", "undo_begun", "undo_ended")
"""The fields of a document that a migration and its rollback count up."""


@dataclass(frozen=True)
class Work:
    """A migration: it changes its document in `work`, works for some time, and changes the document once more. Its
    rollback does the same to other fields.

    Attributes:
        name: Also the document's `_id`.
        transaction, depends_on: As for `register`.
        seconds: How long it works.
        held: It waits for a line between the two changes, after having said `stopped`.
    """

    name: str
    transaction: bool = False
    depends_on: Sequence[str] = ()
    seconds: float = 0
    held: bool = False


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
        holder=(db.app_migrations_lock.find_one() or {}).get("owner"),
    )
