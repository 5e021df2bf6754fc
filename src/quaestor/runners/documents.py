"""Between the values of the core and the documents of MongoDB. Pure: no I/O here.

A record is `{_id: name, name: name, appliedAt: now}`. With the name as its `_id` a second record of the same migration
is impossible without an index of our own. Records of mongo-quaestor 0.1.0 have an ObjectId there, and may be doubled:
so what is applied is read from `name` alone.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from quaestor.core.records import Records

PROJECTION = {"name": 1}
"""The fields of a record that `records` reads; `_id` comes with them."""

BATCH_SIZE = 2**31 - 1
"""As many records in one reply as fit in its 16 MB, so that reading them all is one command."""


def records(documents: Iterable[Mapping[str, Any]]) -> Records:
    """The documents of a records collection as a value."""
    applied: set[str] = set()
    unreadable: list[object] = []
    taken: set[str] = set()
    for document in documents:
        key, name = document["_id"], document.get("name")
        if type(name) is str:  # not bson's Code, which is a str for Python alone
            applied.add(name)
        else:
            unreadable.append(key)
        if type(key) is str and key != name:
            taken.add(key)
    return Records(frozenset(applied), tuple(unreadable), frozenset(taken))


def record(name: str, applied_at: datetime) -> dict[str, object]:
    """The document that records a migration. `applied_at` is an aware datetime in UTC."""
    return {"_id": name, "name": name, "appliedAt": applied_at}
