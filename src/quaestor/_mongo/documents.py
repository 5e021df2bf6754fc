"""Between values and MongoDB's documents: records and the lease. Pure: no I/O here.

A record is `{_id: name, name: name, appliedAt: now}`, and for people `durationMs, run, host, user, release, quaestor,
checksum, source`, as far as they are known. With the name as its `_id`, a second record of a migration is impossible
without another index. Records of mongo-quaestor 0.1.0 have an ObjectId there and may be duplicates, so only `name` says
what is applied. A run with `concurrency` adds `concurrent`, because its records have no order.

The lease is one document of the lock collection: `{_id: "lease", owner, token, beat, ttl, renewedAt, sessions,
previous}` and, for people, `host, pid, since, work, migrations, recording, upcoming`. While nobody holds it, only
`token`, `sessions` and, if a holder was ever replaced, `previous` are left.

A start mark is a document beside the lease: `{_id: {start: name}, owner, startedAt}`. Releases that don't know start
marks never read it.
A protected database has another document there: `{_id: "protection", label}`. The label alone is removed when the
protection ends, because users who migrate need no right to remove documents there.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bson.binary import UUID_SUBTYPE, Binary

from quaestor._core.lease import LONGEST_TTL, Author, LeaseState, Location
from quaestor._core.plan import Records, StartMark
from quaestor._core.store import RecordEntry
from quaestor.status import DEFAULT_TTL, Lease, MigrationRecord

PROJECTION = {"name": 1, "appliedAt": 1}
"""The fields of a record that a plan needs, besides `_id`."""

_WORDS = ("run", "host", "user", "release", "quaestor", "checksum", "source")
DETAILS = PROJECTION | dict.fromkeys(("durationMs", *_WORDS, "concurrent"), 1)
"""All fields of a record."""

READING: dict[str, Any] = {
    "batch_size": 2**31 - 1,  # as many as fit in the 16 MB of one reply, so that reading them all is one command
    "max_time_ms": 30_000,  # the majority that has to confirm them may be missing
}
"""The arguments of the find that reads the records, besides the projection."""


def read_records(documents: Iterable[Mapping[str, Any]], *, details: bool = False) -> Records:
    """Make a value of all records, with or without the details."""
    applied: dict[str, tuple[object, ...]] = {}
    unreadable: list[object] = []
    taken: set[str] = set()
    concurrent: dict[str, str] = {}
    newest: dict[str, MigrationRecord] = {}
    for document in documents:
        key, name = document["_id"], document.get("name")
        if type(name) is str:  # not bson's Code, which only Python takes for a str
            date = document.get("appliedAt")
            applied[name] = (*applied.get(name, ()), make_aware(date) if isinstance(date, datetime) else date)
            if details:
                record = read_record(document)
                if name not in newest or _is_newer(record, newest[name]):
                    newest[name] = record
                # Before there was `source`, only a concurrent run wrote `run`.
                if record.run is not None and (document.get("concurrent") is True or "source" not in document):
                    concurrent[name] = record.run
        else:
            unreadable.append(key)
        if type(key) is str and key != name:
            taken.add(key)
    return Records(applied, tuple(unreadable), frozenset(taken), concurrent, newest)


def make_record(
    name: str, applied_at: datetime, author: Author, entry: RecordEntry, *, is_concurrent: bool = False
) -> dict[str, object]:
    """Make the record of a migration. `applied_at` is an aware datetime in UTC."""
    return {"_id": name, "name": name, "appliedAt": applied_at} | leave_out_unknown(
        {
            "durationMs": make_milliseconds(entry.seconds),
            **make_author(author),
            "checksum": entry.checksum,
            "source": entry.source,
            "concurrent": is_concurrent or None,
        }
    )


def make_author(author: Author) -> dict[str, object]:
    """Make the fields that say who writes a record or an entry of the history."""
    return {
        "run": author.run,
        "host": author.host,
        "user": author.user,
        "release": author.release,
        "quaestor": author.quaestor,
    }


def make_milliseconds(seconds: float | None) -> int | None:
    """Make a duration as it is stored."""
    return None if seconds is None else round(seconds * 1000)


def leave_out_unknown(fields: Mapping[str, object]) -> dict[str, object]:
    """Leave out the fields that are None."""
    return {field: value for field, value in fields.items() if value is not None}


def read_record(document: Mapping[str, Any]) -> MigrationRecord:
    """Make a value of a record, even if people or other releases have changed it."""
    date = document.get("appliedAt")
    applied_at = make_aware(date) if isinstance(date, datetime) else None
    return MigrationRecord(applied_at, read_milliseconds(document), **read_words(document, _WORDS))


def read_milliseconds(document: Mapping[str, Any]) -> float | None:
    """Read a duration."""
    duration = document.get("durationMs")
    return duration if isinstance(duration, int | float) and math.isfinite(duration) else None


def read_words(document: Mapping[str, Any], fields: Iterable[str]) -> dict[str, str]:
    """Read those of the fields that are there, as text. bson's Code is a str for Python only, and unhashable."""
    return {field: value for field in fields if type(value := document.get(field)) is str}


def _is_newer(record: MigrationRecord, other: MigrationRecord) -> bool:
    return record.applied_at is not None and (other.applied_at is None or record.applied_at > other.applied_at)


def match_names(names: Collection[str]) -> dict[str, Any]:
    """Match the records of these migrations."""
    return {"name": {"$in": list(names)}}


def match_records(recorded: Mapping[str, Iterable[object]]) -> dict[str, Any]:
    """Match the records of migrations as they were read. A record written since doesn't match.

    By equality: the clock of the process that wrote it may be late.
    """
    matching = [{"name": name, "appliedAt": {"$in": list(dates)}} for name, dates in recorded.items()]
    return matching[0] if len(matching) == 1 else {"$or": matching}


LEASE = "lease"
"""The `_id` of the lease document in the lock collection."""

PROTECTION = "protection"
"""The `_id` of the document there that protects the database."""

LOCK_AND_CLOCK: list[dict[str, Any]] = [{"$addFields": {"now": "$$NOW"}}]
"""The pipeline that reads the lock collection and the server's clock. Some servers that imitate MongoDB refuse it."""

_ID_SIZE = 16  # bytes of the UUID in a session id
_HOLDER = ("owner", "host", "pid", "work", "migrations", "recording", "upcoming", "since", "beat", "ttl", "renewedAt")


def make_acquisition(
    holder: Mapping[str, object], ttl: float, sessions: Iterable[bytes], dead: Lease | None
) -> dict[str, Any]:
    """Make the arguments of the find_one_and_update that acquires the lease. The token rises only here.

    While somebody else holds it, an upsert without a dead holder is a duplicate key. `holder` has the fields that say
    who acquires it.
    """
    fields = {**holder, "beat": 0, "ttl": ttl} | ({} if dead is None else {"previous": dead.owner})
    update = {
        "$set": fields,
        "$inc": {"token": 1},
        "$currentDate": {"since": True, "renewedAt": True},
        # The sessions of a dead holder stay until somebody has killed them on the server.
        "$addToSet": {"sessions": {"$each": make_lsids(sessions)}},
    }
    held = {"owner": {"$exists": False}} if dead is None else _match(dead) | {"beat": dead.beat}
    return {"filter": {"_id": LEASE, **held}, "update": update, "upsert": dead is None, "return_document": True}


def make_renewal(lease: Lease, location: Location | None, sessions: Iterable[bytes]) -> dict[str, Any]:
    """Make the arguments of the update_one that renews the lease, however long ago it was renewed last."""
    update: dict[str, Any] = {"$inc": {"beat": 1}, "$currentDate": {"renewedAt": True}}
    if location is not None:
        names = {"migrations": list(location.migrations), "upcoming": list(location.upcoming)}
        update["$set"] = names | {"recording": location.recording}
    if sessions:  # added, because concurrent backfills add theirs
        update["$addToSet"] = {"sessions": {"$each": make_lsids(sessions)}}
    return {"filter": {"_id": LEASE, **_match(lease)}, "update": update}


def make_release(owner: str, sessions: Iterable[bytes]) -> dict[str, Any]:
    """Make the arguments of the update_one that releases the lease of this owner.

    The token stays, to rise with the next holder, and so do the sessions of others that nobody has killed yet.
    """
    update = {"$unset": dict.fromkeys(_HOLDER, ""), "$pullAll": {"sessions": make_lsids(sessions)}}
    return {"filter": {"_id": LEASE, "owner": owner}, "update": update}


def make_expiry() -> dict[str, Any]:
    """Make the arguments of the find_one_and_update that makes the lease expire, and returns its holder.

    The rest stays as a killed holder leaves it: the next one kills the transactions that are open.
    """
    return {"filter": {"_id": LEASE, "owner": {"$exists": True}}, "update": {"$rename": {"owner": "previous"}}}


def make_start_mark(name: str, owner: str, known: StartMark | None) -> dict[str, Any]:
    """Make the arguments of the update_one that marks the start. A mark of another owner is a duplicate key."""
    update = {"$set": {"owner": owner}, "$currentDate": {"startedAt": True}}
    return {"filter": match_start_mark(name, owner, known), "update": update, "upsert": True}


def match_start_mark(name: str, owner: str, known: StartMark | None) -> dict[str, Any]:
    """Match the mark of a migration if it is this owner's or the known one, but not that of a later run."""
    owners = [owner] if known is None else [owner, known.owner]
    return {"_id": {"start": name}, "owner": {"$in": owners}}


def read_lock(documents: Iterable[Mapping[str, Any]]) -> LeaseState:
    """Make a value of the documents in the lock collection."""
    state, label, marks = LeaseState(), None, {}
    for document in documents:
        key = document["_id"]
        if key == LEASE:
            state = _read_lease_state(document)
        elif key == PROTECTION:
            label = document.get("label")
        elif isinstance(key, Mapping) and type(name := key.get("start")) is str:
            marks[name] = StartMark(document.get("owner"), _read_date(document.get("startedAt")))
    protected_as = None if label is None else str(label)  # whatever it is, somebody protects it
    return replace(state, marks=marks, protected_as=protected_as)


def _read_lease_state(document: Mapping[str, Any]) -> LeaseState:
    if "owner" in document:
        return LeaseState(holder=read_lease(document))
    if "migrations" in document and "previous" in document:  # it was made to expire
        return LeaseState(expired=read_lease({**document, "owner": document["previous"]}))
    return LeaseState()


def make_protection(label: str | None) -> dict[str, Any]:
    """Make the arguments of the update_one that protects the database under this label, or no longer."""
    update = {"$unset": {"label": ""}} if label is None else {"$set": {"label": label}}
    return {"filter": {"_id": PROTECTION}, "update": update, "upsert": label is not None}


def read_lease(document: Mapping[str, Any]) -> Lease:
    """Make a value of the document of a lease that somebody holds, even if people or other releases have changed it."""
    ttl: Any = document.get("ttl")
    beat: Any = document.get("beat")  # None if it is missing, as in a filter
    work, sessions = document.get("work"), document.get("sessions")
    is_usable = isinstance(ttl, int | float) and 0 <= ttl <= LONGEST_TTL
    return Lease(
        owner=document["owner"],
        token=document.get("token", 0),
        host=document.get("host", "?"),
        pid=document.get("pid", 0),
        since=_read_date(document.get("since")),
        beat=beat,
        ttl=ttl if is_usable else DEFAULT_TTL,
        renewed_at=_read_date(document.get("renewedAt")),
        migrations=tuple(document.get("migrations", ())),
        sessions=tuple(
            bytes(lsid["id"]) + bytes(lsid["uid"])
            for lsid in (sessions if isinstance(sessions, list) else [])
            if isinstance(lsid, Mapping) and {"id", "uid"} <= lsid.keys()
        ),
        previous=document.get("previous"),
        work=work if work in {"run", "rollback", "mark"} else "run",
        recording=document.get("recording"),
        upcoming=tuple(document.get("upcoming", ())),
    )


def _read_date(date: object) -> datetime:
    return make_aware(date) if isinstance(date, datetime) else datetime(1970, 1, 1, tzinfo=UTC)


def _match(lease: Lease) -> dict[str, object]:
    return {"owner": lease.owner, "token": lease.token}


NOBODY: Mapping[str, Any] = {"authInfo": {"authenticatedUsers": []}}
"""Used as the reply to `connectionStatus` if it is refused: then only users who may kill any session can kill this."""


def make_session_id(lsid: Mapping[str, Any], connection_status: Mapping[str, Any]) -> bytes:
    """Make a server-side session id: the lsid and the SHA-256 of its user."""
    users = [f"{user['user']}@{user['db']}" for user in connection_status["authInfo"]["authenticatedUsers"]]
    return bytes(lsid["id"]) + hashlib.sha256("".join(users[:1]).encode()).digest()


def make_lsids(sessions: Iterable[bytes]) -> list[dict[str, Binary]]:
    """Make the session ids that `killSessions` takes.

    Without the user, the server takes each session for the caller's, and silently kills nothing if it isn't.
    """
    return [{"id": Binary(session[:_ID_SIZE], UUID_SUBTYPE), "uid": Binary(session[_ID_SIZE:])} for session in sessions]


def make_aware(date: datetime) -> datetime:
    """Make an aware date of a naive one in UTC, as the drivers read them."""
    return date.replace(tzinfo=UTC)
