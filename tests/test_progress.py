"""What is kept of a pass as documents, and the queries of a pass."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from bson.max_key import MaxKey
from bson.min_key import MinKey

from quaestor import PassStatus
from quaestor._core.checkpoint import Checkpoint, PassKey
from quaestor._core.pass_effects import ClaimCheckpoint
from quaestor._mongo import progress
from quaestor.errors import InvalidOptionError

KEY = PassKey("a", undo=True, fingerprint="f", number=2)
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
    """How far the one that is most behind is behind; who does not replicate, or is hidden, does not count."""
    assert progress.lag(reply(*members), ["a:1", "b:1", "c:1", "d:1"]) == lag


def test_lag_by_a_direct_connection() -> None:
    """A driver that knows one member alone does not know which are hidden: all count."""
    members = [("a:1", PRIMARY, 0.0), ("hidden:1", SECONDARY, 3600.0)]
    assert progress.lag(reply(*members), ["elsewhere:1"]) == 3600.0


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(),
        Checkpoint((None, 7, "x"), (None,), 3, 30, 100, uuid.UUID(int=7).bytes),
        Checkpoint(({"a": 1},), (), 3, 30, None, None, finished=True),
    ],
)
def test_checkpoint(checkpoint: Checkpoint) -> None:
    """A checkpoint comes back from its document as it was, also where it was sent to a server."""
    document = progress.saving(KEY, checkpoint, 7)["update"]["$set"]
    assert progress.checkpoint(document) == checkpoint
    assert progress.checkpoint(bson.decode(bson.encode(document))) == checkpoint


def test_claim() -> None:
    """A claim matches what is no later run's, unless by force, and writes a checkpoint where it is given one."""
    identity = {"migration": "a", "undo": True, "pass": "f", "number": 2}

    found = progress.claim(ClaimCheckpoint(KEY, "things", None, 7))
    assert found["filter"] == {"_id": identity, "token": {"$lte": 7}}
    assert (found["update"], found["upsert"]) == ({"$set": {"token": 7}}, False)

    fresh = Checkpoint((1,), total=4, collection_id=b"u" * 16)
    made = progress.claim(ClaimCheckpoint(KEY, "things", fresh, 7))
    assert made["filter"] == found["filter"]
    assert made["upsert"] is True
    assert made["update"] == {
        "$set": {
            "token": 7,
            "collection": "things",
            "bounds": [1],
            "start": [],
            "batches": 0,
            "done": 0,
            "total": 4,
            "collectionId": Binary(b"u" * 16),
            "finished": False,
        },
        "$currentDate": {"updatedAt": True},
    }
    assert "$setOnInsert" not in made["update"]
    for claimed, checkpoint in ((found, None), (made, fresh)):
        forced = progress.claim(ClaimCheckpoint(KEY, "things", checkpoint, 7, by_force=True))
        assert forced == claimed | {"filter": {"_id": identity}}
    assert progress.owned(KEY, 7) == {"_id": identity, "token": 7}


def test_finished() -> None:
    """The passes of a migration are known again by their documents."""
    documents = [
        {"_id": {"migration": "a", "undo": True, "pass": "f", "number": 2}, "finished": False},
        {"_id": {"migration": "a", "undo": False, "pass": "g", "number": 0}, "finished": True},
    ]
    assert progress.finished(documents) == {KEY: False, PassKey("a", undo=False, fingerprint="g", number=0): True}


def test_of_migration() -> None:
    """What is forgotten is of a migration or its rollback, and never a later run's."""
    assert progress.of_migration("a", undo=True) == {"_id.migration": "a", "_id.undo": True}
    assert progress.forgetting("a", 7, undo=False) == {"_id.migration": "a", "_id.undo": False, "token": {"$lte": 7}}


def test_statuses() -> None:
    """A status has the passes of each migration, the last one to go on last, dated in UTC."""

    def document(migration: str, number: int, seconds: int, done: int) -> dict[str, Any]:
        return {
            "_id": {"migration": migration, "undo": False, "pass": "f", "number": number},
            "token": 7,
            "collection": "things",
            "batches": 1,
            "done": done,
            "total": 9,
            "collectionId": None,
            "finished": done == 9,
            "updatedAt": NOW.replace(tzinfo=None) + timedelta(seconds=seconds),
        }

    def status(seconds: int, done: int) -> PassStatus:
        return PassStatus("things", done, 9, done == 9, NOW + timedelta(seconds=seconds), undo=False)

    documents = [document("a", 1, 5, 4), document("b", 0, 3, 1), document("a", 0, 2, 9)]
    assert progress.statuses(documents) == {"a": (status(2, 9), status(5, 4)), "b": (status(3, 1),)}
    assert progress.statuses([]) == {}
    (passed,) = progress.statuses([document("a", 0, 1, 12)])["a"]
    assert (passed.done, passed.total) == (12, 12)  # the total was an estimate


def test_fingerprint() -> None:
    """It differs where collection or filter do, if only in the order of conditions; what cannot be sent is refused."""
    options: CodecOptions[Any] = CodecOptions()
    filters: list[dict[str, Any]] = [{}, {"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": 1, "b": 2}, {"b": 2, "a": 1}]
    seen = {progress.fingerprint(name, one, options) for name in ("db.a", "db.b") for one in filters}
    assert len(seen) == 2 * len(filters)
    assert progress.fingerprint("db.a", {"a": 1}, options) in seen
    with pytest.raises(InvalidDocument):
        progress.fingerprint("db.a", {"a": object()}, options)


def test_queries() -> None:
    """What is left of the current type begins at the checkpoint and ends at its bound, and the filter holds as well;
    MinKey and MaxKey are types of one value.
    """
    assert progress.from_here({}, Checkpoint((7, "x"))) == {"_id": {"$lte": 7}}
    assert progress.from_here({}, Checkpoint((None,), (None,))) == {"_id": {"$lte": None, "$gte": None}}
    assert progress.from_here({"_id": {"$ne": 3}}, Checkpoint((7,), (2,))) == {
        "$and": [{"_id": {"$ne": 3}}, {"_id": {"$lte": 7, "$gte": 2}}]
    }
    assert progress.from_here({}, Checkpoint((MaxKey(),))) == {"_id": {"$eq": MaxKey()}}
    assert progress.of_other_types([]) == {}
    assert progress.of_other_types([MinKey(), 7]) == {
        "$and": [{"_id": {"$not": {"$eq": MinKey()}}}, {"_id": {"$not": {"$lte": 7}}}, {"_id": {"$not": {"$gte": 7}}}]
    }
    assert progress.sampled({"a": 1}, 10) == [{"$sample": {"size": 10}}, {"$match": {"a": 1}}, {"$count": "matching"}]


def test_collection_id() -> None:
    """By what the server knows a collection; what is not there has nothing, which is known too."""
    known = uuid.UUID(int=7)
    assert progress.collection_id(listed("collection", uuid=Binary.from_uuid(known))) == known.bytes
    assert progress.collection_id({"cursor": {"firstBatch": []}}) == b""


@pytest.mark.parametrize(("kind", "info"), [("view", {"readOnly": True}), ("timeseries", {"readOnly": False})])
def test_no_collection(kind: str, info: dict[str, Any]) -> None:
    """In a view, or a time series, an `_id` may come twice: a pass over one is refused, with its name and kind."""
    with pytest.raises(InvalidOptionError, match=f"^'things' is a {kind}"):
        progress.collection_id(listed(kind, **info))


def listed(kind: str, **info: object) -> dict[str, Any]:
    """A reply to listCollections."""
    return {"cursor": {"firstBatch": [{"name": "things", "type": kind, "info": info}]}}
