"""Between what is kept of a pass and the documents of MongoDB; and the queries of a pass. Pure: no I/O here.

A checkpoint is `{_id: {migration, undo, pass, number}, token, collection, bounds, start, batches, done, total,
collectionId, finished, updatedAt}`; `pass` is the fingerprint of what the pass goes over. The token is that of the run
whose it is: a run with a lower one was frozen, and can neither claim nor save it any more (Kleppmann, "How to do
distributed locking", 2016).
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC
from typing import Any

import bson
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.max_key import MaxKey
from bson.min_key import MinKey

from quaestor._core.checkpoint import Checkpoint, PassKey
from quaestor._core.pass_effects import ClaimCheckpoint
from quaestor.errors import InvalidOptionError
from quaestor.status import PassStatus

KEYS = {"finished": 1}
"""The fields that `finished` reads: none that a later pass might not be able to decode."""

STATUS = {"bounds": 0, "start": 0}
"""The fields that `statuses` does not read, likewise."""

_PRIMARY, _SECONDARY = 1, 2  # states of a member of a replica set


def fingerprint(namespace: str, filter: Mapping[str, Any], options: CodecOptions[Any]) -> str:  # noqa: A002 - the word
    """Differs where collection or filter do.

    Raises:
        bson.errors.InvalidDocument: The filter cannot be sent to a server.
    """
    return hashlib.sha256(bson.encode({"namespace": namespace, "filter": filter}, codec_options=options)).hexdigest()


def of_migration(migration: str, undo: bool) -> dict[str, Any]:  # noqa: FBT001 - it is data
    """The filter of the checkpoints of a migration, or of its rollback."""
    return {"_id.migration": migration, "_id.undo": undo}


def forgetting(migration: str, token: int, undo: bool) -> dict[str, Any]:  # noqa: FBT001 - it is data
    """Likewise, without those of a later run."""
    return of_migration(migration, undo) | {"token": {"$lte": token}}


def finished(documents: Iterable[Mapping[str, Any]]) -> dict[PassKey, bool]:
    """Which passes there are, and whether they are finished."""
    return {
        PassKey(key["migration"], key["undo"], key["pass"], key["number"]): document["finished"]
        for document in documents
        for key in [document["_id"]]
    }


def claim(effect: ClaimCheckpoint) -> dict[str, Any]:
    """The arguments of the find_one_and_update that makes a checkpoint this run's."""
    update: dict[str, Any] = {"$set": {"token": effect.token}}
    if effect.checkpoint is not None:
        update["$set"] |= {"collection": effect.name} | _fields(effect.checkpoint)
        update["$currentDate"] = {"updatedAt": True}
    later = {} if effect.by_force else {"token": {"$lte": effect.token}}
    return {
        "filter": {"_id": _id(effect.key)} | later,
        "update": update,
        "upsert": effect.checkpoint is not None,
        "return_document": True,
    }


def owned(key: PassKey, token: int) -> dict[str, Any]:
    """The filter of a checkpoint that is this run's."""
    return {"_id": _id(key), "token": token}


def saving(key: PassKey, checkpoint: Checkpoint, token: int) -> dict[str, Any]:
    """The arguments of the update_one that saves it."""
    update = {"$set": _fields(checkpoint), "$currentDate": {"updatedAt": True}}
    return {"filter": owned(key, token), "update": update}


def checkpoint(document: Mapping[str, Any]) -> Checkpoint:
    """The document of a checkpoint as a value."""
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


def statuses(documents: Iterable[Mapping[str, Any]]) -> dict[str, tuple[PassStatus, ...]]:
    """What all checkpoints of a prefix say, by the names of the migrations; the last to go on comes last."""
    found: dict[str, tuple[PassStatus, ...]] = {}
    for document in sorted(documents, key=lambda one: one["updatedAt"]):
        key, done, total = document["_id"], document["done"], document["total"]
        status = PassStatus(
            document["collection"],
            done,
            None if total is None else max(done, total),
            document["finished"],
            document["updatedAt"].replace(tzinfo=UTC),
            key["undo"],
        )
        found[key["migration"]] = (*found.get(key["migration"], ()), status)
    return found


def of_other_types(bounds: Iterable[object]) -> dict[str, Any]:
    """The filter of the documents whose `_id` is in none of the types that have these as their highest.

    Nor above them: what is inserted between two such queries is of a type that is known.
    """
    # An $and of $not: the server looks these up in the index, but not a $nor, though it means the same.
    conditions = [
        {"_id": {"$not": side}}
        for bound in bounds
        for side in ([{"$eq": bound}] if _is_end(bound) else [{"$lte": bound}, {"$gte": bound}])
    ]
    return {"$and": conditions} if conditions else {}


def from_here(filter: Mapping[str, Any], here: Checkpoint) -> dict[str, Any]:  # noqa: A002 - PyMongo's word
    """The filter of what is left of the current type: a comparison in a query is one within the type of its operand."""
    bound = here.bounds[0]
    highest = {"$eq": bound} if _is_end(bound) else {"$lte": bound}
    rest = {"_id": highest | ({"$gte": here.start[0]} if here.start else {})}
    return {"$and": [filter, rest]} if filter else rest


def collection_id(reply: Mapping[str, Any]) -> bytes:
    """By what the server knows a collection, of its reply to listCollections; b"" if there is none.

    Raises:
        InvalidOptionError: It is a view, or a time series.
    """
    for found in reply["cursor"]["firstBatch"]:
        if found["type"] != "collection":
            raise InvalidOptionError(
                f"{found['name']!r} is a {found['type']}: a pass needs a collection, in which no `_id` comes twice."
            )
        return bytes(found["info"]["uuid"])
    return b""


def sampled(filter: Mapping[str, Any], size: int) -> list[dict[str, Any]]:  # noqa: A002 - PyMongo's word
    """The pipeline that tells how many of so many random documents match."""
    return [{"$sample": {"size": size}}, {"$match": filter}, {"$count": "matching"}]


def lag(reply: Mapping[str, Any], known: Collection[str]) -> float:
    """How far the secondary that is most behind is behind the primary, in seconds, of a reply to replSetGetStatus.

    Args:
        reply: It dates members to the second.
        known: The members that the driver knows, "host:port": the hidden ones, which may be delayed, are not among
            these. With one alone it is connected to that directly, and all count.
    """
    dates = {one["name"]: one["optimeDate"] for one in reply["members"] if one["state"] in {_PRIMARY, _SECONDARY}}
    behind = [date for name, date in dates.items() if len(known) == 1 or name.lower() in known]
    return float((max(dates.values()) - min(behind)).total_seconds()) if behind else 0.0


def _id(key: PassKey) -> dict[str, Any]:
    return {"migration": key.migration, "undo": key.undo, "pass": key.fingerprint, "number": key.number}


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
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
    """Whether everything compares with it, and it is a type of its own."""
    return isinstance(bound, MinKey | MaxKey)
