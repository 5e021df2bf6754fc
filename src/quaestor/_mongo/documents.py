"""Between the values of the core and the documents of MongoDB. Pure: no I/O here.

A record is `{_id: name, name: name, appliedAt: now}`. With the name as its `_id` a second record of the same migration
is impossible without an index of our own. Records of mongo-quaestor 0.1.0 have an ObjectId there, and may be doubled:
so what is applied is read from `name` alone.

The lease is one document in a collection of its own: `{_id: "lease", owner, token, expiresAt, sessions, previous}` and,
for people, `host, pid, since, work, migrations, recording, upcoming`. While nobody holds it `token`, `sessions` and
`previous` are all there is.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from bson.binary import UUID_SUBTYPE, Binary

from quaestor._core.lease import Lock, Whereabouts
from quaestor._core.records import Records
from quaestor.status import Lease

PROJECTION = {"name": 1, "appliedAt": 1}
"""The fields of a record that `records` reads; `_id` comes with them."""

READING: dict[str, Any] = {
    "projection": PROJECTION,
    "batch_size": 2**31 - 1,  # as many as fit in the 16 MB of one reply, so that reading them all is one command
    "max_time_ms": 30_000,  # a majority that has to confirm them may not be there
}
"""The options of the find that reads the records."""


def records(documents: Iterable[Mapping[str, Any]]) -> Records:
    """The documents of a records collection as a value."""
    applied: dict[str, tuple[object, ...]] = {}
    unreadable: list[object] = []
    taken: set[str] = set()
    for document in documents:
        key, name = document["_id"], document.get("name")
        if type(name) is str:  # not bson's Code, which is a str for Python alone
            date = document.get("appliedAt")
            applied[name] = (*applied.get(name, ()), _aware(date) if isinstance(date, datetime) else date)
        else:
            unreadable.append(key)
        if type(key) is str and key != name:
            taken.add(key)
    return Records(applied, tuple(unreadable), frozenset(taken))


def record(name: str, applied_at: datetime) -> dict[str, object]:
    """The document that records a migration. `applied_at` is an aware datetime in UTC."""
    return {"_id": name, "name": name, "appliedAt": applied_at}


def unrecording(name: str, recorded_at: Iterable[object]) -> dict[str, Any]:
    """The filter of the records of a migration as they were read; one that was written since stays.

    Not a comparison: whoever wrote it may have a clock that is late.
    """
    return {"name": name, "appliedAt": {"$in": list(recorded_at)}}


Clock: TypeAlias = Callable[[float], object]
"""The time in so many seconds from now, as an expression for the server."""

LEASE = "lease"
"""The `_id` of the one document in the lock collection."""

_ID_SIZE = 16  # bytes of the UUID that a session's id is


def server_clock(seconds: float) -> object:
    """The server's own clock: those of the clients may differ by hours."""
    return {"$add": ["$$NOW", round(seconds * 1_000)]}


def own_clock(seconds: float) -> object:
    """The clock of this process, for the mocks, which know no `$$NOW`. Without zone, as they keep their dates."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(tzinfo=None)


def acquisition(clock: Clock, ttl: float, holder: Mapping[str, object], sessions: Iterable[bytes]) -> dict[str, Any]:
    """The arguments of the find_one_and_update that takes the lease if it is free, and tells who has it then.

    The condition stands in the update, for the filter of an upsert takes no `$expr`. The token rises only here.

    Args:
        clock: Whose time it is.
        ttl: How long the lease is to last, in seconds.
        holder: The fields of the document that say who takes it: all of it that is for people, and the owner.
        sessions: The ids of the sessions for transactions.
    """
    free = {"$lte": [{"$ifNull": ["$expiresAt", datetime(1970, 1, 1, tzinfo=UTC)]}, clock(0)]}
    taken = {field: {"$literal": value} for field, value in holder.items()} | {
        "token": {"$add": [{"$ifNull": ["$token", 0]}, 1]},
        "since": clock(0),
        "expiresAt": clock(ttl),
        # Those of an ended holder stay until somebody has ended them on the server.
        "sessions": {"$setUnion": [{"$ifNull": ["$sessions", []]}, lsids(sessions)]},
        "previous": {"$ifNull": ["$owner", {"$ifNull": ["$previous", None]}]},
    }
    update = {field: {"$cond": [free, value, f"${field}"]} for field, value in taken.items()}
    return {"filter": {"_id": LEASE}, "update": [{"$set": update}], "upsert": True, "return_document": True}


def renewal(clock: Clock, ttl: float, lease: Lease, changes: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The arguments of the update_one that renews the lease, if it is held and has not ended.

    Args:
        clock: Whose time it is.
        ttl: How long the lease is to last from now on, in seconds.
        lease: As it was taken.
        changes: Other fields of the document to set, as expressions for the server.
    """
    held = {"_id": LEASE, "owner": lease.owner, "token": lease.token, "$expr": {"$gt": ["$expiresAt", clock(0)]}}
    return {"filter": held, "update": [{"$set": {"expiresAt": clock(ttl), **(changes or {})}}]}


def whereabouts(where: Whereabouts | None) -> dict[str, object]:
    """The fields of the lease's document that say where a run is, if that is to be said."""
    if where is None:
        return {}
    said = {"migrations": list(where.migrations), "recording": where.recording, "upcoming": list(where.upcoming)}
    return {field: {"$literal": value} for field, value in said.items()}


def sessions(named: Iterable[bytes], ended: Iterable[bytes]) -> dict[str, object]:
    """The field that names sessions, with more of them, and without others, if there are any. Not as a whole: passes
    that are under way at once add theirs.
    """
    if not (named or ended):
        return {}
    return {"sessions": {"$setUnion": [{"$setDifference": ["$sessions", lsids(ended)]}, lsids(named)]}}


def release(owner: str, sessions: Iterable[bytes]) -> dict[str, Any]:
    """The arguments of the update_one that frees the lease of this owner. The token stays, and will rise; so do the
    sessions of others that nobody has ended yet.
    """
    freed = dict.fromkeys(
        ("owner", "host", "pid", "work", "migrations", "recording", "upcoming", "since", "expiresAt"), ""
    )
    update = {"$unset": freed, "$pullAll": {"sessions": lsids(sessions)}}
    return {"filter": {"_id": LEASE, "owner": owner}, "update": update}


def breaking(clock: Clock) -> dict[str, Any]:
    """The arguments of the find_one_and_update that ends the lease, whoever holds it, and tells who did.

    It is left as a killed holder would leave it: the one who is stopped may be in a transaction, for the next to end.
    """
    held = {"_id": LEASE, "owner": {"$exists": True}, "$expr": {"$gt": ["$expiresAt", clock(0)]}}
    return {"filter": held, "update": {"$set": {"expiresAt": datetime(1970, 1, 1, tzinfo=UTC)}}}


def looking(clock: Clock) -> list[dict[str, Any]]:
    """The pipeline of the aggregate that reads the lease's document; the mocks know no expression in a find."""
    return [{"$match": {"_id": LEASE}}, {"$addFields": {"isHeld": {"$gt": ["$expiresAt", clock(0)]}}}]


def lock(documents: Iterable[Mapping[str, Any]]) -> Lock:
    """What `looking` has found as a value."""
    for document in documents:
        if "owner" in document:
            found = lease(document)
            return Lock(holder=found) if document["isHeld"] else Lock(ended=found)
    return Lock()


def lease(document: Mapping[str, Any]) -> Lease:
    """The document of a lease that somebody holds as a value."""
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
"""The answer to `connectionStatus` where it is not known: others can end the session only with a right to end any."""


def session_id(lsid: Mapping[str, Any], connection_status: Mapping[str, Any]) -> bytes:
    """By what the server knows a session: its id, and a digest of the user whose session it is."""
    users = [f"{user['user']}@{user['db']}" for user in connection_status["authInfo"]["authenticatedUsers"]]
    return bytes(lsid["id"]) + hashlib.sha256("".join(users[:1]).encode()).digest()


def lsids(sessions: Iterable[bytes]) -> list[dict[str, Binary]]:
    """Sessions as `killSessions` takes them.

    Without the user the server would take each for one of the caller's own, and silently end nothing where it is not.
    """
    return [{"id": Binary(session[:_ID_SIZE], UUID_SUBTYPE), "uid": Binary(session[_ID_SIZE:])} for session in sessions]


def _aware(date: datetime) -> datetime:
    return date.replace(tzinfo=UTC)  # the driver gives UTC without saying so
