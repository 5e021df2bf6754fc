"""Checkpoints as documents, and the queries of a backfill."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument

from quaestor import BackfillStatus
from quaestor._core.checkpoint import Checkpoint
from quaestor._mongo import backfill_documents as documents
from quaestor.errors import InvalidOptionError

NOW = datetime(2026, 1, 1, tzinfo=UTC)

PRIMARY, SECONDARY, STARTUP, ARBITER, DOWN = 1, 2, 5, 7, 8


def reply(*members: tuple[str, int, float]) -> dict[str, Any]:
    """A reply to replSetGetStatus: the name of each member, its state, and how far it is behind, in seconds."""
    return {
        "members": [
            {"name": name, "state": state, "optimeDate": NOW - timedelta(seconds=behind)}
            for name, state, behind in members
        ]
    }


@pytest.mark.parametrize(
    ("members", "lag"),
    [
        ([("a:1", PRIMARY, 0)], 0.0),
        ([("a:1", PRIMARY, 0), ("b:1", SECONDARY, 3), ("c:1", SECONDARY, 7)], 7.0),
        ([("a:1", PRIMARY, 2), ("b:1", SECONDARY, 0), ("c:1", SECONDARY, 1)], 2.0),
        ([("a:1", PRIMARY, 0), ("B:1", SECONDARY, 3)], 3.0),
        ([("a:1", PRIMARY, 0), ("hidden:1", SECONDARY, 3600), ("b:1", SECONDARY, 1)], 1.0),
        ([("a:1", PRIMARY, 0), ("b:1", STARTUP, 50), ("c:1", DOWN, 10**9), ("d:1", ARBITER, 10**9)], 0.0),
        ([], 0.0),
    ],
)
def test_lag(members: list[tuple[str, int, float]], lag: float) -> None:
    """The lag is that of the slowest member; those that don't replicate, or are hidden, don't count."""
    assert documents.read_lag(reply(*members), ["a:1", "b:1", "c:1", "d:1"]) == lag


def test_lag_with_a_direct_connection() -> None:
    """A driver that knows one member only doesn't know which are hidden: all count."""
    members = [("a:1", PRIMARY, 0.0), ("hidden:1", SECONDARY, 3600.0)]
    assert documents.read_lag(reply(*members), ["elsewhere:1"]) == 3600.0


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(),
        Checkpoint((None, 7, "x"), (None,), 3, 30, 100, uuid.UUID(int=7).bytes),
        Checkpoint(({"a": 1},), (), 3, 30, None, None, finished=True),
    ],
)
def test_checkpoint(checkpoint: Checkpoint) -> None:
    """A checkpoint survives the way to a server and back."""
    document = documents.make_fields(checkpoint)
    assert documents.read_checkpoint(document) == checkpoint
    assert documents.read_checkpoint(bson.decode(bson.encode(document))) == checkpoint


def test_statuses() -> None:
    """A status has the backfills of each migration, the last one updated last, dated in UTC."""

    def document(migration: str, name: str, seconds: int, done: int) -> dict[str, Any]:
        return {
            "_id": {"migration": migration, "undo": False, "backfill": name},
            "token": 7,
            "collection": "things",
            "batches": 1,
            "done": done,
            "total": 9,
            "collectionId": None,
            "finished": done == 9,
            "updatedAt": NOW.replace(tzinfo=None) + timedelta(seconds=seconds),
        }

    def status(name: str, seconds: int, done: int) -> BackfillStatus:
        return BackfillStatus(name, "things", done, 9, done == 9, NOW + timedelta(seconds=seconds), undo=False)

    stored = [document("a", "y", 5, 4), document("b", "x", 3, 1), document("a", "x", 2, 9)]
    assert documents.read_statuses(stored) == {"a": (status("x", 2, 9), status("y", 5, 4)), "b": (status("x", 3, 1),)}
    assert documents.read_statuses([]) == {}
    (backfill,) = documents.read_statuses([document("a", "x", 1, 12)])["a"]
    assert (backfill.done, backfill.total) == (12, None)  # the total was an estimate


def test_fingerprint() -> None:
    """It differs where collection or filter do, if only in the order of conditions; a bad filter is refused."""
    options: CodecOptions[Any] = CodecOptions()
    filters: list[dict[str, Any]] = [{}, {"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": 1, "b": 2}, {"b": 2, "a": 1}]
    seen = {documents.make_fingerprint(name, one, options) for name in ("db.a", "db.b") for one in filters}
    assert len(seen) == 2 * len(filters)
    assert documents.make_fingerprint("db.a", {"a": 1}, options) in seen
    with pytest.raises(InvalidDocument):
        documents.make_fingerprint("db.a", {"a": object()}, options)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": {"$gt": 1, "$lt": 3}}, {"a": {"$lt": 3, "$gt": 1}}, True),
        ({"a": {"$in": [1, "x", None]}}, {"a": {"$in": [None, 1, "x"]}}, True),
        ({"a": {"$nin": [1, 2]}}, {"a": {"$nin": (2, 1)}}, True),
        (
            {"a": {"$all": [1, {"$elemMatch": {"b": 1, "c": 2}}]}},
            {"a": {"$all": [{"$elemMatch": {"b": 1, "c": 2}}, 1]}},
            True,
        ),
        ({"a": {"$not": {"$in": [1, 2]}}}, {"a": {"$not": {"$in": [2, 1]}}}, True),
        (
            {"a": {"$elemMatch": {"b": 1, "c": {"$in": [1, 2]}}}},
            {"a": {"$elemMatch": {"c": {"$in": [2, 1]}, "b": 1}}},
            True,
        ),
        (
            {"$and": [{"a": 1}, {"$or": [{"b": 1}, {"c": 1}]}]},
            {"$and": [{"$or": [{"c": 1}, {"b": 1}]}, {"a": 1}]},
            True,
        ),
        ({"$nor": [{"a": 1, "b": 1}, {"c": 1}]}, {"$nor": [{"c": 1}, {"b": 1, "a": 1}]}, True),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, False),
        ({"a": {"$eq": {"x": 1, "y": 2}}}, {"a": {"$eq": {"y": 2, "x": 1}}}, False),
        ({"a": {"$in": [{"x": 1, "y": 2}]}}, {"a": {"$in": [{"y": 2, "x": 1}]}}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"$expr": {"$in": ["$a", [1, 2]]}}, {"$expr": {"$in": ["$a", [2, 1]]}}, False),
        ({"a": {"$in": [1, 2]}}, {"a": {"$in": [1, 3]}}, False),
        ({"a": {"$in": [1]}}, {"a": {"$nin": [1]}}, False),
        ({"a": {"$in": [True]}}, {"a": {"$in": [1]}}, False),
    ],
)
def test_sorted_filter(one: dict[str, Any], other: dict[str, Any], is_same: bool) -> None:
    """Filters that differ in an order without meaning are alike; a document that is compared keeps its order."""
    options: CodecOptions[Any] = CodecOptions()
    sorted_one, sorted_other = (bson.encode(documents.sort_filter(each, options)) for each in (one, other))
    assert (sorted_one == sorted_other) is is_same


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (1, 1, True),
        ("a", "a", True),
        ({"a": 1}, {"a": 1}, True),
        (1, True, False),
        (0, False, False),
        (1.5, "1.5", False),
    ],
)
def test_same_ids(one: object, other: object, is_same: bool) -> None:
    """`_id`s are compared as they are stored: 1 and True are equal in Python, and not in MongoDB."""
    assert documents.is_same_id(one, other) is is_same


@pytest.mark.parametrize(
    ("size", "most", "count"), [(9, 100, 3), (2, 100, 2), (9, 27, 1), (9, 28, 2), (9, 1, 1), (1, 1, 1)]
)
def test_fitting(size: int, most: int, count: int) -> None:
    """As many documents make a batch as its size and bytes allow, and one at least."""
    data = b"".join(bson.encode({"_id": number}) for number in range(3))
    places = documents.find_documents(data)
    assert places == [0, 14, 28, 42]
    assert documents.count_fitting(places, size, most) == count
    assert documents.count_fitting([0], size, most) == 0


def test_collection_id() -> None:
    """A collection has a UUID; a missing one has none, which is known too."""
    known = uuid.UUID(int=7)
    assert documents.read_collection_id(listed("collection", uuid=Binary.from_uuid(known))) == known.bytes
    assert documents.read_collection_id({"cursor": {"firstBatch": []}}) == b""


@pytest.mark.parametrize(("kind", "info"), [("view", {"readOnly": True}), ("timeseries", {"readOnly": False})])
def test_view(kind: str, info: dict[str, Any]) -> None:
    """In a view or a time series an `_id` may come twice, so a backfill over one is refused."""
    with pytest.raises(InvalidOptionError, match=kind):
        documents.read_collection_id(listed(kind, **info))


def listed(kind: str, **info: object) -> dict[str, Any]:
    """A reply to listCollections."""
    return {"cursor": {"firstBatch": [{"name": "things", "type": kind, "info": info}]}}
