"""Between values and MongoDB's documents: records and the lease. Pure: no I/O here.

A record is `{_id: name, name: name, appliedAt: now}`. With the name as its `_id`, a second record of a migration is
impossible without another index. Records of mongo-quaestor 0.1.0 have an ObjectId there and may be duplicates, so only
`name` says what is applied.

The lease is one document in a collection of its own: `{_id: "lease", owner, token, expiresAt, sessions, previous}` and,
for people, `host, pid, since, work, migrations, recording, upcoming`. While nobody holds it, only `token`, `sessions`
and `previous` are left.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from bson.binary import UUID_SUBTYPE, Binary

from quaestor._core.lease import LeaseState, Location
from quaestor._core.plan import Records
from quaestor.status import Lease

PROJECTION = {"name": 1, "appliedAt": 1}
"""The fields of a record that `read_records` needs, besides `_id`."""

READING: dict[str, Any] = {
    "projection": PROJECTION,
    "batch_size": 2**31 - 1,  # as many as fit in the 16 MB of one reply, so that reading them all is one command
    "max_time_ms": 30_000,  # the majority that has to confirm them may be missing
}
"""The arguments of the find that reads the records."""


def read_records(documents: Iterable[Mapping[str, Any]]) -> Records:
    """Make a value of all records."""
    applied: dict[str, tuple[object, ...]] = {}
    unreadable: list[object] = []
    taken: set[str] = set()
    for document in documents:
        key, name = document["_id"], document.get("name")
        if type(name) is str:  # not bson's Code, which only Python takes for a str
            date = document.get("appliedAt")
            applied[name] = (*applied.get(name, ()), _aware(date) if isinstance(date, datetime) else date)
        else:
            unreadable.append(key)
        if type(key) is str and key != name:
            taken.add(key)
    return Records(applied, tuple(unreadable), frozenset(taken))


def make_record(name: str, applied_at: datetime) -> dict[str, object]:
    """Make the record of a migration. `applied_at` is an aware datetime in UTC."""
    return {"_id": name, "name": name, "appliedAt": applied_at}


def match_records(name: str, recorded_at: Iterable[object]) -> dict[str, Any]:
    """Match the records of a migration as they were read. A record written since doesn't match.

    By equality: the clock of the process that wrote it may be late.
    """
    return {"name": name, "appliedAt": {"$in": list(recorded_at)}}


Clock: TypeAlias = Callable[[float], object]
"""Returns the time so many seconds from now, as an expression for the server."""

LEASE = "lease"
"""The `_id` of the one document in the lock collection."""

_ID_SIZE = 16  # bytes of the UUID in a session id


def read_server_clock(seconds: float) -> object:
    """Use the server's clock, because those of clients may differ by hours."""
    return {"$add": ["$$NOW", round(seconds * 1_000)]}


def read_own_clock(seconds: float) -> object:
    """Use the clock of this process, because the mocks don't know `$$NOW`. Naive, as they store dates."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(tzinfo=None)


def make_acquisition(
    clock: Clock, ttl: float, holder: Mapping[str, object], sessions: Iterable[bytes]
) -> dict[str, Any]:
    """Make the arguments of the find_one_and_update that acquires the lease if it is free, and returns the holder.

    The condition is in the update, because the filter of an upsert can't have an `$expr`. The token rises only here.

    Args:
        clock: The clock that counts.
        ttl: How long the lease lasts, in seconds.
        holder: The fields that say who acquires it: the owner, and the fields for people.
        sessions: The ids of the sessions for transactions.
    """
    free = {"$lte": [{"$ifNull": ["$expiresAt", datetime(1970, 1, 1, tzinfo=UTC)]}, clock(0)]}
    taken = {field: {"$literal": value} for field, value in holder.items()} | {
        "token": {"$add": [{"$ifNull": ["$token", 0]}, 1]},
        "since": clock(0),
        "expiresAt": clock(ttl),
        # The sessions of an expired holder stay until somebody has killed them on the server.
        "sessions": {"$setUnion": [{"$ifNull": ["$sessions", []]}, make_lsids(sessions)]},
        "previous": {"$ifNull": ["$owner", {"$ifNull": ["$previous", None]}]},
    }
    update = {field: {"$cond": [free, value, f"${field}"]} for field, value in taken.items()}
    return {"filter": {"_id": LEASE}, "update": [{"$set": update}], "upsert": True, "return_document": True}


def make_renewal(clock: Clock, ttl: float, lease: Lease, changes: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Make the arguments of the update_one that renews the lease, if it is still held.

    Args:
        clock: The clock that counts.
        ttl: How long the lease lasts from now on, in seconds.
        lease: The lease as it was acquired.
        changes: Further fields of the document to set, as expressions for the server.
    """
    held = {"_id": LEASE, "owner": lease.owner, "token": lease.token, "$expr": {"$gt": ["$expiresAt", clock(0)]}}
    return {"filter": held, "update": [{"$set": {"expiresAt": clock(ttl), **(changes or {})}}]}


def set_location(location: Location | None) -> dict[str, object]:
    """Make the changes of the lease document that say where a run is; None: no changes."""
    if location is None:
        return {}
    said = {
        "migrations": list(location.migrations),
        "recording": location.recording,
        "upcoming": list(location.upcoming),
    }
    return {field: {"$literal": value} for field, value in said.items()}


def set_sessions(named: Iterable[bytes], ended: Iterable[bytes]) -> dict[str, object]:
    """Make the changes of the lease document that add and remove sessions, if there are any.

    The field isn't replaced as a whole, because concurrent backfills add theirs.
    """
    if not (named or ended):
        return {}
    return {"sessions": {"$setUnion": [{"$setDifference": ["$sessions", make_lsids(ended)]}, make_lsids(named)]}}


def make_release(owner: str, sessions: Iterable[bytes]) -> dict[str, Any]:
    """Make the arguments of the update_one that releases the lease of this owner.

    The token stays, to rise with the next holder, and so do the sessions of others that nobody has killed yet.
    """
    freed = dict.fromkeys(
        ("owner", "host", "pid", "work", "migrations", "recording", "upcoming", "since", "expiresAt"), ""
    )
    update = {"$unset": freed, "$pullAll": {"sessions": make_lsids(sessions)}}
    return {"filter": {"_id": LEASE, "owner": owner}, "update": update}


def make_expiry(clock: Clock) -> dict[str, Any]:
    """Make the arguments of the find_one_and_update that expires the lease, and returns its holder.

    The rest stays as a killed holder leaves it: the next one kills the transactions that are open.
    """
    held = {"_id": LEASE, "owner": {"$exists": True}, "$expr": {"$gt": ["$expiresAt", clock(0)]}}
    return {"filter": held, "update": {"$set": {"expiresAt": datetime(1970, 1, 1, tzinfo=UTC)}}}


def make_lease_pipeline(clock: Clock) -> list[dict[str, Any]]:
    """Make the pipeline that reads the lease document. The mocks don't know expressions in a find."""
    return [{"$match": {"_id": LEASE}}, {"$addFields": {"isHeld": {"$gt": ["$expiresAt", clock(0)]}}}]


def read_lease_state(documents: Iterable[Mapping[str, Any]]) -> LeaseState:
    """Make a value of the pipeline's result."""
    for document in documents:
        if "owner" in document:
            found = read_lease(document)
            return LeaseState(holder=found) if document["isHeld"] else LeaseState(expired=found)
    return LeaseState()


def read_lease(document: Mapping[str, Any]) -> Lease:
    """Make a value of the document of a lease that somebody holds."""
    return Lease(
        owner=document["owner"],
        token=document["token"],
        host=document["host"],
        pid=document["pid"],
        since=_aware(document["since"]),
        expires_at=_aware(document["expiresAt"]),
        migrations=tuple(document["migrations"]),
        sessions=tuple(bytes(lsid["id"]) + bytes(lsid["uid"]) for lsid in document["sessions"]),
        previous=document["previous"],
        work=document["work"],
        recording=document["recording"],
        upcoming=tuple(document["upcoming"]),
    )


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


def _aware(date: datetime) -> datetime:
    return date.replace(tzinfo=UTC)  # the driver returns naive dates in UTC
