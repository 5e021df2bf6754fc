"""Between values and documents of the history. Pure: no I/O here.

An entry is `{what, name, at, durationMs, run, host, user, release, quaestor, error: {type, message}, record}`, as far
as these are known. `record` is the record that was removed. `undo` is there if a rollback failed, `backfill` if one
was restarted.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, cast

from bson.objectid import ObjectId

from quaestor._core.lease import Author
from quaestor._core.store import HistoryFact
from quaestor._mongo.documents import (
    leave_out_unknown,
    make_author,
    make_aware,
    make_milliseconds,
    read_milliseconds,
    read_record,
    read_words,
)
from quaestor.status import Happening, HistoryEntry, MigrationRecord, RecordedError

MOST_FAILURES = 1000
"""How many failures of a migration are kept."""

LAST_FAILURES: list[dict[str, Any]] = [
    {"$match": {"what": {"$in": ["failed", "rolled_back", "marked_applied", "marked_pending"]}}},
    {"$sort": {"at": 1, "_id": 1}},
    {"$group": {"_id": "$name", "last": {"$last": "$$ROOT"}}},
    {"$match": {"last.what": "failed"}},
]
"""The pipeline that finds the last failure of each migration, if nothing else has happened to it since."""

_NEWEST_FIRST = [("at", -1), ("_id", -1)]


def make_entry(key: ObjectId, fact: HistoryFact, author: Author) -> dict[str, Any]:
    """Make the arguments of the update_one that writes an entry. The server sets the date."""
    fields = {
        "what": fact.what,
        "name": fact.name,
        "durationMs": make_milliseconds(fact.seconds),
        **make_author(author),
        "error": None if fact.error is None else {"type": fact.error.type, "message": fact.error.message},
        "record": None if fact.record is None else _make_removed(fact.record),
        "undo": fact.undo or None,
        "backfill": fact.backfill,
    }
    update = {"$set": leave_out_unknown(fields), "$currentDate": {"at": True}}
    return {"filter": {"_id": key}, "update": update, "upsert": True}


def find_entries(names: Collection[str] | None, limit: int | None) -> dict[str, Any]:
    """Make the arguments of the find that reads the history, newest first."""
    matching = {} if names is None else {"name": {"$in": list(names)}}
    return {"filter": matching, "sort": _NEWEST_FIRST, "limit": limit or 0}


def find_surplus(name: str) -> dict[str, Any]:
    """Make the arguments of the find_one that reads the first failure of a migration that is one too many."""
    return {"filter": _match_failures(name), "projection": ["_id"], "sort": [("_id", -1)], "skip": MOST_FAILURES}


def match_surplus(name: str, newest: ObjectId) -> dict[str, Any]:
    """Match the failures of a migration that are too many. All were written before the newest of them."""
    return _match_failures(name) | {"_id": {"$lte": newest}}


def read_entries(documents: Iterable[Mapping[str, Any]]) -> list[HistoryEntry]:
    """Make values of the entries, even if people or other releases have changed them."""
    return [_read_entry(document) for document in documents if type(document.get("what")) is str]


def _read_entry(document: Mapping[str, Any]) -> HistoryEntry:
    name, at, error, record = (document.get(field) for field in ("name", "at", "error", "record"))
    return HistoryEntry(
        what=cast("Happening", document["what"]),  # or one of a later release
        name=name if type(name) is str else None,
        at=make_aware(at) if isinstance(at, datetime) else None,
        duration_ms=read_milliseconds(document),
        **read_words(document, ("run", "host", "user", "release", "quaestor", "backfill")),
        error=RecordedError(str(error.get("type", "")), str(error.get("message", "")))
        if isinstance(error, Mapping)
        else None,
        record=read_record(record) if isinstance(record, Mapping) else None,
        undo=document.get("undo") is True,
    )


def _make_removed(record: MigrationRecord) -> dict[str, object]:
    fields = {
        "appliedAt": record.applied_at,
        "durationMs": record.duration_ms,
        "run": record.run,
        "host": record.host,
        "user": record.user,
        "release": record.release,
        "quaestor": record.quaestor,
        "checksum": record.checksum,
        "source": record.source,
    }
    return leave_out_unknown(fields)


def _match_failures(name: str) -> dict[str, Any]:
    return {"name": name, "what": "failed"}
