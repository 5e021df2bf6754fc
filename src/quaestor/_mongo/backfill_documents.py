"""Between values and MongoDB's documents: checkpoints; and the queries of a backfill. Pure: no I/O here.

A checkpoint is `{_id: {migration, undo, backfill}, token, collection, fingerprint, bounds, start, batches, done, total,
collectionId, finished, updatedAt}`. `backfill` is the backfill's name; `fingerprint` is a digest of collection and
filter. `token` is the fencing token of the run that claimed it: a run with a lower token was frozen, and can neither
claim nor save it any more (Kleppmann, "How to do distributed locking", 2016).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC
from struct import unpack_from
from typing import Any

import bson
from bson.binary import Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.raw_bson import RawBSONDocument

from quaestor._core.checkpoint import Checkpoint, Origin, estimate
from quaestor.errors import InvalidOptionError
from quaestor.status import BackfillStatus

STATUS = {"bounds": 0, "start": 0}
"""Excludes the fields that `read_statuses` doesn't need: this run may not be able to decode them."""

ORIGIN = {"collection": 1, "fingerprint": 1, "collectionId": 1, "finished": 1}
"""The fields that `read_origin` needs."""

IDS: CodecOptions[Any] = CodecOptions(
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)
"""Decodes every `_id` so it's encoded to the same bytes, or (invalid UTF-8) not at all."""

_SHOWN: CodecOptions[Any] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
_STRICT: CodecOptions[Any] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME)
_PRIMARY, _SECONDARY = 1, 2  # states of a member of a replica set
_UNORDERED_CONDITIONS = {"$and", "$or", "$nor"}
_UNORDERED_VALUES = {"$in", "$nin", "$all"}
_CONDITION = {"$not", "$elemMatch"}


def make_fingerprint(namespace: str, filter: Mapping[str, Any], options: CodecOptions[Any]) -> str:  # noqa: A002
    """Make a digest of the collection and the filter. BSON refuses a filter that can't be sent to a server."""
    return hashlib.sha256(bson.encode({"namespace": namespace, "filter": filter}, codec_options=options)).hexdigest()


def sort_filter(filter: Mapping[str, Any], options: CodecOptions[Any]) -> dict[str, Any]:  # noqa: A002
    """Put a filter in an order of its own where order has no meaning, so two that mean the same are alike."""

    def sort(values: Iterable[Any]) -> list[Any]:
        return sorted(values, key=lambda value: bson.encode({"": value}, codec_options=options))

    def visit(key: str, value: Any) -> Any:
        if key in _UNORDERED_VALUES and isinstance(value, Sequence):
            return sort(value)
        if key in _UNORDERED_CONDITIONS and isinstance(value, Sequence):
            return sort(sort_filter(one, options) for one in value)
        # Any other document is a value, which is compared with its order.
        holds = key in _CONDITION or (
            key[:1] != "$" and isinstance(value, Mapping) and next(iter(value), "")[:1] == "$"
        )
        return sort_filter(value, options) if holds and isinstance(value, Mapping) else value

    return {key: visit(key, filter[key]) for key in sorted(filter)}


def match_checkpoints(
    migrations: Collection[str], token: int, *, undo: bool, backfill: str | None = None
) -> dict[str, Any]:
    """Match the checkpoints of migrations, or of their rollbacks, but not those of a later run."""
    matching = {"_id.migration": {"$in": list(migrations)}, "_id.undo": undo, "token": {"$lte": token}}
    return matching if backfill is None else matching | {"_id.backfill": backfill}


def make_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Make the fields of a document that `read_checkpoint` reads."""
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


def read_origin(document: Mapping[str, Any]) -> Origin:
    """Make a value of the fields of a checkpoint's document that don't hold `_id`s."""
    identity = None if document["collectionId"] is None else bytes(document["collectionId"])
    return Origin(document["collection"], document["fingerprint"], identity, document["finished"])


def find_documents(data: bytes) -> list[int]:
    """Find where each document of a stream begins, and where the last one ends."""
    places = [0]
    while places[-1] < len(data):
        places.append(places[-1] + unpack_from("<i", data, places[-1])[0])
    return places


def count_fitting(places: Sequence[int], size: int, max_bytes: int) -> int:
    """Count the documents of a stream that make a batch: one at least, if there is any."""
    return min(len(places) - 1, max(1, min(size, bisect_right(places, max_bytes) - 1)))


def read_id(document: bytes, *, is_lossy: bool = False) -> object:
    """Read the `_id` of a document, as it is stored.

    One that can't be stored as a checkpoint is refused, and one that the options of the collection, if lossy, change.
    """
    found = bson.decode(document, IDS)["_id"]
    try:
        encoded = bson.encode({"_id": found})
        if is_lossy:
            bson.decode(encoded, _STRICT)
    except (bson.InvalidBSON, UnicodeError) as error:
        raise InvalidOptionError(
            f"The `_id` {found!r:.80} doesn't survive the codec options of this collection, which change what they "
            "can't decode, so nothing finds its document again. Pass other options with "
            "`with_options(codec_options=...)`, or correct the `_id`."
        ) from error
    return found


def is_same_id(one: object, other: object) -> bool:
    """Say whether two `_id`s are the same, as they are stored. In Python, 1 and True are equal."""
    return bson.encode({"_id": one}) == bson.encode({"_id": other})


def show_id(value: object) -> str:
    """Write an `_id`, shortened."""
    return f"{bson.decode(bson.encode({'_id': value}), _SHOWN)['_id']!r:.80}"


def find_undecodable(raw: Iterable[bytes], options: CodecOptions[Any]) -> bytes | None:
    """Find the first document that can't be decoded."""
    for document in raw:
        try:
            bson.decode(document, options)
        except Exception:  # noqa: BLE001 - a decoder of the user's may raise anything
            return document
    return None


def read_statuses(documents: Iterable[Mapping[str, Any]]) -> dict[str, tuple[BackfillStatus, ...]]:
    """Make values of all checkpoints of a prefix, by migration, in the order in which they were saved."""
    statuses: dict[str, tuple[BackfillStatus, ...]] = {}
    for document in sorted(documents, key=lambda document: document["updatedAt"]):
        key, done, total = document["_id"], document["done"], document["total"]
        status = BackfillStatus(
            key["backfill"],
            document["collection"],
            done,
            estimate(done, total, is_end=document["finished"]),
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


def read_collection_id(reply: Mapping[str, Any]) -> bytes | None:
    """Read the collection's UUID from a reply to listCollections; b"": there is no such collection; None: it has none.

    A view and a time series are refused.
    """
    for found in reply["cursor"]["firstBatch"]:
        if found["type"] != "collection":
            raise InvalidOptionError(
                f"{found['name']!r} is a {found['type']}: a backfill needs a collection, where no `_id` occurs twice."
            )
        identity = found["info"].get("uuid")
        return None if identity is None else bytes(identity)
    return b""


def read_lag(reply: Mapping[str, Any], known: Collection[str]) -> float:
    """Read from a reply to replSetGetStatus how far the slowest secondary is behind the primary, in whole seconds.

    The driver knows some members, by "host:port": not hidden ones, which may be delayed. If it knows one alone, it is
    connected to it directly, and all count.
    """
    dates = {one["name"]: one["optimeDate"] for one in reply["members"] if one["state"] in {_PRIMARY, _SECONDARY}}
    behind = [date for name, date in dates.items() if len(known) == 1 or name.lower() in known]
    return float((max(dates.values()) - min(behind)).total_seconds()) if behind else 0.0


def _is_end(bound: object) -> bool:
    """Say whether the value is MinKey or MaxKey."""
    return isinstance(bound, MinKey | MaxKey)
