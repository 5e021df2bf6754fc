"""Between values and MongoDB's documents: checkpoints; and the queries of a backfill. Pure: no I/O here.

A checkpoint is `{_id: {migration, undo, backfill}, token, collection, fingerprint, bounds, start, batches, done, total,
collectionId, finished, updatedAt}`. `backfill` is the backfill's name; `fingerprint` is a digest of collection and
filter. `token` is the fencing token of the run that claimed it: a run with a lower token was frozen, and can neither
claim nor save it any more (Kleppmann, "How to do distributed locking", 2016).
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import bson
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.max_key import MaxKey
from bson.min_key import MinKey

from quaestor._core.checkpoint import Checkpoint
from quaestor.errors import InvalidOptionError
from quaestor.status import BackfillStatus

STATUS = {"bounds": 0, "start": 0}
"""Excludes the fields that `read_statuses` doesn't need: this run may not be able to decode them."""

_PRIMARY, _SECONDARY = 1, 2  # states of a member of a replica set


@dataclass(frozen=True, slots=True)
class CheckpointKey:
    """The key of a checkpoint: a migration or its rollback, and the name of its backfill."""

    migration: str
    undo: bool
    backfill: str

    @property
    def document_id(self) -> dict[str, Any]:
        """The `_id` of the document."""
        return {"migration": self.migration, "undo": self.undo, "backfill": self.backfill}


def make_fingerprint(namespace: str, filter: Mapping[str, Any], options: CodecOptions[Any]) -> str:  # noqa: A002
    """Make a digest of the collection and the filter.

    Raises:
        bson.errors.InvalidDocument: The filter can't be sent to a server.
    """
    return hashlib.sha256(bson.encode({"namespace": namespace, "filter": filter}, codec_options=options)).hexdigest()


def match_checkpoints(migration: str, token: int, *, undo: bool) -> dict[str, Any]:
    """Match the checkpoints of a migration, or of its rollback, but not those of a later run."""
    return {"_id.migration": migration, "_id.undo": undo, "token": {"$lte": token}}


def match_claimed(key: CheckpointKey, token: int) -> dict[str, Any]:
    """Match a checkpoint that the run with this token has claimed."""
    return {"_id": key.document_id, "token": token}


def make_claim(
    key: CheckpointKey, fields: Mapping[str, Any], checkpoint: Checkpoint | None, token: int, *, force: bool
) -> dict[str, Any]:
    """Make the arguments of the find_one_and_update that claims a checkpoint.

    Args:
        key: The checkpoint's key.
        fields: Further fields of the document, if the checkpoint is written.
        checkpoint: Replaces the stored checkpoint; None: keep that.
        token: The token of the run that claims it.
        force: Claim it from a run with a higher token too.
    """
    update: dict[str, Any] = {"$set": {"token": token}}
    if checkpoint is not None:
        update["$set"] |= {**fields, **_make_fields(checkpoint)}
        update["$currentDate"] = {"updatedAt": True}
    return {
        "filter": {"_id": key.document_id} | ({} if force else {"token": {"$lte": token}}),
        "update": update,
        "upsert": checkpoint is not None,
        "return_document": True,
    }


def make_save(key: CheckpointKey, checkpoint: Checkpoint, token: int) -> dict[str, Any]:
    """Make the arguments of the update_one that saves a claimed checkpoint."""
    update = {"$set": _make_fields(checkpoint), "$currentDate": {"updatedAt": True}}
    return {"filter": match_claimed(key, token), "update": update}


def read_checkpoint(document: Mapping[str, Any]) -> Checkpoint:
    """Make a value of a checkpoint's document."""
    identity = document["collectionId"]
    return Checkpoint(
        bounds=tuple(document["bounds"]),
        start=tuple(document["start"]),
        batches=document["batches"],
        done=document["done"],
        total=document["total"],
        collection_id=None if identity is None else bytes(identity),
        finished=document["finished"],
    )


def read_statuses(documents: Iterable[Mapping[str, Any]]) -> dict[str, tuple[BackfillStatus, ...]]:
    """Make values of all checkpoints of a prefix, by migration, in the order in which they were saved."""
    statuses: dict[str, tuple[BackfillStatus, ...]] = {}
    for document in sorted(documents, key=lambda document: document["updatedAt"]):
        key, done, total = document["_id"], document["done"], document["total"]
        status = BackfillStatus(
            key["backfill"],
            document["collection"],
            done,
            None if total is None else max(done, total),
            document["finished"],
            document["updatedAt"].replace(tzinfo=UTC),
            key["undo"],
        )
        statuses[key["migration"]] = (*statuses.get(key["migration"], ()), status)
    return statuses


def match_other_types(bounds: Iterable[object]) -> dict[str, Any]:
    """Match the documents whose `_id` is of none of these types.

    A higher `_id` of one of these types doesn't match either: it may have been inserted between two such queries.
    """
    # An $and of $not: the server looks these up in the index, but not a $nor, though it means the same.
    conditions = [
        {"_id": {"$not": side}}
        for bound in bounds
        for side in ([{"$eq": bound}] if _is_end(bound) else [{"$lte": bound}, {"$gte": bound}])
    ]
    return {"$and": conditions} if conditions else {}


def match_rest(filter: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:  # noqa: A002 - PyMongo's word
    """Match the rest of the current type: a comparison in a query only matches values of its operand's type."""
    bound = checkpoint.bounds[0]
    highest = {"$eq": bound} if _is_end(bound) else {"$lte": bound}
    rest = {"_id": highest | ({"$gte": checkpoint.start[0]} if checkpoint.start else {})}
    return {"$and": [filter, rest]} if filter else rest


def read_collection_id(reply: Mapping[str, Any]) -> bytes:
    """Read the collection's UUID from a reply to listCollections; b"": there is no such collection.

    Raises:
        InvalidOptionError: It is a view or a time series.
    """
    for found in reply["cursor"]["firstBatch"]:
        if found["type"] != "collection":
            raise InvalidOptionError(
                f"{found['name']!r} is a {found['type']}: a backfill needs a collection, where no `_id` occurs twice."
            )
        return bytes(found["info"]["uuid"])
    return b""


def make_sample(filter: Mapping[str, Any], size: int) -> list[dict[str, Any]]:  # noqa: A002 - PyMongo's word
    """Make the pipeline that counts the matching documents among so many random ones."""
    return [{"$sample": {"size": size}}, {"$match": filter}, {"$count": "matching"}]


def read_lag(reply: Mapping[str, Any], known: Collection[str]) -> float:
    """Read from a reply to replSetGetStatus how far the slowest secondary is behind the primary, in seconds.

    Args:
        reply: It dates members to the second.
        known: The members that the driver knows, "host:port". Hidden members, which may be delayed, aren't among them.
            If there is one alone, the driver is connected to it directly, and all count.
    """
    dates = {one["name"]: one["optimeDate"] for one in reply["members"] if one["state"] in {_PRIMARY, _SECONDARY}}
    behind = [date for name, date in dates.items() if len(known) == 1 or name.lower() in known]
    return float((max(dates.values()) - min(behind)).total_seconds()) if behind else 0.0


def _make_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    identity = checkpoint.collection_id
    return {
        "bounds": list(checkpoint.bounds),
        "start": list(checkpoint.start),
        "batches": checkpoint.batches,
        "done": checkpoint.done,
        "total": checkpoint.total,
        "collectionId": None if identity is None else Binary(identity),
        "finished": checkpoint.finished,
    }


def _is_end(bound: object) -> bool:
    """Whether the value is MinKey or MaxKey."""
    return isinstance(bound, MinKey | MaxKey)
