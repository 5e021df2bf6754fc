"""Records as documents: new ones, and those of earlier releases."""

from datetime import UTC, datetime
from typing import Any

from bson.code import Code

from quaestor._core.lease import Author
from quaestor._core.store import RecordEntry
from quaestor._mongo import documents
from quaestor.status import MigrationRecord
from tests.world import LONG_AGO

NAIVE = LONG_AGO.replace(tzinfo=None)
"""A date as drivers read it."""
AUTHOR = Author("r1", "web-1", "deploy", "1.4.2", "0.2.0")


def read(*found: dict[str, Any], details: bool = True) -> Any:
    return documents.read_records([{"_id": one["name"], **one} for one in found], details=details)


def test_record() -> None:
    """What is written is what is read."""
    document = documents.make_record("a", LONG_AGO, AUTHOR, RecordEntry("run", "c1", 0.25))

    assert document["durationMs"] == 250
    assert read(document | {"appliedAt": NAIVE}).newest == {
        "a": MigrationRecord(LONG_AGO, 250, "r1", "web-1", "deploy", "1.4.2", "0.2.0", "c1", "run")
    }


def test_unknown_fields_are_left_out() -> None:
    """A record holds no null: what isn't known isn't there."""
    document = documents.make_record("a", LONG_AGO, Author("r1", "web-1"), RecordEntry("mark"))

    assert document.keys() == {"_id", "name", "appliedAt", "run", "host", "source"}


def test_records_of_earlier_releases() -> None:
    """Records with fewer fields, or with values of other types, are read as they are. The newest of several counts."""
    later = datetime(2026, 2, 1, tzinfo=UTC).replace(tzinfo=None)
    found = read(
        {"name": "a"},
        {"name": "a", "appliedAt": NAIVE, "host": "first"},
        {"name": "a", "appliedAt": later, "host": "second"},
        {"name": "a", "appliedAt": NAIVE, "host": "third"},
        {"name": "b", "appliedAt": "yesterday", "host": 7, "durationMs": "long", "run": Code("r1")},
        {"name": "c", "durationMs": float("nan")},  # JSON has no such number
    )

    assert found.newest == {
        "a": MigrationRecord(applied_at=later.replace(tzinfo=UTC), host="second"),
        "b": MigrationRecord(),
        "c": MigrationRecord(),
    }


def test_concurrent_records() -> None:
    """A record of a concurrent run says so. In earlier releases only these named their run."""
    new = documents.make_record("new", LONG_AGO, AUTHOR, RecordEntry("run"))
    concurrent = documents.make_record("concurrent", LONG_AGO, AUTHOR, RecordEntry("run"), is_concurrent=True)

    found = read(new, concurrent, {"name": "old", "run": "r0"}, {"name": "oldest"})

    assert found.concurrent == {"concurrent": "r1", "old": "r0"}


def test_a_plan_needs_no_details() -> None:
    """A run reads only names and dates."""
    found = read({"name": "a", "appliedAt": NAIVE, "run": "r0", "host": "web-1"}, details=False)

    assert (found.applied, found.concurrent, found.newest) == ({"a": (LONG_AGO,)}, {}, {})


def test_documents_of_others_in_the_lock_collection() -> None:
    """A name that isn't text, and a label of another type, are no reason to fail: the label protects all the same."""
    state = documents.read_lock(
        [
            {"_id": {"start": Code("a")}},
            {"_id": {"start": "b"}, "owner": 7},
            {"_id": 7},
            {"_id": "protection", "label": 7},
        ]
    )

    assert (state.marks.keys(), state.protected_as) == ({"b"}, "7")
